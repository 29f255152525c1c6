namespace OpenSora.Preparation.Cutting;

/// <summary>Options of the clips that are cut from a video. The defaults are those of Open-Sora 1.0: clips of 1 to 5 seconds.</summary>
public sealed class CutOptions
{
    /// <summary>Gets or sets the minimum length of a clip. Shorter shots, and shorter remainders of long shots, are dropped.</summary>
    public TimeSpan MinLength { get; set; } = TimeSpan.FromSeconds(1);

    /// <summary>Gets or sets the maximum length of a clip. Longer shots are divided into clips of this length.</summary>
    public TimeSpan MaxLength { get; set; } = TimeSpan.FromSeconds(5);

    /// <summary>Gets or sets the time to cut off at both ends of every shot, where frames of a transition can remain.</summary>
    public TimeSpan Trim { get; set; } = TimeSpan.FromMilliseconds(100);

    /// <summary>Gets or sets the maximum number of clips from one shot; null for no limit.</summary>
    public int? MaxClipsPerShot { get; set; }

    /// <summary>Gets or sets the frame rate of the clips in frames per second; null for that of the video.</summary>
    public double? FramesPerSecond { get; set; }

    /// <summary>Gets or sets the size in pixels of the shorter side of the clips; null for that of the video. Smaller videos are not
    /// enlarged.</summary>
    public int? ShortSide { get; set; }

    /// <summary>Gets or sets the quality of the H.264 encoder (its constant rate factor), from 0 (lossless) to 51; lower is better.</summary>
    public int Quality { get; set; } = 18;

    /// <summary>Gets or sets the preset of the H.264 encoder, from <c>ultrafast</c> (large files) to <c>veryslow</c> (small files).</summary>
    public string Preset { get; set; } = "fast";

    internal static readonly string[] Presets = ["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"];

    /// <summary>Gets the errors in the options, one sentence each.</summary>
    internal IEnumerable<string> Problems()
    {
        if (MinLength <= TimeSpan.Zero)
        {
            yield return $"{nameof(MinLength)} is {MinLength}; it must be greater than 0.";
        }

        if (MaxLength < MinLength)
        {
            yield return $"{nameof(MaxLength)} is {MaxLength}; it must be at least {nameof(MinLength)} ({MinLength}).";
        }

        if (Trim < TimeSpan.Zero)
        {
            yield return $"{nameof(Trim)} is {Trim}; it must be at least 0.";
        }

        if (MaxClipsPerShot is < 1)
        {
            yield return $"{nameof(MaxClipsPerShot)} is {MaxClipsPerShot}; it must be at least 1, or null for no limit.";
        }

        if (FramesPerSecond is { } rate && (!double.IsFinite(rate) || rate is <= 0 or > 1000))
        {
            yield return $"{nameof(FramesPerSecond)} is {FramesPerSecond}; it must be greater than 0 and at most 1000.";
        }

        if (ShortSide is < 16)
        {
            yield return $"{nameof(ShortSide)} is {ShortSide}; it must be at least 16 pixels.";
        }

        if (Quality is < 0 or > 51)
        {
            yield return $"{nameof(Quality)} is {Quality}; it must be 0 to 51.";
        }

        if (!Presets.Contains(Preset, StringComparer.Ordinal))
        {
            yield return $"{nameof(Preset)} is '{Preset}'; it must be one of {string.Join(", ", Presets)}.";
        }
    }
}
