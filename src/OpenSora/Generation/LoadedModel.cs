using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Runtime;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>A model's networks in memory, ready to be used by many requests at once: they hold weights and nothing else.</summary>
internal sealed class LoadedModel : IDisposable
{
    private readonly Func<ITextEncoder> _makeTextEncoder;
    private readonly Lock _encoding = new();
    private ITextEncoder? _textEncoder;

    private LoadedModel(
        ModelFolder folder,
        IComputeBackend backend,
        IVideoTransformer transformer,
        IVideoAutoencoder vae,
        Func<ITextEncoder> makeTextEncoder
    ) =>
        (Description, Backend, Device, Transformer, Vae, this._makeTextEncoder) = (
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
            var context = new PartContext(folder.Path, backend.Device, services);
            PartLoader Part(ModelPart part) => new(folder, part, backend.Device, options.Precision);
            var description = folder.Description;

            var transformer = Keep(Part(description.Denoiser).Make(parts.Architectures.Transformers));
            Reached(1);
            var vae = Keep(parts.Vae?.Invoke(context) ?? Part(description.Vae).Make(parts.Architectures.Autoencoders));
            Reached(2);
            var text = Part(description.TextEncoder);
            if (parts.TextEncoder is null)
            {
                text.Check(TextEncoders.ByName.Keys);
            }

            var model = new LoadedModel(folder, backend, transformer, vae, () => parts.TextEncoder?.Invoke(context) ?? text.MakeTextEncoder());
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

    /// <summary>Encodes prompts.</summary>
    /// <returns>States and mask, in the caller's dispose scope.</returns>
    internal TextStates EncodeText(IReadOnlyList<string> prompts)
    {
        if (_textEncoder is not null)
        {
            return _textEncoder.Encode(prompts);
        }

        lock (_encoding) // at most one copy in memory
        {
            using var encoder = _makeTextEncoder();
            CheckTextEncoder(encoder);
            return encoder.Encode(prompts);
        }
    }

    // Parts that were replaced may not fit the transformer.
    private void CheckParts()
    {
        if (Vae.LatentChannels != Transformer.LatentChannels)
        {
            throw new InvalidOperationException(
                $"The autoencoder {Vae.GetType().Name} has {Vae.LatentChannels} latent channels, but {Description.Name} works on {Transformer.LatentChannels}. "
                    + "Use an autoencoder that the model was trained with."
            );
        }

        if (Description.Video.GivenFrames && !Transformer.SupportsNoisyFrames)
        {
            throw new InvalidOperationException(
                $"The description of {Description.Name} says that it was trained with given frames (video.given_frames), but its network, "
                    + $"{Transformer.GetType().Name}, cannot be told which frames are given."
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
                $"The text encoder {encoder.GetType().Name} gives {encoder.MaxTokens} states of width {encoder.Width}, but {Description.Name} reads "
                    + $"up to {Transformer.TextTokens} of width {Transformer.TextWidth}. Use a text encoder that the model was trained with."
            );
        }
    }

    public void Dispose()
    {
        Transformer.Dispose();
        Vae.Dispose();
        _textEncoder?.Dispose();
    }
}
