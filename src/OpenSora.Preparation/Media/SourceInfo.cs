namespace OpenSora.Preparation.Media;

/// <summary>The metadata of a video file, as its container states it. It can be wrong; only decoding shows what a file contains.</summary>
public sealed record SourceInfo
{
    /// <summary>The path of the file.</summary>
    public required string Path { get; init; }

    /// <summary>The width in square pixels as the video is shown: after rotation, and scaled by the aspect ratio of the stored pixels.</summary>
    public required int Width { get; init; }

    /// <summary>The height in square pixels as the video is shown.</summary>
    public required int Height { get; init; }

    /// <summary>The average frame rate in frames per second.</summary>
    public required double FramesPerSecond { get; init; }

    /// <summary>Indicates whether the distances between frames differ.</summary>
    public bool HasVariableFrameRate { get; init; }

    /// <summary>The duration; null if the file does not specify it.</summary>
    public TimeSpan? Duration { get; init; }

    /// <summary>The presentation time of the first frame.</summary>
    public TimeSpan Start { get; init; }

    /// <summary>The name of the video codec, such as <c>h264</c>.</summary>
    public string Codec { get; init; } = "";

    /// <summary>The bits of each color channel, such as 8 or 10.</summary>
    public int BitDepth { get; init; } = 8;

    /// <summary>Indicates whether frames consist of two interlaced fields.</summary>
    public bool IsInterlaced { get; init; }

    /// <summary>Indicates whether the file has a sound track.</summary>
    public bool HasAudio { get; init; }
}
