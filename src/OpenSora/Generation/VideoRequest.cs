using OpenSora.Diffusion;
using OpenSora.Media;
using OpenSora.Models;

namespace OpenSora.Generation;

/// <summary>A request to generate a video. A null value means the generator's option or, if that is null too, the model's default.</summary>
public sealed class VideoRequest : GenerationSettings
{
    /// <summary>Gets or sets the description of the video. An empty prompt generates without a prompt and without guidance. Text beyond the model's
    /// maximum length is truncated.</summary>
    public string Prompt { get; set; } = "";

    /// <summary>Gets or sets the prompts that follow <see cref="Prompt"/> in a long video, ordered by their frames; empty for one prompt. The video
    /// is generated in windows (<see cref="GenerationSettings.WindowFrames"/>), each with the prompt at its middle.</summary>
    public IReadOnlyList<PromptSegment> Segments { get; set; } = [];

    /// <summary>Gets or sets the encoded prompt, <c>[1, tokens, width]</c>, to use instead of encoding <see cref="Prompt"/>; null to encode it. See
    /// <see cref="VideoGenerator.EncodePromptAsync"/>. The tensors must not be disposed before the request is complete.</summary>
    public TextStates? PromptStates { get; set; }

    /// <summary>Gets or sets the encoded negative prompt, to use instead of encoding <see cref="GenerationSettings.NegativePrompt"/>; null to encode
    /// it.</summary>
    public TextStates? NegativePromptStates { get; set; }

    /// <summary>Gets the video to begin with, the fraction of the steps to apply to it, and the part of it to generate.</summary>
    internal VideoEdit? Edit { get; set; }

    /// <summary>Begins with an existing video or image instead of noise (video to video). It works with every model.</summary>
    /// <remarks>Meng et al. 2022, "SDEdit". The frames are scaled to cover the size of the generated video and cropped at the center. An image is
    /// repeated for all frames; a video must have as many frames as the generated one (<see cref="VideoFrames.Slice"/> cuts it). If
    /// <see cref="GenerationSettings.Frames"/> is null, the generated video has the number of frames of the existing video.</remarks>
    /// <param name="video">The existing video, or an image.</param>
    /// <param name="strength">The amount of change: the fraction of the denoising steps that are applied, from above 0 to 1, rounded up to whole
    /// steps.</param>
    /// <returns>This request.</returns>
    public VideoRequest EditVideo(VideoFrames video, double strength = 0.6)
    {
        ArgumentNullException.ThrowIfNull(video);
        Edit = new VideoEdit(video, strength, null);
        return this;
    }

    /// <summary>Generates a part of an existing video and keeps the rest (inpainting). It works with every model.</summary>
    /// <remarks>The mask selects regions, frames, or both: white is generated, black is kept, and gray mixes both. Latents that a white pixel belongs
    /// to are generated as a whole; the kept pixels of the result are those of the existing video. Scaling, images and the number of frames are as
    /// for <see cref="EditVideo"/>.</remarks>
    /// <param name="video">The existing video, or an image.</param>
    /// <param name="mask">The mask, of the size of the video; one frame for a mask that applies to all frames. Its red channel is used. See
    /// <see cref="VideoFrames.Mask"/>.</param>
    /// <param name="strength">The amount of change in the generated part, from above 0 to 1. With 1, it does not depend on what was there.</param>
    /// <returns>This request.</returns>
    public VideoRequest Inpaint(VideoFrames video, VideoFrames mask, double strength = 1)
    {
        ArgumentNullException.ThrowIfNull(video);
        ArgumentNullException.ThrowIfNull(mask);
        Edit = new VideoEdit(video, strength, mask);
        return this;
    }

    /// <summary>Gets the images and videos that provide conditioning frames.</summary>
    internal IReadOnlyList<VideoFrames> References { get; set; } = [];

    /// <summary>Gets the mapping from frames of the <see cref="References"/> to frames of the generated video, in video frames. Later entries
    /// override earlier ones.</summary>
    internal IReadOnlyList<MaskStrategy> MaskStrategies { get; set; } = [];

    /// <summary>Adds conditioning frames, for models that were trained with them. Use an image at frame 0 to animate it, the last frames of a video
    /// at frame 0 to continue it, or frames at both ends to connect them.</summary>
    /// <remarks>Frames are scaled to cover the size of the generated video and cropped at the center. Their frame rates are ignored. Frames that are
    /// added later override earlier ones.</remarks>
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
    /// <param name="maskStrategies">The mask strategies, in video frames, separated by semicolons. Each one is
    /// <c>loop,reference,reference start,target start,length,edit ratio</c>; omitted values at the end are <c>0,0,0,0,1,0</c>.</param>
    /// <returns>This request.</returns>
    /// <exception cref="FormatException">The text is not in the expected format; the message quotes the invalid part.</exception>
    public VideoRequest ConditionOn(IReadOnlyList<VideoFrames> references, string maskStrategies)
    {
        ArgumentNullException.ThrowIfNull(references);
        if (references.Contains(null!))
        {
            throw new ArgumentException("A reference is null.", nameof(references));
        }

        MaskStrategies =
        [
            .. MaskStrategies,
            .. MaskStrategy.Parse(maskStrategies).Select(strategy => strategy with { Reference = strategy.Reference + References.Count }),
        ];
        References = [.. References, .. references];
        return this;
    }

    /// <inheritdoc/>
    public override VideoRequest Clone() => (VideoRequest)base.Clone();

    /// <summary>Creates a copy in which the null values are those of other settings, such as the defaults of a generator
    /// (<c>generator.GetService&lt;GenerationSettings&gt;()</c>).</summary>
    /// <param name="defaults">The values for the properties that are null in this request.</param>
    public VideoRequest WithDefaults(GenerationSettings defaults)
    {
        ArgumentNullException.ThrowIfNull(defaults);
        return (VideoRequest)Or(defaults);
    }

    /// <summary>Computes a hash of everything that the request consists of: the prompt, the settings, and the conditioning frames with their
    /// pixels. Requests with the same hash are equal. The hash can change with the version of the library.</summary>
    /// <returns>The SHA-256 hash, as 64 hexadecimal digits.</returns>
    public string ComputeHash() => RequestHash.Of(this);
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

    /// <summary>Sets <see cref="GenerationSettings.NegativePrompt"/>.</summary>
    public VideoRequestBuilder NegativePrompt(string? text) => With(r => r.NegativePrompt = text);

    /// <summary>Sets <see cref="GenerationSettings.Frames"/>.</summary>
    public VideoRequestBuilder Frames(int? count) => With(r => r.Frames = count);

    /// <summary>Sets <see cref="GenerationSettings.Width"/> and <see cref="GenerationSettings.Height"/>, in pixels.</summary>
    public VideoRequestBuilder Size(int? width, int? height) => With(r => (r.Width, r.Height) = (width, height));

    /// <summary>Sets <see cref="GenerationSettings.Steps"/>.</summary>
    public VideoRequestBuilder Steps(int? count) => With(r => r.Steps = count);

    /// <summary>Sets <see cref="GenerationSettings.GuidanceScale"/>.</summary>
    public VideoRequestBuilder GuidanceScale(double? scale) => With(r => r.GuidanceScale = scale);

    /// <summary>Sets <see cref="GenerationSettings.Seed"/>.</summary>
    public VideoRequestBuilder Seed(long? seed) => With(r => r.Seed = seed);

    /// <summary>Sets <see cref="GenerationSettings.FramesPerSecond"/>.</summary>
    public VideoRequestBuilder Fps(double? framesPerSecond) => With(r => r.FramesPerSecond = framesPerSecond);

    /// <summary>Sets <see cref="GenerationSettings.WindowFrames"/> and <see cref="GenerationSettings.WindowOverlap"/>.</summary>
    public VideoRequestBuilder Windows(int? frames, int? overlap = null) => With(r => (r.WindowFrames, r.WindowOverlap) = (frames, overlap));

    /// <summary>Adds a prompt that applies from a frame on; see <see cref="VideoRequest.Segments"/>.</summary>
    /// <param name="frame">The first frame of the segment, above that of the segment before.</param>
    /// <param name="prompt">The description of the segment.</param>
    public VideoRequestBuilder Then(int frame, string prompt) => With(r => r.Segments = [.. r.Segments, new PromptSegment(frame, prompt)]);

    /// <summary>Sets <see cref="GenerationSettings.PromptWeighting"/>.</summary>
    public VideoRequestBuilder PromptWeighting(bool? on = true) => With(r => r.PromptWeighting = on);

    /// <summary>Sets <see cref="GenerationSettings.PreviewEvery"/>.</summary>
    public VideoRequestBuilder PreviewEvery(int? steps) => With(r => r.PreviewEvery = steps);

    /// <summary>Begins with an existing video or image; see <see cref="VideoRequest.EditVideo"/>.</summary>
    /// <param name="video">The existing video, or an image.</param>
    /// <param name="strength">The amount of change, from above 0 to 1.</param>
    public VideoRequestBuilder EditVideo(VideoFrames video, double strength = 0.6) => With(r => r.EditVideo(video, strength));

    /// <summary>Generates a part of an existing video; see <see cref="VideoRequest.Inpaint"/>.</summary>
    /// <param name="video">The existing video, or an image.</param>
    /// <param name="mask">The mask: white is generated, black is kept.</param>
    /// <param name="strength">The amount of change in the generated part, from above 0 to 1.</param>
    public VideoRequestBuilder Inpaint(VideoFrames video, VideoFrames mask, double strength = 1) => With(r => r.Inpaint(video, mask, strength));

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

    /// <summary>Generates the video; see <see cref="IVideoGenerator.GenerateAsync"/>.</summary>
    public Task<GeneratedVideo> GenerateAsync(IProgress<GenerationProgress>? progress = null, CancellationToken cancellationToken = default) =>
        _generator.GenerateAsync(_request, progress, cancellationToken);

    /// <summary>Generates several videos with consecutive seeds, one after another; see
    /// <see cref="VideoGeneratorExtensions.GenerateManyAsync"/>.</summary>
    public IAsyncEnumerable<GeneratedVideo> GenerateManyAsync(
        int count,
        IProgress<GenerationProgress>? progress = null,
        CancellationToken cancellationToken = default
    ) => _generator.GenerateManyAsync(_request, count, progress, cancellationToken);

    private VideoRequestBuilder With(Action<VideoRequest> set)
    {
        set(_request);
        return this;
    }
}
