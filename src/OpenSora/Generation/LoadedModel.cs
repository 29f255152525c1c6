using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Runtime;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>The networks of a loaded model. They hold only weights, so concurrent requests can use them at the same time.</summary>
internal sealed class LoadedModel : IDisposable
{
    private readonly ModelFolder _folder;
    private readonly Lock _previewing = new();
    private readonly OnDemand? _custom; // a text encoder of the application that is created for the first request that uses it
    private Func<LatentPreview> _makePreview = null!;
    private ITextEncoder? _textEncoder;
    private LatentPreview? _preview;

    private LoadedModel(
        ModelFolder folder,
        IComputeBackend backend,
        IVideoTransformer transformer,
        IVideoAutoencoder vae,
        Func<ITextEncoder> makeTextEncoder,
        bool releases
    )
    {
        (_folder, Description, Backend, Device) = (folder, folder.Description, backend.Name, backend.Device);
        (Transformer, Vae) = (transformer, vae);
        if (!releases)
        {
            _textEncoder = makeTextEncoder();
            return;
        }

        _custom = new OnDemand(
            () =>
            {
                var encoder = makeTextEncoder();
                try
                {
                    CheckTextEncoder(encoder);
                }
                catch
                {
                    encoder.Dispose();
                    throw;
                }

                _textEncoder = encoder;
            },
            () =>
            {
                _textEncoder?.Dispose();
                _textEncoder = null;
            }
        );
    }

    internal ModelDescription Description { get; }

    internal string Backend { get; }

    internal Device Device { get; }

    internal IVideoTransformer Transformer { get; }

    internal IVideoAutoencoder Vae { get; }

    /// <summary>The text encoder; null while it is not in memory.</summary>
    internal ITextEncoder? TextEncoder => _textEncoder;

    /// <summary>Returns the memory of the weights of the text encoder in bytes.</summary>
    internal double TextEncoderWeights() =>
        _textEncoder is not null ? NetworkCost.Weights(_textEncoder)
        : Description.TextEncoder.Weights is null ? 0
        : WeightBytes(_folder.WeightsOf(Description.TextEncoder));

    private static double WeightBytes(string path) =>
        Directory.Exists(path) ? new DirectoryInfo(path).EnumerateFiles("*.safetensors").Sum(file => (double)file.Length) : new FileInfo(path).Length;

    /// <summary>Returns a sentence if a prompt names nothing that the model knows; see <see cref="ModelFolder.CheckPrompt"/>.</summary>
    internal string? CheckPrompt(string prompt) => _folder.CheckPrompt(prompt);

    internal static LoadedModel Load(
        OpenSoraOptions options,
        PartFactories parts,
        IComputeBackend backend,
        IServiceProvider services,
        IProgress<GenerationProgress>? progress,
        CancellationToken cancellationToken
    )
    {
        const int Parts = 3;
        using var noGradients = no_grad();
        var loaded = new List<IDisposable>();
        try
        {
            Reached(0);
            var folder = ModelFolder.Open(options.Model ?? OpenSoraOptions.DefaultModel);
            var partServices = new PartServices(folder, backend.Device, services);
            PartLoader Part(ModelPart part, Residency? residency) =>
                new(folder, part, backend.Device, options.Precision, residency ?? Residency.Keep);
            var description = folder.Description;

            var transformer = Keep(Part(description.Denoiser, options.TransformerResidency).Make(parts.Architectures.Transformers));
            transformer.UseSequenceParallel(parts.Collectives);
            Reached(1);
            var vae = Keep(
                parts.Vae?.Invoke(partServices) ?? Part(description.Vae, options.AutoencoderResidency).Make(parts.Architectures.Autoencoders)
            );
            Reached(2);
            var text = Part(description.TextEncoder, options.TextEncoderResidency);
            var custom = parts.TextEncoder;
            var model = new LoadedModel(
                folder,
                backend,
                transformer,
                vae,
                () => custom?.Invoke(partServices) ?? text.Make(parts.Architectures.TextEncoders),
                releases: custom is not null && options.TextEncoderResidency is Residency.Release
            );
            model._makePreview = () =>
            {
                if (description.Preview is { } small)
                {
                    return LatentPreview.Of(Part(small, Residency.Keep).Make(parts.Architectures.Autoencoders));
                }

                using var weights = TransientWeights.Use(vae);
                return LatentPreview.For(vae, backend.Device);
            };
            if (model._textEncoder is not null)
            {
                Keep(model._textEncoder);
            }

            model.CheckParts();
            Reached(3);
            return model;
        }
        catch
        {
            loaded.ForEach(Unload);
            throw;
        }

        TPart Keep<TPart>(TPart part)
            where TPart : IDisposable
        {
            loaded.Add(part);
            return part;
        }

        void Reached(int part)
        {
            cancellationToken.ThrowIfCancellationRequested();
            progress?.Report(new(GenerationStage.Loading, part, Parts));
        }
    }

    /// <summary>The parts with weights that do not stay in memory, with the numbers of their large weights and of those that are converted or copied
    /// for each use.</summary>
    internal IEnumerable<(string Part, int Weights, int Copied)> Transient =>
        new (string Part, object? Network)[] { ("text encoder", _textEncoder), ("transformer", Transformer), ("autoencoder", Vae) }
            .Select(part => (part.Part, Count: TransientWeights.Count(part.Network)))
            .Where(part => part.Count is not null)
            .Select(part => (part.Part, part.Count!.Value.All, part.Count.Value.Copied));

    /// <summary>Encodes prompts with the text encoder.</summary>
    /// <param name="prompts">The prompts.</param>
    /// <param name="weighted">Whether the prompts contain weights.</param>
    /// <returns>The hidden states and the mask, in the caller's dispose scope.</returns>
    internal TextStates EncodeText(IReadOnlyList<string> prompts, bool weighted)
    {
        using var use = UseTextEncoder();
        return weighted ? WeightedPrompt.Encode(_textEncoder!, prompts) : _textEncoder!.Encode(prompts);
    }

    /// <summary>Has the text encoder in memory until the result is disposed.</summary>
    internal OnDemand.Lease UseTextEncoder() => _custom?.Use() ?? TransientWeights.Use(_textEncoder);

    /// <summary>Gets what shows previews, and creates it when it is first needed.</summary>
    internal LatentPreview Preview()
    {
        lock (_previewing)
        {
            return _preview ??= _makePreview();
        }
    }

    // Custom parts might be incompatible with the transformer.
    private void CheckParts()
    {
        if (Vae.LatentChannels != Transformer.LatentChannels)
        {
            throw new InvalidOperationException(
                $"The autoencoder {Vae.GetType().Name} has {Vae.LatentChannels} latent channels, "
                    + $"but {Description.Name} expects {Transformer.LatentChannels}. Use the autoencoder that the model was trained with."
            );
        }

        if (Description.Video.GivenFrames && !Transformer.SupportsNoisyFrames)
        {
            throw new InvalidOperationException(
                $"{Description.Name} is described as trained with conditioning frames (video.given_frames), but its network, "
                    + $"{Transformer.GetType().Name}, does not support conditioning frames."
            );
        }

        if (_textEncoder is not null)
        {
            CheckTextEncoder(_textEncoder);
        }
    }

    private void CheckTextEncoder(ITextEncoder encoder)
    {
        if (encoder.Width != Transformer.TextWidth || encoder.MaxTokens > Transformer.TextTokens)
        {
            throw new InvalidOperationException(
                $"The text encoder {encoder.GetType().Name} returns {encoder.MaxTokens} states of width {encoder.Width}, but "
                    + $"{Description.Name} accepts up to {Transformer.TextTokens} of width {Transformer.TextWidth}. "
                    + "Use the text encoder that the model was trained with."
            );
        }
    }

    public void Dispose()
    {
        _preview?.Dispose();
        Unload(Transformer);
        Unload(Vae);
        Unload(_textEncoder);
    }

    private static void Unload(IDisposable? part)
    {
        TransientWeights.Close(part);
        part?.Dispose();
    }
}
