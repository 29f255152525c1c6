using OpenSora.Diffusion;
using OpenSora.Media;

namespace OpenSora.Generation;

/// <summary>A request to generate a video. A null value means the generator's option or, if that is null too, the model's default.</summary>
public sealed class VideoRequest
{
    /// <summary>Gets or sets the description of the video. An empty prompt generates without a prompt and without guidance. Text beyond the model's
    /// maximum length is truncated.</summary>
    public string Prompt { get; set; } = "";

    /// <summary>Gets or sets the description of what the video should not show; null or empty for the model's null caption.</summary>
    public string? NegativePrompt { get; set; }

    /// <summary>Gets or sets the number of frames.</summary>
    public int? Frames { get; set; }

    /// <summary>Gets or sets the width in pixels. Set it together with <see cref="Height"/>.</summary>
    public int? Width { get; set; }

    /// <summary>Gets or sets the height in pixels. Set it together with <see cref="Width"/>.</summary>
    public int? Height { get; set; }

    /// <summary>Gets or sets the number of denoising steps. More steps take longer and give more detail.</summary>
    public int? Steps { get; set; }

    /// <summary>Gets or sets the classifier-free guidance scale. 1 means no guidance; higher values follow the prompt more closely.</summary>
    public double? Guidance { get; set; }

    /// <summary>Gets or sets the seed. The same request and seed give identical pixels on the same backend. If null, a random seed is drawn and
    /// reported by <see cref="GeneratedVideo.Seed"/>.</summary>
    public long? Seed { get; set; }

    /// <summary>Gets or sets the frame rate of the generated video in frames per second.</summary>
    public double? FramesPerSecond { get; set; }

    /// <summary>Gets or sets the images and videos that provide conditioning frames, for models that were trained with them. They are scaled to
    /// cover the size of the generated video and cropped at the center. Their frame rates are ignored.</summary>
    /// <seealso cref="ConditionOn(VideoFrames, int, double)"/>
    public IReadOnlyList<VideoFrames> References { get; set; } = [];

    /// <summary>Gets or sets the mapping from frames of the <see cref="References"/> to frames of the generated video, in video frames. Later
    /// entries override earlier ones.</summary>
    /// <seealso cref="MaskStrategy.Parse"/>
    public IReadOnlyList<MaskStrategy> MaskStrategies { get; set; } = [];

    /// <summary>Adds conditioning frames. Use an image at frame 0 to animate it, the last frames of a video at frame 0 to continue it, or frames at
    /// both ends to connect them.</summary>
    /// <param name="frames">An image or the frames of a video. Frames beyond the end of the generated video are ignored.</param>
    /// <param name="frame">The frame of the generated video that the first of them becomes. Negative values count from the end: -1 is the last
    /// frame.</param>
    /// <param name="editRatio">The fraction of the denoising process that is applied to them, from 0 (unchanged) to below 1.</param>
    /// <returns>This request.</returns>
    public VideoRequest ConditionOn(VideoFrames frames, int frame = 0, double editRatio = 0)
    {
        ArgumentNullException.ThrowIfNull(frames);
        MaskStrategies =
        [
            .. MaskStrategies,
            new MaskStrategy
            {
                Reference = References.Count,
                TargetStart = frame,
                Length = frames.Count,
                EditRatio = editRatio,
            },
        ];
        References = [.. References, frames];
        return this;
    }

    /// <summary>Adds conditioning frames in Open-Sora's text format. For example, with <c>0,0,-4,0,4</c> the last four frames of reference 0 become
    /// the first four frames of the generated video.</summary>
    /// <param name="references">The images and videos, which the mask strategies refer to by index, starting at 0.</param>
    /// <param name="maskStrategies">The mask strategies, in video frames; see <see cref="MaskStrategy.Parse"/> for the format.</param>
    /// <returns>This request.</returns>
    /// <exception cref="FormatException">The text is not in the expected format; the message quotes the invalid part.</exception>
    public VideoRequest ConditionOn(IReadOnlyList<VideoFrames> references, string maskStrategies)
    {
        ArgumentNullException.ThrowIfNull(references);
        MaskStrategies =
        [
            .. MaskStrategies,
            .. MaskStrategy.Parse(maskStrategies).Select(strategy => strategy with { Reference = strategy.Reference + References.Count }),
        ];
        References = [.. References, .. references];
        return this;
    }

    internal const int MaxSteps = 1000;

    internal VideoRequest Clone() => (VideoRequest)MemberwiseClone();

    /// <summary>Validates values independently of a model, and returns one sentence for each problem. Each sentence begins with the name of the
    /// value.</summary>
    internal static IEnumerable<string> Problems(int? frames, int? width, int? height, int? steps, double? guidance, double? framesPerSecond)
    {
        if (frames < 1)
        {
            yield return $"Frames is {frames}; it must be at least 1.";
        }

        if (width < 1)
        {
            yield return $"Width is {width}; it must be at least 1 pixel.";
        }

        if (height < 1)
        {
            yield return $"Height is {height}; it must be at least 1 pixel.";
        }

        if (steps is < 1 or > MaxSteps)
        {
            yield return $"Steps is {steps}; it must be from 1 to {MaxSteps}. Typical values are 10 to 100.";
        }

        if (guidance is { } scale && !(double.IsFinite(scale) && scale is >= 0 and <= 100))
        {
            yield return FormattableString.Invariant($"Guidance is {scale}; it must be from 0 to 100. 1 means none; typical values are 4 to 8.");
        }

        if (framesPerSecond is { } fps && !(double.IsFinite(fps) && fps is > 0 and <= 1000))
        {
            yield return FormattableString.Invariant($"FramesPerSecond is {fps}; it must be above 0 and at most 1000.");
        }
    }
}

/// <summary>Builds a request in one expression, as in <c>generator.Request("a goat").Frames(16).Seed(42).GenerateAsync()</c>.</summary>
public sealed class VideoRequestBuilder
{
    private readonly IVideoGenerator _generator;
    private readonly VideoRequest _request;

    internal VideoRequestBuilder(IVideoGenerator generator, string prompt)
    {
        ArgumentNullException.ThrowIfNull(prompt);
        _generator = generator;
        _request = new VideoRequest { Prompt = prompt };
    }

    /// <summary>Sets <see cref="VideoRequest.NegativePrompt"/>.</summary>
    public VideoRequestBuilder NegativePrompt(string? text) => With(r => r.NegativePrompt = text);

    /// <summary>Sets <see cref="VideoRequest.Frames"/>.</summary>
    public VideoRequestBuilder Frames(int? count) => With(r => r.Frames = count);

    /// <summary>Sets <see cref="VideoRequest.Width"/> and <see cref="VideoRequest.Height"/>, in pixels.</summary>
    public VideoRequestBuilder Size(int? width, int? height) => With(r => (r.Width, r.Height) = (width, height));

    /// <summary>Sets <see cref="VideoRequest.Steps"/>.</summary>
    public VideoRequestBuilder Steps(int? count) => With(r => r.Steps = count);

    /// <summary>Sets <see cref="VideoRequest.Guidance"/>.</summary>
    public VideoRequestBuilder Guidance(double? scale) => With(r => r.Guidance = scale);

    /// <summary>Sets <see cref="VideoRequest.Seed"/>.</summary>
    public VideoRequestBuilder Seed(long? seed) => With(r => r.Seed = seed);

    /// <summary>Sets <see cref="VideoRequest.FramesPerSecond"/>.</summary>
    public VideoRequestBuilder Fps(double? framesPerSecond) => With(r => r.FramesPerSecond = framesPerSecond);

    /// <summary>Adds conditioning frames; see <see cref="VideoRequest.ConditionOn(VideoFrames, int, double)"/>.</summary>
    /// <param name="frames">An image or the frames of a video.</param>
    /// <param name="frame">The frame of the generated video that the first of them becomes. Negative values count from the end.</param>
    /// <param name="editRatio">The fraction of the denoising process that is applied to them, from 0 (unchanged) to below 1.</param>
    public VideoRequestBuilder ConditionOn(VideoFrames frames, int frame = 0, double editRatio = 0) =>
        With(r => r.ConditionOn(frames, frame, editRatio));

    /// <summary>Adds conditioning frames in Open-Sora's text format; see
    /// <see cref="VideoRequest.ConditionOn(IReadOnlyList{VideoFrames}, string)"/>.</summary>
    /// <param name="references">The images and videos.</param>
    /// <param name="maskStrategies">The mask strategies, in video frames.</param>
    /// <exception cref="FormatException">The text is not in the expected format; the message quotes the invalid part.</exception>
    public VideoRequestBuilder ConditionOn(IReadOnlyList<VideoFrames> references, string maskStrategies) =>
        With(r => r.ConditionOn(references, maskStrategies));

    /// <summary>Creates a copy of the request in its current state.</summary>
    public VideoRequest Build() => _request.Clone();

    /// <summary>Generates the video; see <see cref="VideoGenerator.GenerateAsync"/>.</summary>
    public Task<GeneratedVideo> GenerateAsync(IProgress<GenerationProgress>? progress = null, CancellationToken cancellationToken = default) =>
        _generator.GenerateAsync(_request, progress, cancellationToken);

    private VideoRequestBuilder With(Action<VideoRequest> set)
    {
        set(_request);
        return this;
    }
}
