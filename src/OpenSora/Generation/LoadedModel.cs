using OpenSora.Hosting;
using OpenSora.Models;
using OpenSora.Text;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>A model's networks in memory, ready to be used by many requests at once: they hold weights and nothing else.</summary>
internal sealed class LoadedModel : IDisposable
{
    private readonly Func<ITextEncoder> makeTextEncoder;
    private readonly Lock encoding = new();
    private ITextEncoder? textEncoder;

    private LoadedModel(ModelFolder folder, IComputeBackend backend, Stdit transformer, IVideoAutoencoder vae, Func<ITextEncoder> makeTextEncoder) =>
        (Description, Backend, Device, Transformer, Vae, this.makeTextEncoder) = (folder.Description, backend.Name, backend.Device, transformer, vae, makeTextEncoder);

    internal ModelDescription Description { get; }

    internal string Backend { get; }

    internal Device Device { get; }

    internal Stdit Transformer { get; }

    internal IVideoAutoencoder Vae { get; }

    internal static LoadedModel Load(OpenSoraOptions options, PartFactories parts, IComputeBackend backend, IServiceProvider services,
        IProgress<GenerationProgress>? progress, CancellationToken cancellationToken)
    {
        const int Parts = 3;
        using var noGradients = no_grad();
        var loaded = new List<IDisposable>();
        try
        {
            Reached(0);
            var folder = ModelFolder.Open(options.Model ?? OpenSoraOptions.DefaultModel);
            var context = new PartContext(folder.Path, backend.Device, services);
            var (denoiser, vaePart, textPart) = (folder.Description.Denoiser, folder.Description.Vae, folder.Description.TextEncoder);

            Expect(denoiser, "stdit");
            var transformer = Keep(new Stdit(folder.ReadConfig<StditConfig>(denoiser), initialize: false));
            transformer.LoadWeights(folder.DenoiserWeights);
            Prepare(transformer);
            Reached(1);

            if (parts.Vae is null)
                Expect(vaePart, "autoencoder_kl");
            var vae = parts.Vae is { } makeVae ? Keep(makeVae(context)) : ModelVae();
            Reached(2);

            if (parts.TextEncoder is null)
                Expect(textPart, "t5");
            var model = new LoadedModel(folder, backend, transformer, vae, () => parts.TextEncoder?.Invoke(context) ?? ModelTextEncoder());
            if (!options.ReleaseTextEncoder)
                model.textEncoder = Keep(model.makeTextEncoder());
            model.CheckParts();
            Reached(3);
            return model;

            AutoencoderKL ModelVae()
            {
                var network = Keep(new AutoencoderKL(folder.ReadConfig<AutoencoderKLConfig>(vaePart), initialize: false));
                network.LoadWeights(folder.VaeWeights, new LoadOptions { KeyMap = AutoencoderKL.CurrentName });
                Prepare(network);
                return network;
            }

            T5TextEncoder ModelTextEncoder()
            {
                var encoder = T5TextEncoder.Load(folder.ReadConfig<T5Config>(textPart), folder.TextEncoderWeights, folder.Tokenizer, textPart.MaxTokens, textPart.CleanCaptions);
                Prepare(encoder.Model);
                return encoder;
            }

            void Prepare<TModule>(TModule module) where TModule : nn.Module
            {
                module.eval();
                module.to(backend.Device);
                module.UseComputeType(options.Precision);
            }

            void Expect(ModelPart part, string architecture)
            {
                if (!string.Equals(part.Architecture, architecture, StringComparison.OrdinalIgnoreCase))
                    throw new InvalidModelException(folder.Path, $"its {ModelFolder.FileName} names the architecture '{part.Architecture}'; this version knows '{architecture}' in that place.");
            }
        }
        catch
        {
            loaded.ForEach(part => part.Dispose());
            throw;
        }

        TPart Keep<TPart>(TPart part) where TPart : IDisposable
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

    /// <summary>Encodes one prompt.</summary>
    /// <returns>States <c>[1, tokens, width]</c> and mask <c>[1, tokens]</c>, in the caller's dispose scope.</returns>
    internal (Tensor States, Tensor Mask) EncodeText(string prompt)
    {
        if (textEncoder is not null)
            return Encode(textEncoder);
        lock (encoding) // at most one copy in memory
        {
            using var encoder = makeTextEncoder();
            CheckTextEncoder(encoder);
            return Encode(encoder);
        }

        (Tensor, Tensor) Encode(ITextEncoder encoder)
        {
            var encoded = encoder.Encode([prompt]);
            return (encoded.States, encoded.Mask);
        }
    }

    // Parts that were replaced may not fit the transformer.
    private void CheckParts()
    {
        var config = Transformer.Config;
        if (Vae.LatentChannels != config.InChannels)
            throw new InvalidOperationException($"The autoencoder {Vae.GetType().Name} has {Vae.LatentChannels} latent channels, but {Description.Name} works on {config.InChannels}. "
                + "Use an autoencoder that the model was trained with.");
        if (textEncoder is not null)
            CheckTextEncoder(textEncoder);
    }

    private void CheckTextEncoder(ITextEncoder encoder)
    {
        var config = Transformer.Config;
        if (encoder.Width != config.CaptionChannels || encoder.MaxTokens > config.ModelMaxLength)
            throw new InvalidOperationException($"The text encoder {encoder.GetType().Name} gives {encoder.MaxTokens} states of width {encoder.Width}, but {Description.Name} reads "
                + $"up to {config.ModelMaxLength} of width {config.CaptionChannels}. Use a text encoder that the model was trained with.");
    }

    public void Dispose()
    {
        Transformer.Dispose();
        Vae.Dispose();
        textEncoder?.Dispose();
    }
}
