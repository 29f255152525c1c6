namespace OpenSora.Media;

/// <summary>The metadata of a video file.</summary>
/// <param name="Width">The width in square pixels as the video is shown: after rotation, and scaled by the aspect ratio of the stored pixels.</param>
/// <param name="Height">The height in square pixels as the video is shown.</param>
/// <param name="FramesPerSecond">The average frame rate in frames per second; 25, the default of the decoder, for an image.</param>
/// <param name="Duration">The duration according to the file, which can be wrong (see <see cref="VideoReader.CountFramesAsync"/>); null if the file
/// does not specify it.</param>
public sealed record VideoInfo(int Width, int Height, double FramesPerSecond, TimeSpan? Duration);

/// <summary>Specifies how a video is fitted to a different aspect ratio.</summary>
public enum FrameFit
{
    /// <summary>Scales the video to cover the size, and crops it at the center.</summary>
    Crop,

    /// <summary>Scales the video to fit inside the size, and adds black bars.</summary>
    Pad,

    /// <summary>Scales the width and height independently, ignoring the aspect ratio.</summary>
    Stretch,
}

/// <summary>Specifies the part of a video to decode, and its size and frame rate. For every option, null means the value of the file.</summary>
public sealed class ClipOptions
{
    /// <summary>Gets or sets the target width in pixels. Set it together with <see cref="Height"/>.</summary>
    public int? Width { get; set; }

    /// <summary>Gets or sets the target height in pixels. Set it together with <see cref="Width"/>.</summary>
    public int? Height { get; set; }

    /// <summary>Gets or sets how the video is fitted if its aspect ratio differs from the target.</summary>
    public FrameFit Fit { get; set; } = FrameFit.Crop;

    /// <summary>Gets or sets the frame rate to resample to, in frames per second, by dropping or repeating frames. The other options count frames
    /// after resampling.</summary>
    public double? FramesPerSecond { get; set; }

    /// <summary>Gets or sets the index of the first frame, starting at 0.</summary>
    public int StartFrame { get; set; }

    /// <summary>Gets or sets the interval n to keep every n-th frame (Open-Sora 1.0 trains on every third frame). The frame rate of the clip is
    /// divided by n.</summary>
    public int FrameInterval { get; set; } = 1;

    /// <summary>Gets or sets the maximum number of frames.</summary>
    public int? Frames { get; set; }

    /// <summary>Gets or sets a value that indicates whether damaged videos are accepted. Then the frames that can be decoded are used; some can be
    /// missing or distorted. By default, an error of the decoder is a <see cref="MediaException"/>.</summary>
    public bool AllowDamage { get; set; }

    /// <summary>Creates a copy of these options.</summary>
    public ClipOptions Clone() => (ClipOptions)MemberwiseClone();

    internal static void Check(ClipOptions clip)
    {
        var problem = clip switch
        {
            _ when clip.Width.HasValue != clip.Height.HasValue => "Width and Height of a clip must be set together.",
            { Width: < 1 } or { Height: < 1 } => $"The size of a clip is {clip.Width}x{clip.Height} pixels; both must be at least 1.",
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
