using System.Runtime.ExceptionServices;
using OpenSora.Diffusion;
using OpenSora.Media;
using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Runtime;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>Generates videos from prompts with networks that are already in memory, such as a model that was just trained.</summary>
/// <remarks>The pipeline implements latent diffusion (Rombach et al., 2022): it encodes the text, draws noise, denoises it step by step with
/// classifier-free guidance (Ho and Salimans, 2022) and decodes the result. The pipeline does not own its parts. Multiple threads can use it
/// concurrently.</remarks>
public sealed class VideoPipeline
{
    private readonly Func<IReadOnlyList<string>, bool, TextStates> _encodeText;

    /// <summary>Initializes a new pipeline.</summary>
    /// <param name="transformer">The denoiser. It receives its inputs on the device of its weights, or on the CPU if it is not an
    /// <see cref="nn.Module"/> or has no weights.</param>
    /// <param name="textEncoder">The text encoder. The width of its states must equal <see cref="IVideoTransformer.TextWidth"/>.</param>
    /// <param name="autoencoder">The autoencoder that decodes the latents; null for a transformer that denoises pixels.</param>
    /// <param name="sampler">The sampler, which determines the number of steps.</param>
    /// <exception cref="ArgumentException">The autoencoder and the transformer have different numbers of latent channels.</exception>
    public VideoPipeline(IVideoTransformer transformer, ITextEncoder textEncoder, IVideoAutoencoder? autoencoder, ISampler sampler)
        : this(
            transformer,
            (prompts, weighted) => weighted ? WeightedPrompt.Encode(textEncoder, prompts) : textEncoder.Encode(prompts),
            autoencoder,
            sampler
        ) => ArgumentNullException.ThrowIfNull(textEncoder);

    internal VideoPipeline(
        IVideoTransformer transformer,
        Func<IReadOnlyList<string>, bool, TextStates> encodeText,
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
        (Transformer, _encodeText, Autoencoder, Sampler) = (transformer, encodeText, autoencoder, sampler);
        Decoder = new LatentDecoder(autoencoder);
    }

    /// <summary>Gets the denoiser.</summary>
    public IVideoTransformer Transformer { get; }

    /// <summary>Gets the autoencoder that decodes the latents; null if the transformer denoises pixels.</summary>
    public IVideoAutoencoder? Autoencoder { get; }

    /// <summary>Gets the sampler.</summary>
    public ISampler Sampler { get; }

    /// <summary>Gets the number of leading latent channels that guidance is applied to; null for the default of the sampler
    /// (<see cref="ISampler.GuidedChannels"/>).</summary>
    public int? GuidedChannels { get; init; }

    /// <summary>Has the text encoder in memory; null if it always is.</summary>
    internal Func<OnDemand.Lease>? UseTextEncoder { get; init; }

    /// <summary>Gets the decoder of the latents.</summary>
    internal LatentDecoder Decoder { get; init; }

    /// <summary>Generates one video for each prompt, in a single batch.</summary>
    /// <param name="prompts">The prompts; an empty one generates without a prompt.</param>
    /// <param name="settings">The settings; null for the defaults: the size that the transformer is configured for, a guidance scale of 7, 8 frames
    /// per second and a random seed. The seed belongs to the first prompt; it increases by one for each further prompt. The sampler determines the
    /// number of steps, so <see cref="GenerationSettings.Steps"/> must be null.</param>
    /// <param name="progress">Receives every stage and step, on the calling thread.</param>
    /// <param name="cancellationToken">Checked between stages and steps.</param>
    /// <returns>The videos, in the order of the prompts.</returns>
    /// <exception cref="ArgumentException">There are no prompts, a setting is not valid, or a size is missing or not a multiple of the size that the
    /// networks require.</exception>
    /// <exception cref="InvalidOperationException">The latents or pixels contain values that are not finite.</exception>
    /// <exception cref="InsufficientMemoryException">Memory ran out.</exception>
    /// <exception cref="OperationCanceledException">The token was canceled.</exception>
    public IReadOnlyList<VideoFrames> Generate(
        IReadOnlyList<string> prompts,
        GenerationSettings? settings = null,
        IProgress<GenerationProgress>? progress = null,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(prompts);
        if (prompts.Count == 0)
        {
            throw new ArgumentException("At least one prompt is needed.", nameof(prompts));
        }

        var resolved = Resolve(settings ?? new GenerationSettings());
        resolved = GenerationGroup.Of(Transformer)?.WithSameSeed(resolved) ?? resolved;
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var shape = LatentShape(resolved);
        var device = Device();
        using var generator = Seeds.CreateGenerator(resolved.Seed, device);
        var noise = new List<Tensor>();
        for (var i = 0; i < prompts.Count; i++)
        {
            using var other = i == 0 ? null : Seeds.CreateGenerator(unchecked(resolved.Seed + i), device);
            noise.Add(randn(shape, device: device, generator: other ?? generator));
        }
        using var preview = resolved.PreviewEvery is null ? null : LatentPreview.For(Autoencoder, device);
        var inputs = new PipelineInputs(prompts, resolved, () => cat(noise), generator)
        {
            Windows = VideoWindows.For(prompts, resolved, Autoencoder?.TemporalFactor ?? 1, Transformer.LatentMultiple[0]),
            Preview = () => preview!,
        };
        try
        {
            return Generate(inputs, progress, cancellationToken);
        }
        catch (DecodingException exception) when (!OutOfMemory.Is(exception))
        {
            ExceptionDispatchInfo.Throw(exception.InnerException!); // of the autoencoder
            throw;
        }
        catch (Exception exception) when (OutOfMemory.Is(exception))
        {
            throw OutOfMemory.Insufficient(
                $"Memory ran out while generating {resolved.Frames} frames of {resolved.Width}x{resolved.Height} pixels. Request fewer frames or a "
                    + "smaller size, pass fewer prompts at a time, or use bfloat16.",
                exception
            );
        }
    }

    private ResolvedSettings Resolve(GenerationSettings settings)
    {
        List<string> problems = [.. settings.Problems()];
        if (settings.Steps is { } steps)
        {
            problems.Add($"Steps is {steps}; the sampler of a pipeline determines the number of steps. Create the sampler with it instead.");
        }

        if (problems.Count > 0)
        {
            throw new ArgumentException(string.Join(" ", problems), nameof(settings));
        }

        var (temporal, spatial, own) = (Autoencoder?.TemporalFactor ?? 1, Autoencoder?.SpatialFactor ?? 1, Transformer.LatentSize);
        return ResolvedSettings.Of(
            settings.Or(
                new GenerationSettings
                {
                    Frames = own?[0] * temporal,
                    Height = own?[1] * spatial,
                    Width = own?[2] * spatial,
                    GuidanceScale = 7,
                    FramesPerSecond = 8,
                }
            )
        );
    }

    /// <summary>Computes the shape of the latents of one video, <c>[1, channels, frames, height, width]</c>.</summary>
    /// <param name="settings">The size of the video.</param>
    /// <exception cref="ArgumentException">A size is not a multiple of the size that the networks require.</exception>
    internal long[] LatentShape(ResolvedSettings settings)
    {
        ArgumentNullException.ThrowIfNull(settings);
        var (temporal, spatial) = (Autoencoder?.TemporalFactor ?? 1, Autoencoder?.SpatialFactor ?? 1);
        var multiple = Transformer.LatentMultiple;
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
        return [1, Transformer.LatentChannels, settings.Frames / temporal, settings.Height / spatial, settings.Width / spatial];
    }

    internal IReadOnlyList<VideoFrames> Generate(PipelineInputs inputs, IProgress<GenerationProgress>? progress, CancellationToken cancellationToken)
    {
        var (prompts, settings) = (inputs.Prompts, inputs.Settings);
        using var scope = NewDisposeScope();
        var (group, canceled) = (GenerationGroup.Of(Transformer), cancellationToken);
        group?.RequireSame(inputs, Sampler);
        cancellationToken = group is null ? cancellationToken : default; // a group stops between steps, in all processes

        // 1. Encode the text.
        progress?.Report(new(GenerationStage.EncodingText, 0, 1));
        var nothing = NullCaption(prompts.Count);
        Func<Tensor, Tensor, Tensor?, Tensor> Denoiser(IReadOnlyList<string> texts, ResolvedSettings ofWindow) =>
            GuidedDenoiser(texts, ofWindow, inputs, nothing, cancellationToken);
        Func<Tensor, Tensor, Tensor?, Tensor> denoiser;
        using (inputs.PromptStates is null && UseTextEncoder is not null ? UseTextEncoder() : default)
        {
            denoiser = inputs.Windows is { } windows
                ? windows.Combine([.. windows.Prompts.Select(prompt => Denoiser([prompt], settings with { Frames = windows.Frames }))])
                : Denoiser(prompts, settings);
        }

        progress?.Report(new(GenerationStage.EncodingText, 1, 1));
        cancellationToken.ThrowIfCancellationRequested();

        // 2. Draw noise and insert the conditioning frames, or encode the existing video.
        var latents = inputs.Noise();
        var timesteps = Sampler.Timesteps(
            inputs.Windows is null ? latents.shape : [.. latents.shape[..2], inputs.Windows.Length, .. latents.shape[3..]]
        );
        var (fraction, edit) = ((Tensor?)null, (SamplingEdit?)null);
        if (inputs.Given.Count > 0)
        {
            using var weights = TransientWeights.Use(Autoencoder);
            (latents, fraction) = GivenFrames.Into(inputs.Given, latents, settings, Autoencoder!, inputs.Generator, progress, cancellationToken);
        }
        else if (inputs.Edit is not null)
        {
            using var weights = TransientWeights.Use(Autoencoder);
            edit = Encode(inputs.Edit, latents, settings, progress, cancellationToken);
        }

        // 3. Denoise.
        denoiser = group?.Cancelable(denoiser, canceled) ?? denoiser;
        var steps = new SamplingProgress(progress, timesteps.Count);
        steps.Report(0);
        var noise = Sampling.Gaussian(inputs.Generator);
        using (TransientWeights.Use(Transformer))
        {
            latents = Sampling.Run(Sampler, denoiser, latents, fraction, noise, timesteps, steps, cancellationToken, edit, Preview);
        }

        CheckFinite(latents, "latents", prompts, settings);

        // 4. Decode.
        group?.ThrowIfCanceled(canceled);
        using (TransientWeights.Use(Autoencoder))
        {
            return group is null
                ? Decoder.Decode(latents, settings.FramesPerSecond, CheckPixels, progress, cancellationToken, Decoded)
                : group.Decode(Decoder, Autoencoder, latents, settings.FramesPerSecond, CheckPixels, progress, Decoded);
        }

        void CheckPixels(Tensor pixels) => CheckFinite(pixels, "pixels", prompts, settings);

        void Preview(int step, Tensor predicted)
        {
            if (step % settings.PreviewEvery == 0 && step < timesteps.Count && progress is not null)
            {
                steps.Preview = inputs.Preview!().Show(predicted.narrow(0, 0, 1), settings.FramesPerSecond, settings.Frames);
            }
        }

        void Decoded(VideoFrames frames, int first)
        {
            inputs.Edit?.Restore(frames, first);
            inputs.Decoded?.Invoke(frames);
        }
    }

    private SamplingEdit Encode(
        VideoEdit edit,
        Tensor noise,
        ResolvedSettings settings,
        IProgress<GenerationProgress>? progress,
        CancellationToken cancellationToken
    )
    {
        var (done, all) = (0, edit.Video.Count);
        var original = Autoencoder is null
            ? edit.Video.ToTensor(noise.device)
            : GivenFrames.Encode(edit.Video, noise, settings, Autoencoder, generator: null, Report);
        progress?.Report(new(GenerationStage.EncodingReferences, all, all));
        return new SamplingEdit(original, noise, edit.Strength, edit.LatentMask(original));

        void Report(int frames)
        {
            cancellationToken.ThrowIfCancellationRequested();
            progress?.Report(new(GenerationStage.EncodingReferences, done, all));
            done += frames;
        }
    }

    // As in Open-Sora, the prompt's mask also applies to the null caption. A negative prompt has its own mask. An empty prompt is the null caption.
    private Func<Tensor, Tensor, Tensor?, Tensor> GuidedDenoiser(
        IReadOnlyList<string> prompts,
        ResolvedSettings settings,
        PipelineInputs inputs,
        Tensor nullCaption,
        CancellationToken cancellationToken
    )
    {
        var batch = prompts.Count;
        var isEmpty = prompts.Select(prompt => inputs.PromptStates is null && string.IsNullOrWhiteSpace(prompt)).ToArray();
        var (states, mask) = inputs.PromptStates is { } given
            ? Checked(given, 1, "The encoded prompt has")
            : Encode([.. prompts.Select((prompt, i) => isEmpty[i] ? "" : prompt)]);
        var nothing = nullCaption.narrow(1, 0, states.shape[1]);
        if (Array.Exists(isEmpty, empty => empty))
        {
            states = cat([.. isEmpty.Select((empty, i) => (empty ? nothing : states).narrow(0, i, 1))]);
        }
        var conditions = Conditions(states, mask);
        if (settings.GuidanceScale == 1 || Array.TrueForAll(isEmpty, empty => empty))
        {
            return (x, t, noisy) => Transformer.Denoise(x, t, conditions with { NoisyFrames = noisy });
        }

        var (otherStates, otherMask) =
            inputs.NegativePromptStates is { } negative ? Checked(negative, 1, "The encoded negative prompt has")
            : string.IsNullOrWhiteSpace(settings.NegativePrompt) ? new TextStates(nothing, mask)
            : Encode([.. Enumerable.Repeat(settings.NegativePrompt, batch)]);
        var both = Conditions(cat([states, otherStates]), cat([mask, otherMask]));
        return (x, t, noisy) =>
        {
            var shown = noisy is null ? both : both with { NoisyFrames = cat([noisy, noisy]) };
            return Sampling.ClassifierFreeGuidance(
                (twice, times) => Transformer.Denoise(twice, times, shown),
                settings.GuidanceScale,
                GuidedChannels ?? Sampler.GuidedChannels
            )(x, t);
        };

        TextStates Encode(IReadOnlyList<string> texts) =>
            Checked(_encodeText(texts, settings.PromptWeighting), texts.Count, "The text encoder returned");

        DenoiserConditions Conditions(Tensor text, Tensor textMask) =>
            new(text, textMask)
            {
                Frames = settings.Frames,
                Height = settings.Height,
                Width = settings.Width,
                FramesPerSecond = settings.Frames == 1 ? DenoiserConditions.ImageFramesPerSecond : settings.FramesPerSecond,
                CancellationToken = cancellationToken,
            };
    }

    // Custom parts might return something else than their properties say.
    private Tensor NullCaption(int batch)
    {
        using var weights = TransientWeights.Use(Transformer);
        var caption = Transformer.NullCaption(batch);
        long[] expected = [batch, Transformer.TextTokens, Transformer.TextWidth];
        return caption.shape.AsSpan().SequenceEqual(expected)
            ? caption
            : throw new InvalidOperationException(
                $"{Transformer.GetType().Name}.{nameof(Transformer.NullCaption)} returned states of shape {Shapes.Text(caption)}; by its "
                    + $"{nameof(Transformer.TextTokens)} and {nameof(Transformer.TextWidth)}, {Shapes.Text(expected)} is expected."
            );
    }

    private TextStates Checked(TextStates text, int batch, string what)
    {
        var (states, mask) = text;
        if (states.dim() != 3 || states.shape[0] != batch || states.shape[1] > Transformer.TextTokens || states.shape[2] != Transformer.TextWidth)
        {
            throw new InvalidOperationException(
                $"{what} states of shape {Shapes.Text(states)}; {Transformer.GetType().Name} expects "
                    + $"[{batch}, up to {Transformer.TextTokens}, {Transformer.TextWidth}]: prompts, tokens, width."
            );
        }

        return mask.dtype == ScalarType.Bool && mask.shape.AsSpan().SequenceEqual(states.shape.AsSpan(0, 2))
            ? text
            : throw new InvalidOperationException(
                $"{what} a mask of {mask.dtype} with shape {Shapes.Text(mask)}; expected Bool with shape "
                    + $"{Shapes.Text(states.shape[..2])}, one value for each token of its states."
            );
    }

    private static void CheckFinite(Tensor numbers, string what, IReadOnlyList<string> prompts, ResolvedSettings settings)
    {
        if (!numbers.isfinite().all().cpu().item<bool>())
        {
            throw new InvalidOperationException(
                $"The {what} of {string.Join(", ", prompts.Select(prompt => $"\"{prompt}\""))} are not finite: the computation overflowed. "
                    + $"Lower the guidance scale ({settings.GuidanceScale}), or use float32 if Precision is float16. "
                    + "If neither helps, the weights are damaged."
            );
        }
    }

    // A transformer without weights, such as one that calls another, receives its inputs on the CPU.
    private Device Device() =>
        Transformer is nn.Module module && module.parameters().Concat(module.buffers()).FirstOrDefault() is { } weights ? weights.device : CPU;
}
