using OpenSora.Diffusion;
using OpenSora.Media;

namespace OpenSora.Generation;

/// <summary>What to generate. Null means the generator's options, and where these have none, the model's own default.</summary>
public sealed class VideoRequest
{
    /// <summary>What to show. Empty = whatever the model comes up with, without guidance. Longer texts than the model reads are cut.</summary>
    public string Prompt { get; set; } = "";

    /// <summary>What to stay away from; null or empty = the model's own null caption.</summary>
    public string? NegativePrompt { get; set; }

    /// <summary>Frames.</summary>
    public int? Frames { get; set; }

    /// <summary>Width in pixels, with <see cref="Height"/>.</summary>
    public int? Width { get; set; }

    /// <summary>Height in pixels, with <see cref="Width"/>.</summary>
    public int? Height { get; set; }

    /// <summary>Denoising steps: more are slower and finer.</summary>
    public int? Steps { get; set; }

    /// <summary>Classifier-free guidance scale: 1 = none, more follows the prompt more.</summary>
    public double? Guidance { get; set; }

    /// <summary>The same seed and request give the same bytes on one backend; null draws one, which the result tells.</summary>
    public long? Seed { get; set; }

    /// <summary>Frames per second of the result.</summary>
    public double? FramesPerSecond { get; set; }

    /// <summary>Pictures and videos of which frames are given to the result, for models that were trained with given frames. They are scaled to cover
    /// the result's
    /// size, the middle kept; their frame rates are left aside.</summary>
    /// <seealso cref="ConditionOn(VideoFrames, int, double)"/>
    public IReadOnlyList<VideoFrames> References { get; set; } = [];

    /// <summary>Which frames of the <see cref="References"/> become which of the result's, counted in frames of video. Later ones win.</summary>
    /// <seealso cref="MaskStrategy.Parse"/>
    public IReadOnlyList<MaskStrategy> MaskStrategies { get; set; } = [];

    /// <summary>Gives frames to the result: a picture at frame 0 is animated, the end of a video there is continued, frames at both ends are
    /// connected.</summary>
    /// <param name="frames">A picture, or the frames of a video that are given; all of them, as far as the result is long.</param>
    /// <param name="frame">The frame of the result that the first of them becomes; below 0 counts from the end, so that -1 is the last one.</param>
    /// <param name="editRatio">How much of them is made anew: 0, they stay as they are, or more, below 1, at which nothing would be left of
    /// them.</param>
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

    /// <summary>Gives frames to the result by Open-Sora's text form, such as <c>0,0,-4,0,4</c>: the last four frames of reference 0 become the first
    /// ones.</summary>
    /// <param name="references">Pictures and videos; the strategies count them from 0.</param>
    /// <param name="maskStrategies">See <see cref="MaskStrategy.Parse"/>, counted in frames of video.</param>
    /// <returns>This request.</returns>
    /// <exception cref="FormatException">The text is something else; the message says which part.</exception>
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

    /// <summary>What no model could do, a sentence each, beginning with the name of the value.</summary>
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
            yield return $"Steps is {steps}; it must be from 1 to {MaxSteps}. Usual are 10 to 100.";
        }

        if (guidance is { } scale && !(double.IsFinite(scale) && scale is >= 0 and <= 100))
        {
            yield return FormattableString.Invariant($"Guidance is {scale}; it must be from 0 to 100. 1 is no guidance, usual are 4 to 8.");
        }

        if (framesPerSecond is { } fps && !(double.IsFinite(fps) && fps is > 0 and <= 1000))
        {
            yield return FormattableString.Invariant($"FramesPerSecond is {fps}; it must be above 0 and at most 1000.");
        }
    }
}

/// <summary>A request put together in one expression: <c>generator.Request("a goat").Frames(16).Seed(42).GenerateAsync()</c>.</summary>
public sealed class VideoRequestBuilder
{
    private readonly VideoGenerator _generator;
    private readonly VideoRequest _request;

    internal VideoRequestBuilder(VideoGenerator generator, string prompt)
    {
        ArgumentNullException.ThrowIfNull(prompt);
        this._generator = generator;
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

    /// <summary>Gives frames to the result; see <see cref="VideoRequest.ConditionOn(VideoFrames, int, double)"/>.</summary>
    /// <param name="frames">A picture, or the frames of a video that are given.</param>
    /// <param name="frame">The frame of the result that the first of them becomes; below 0 counts from the end.</param>
    /// <param name="editRatio">How much of them is made anew: 0 or more, below 1.</param>
    public VideoRequestBuilder ConditionOn(VideoFrames frames, int frame = 0, double editRatio = 0) =>
        With(r => r.ConditionOn(frames, frame, editRatio));

    /// <summary>Gives frames to the result by Open-Sora's text form; see
    /// <see cref="VideoRequest.ConditionOn(IReadOnlyList{VideoFrames}, string)"/>.</summary>
    /// <param name="references">Pictures and videos.</param>
    /// <param name="maskStrategies">Which of their frames go where.</param>
    public VideoRequestBuilder ConditionOn(IReadOnlyList<VideoFrames> references, string maskStrategies) =>
        With(r => r.ConditionOn(references, maskStrategies));

    /// <summary>The request so far, as an object of its own.</summary>
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
