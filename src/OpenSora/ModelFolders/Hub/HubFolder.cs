using System.Text.Json;
using OpenSora.Models;
using OpenSora.Runtime;
using OpenSora.Text;
using OpenSora.Weights;
using static TorchSharp.torch;

namespace OpenSora.ModelFolders;

// Loads parts of models from folders in the layout of model hubs: config.json next to the weights, and tokenizers in a separate folder.
public sealed partial class ModelHub
{
    private const string ConfigName = "config.json";

    /// <summary>Loads an autoencoder saved by diffusers, such as AutoencoderKL, AutoencoderKLTemporalDecoder or AutoencoderTiny.</summary>
    /// <param name="folder">The folder of the autoencoder or of a pipeline.</param>
    /// <param name="device">The device to load to. If null, the CPU.</param>
    /// <param name="precision">The dtype for matrix multiplications. If null, the dtype of the weights.</param>
    /// <param name="architectures">The known architectures; null for the built-in ones.</param>
    /// <returns>The autoencoder in evaluation mode, owned by the caller.</returns>
    /// <exception cref="InvalidModelException">There is no config.json, it describes a different model, or it requires features that are not
    /// supported.</exception>
    /// <exception cref="InvalidWeightsException">The weights are damaged or do not fit the model.</exception>
    public static IVideoAutoencoder LoadAutoencoder(
        string folder,
        Device? device = null,
        ScalarType? precision = null,
        Architectures? architectures = null
    ) => Part.Read(folder, "vae").Load("an autoencoder", (architectures ?? Architectures.BuiltIn).Autoencoders, device, precision);

    /// <summary>Loads a text encoder and its tokenizer: T5 or CLIP, of which the folder may also contain the full model.</summary>
    /// <param name="folder">The folder of the encoder or of a pipeline. The tokenizer (<c>spiece.model</c>, or <c>vocab.json</c> and
    /// <c>merges.txt</c>) is either in the encoder's folder or in a folder <c>tokenizer</c> inside or next to it.</param>
    /// <param name="settings">The length of prompts and other settings; null for the defaults.</param>
    /// <param name="device">The device to load to. If null, the CPU.</param>
    /// <param name="precision">The dtype for matrix multiplications. If null, the dtype of the weights.</param>
    /// <param name="architectures">The known architectures; null for the built-in ones.</param>
    /// <returns>The text encoder in evaluation mode, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A setting is not valid for the architecture.</exception>
    /// <exception cref="InvalidModelException">There is no config.json or no tokenizer, or config.json describes a different model.</exception>
    /// <exception cref="InvalidWeightsException">The weights are damaged or do not fit the model.</exception>
    /// <exception cref="InvalidDataException">The tokenizer is damaged or does not fit the model.</exception>
    public static ITextEncoder LoadTextEncoder(
        string folder,
        TextEncoderSettings? settings = null,
        Device? device = null,
        ScalarType? precision = null,
        Architectures? architectures = null
    )
    {
        settings ??= new TextEncoderSettings();
        ArgumentOutOfRangeException.ThrowIfLessThan(settings.MaxTokens, 1, nameof(settings));
        return Part.Read(folder, "text_encoder")
            .Load("a text encoder", (architectures ?? Architectures.BuiltIn).TextEncoders, device, precision, settings);
    }

    /// <summary>Loads a transformer with its configuration, such as STDiT2 and STDiT3 of Open-Sora.</summary>
    /// <param name="folder">The folder of the transformer or of a pipeline.</param>
    /// <param name="device">The device to load to. If null, the CPU.</param>
    /// <param name="precision">The dtype for matrix multiplications. If null, the dtype of the weights.</param>
    /// <param name="architectures">The known architectures; null for the built-in ones.</param>
    /// <returns>The transformer in evaluation mode, owned by the caller.</returns>
    /// <exception cref="InvalidModelException">There is no config.json, or it describes a different model.</exception>
    /// <exception cref="InvalidWeightsException">The weights are damaged or do not fit the model.</exception>
    public static IVideoTransformer LoadTransformer(
        string folder,
        Device? device = null,
        ScalarType? precision = null,
        Architectures? architectures = null
    ) => Part.Read(folder, "transformer").Load("a transformer", (architectures ?? Architectures.BuiltIn).Transformers, device, precision);

    /// <summary>The folder of a part and the contents of its <c>config.json</c>.</summary>
    private sealed record Part(string Folder, HubConfig Config)
    {
        /// <summary>The path of the weights: the full-precision file if it exists, otherwise the folder.</summary>
        private string Weights =>
            new[] { "diffusion_pytorch_model", "model", "pytorch_model" }
                .SelectMany(
                    name => new[] { ".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json" },
                    (name, end) => Path.Combine(Folder, name + end)
                )
                .FirstOrDefault(File.Exists)
            ?? Folder;

        public static Part Read(string folder, string part)
        {
            ArgumentException.ThrowIfNullOrEmpty(folder);
            folder = Path.GetFullPath(folder);
            var own = new[] { folder, Path.Combine(folder, part) }.FirstOrDefault(path => File.Exists(Path.Combine(path, ConfigName)))
                ?? throw new InvalidModelException(
                    folder,
                    $"neither the folder nor its subfolder '{part}' contains a {ConfigName}. "
                        + (
                            Directory.Exists(folder)
                                ? "To load a single weights file, create the model with its sizes and call LoadWeights."
                                : "The folder does not exist."
                        )
                );
            try
            {
                using var document = JsonDocument.Parse(JsonBytes.Read(Path.Combine(own, ConfigName)));
                return document.RootElement.ValueKind == JsonValueKind.Object
                    ? new Part(own, new HubConfig(document.RootElement.Clone()))
                    : throw new JsonException("The root is not an object.");
            }
            catch (JsonException exception)
            {
                throw new InvalidModelException(own, $"its {ConfigName} is not valid: {exception.Message}", exception);
            }
        }

        /// <summary>Creates the network with the architecture that <c>config.json</c> names, and loads its weights. Errors caused by invalid sizes
        /// are reported as errors in the configuration.</summary>
        public TNetwork Load<TNetwork>(
            string kind,
            IReadOnlyList<Architecture<TNetwork>> architectures,
            Device? device,
            ScalarType? precision,
            TextEncoderSettings? settings = null
        )
            where TNetwork : class
        {
            var architecture = architectures.FirstOrDefault(known => known.HubNames.Contains(Config.Kind, StringComparer.Ordinal))
                ?? throw new InvalidModelException(
                    Folder,
                    $"its {ConfigName} describes '{Config.Kind}'; expected {kind}: "
                        + $"{string.Join(", ", architectures.SelectMany(known => known.HubNames))}. For other architectures, create the network "
                        + "from its configuration and load the weights file into it."
                );
            settings ??= new TextEncoderSettings();
            try
            {
                var config = architecture.ReadHubConfig(Config, settings);
                if (architecture.TokenizerFile is { } tokenizer)
                {
                    settings = settings with { Tokenizer = settings.Tokenizer ?? Find(tokenizer) };
                }

                return architecture.Load(config, Weights, device, precision, settings);
            }
            catch (FormatException exception)
            {
                throw new InvalidModelException(Folder, $"its {ConfigName} {exception.Message}", exception);
            }
            catch (ArgumentException exception) when (exception.ParamName is not nameof(settings))
            {
                throw new InvalidModelException(Folder, $"its {ConfigName} is not valid: {exception.Message}", exception);
            }
        }

        /// <summary>Finds a tokenizer file in the part's folder, or in a folder <c>tokenizer</c> inside or next to it.</summary>
        private string Find(string name) =>
            new[] { Folder, Path.Combine(Folder, "tokenizer"), Path.Combine(Folder, "..", "tokenizer") }
                .Select(folder => Path.GetFullPath(Path.Combine(folder, name)))
                .FirstOrDefault(File.Exists)
            ?? throw new InvalidModelException(Folder, $"the tokenizer file {name} is neither in it nor in a folder 'tokenizer' in or next to it.");
    }
}
