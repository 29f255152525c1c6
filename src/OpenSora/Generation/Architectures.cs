using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>How the parts of a model are made, by the names of architectures that <c>model.json</c> uses.</summary>
internal static class Architectures
{
    internal static readonly IReadOnlyDictionary<string, Func<PartLoader, IVideoTransformer>> Transformers = new Dictionary<string, Func<PartLoader, IVideoTransformer>>(StringComparer.OrdinalIgnoreCase)
    {
        ["stdit"] = part => part.Load(new StdiT(part.Config<StdiTConfig>(), initialize: false), PublishedWeights.Options()),
        ["pixart"] = part => part.Load(new PixArt(part.Config<PixArtConfig>(), initialize: false), PublishedWeights.Options()),
        ["dit"] = part => part.Load(new DiT(part.Config<DiTConfig>(), initialize: false), PublishedWeights.Options()),
        ["latte"] = part => part.Load(new Latte(part.Config<LatteConfig>(), initialize: false), PublishedWeights.Options()),
        ["stdit2"] = part => part.Load(new StdiT2(part.Config<StdiT2Config>(), initialize: false)),
        ["stdit3"] = part => part.Load(new StdiT3(part.Config<StdiT3Config>(), initialize: false)),
    };

    internal static readonly IReadOnlyDictionary<string, Func<PartLoader, IVideoAutoencoder>> Autoencoders = new Dictionary<string, Func<PartLoader, IVideoAutoencoder>>(StringComparer.OrdinalIgnoreCase)
    {
        ["autoencoder_kl"] = part =>
        {
            var config = part.Config<AutoencoderKLConfig>();
            return part.Load(new AutoencoderKL(config, initialize: false), new LoadOptions { KeyMap = KeyMaps.StableDiffusionVae(config.BlockOutChannels.Count), AllowReshape = true });
        },
        ["autoencoder_kl_temporal_decoder"] = part => part.Load(new AutoencoderKLTemporalDecoder(part.Config<AutoencoderKLConfig>(), initialize: false)),
        ["autoencoder_tiny"] = part => part.Load(new TinyAutoencoder(part.Config<TinyAutoencoderConfig>(), initialize: false)),
    };

    internal static readonly IReadOnlyDictionary<string, Func<PartLoader, ITextEncoder>> TextEncoders = new Dictionary<string, Func<PartLoader, ITextEncoder>>(StringComparer.OrdinalIgnoreCase)
    {
        ["t5"] = part =>
        {
            var (text, folder) = (part.Folder.Description.TextEncoder, part.Folder);
            var encoder = T5TextEncoder.Load(part.Config<T5Config>(), part.Weights, folder.Tokenizer, text.MaxTokens, text.CleanCaptions);
            part.Prepare(encoder.Model);
            return encoder;
        },
        ["clip"] = part =>
        {
            // the tokenizer is named by its vocab.json, beside which its merges.txt lies
            var encoder = ClipTextEncoder.Load(part.Config<ClipTextConfig>(), part.Weights, Path.GetDirectoryName(part.Folder.Tokenizer)!);
            part.Prepare(encoder.Model);
            return encoder;
        },
        ["class_labels"] = part => new ClassLabelEncoder(part.Config<ClassLabels>(), part.Device),
    };
}

/// <summary>One part of a model folder, about to be loaded.</summary>
/// <param name="Folder">The model's folder.</param>
/// <param name="Part">The part.</param>
/// <param name="Device">Where it belongs.</param>
/// <param name="Precision">The type to multiply matrices in; null: that of the weights.</param>
internal sealed record PartLoader(ModelFolder Folder, ModelPart Part, Device Device, ScalarType? Precision)
{
    /// <summary>The architecture's own settings.</summary>
    internal T Config<T>() where T : class => Folder.ReadConfig<T>(Part);

    /// <summary>The path of its weights.</summary>
    /// <exception cref="InvalidModelException">The description names none.</exception>
    internal string Weights => Folder.WeightsOf(Part);

    /// <summary>Makes the part by its architecture's name.</summary>
    /// <exception cref="InvalidModelException">There is no such architecture.</exception>
    internal TPart Make<TPart>(IReadOnlyDictionary<string, Func<PartLoader, TPart>> architectures)
    {
        Check(architectures);
        try
        {
            return architectures[Part.Architecture](this);
        }
        catch (ArgumentException exception) // sizes of which no network can be made
        {
            throw new InvalidModelException(Folder.Path, $"the config of its {Part.Architecture} in {ModelFolder.FileName} is not valid: {exception.Message}", exception);
        }
    }

    /// <summary>Checks that there is such an architecture.</summary>
    internal void Check<TPart>(IReadOnlyDictionary<string, Func<PartLoader, TPart>> architectures)
    {
        if (!architectures.ContainsKey(Part.Architecture))
            throw new InvalidModelException(Folder.Path, $"its {ModelFolder.FileName} names the architecture '{Part.Architecture}'; "
                + $"this version knows {string.Join(", ", architectures.Keys.Select(name => $"'{name}'"))} in that place.");
    }

    /// <summary>Reads a network's weights, and makes it ready.</summary>
    internal TModule Load<TModule>(TModule module, LoadOptions? options = null) where TModule : nn.Module
    {
        try
        {
            module.LoadWeights(Weights, options);
            return Prepare(module);
        }
        catch
        {
            module.Dispose();
            throw;
        }
    }

    /// <summary>Makes a network whose weights are loaded ready to be used.</summary>
    internal TModule Prepare<TModule>(TModule module) where TModule : nn.Module
    {
        module.eval();
        module.to(Device);
        return module.UseComputeType(Precision);
    }
}
