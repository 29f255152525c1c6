namespace OpenSora.Media;

/// <summary>Decodes videos and pictures.</summary>
/// <remarks>Implementations hold no state and may be shared between threads.</remarks>
public interface IVideoReader
{
    /// <summary>Reads what a file says of itself, without decoding it.</summary>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="MediaException">It cannot be read as a video, or ffmpeg is missing.</exception>
    Task<VideoInfo> ProbeAsync(string path, CancellationToken cancellationToken = default);

    /// <summary>Decodes a clip.</summary>
    /// <param name="path">The file.</param>
    /// <param name="clip">Which part, at which size and rate; null = all of it, as it is.</param>
    /// <param name="cancellationToken">Stops the decoder.</param>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="MediaException">It cannot be decoded, holds no frame of the clip, or ffmpeg is missing.</exception>
    Task<VideoFrames> ReadAsync(string path, ClipOptions? clip = null, CancellationToken cancellationToken = default);

    /// <summary>Decodes a clip straight into memory that the caller has, as many frames as fit.</summary>
    /// <param name="path">The file.</param>
    /// <param name="clip">Which part; <see cref="ClipOptions.Width"/> and <see cref="ClipOptions.Height"/> must be set.</param>
    /// <param name="destination">Receives RGB24 <c>[frames, height, width, 3]</c>.</param>
    /// <param name="cancellationToken">Stops the decoder.</param>
    /// <returns>Frames written: fewer than fit when the video is shorter.</returns>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="MediaException">It cannot be decoded, or ffmpeg is missing.</exception>
    Task<int> ReadAsync(string path, ClipOptions clip, Memory<byte> destination, CancellationToken cancellationToken = default);
}

/// <summary>What a video file says of itself.</summary>
/// <param name="Width">Pixels, as shown (rotation applied).</param>
/// <param name="Height">Pixels, as shown (rotation applied).</param>
/// <param name="FramesPerSecond">The average frame rate; a picture has 25, the decoder's default.</param>
/// <param name="Duration">How long it plays; null where the file does not say.</param>
public sealed record VideoInfo(int Width, int Height, double FramesPerSecond, TimeSpan? Duration);

/// <summary>How a video is brought to another aspect ratio.</summary>
public enum FrameFit
{
    /// <summary>Scaled until it covers the size, the middle kept.</summary>
    Crop,

    /// <summary>Scaled until it fits the size, black around it.</summary>
    Pad,

    /// <summary>Scaled in each direction on its own.</summary>
    Stretch,
}

/// <summary>Which part of a video to decode, and to what size and rate. Null means as the file has it.</summary>
public sealed class ClipOptions
{
    /// <summary>Width to scale to, with <see cref="Height"/>.</summary>
    public int? Width { get; set; }

    /// <summary>Height to scale to, with <see cref="Width"/>.</summary>
    public int? Height { get; set; }

    /// <summary>What happens to another aspect ratio.</summary>
    public FrameFit Fit { get; set; } = FrameFit.Crop;

    /// <summary>The frame rate to resample to, by dropping or repeating frames, before anything else is counted.</summary>
    public double? FramesPerSecond { get; set; }

    /// <summary>The first frame.</summary>
    public int StartFrame { get; set; }

    /// <summary>Takes every n-th frame (Open-Sora 1.0 trains on every third); the clip plays as much slower.</summary>
    public int FrameInterval { get; set; } = 1;

    /// <summary>The most frames to take.</summary>
    public int? Frames { get; set; }

    internal static void Check(ClipOptions clip)
    {
        var problem = clip switch
        {
            _ when clip.Width.HasValue != clip.Height.HasValue => "Width and Height of a clip go together: set both or neither.",
            { Width: < 1 } or { Height: < 1 } => $"A clip of {clip.Width}x{clip.Height} pixels has no size.",
            { FramesPerSecond: { } fps } when !(double.IsFinite(fps) && fps > 0) => $"FramesPerSecond is {fps}; it must be above 0.",
            { StartFrame: < 0 } => $"StartFrame is {clip.StartFrame}; it must not be negative.",
            { FrameInterval: < 1 } => $"FrameInterval is {clip.FrameInterval}; it must be at least 1.",
            { Frames: < 1 } => $"Frames is {clip.Frames}; it must be at least 1.",
            _ => null,
        };
        if (problem is not null)
        {
            throw new ArgumentException(problem, nameof(clip));
        }
    }
}
