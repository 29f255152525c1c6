namespace OpenSora.Generation;

/// <summary>The settings of a generation. A null value is taken from the next place: a request (<see cref="VideoRequest"/>) first, then the
/// application's options (<see cref="OpenSoraOptions"/>), then the model's defaults.</summary>
public class GenerationSettings
{
    internal const int MaxSteps = 1000;

    /// <summary>Gets or sets the description of what the video should not show; null or empty for the model's null caption.</summary>
    public string? NegativePrompt { get; set; }

    /// <summary>Gets or sets the number of frames; 1 for an image.</summary>
    public int? Frames { get; set; }

    /// <summary>Gets or sets the width in pixels. Set it together with <see cref="Height"/>.</summary>
    public int? Width { get; set; }

    /// <summary>Gets or sets the height in pixels. Set it together with <see cref="Width"/>.</summary>
    public int? Height { get; set; }

    /// <summary>Gets or sets the number of denoising steps. More steps take longer and give more detail.</summary>
    public int? Steps { get; set; }

    /// <summary>Gets or sets the classifier-free guidance scale. 1 means no guidance; higher values follow the prompt more closely.</summary>
    public double? GuidanceScale { get; set; }

    /// <summary>Gets or sets the frame rate of the generated video in frames per second.</summary>
    public double? FramesPerSecond { get; set; }

    /// <summary>Gets or sets the seed. The same settings and seed give identical pixels on the same backend. If null, a random seed is drawn and
    /// reported by <see cref="GeneratedVideo.Seed"/>.</summary>
    public long? Seed { get; set; }

    /// <summary>Gets or sets the number of frames that the model denoises at a time, for videos that are longer than the model supports; null for no
    /// windows, unless the request has <see cref="VideoRequest.Segments"/>. The windows overlap, and every step averages their predictions where they
    /// do, so that each frame fits its neighbors (Wang et al. 2023, "Gen-L-Video").</summary>
    public int? WindowFrames { get; set; }

    /// <summary>Gets or sets the number of frames that consecutive windows have in common, less than <see cref="WindowFrames"/>; null for half of a
    /// window. More overlap gives smoother videos and takes longer.</summary>
    public int? WindowOverlap { get; set; }

    /// <summary>Gets or sets a value that indicates whether <c>(words:1.4)</c> in prompts gives words a weight: above 1 for more effect, from 0 to
    /// below 1 for less. <c>\(</c> and <c>\)</c> stand for parentheses. If null or false, prompts are used as they are.</summary>
    public bool? PromptWeighting { get; set; }

    /// <summary>Gets or sets the number of denoising steps from one preview (<see cref="GenerationProgress.Preview"/>) to the next; null for no
    /// previews. Previews do not change the video.</summary>
    public int? PreviewEvery { get; set; }

    /// <summary>Creates a copy.</summary>
    /// <returns>An object of the same type, whose properties can be set independently.</returns>
    public virtual GenerationSettings Clone() => (GenerationSettings)MemberwiseClone();

    /// <summary>Merges these settings with others, which provide the values that are null here.</summary>
    internal GenerationSettings Or(GenerationSettings other)
    {
        var merged = Clone();
        merged.NegativePrompt ??= other.NegativePrompt;
        merged.Frames ??= other.Frames;
        merged.Width ??= other.Width;
        merged.Height ??= other.Height;
        merged.Steps ??= other.Steps;
        merged.GuidanceScale ??= other.GuidanceScale;
        merged.FramesPerSecond ??= other.FramesPerSecond;
        merged.Seed ??= other.Seed;
        merged.WindowFrames ??= other.WindowFrames;
        merged.WindowOverlap ??= other.WindowOverlap;
        merged.PromptWeighting ??= other.PromptWeighting;
        merged.PreviewEvery ??= other.PreviewEvery;
        return merged;
    }

    /// <summary>Validates the values independently of a model, and returns one sentence for each problem. Each sentence begins with the name of the
    /// value.</summary>
    internal IEnumerable<string> Problems()
    {
        if (Frames < 1)
        {
            yield return $"Frames is {Frames}; it must be at least 1.";
        }

        if (Width < 1)
        {
            yield return $"Width is {Width}; it must be at least 1 pixel.";
        }

        if (Height < 1)
        {
            yield return $"Height is {Height}; it must be at least 1 pixel.";
        }

        if (Width.HasValue != Height.HasValue)
        {
            yield return "Width and Height must be set together.";
        }

        if (Steps is < 1 or > MaxSteps)
        {
            yield return $"Steps is {Steps}; it must be from 1 to {MaxSteps}. Typical values are 10 to 100.";
        }

        if (GuidanceScale is { } scale && !(double.IsFinite(scale) && scale is >= 0 and <= 100))
        {
            yield return FormattableString.Invariant($"GuidanceScale is {scale}; it must be from 0 to 100. 1 means none; typical values are 4 to 8.");
        }

        if (FramesPerSecond is { } fps && !(double.IsFinite(fps) && fps is > 0 and <= 1000))
        {
            yield return FormattableString.Invariant($"FramesPerSecond is {fps}; it must be above 0 and at most 1000.");
        }

        if (WindowFrames < 1)
        {
            yield return $"WindowFrames is {WindowFrames}; it must be at least 1.";
        }

        if (WindowOverlap < 0 || WindowOverlap >= WindowFrames)
        {
            yield return $"WindowOverlap is {WindowOverlap}; it must be at least 0 and less than WindowFrames ({WindowFrames}).";
        }

        if (PreviewEvery < 1)
        {
            yield return $"PreviewEvery is {PreviewEvery}; it must be at least 1 step.";
        }
    }
}

/// <summary>Merged settings, with a value for each of them.</summary>
internal sealed record ResolvedSettings(
    int Frames,
    int Height,
    int Width,
    double GuidanceScale,
    double FramesPerSecond,
    string? NegativePrompt,
    long Seed
)
{
    /// <summary>The number of frames to denoise at a time, or null.</summary>
    internal int? WindowFrames { get; init; }

    /// <summary>The number of frames that windows have in common, or null.</summary>
    internal int? WindowOverlap { get; init; }

    /// <summary>Whether prompts contain weights.</summary>
    internal bool PromptWeighting { get; init; }

    /// <summary>The number of steps between previews, or null.</summary>
    internal int? PreviewEvery { get; init; }

    /// <summary>Takes the values of merged settings. A missing seed is drawn at random.</summary>
    internal static ResolvedSettings Of(GenerationSettings settings) =>
        settings is { Frames: { } frames, Height: { } height, Width: { } width, GuidanceScale: { } scale, FramesPerSecond: { } fps }
            ? new(frames, height, width, scale, fps, settings.NegativePrompt, settings.Seed ?? Random.Shared.NextInt64(uint.MaxValue))
            {
                WindowFrames = settings.WindowFrames,
                WindowOverlap = settings.WindowOverlap,
                PromptWeighting = settings.PromptWeighting ?? false,
                PreviewEvery = settings.PreviewEvery,
            }
            : throw new ArgumentException(
                "Frames, Width and Height must be set, because the transformer is not configured for one size.",
                nameof(settings)
            );
}
