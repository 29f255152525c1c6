using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Runtime;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>The networks of a loaded model. They hold only weights, so concurrent requests can use them at the same time.</summary>
internal sealed class LoadedModel : IDisposable
{
    private readonly ModelFolder _folder;
    private readonly Func<ITextEncoder> _makeTextEncoder;
    private readonly Lock _encoding = new();
    private Func<LatentPreview> _makePreview = null!;
    private ITextEncoder? _textEncoder;
    private LatentPreview? _preview;

    private LoadedModel(
        ModelFolder folder,
        IComputeBackend backend,
        IVideoTransformer transformer,
        IVideoAutoencoder vae,
        Func<ITextEncoder> makeTextEncoder
    ) =>
        (_folder, Description, Backend, Device, Transformer, Vae, _makeTextEncoder) = (
            folder,
            folder.Description,
            backend.Name,
            backend.Device,
            transformer,
            vae,
            makeTextEncoder
        );

    internal ModelDescription Description { get; }

    internal string Backend { get; }

    internal Device Device { get; }

    internal IVideoTransformer Transformer { get; }

    internal IVideoAutoencoder Vae { get; }

    /// <summary>The text encoder; null while it is not in memory.</summary>
    internal ITextEncoder? TextEncoder => _textEncoder;

    /// <summary>Returns the memory of the weights of the text encoder in bytes, and whether they are kept between prompts.</summary>
    internal (double Bytes, bool IsKept) TextEncoderWeights() =>
        _textEncoder is not null ? (NetworkCost.Weights(_textEncoder), true)
        : Description.TextEncoder.Weights is null ? (0, false)
        : (WeightBytes(_folder.WeightsOf(Description.TextEncoder)), false);

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
            PartLoader Part(ModelPart part) => new(folder, part, backend.Device, options.Precision);
            var description = folder.Description;

            var transformer = Keep(Part(description.Denoiser).Make(parts.Architectures.Transformers));
            Reached(1);
            var vae = Keep(parts.Vae?.Invoke(partServices) ?? Part(description.Vae).Make(parts.Architectures.Autoencoders));
            Reached(2);
            var text = Part(description.TextEncoder);
            if (parts.TextEncoder is null)
            {
                text.Check(parts.Architectures.TextEncoders.Select(a => a.Name));
            }

            var model = new LoadedModel(folder, backend, transformer, vae, () =>
                parts.TextEncoder?.Invoke(partServices) ?? text.Make(parts.Architectures.TextEncoders)
            );
            model._makePreview = () =>
                description.Preview is { } small && Part(small).Make(parts.Architectures.Autoencoders) is var autoencoder
                    ? LatentPreview.Of(autoencoder)
                    : LatentPreview.For(vae, backend.Device);
            if (!options.ReleaseTextEncoder)
            {
                model._textEncoder = Keep(model._makeTextEncoder());
            }

            model.CheckParts();
            Reached(3);
            return model;
        }
        catch
        {
            loaded.ForEach(part => part.Dispose());
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

    /// <summary>Encodes prompts with the text encoder.</summary>
    /// <param name="prompts">The prompts.</param>
    /// <param name="weighted">Whether the prompts contain weights.</param>
    /// <returns>The hidden states and the mask, in the caller's dispose scope.</returns>
    internal TextStates EncodeText(IReadOnlyList<string> prompts, bool weighted)
    {
        TextStates Encode(ITextEncoder encoder) => weighted ? WeightedPrompt.Encode(encoder, prompts) : encoder.Encode(prompts);
        if (_textEncoder is not null)
        {
            return Encode(_textEncoder);
        }

        lock (_encoding) // keep at most one encoder in memory
        {
            using var encoder = _makeTextEncoder();
            CheckTextEncoder(encoder);
            return Encode(encoder);
        }
    }

    /// <summary>Gets what shows previews, and creates it when it is first needed.</summary>
    internal LatentPreview Preview()
    {
        lock (_encoding)
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
        Transformer.Dispose();
        Vae.Dispose();
        _textEncoder?.Dispose();
    }
}
