using OpenSora.Diffusion;
using OpenSora.Media;
using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>Turns prompts into frames with networks that are in memory, such as a model that was just trained.</summary>
/// <remarks>The way of latent diffusion (Rombach et al., 2022): encode the text, draw noise, denoise it step by step under classifier-free guidance
/// (Ho and Salimans, 2022), decode. The
/// pipeline owns none of its parts and may be used by several threads at once.</remarks>
public sealed class VideoPipeline
{
    private readonly IVideoTransformer _transformer;
    private readonly Func<IReadOnlyList<string>, TextStates> _encodeText;
    private readonly IVideoAutoencoder? _autoencoder;

    /// <summary>Initializes a pipeline.</summary>
    /// <param name="transformer">The denoiser.</param>
    /// <param name="textEncoder">The encoder of prompts; its states have the transformer's <see cref="IVideoTransformer.TextWidth"/>.</param>
    /// <param name="autoencoder">The decoder of latents; null for a transformer that denoises pixels.</param>
    /// <param name="sampler">The sampler, which knows the number of steps.</param>
    /// <exception cref="ArgumentException">The autoencoder's latents do not have the transformer's channels.</exception>
    public VideoPipeline(IVideoTransformer transformer, ITextEncoder textEncoder, IVideoAutoencoder? autoencoder, ISampler sampler)
        : this(transformer, (textEncoder ?? throw new ArgumentNullException(nameof(textEncoder))).Encode, autoencoder, sampler) { }

    internal VideoPipeline(
        IVideoTransformer transformer,
        Func<IReadOnlyList<string>, TextStates> encodeText,
        IVideoAutoencoder? autoencoder,
        ISampler sampler
    )
    {
        ArgumentNullException.ThrowIfNull(transformer);
        ArgumentNullException.ThrowIfNull(sampler);
        if (autoencoder is not null && autoencoder.LatentChannels != transformer.LatentChannels)
        {
            throw new ArgumentException(
                $"The autoencoder has {autoencoder.LatentChannels} latent channels, but the transformer denoises {transformer.LatentChannels}.",
                nameof(autoencoder)
            );
        }
        (this._transformer, this._encodeText, this._autoencoder, Sampler) = (transformer, encodeText, autoencoder, sampler);
    }

    /// <summary>The sampler.</summary>
    public ISampler Sampler { get; }

    /// <summary>The number of latent channels that guidance changes, from the first one on; null for the sampler's own choice
    /// (<see cref="ISampler.GuidedChannels"/>).</summary>
    public int? GuidedChannels { get; init; }

    /// <summary>Generates one video for each prompt, all in one batch.</summary>
    /// <param name="prompts">The prompts; an empty one generates without a prompt.</param>
    /// <param name="settings">Sizes, guidance and frame rate.</param>
    /// <param name="seed">The seed of the first prompt's noise; the next prompt's is one higher.</param>
    /// <param name="progress">Receives every stage and step, on the calling thread.</param>
    /// <param name="cancellationToken">Checked between stages and steps.</param>
    /// <returns>The videos in the order of the prompts.</returns>
    /// <exception cref="ArgumentException">There is no prompt, or a size is not a multiple of what the parts need.</exception>
    /// <exception cref="InvalidOperationException">A number overflowed.</exception>
    /// <exception cref="OperationCanceledException">The token was canceled.</exception>
    public IReadOnlyList<VideoFrames> Generate(
        IReadOnlyList<string> prompts,
        PipelineSettings settings,
        long seed = 0,
        IProgress<GenerationProgress>? progress = null,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(prompts);
        ArgumentNullException.ThrowIfNull(settings);
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var shape = LatentShape(settings);
        var device = Device();
        using var generator = new Generator(unchecked((ulong)seed), device);
        var noise = new List<Tensor>();
        for (var i = 0; i < prompts.Count; i++)
        {
            using var other = i == 0 ? null : new Generator(unchecked((ulong)(seed + i)), device);
            noise.Add(randn(shape, device: device, generator: other ?? generator));
        }
        return Generate(prompts, settings, () => cat(noise), generator, [], null, progress, cancellationToken);
    }

    /// <summary>The shape of one video's latents, <c>[1, channels, frames, height, width]</c>.</summary>
    /// <exception cref="ArgumentException">A size is not a multiple of what the parts need.</exception>
    internal long[] LatentShape(PipelineSettings settings)
    {
        ArgumentNullException.ThrowIfNull(settings);
        var (temporal, spatial) = (_autoencoder?.TemporalFactor ?? 1, _autoencoder?.SpatialFactor ?? 1);
        var multiple = _transformer.LatentMultiple;
        (string Name, int Value, int Multiple)[] sizes =
        [
            (nameof(settings.Frames), settings.Frames, temporal * multiple[0]),
            (nameof(settings.Height), settings.Height, spatial * multiple[1]),
            (nameof(settings.Width), settings.Width, spatial * multiple[2]),
        ];
        foreach (var (name, value, factor) in sizes)
        {
            if (value < 1 || value % factor != 0)
            {
                throw new ArgumentException($"{name} is {value}; it must be a positive multiple of {factor}.", nameof(settings));
            }
        }
        return [1, _transformer.LatentChannels, settings.Frames / temporal, settings.Height / spatial, settings.Width / spatial];
    }

    internal IReadOnlyList<VideoFrames> Generate(
        IReadOnlyList<string> prompts,
        PipelineSettings settings,
        Func<Tensor> noise,
        Generator generator,
        IReadOnlyList<GivenFrames> given,
        int? numberOfSteps,
        IProgress<GenerationProgress>? progress,
        CancellationToken cancellationToken
    )
    {
        if (prompts.Count == 0)
        {
            throw new ArgumentException("At least one prompt is needed.", nameof(prompts));
        }
        using var scope = NewDisposeScope();

        // 1. Encode the text.
        progress?.Report(new(GenerationStage.EncodingText, 0, 1));
        var denoiser = GuidedDenoiser(prompts, settings);
        progress?.Report(new(GenerationStage.EncodingText, 1, 1));
        cancellationToken.ThrowIfCancellationRequested();

        // 2. Draw noise, and put the conditioning frames into it.
        var latents = noise();
        Tensor? fraction = null;
        if (given.Count > 0)
        {
            (latents, fraction) = GivenFrames.Into(given, latents, settings, _autoencoder!, generator, progress, cancellationToken);
        }

        // 3. Denoise.
        var steps = new SamplingProgress(progress);
        if (numberOfSteps is { } all)
        {
            steps.Report(new SamplingStep(0, all));
        }
        latents = fraction is null
            ? Sampler.Sample((x, t) => denoiser(x, t, null), latents, generator, steps, cancellationToken)
            : ((IFrameSampler)Sampler).SampleFrames((x, t, noisy) => denoiser(x, t, noisy), latents, fraction, generator, steps, cancellationToken);
        CheckFinite(latents, "latents", prompts, settings);

        // 4. Decode.
        var pixels = Decode(latents, progress, cancellationToken);
        CheckFinite(pixels, "pixels", prompts, settings);
        return [.. Enumerable.Range(0, prompts.Count).Select(i => VideoFrames.FromTensor(pixels.narrow(0, i, 1), settings.FramesPerSecond))];
    }

    // As published, the prompt's own mask cuts the null caption too; a negative prompt brings its own. An empty prompt is the null caption.
    private Func<Tensor, Tensor, Tensor?, Tensor> GuidedDenoiser(IReadOnlyList<string> prompts, PipelineSettings settings)
    {
        var batch = prompts.Count;
        var isEmpty = prompts.Select(string.IsNullOrWhiteSpace).ToArray();
        var (states, mask) = _encodeText([.. prompts.Select((prompt, i) => isEmpty[i] ? "" : prompt)]);
        var nothing = _transformer.NullCaption(batch).narrow(1, 0, states.shape[1]);
        if (Array.Exists(isEmpty, empty => empty))
        {
            states = cat([.. isEmpty.Select((empty, i) => (empty ? nothing : states).narrow(0, i, 1))]);
        }
        var conditions = Conditions(states, mask);
        if (settings.Guidance == 1 || Array.TrueForAll(isEmpty, empty => empty))
        {
            return (x, t, noisy) => _transformer.Denoise(x, t, conditions with { NoisyFrames = noisy });
        }

        var (otherStates, otherMask) = string.IsNullOrWhiteSpace(settings.NegativePrompt)
            ? new TextStates(nothing, mask)
            : _encodeText([.. Enumerable.Repeat(settings.NegativePrompt, batch)]);
        var both = Conditions(cat([states, otherStates]), cat([mask, otherMask]));
        return (x, t, noisy) =>
        {
            var shown = noisy is null ? both : both with { NoisyFrames = cat([noisy, noisy]) };
            return Guidance.ClassifierFree(
                (twice, times) => _transformer.Denoise(twice, times, shown),
                settings.Guidance,
                GuidedChannels ?? Sampler.GuidedChannels
            )(x, t);
        };

        DenoiserConditions Conditions(Tensor text, Tensor textMask) =>
            new(text, textMask)
            {
                Frames = settings.Frames,
                Height = settings.Height,
                Width = settings.Width,
                FramesPerSecond = settings.Frames == 1 ? DenoiserConditions.ImageFramesPerSecond : settings.FramesPerSecond,
            };
    }

    private Tensor Decode(Tensor latents, IProgress<GenerationProgress>? progress, CancellationToken cancellationToken)
    {
        if (_autoencoder is null)
        {
            return latents;
        }
        var frames = (int)latents.shape[2];
        var atOnce = Math.Clamp(_autoencoder.FramesAtOnce, 1, frames);
        List<Tensor> pieces = [];
        for (var frame = 0; frame < frames; frame += atOnce)
        {
            cancellationToken.ThrowIfCancellationRequested();
            progress?.Report(new(GenerationStage.Decoding, frame, frames));
            using var scope = NewDisposeScope();
            pieces.Add(_autoencoder.Decode(latents.narrow(2, frame, Math.Min(atOnce, frames - frame))).MoveToOuterDisposeScope());
        }
        progress?.Report(new(GenerationStage.Decoding, frames, frames));
        cancellationToken.ThrowIfCancellationRequested();
        return cat(pieces, 2);
    }

    private static void CheckFinite(Tensor numbers, string what, IReadOnlyList<string> prompts, PipelineSettings settings)
    {
        if (!numbers.isfinite().all().cpu().item<bool>())
        {
            throw new InvalidOperationException(
                $"The {what} of {string.Join(", ", prompts.Select(prompt => $"\"{prompt}\""))} are not finite: numbers overflowed. "
                    + $"Lower the guidance ({settings.Guidance}), or compute in float32 if Precision is float16; if neither helps, the weights are damaged."
            );
        }
    }

    private Device Device() => ((nn.Module)_transformer).parameters().First().device;

    private sealed class SamplingProgress(IProgress<GenerationProgress>? progress) : IProgress<SamplingStep>
    {
        public void Report(SamplingStep value) => progress?.Report(new(GenerationStage.Denoising, value.Step, value.Steps));
    }
}

/// <summary>The settings of one call of a <see cref="VideoPipeline"/>.</summary>
public sealed record PipelineSettings
{
    /// <summary>Frames of the video; 1 for an image.</summary>
    public required int Frames { get; init; }

    /// <summary>Height in pixels.</summary>
    public required int Height { get; init; }

    /// <summary>Width in pixels.</summary>
    public required int Width { get; init; }

    /// <summary>Scale of classifier-free guidance; 1 for none.</summary>
    public double Guidance { get; init; } = 7;

    /// <summary>What the video should not show; null for the null caption that the model was trained with.</summary>
    public string? NegativePrompt { get; init; }

    /// <summary>Frames per second.</summary>
    public double FramesPerSecond { get; init; } = 8;
}
