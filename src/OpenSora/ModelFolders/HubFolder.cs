using System.Text.Json;
using OpenSora.Models;
using OpenSora.Runtime;
using OpenSora.Text;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.ModelFolders;

/// <summary>Loads parts of models from folders in the layout of model hubs: <c>config.json</c> next to the weights, and tokenizers in a separate
/// folder.</summary>
/// <remarks>
/// A folder contains either the part itself or a pipeline with the part in <c>vae</c>, <c>text_encoder</c> or <c>transformer</c>. The weights are a
/// safetensors file or a PyTorch checkpoint, as a single file or in shards. Pass loaded parts to <c>UseVae</c> and <c>UseTextEncoder</c>.
/// <see cref="ModelHub"/> downloads such folders.
/// </remarks>
public static class HubFolder
{
    private const string ConfigName = "config.json";

    private static readonly JsonSerializerOptions Json = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        RespectNullableAnnotations = true,
    };

    /// <summary>Loads an autoencoder saved by diffusers: AutoencoderKL, AutoencoderKLTemporalDecoder or AutoencoderTiny.</summary>
    /// <param name="folder">The folder of the autoencoder or of a pipeline.</param>
    /// <param name="device">The device to load to. If null, the CPU.</param>
    /// <param name="precision">The dtype for matrix multiplications. If null, the dtype of the weights.</param>
    /// <returns>The autoencoder in evaluation mode, owned by the caller.</returns>
    /// <exception cref="InvalidModelException">There is no config.json, it describes a different model, or it requires features that are not
    /// supported.</exception>
    /// <exception cref="InvalidWeightsException">The weights are damaged or do not fit the model.</exception>
    public static IVideoAutoencoder LoadAutoencoder(string folder, Device? device = null, ScalarType? precision = null)
    {
        var config = PartConfig.Read(folder, "vae");
        return config.Made<IVideoAutoencoder>(() =>
        {
            switch (config.Kind)
            {
                case "AutoencoderKL":
                    var pictures = config.Pictures();
                    return Load(
                        new AutoencoderKL(pictures, initialize: false),
                        config,
                        device,
                        precision,
                        new LoadOptions { KeyMap = KeyMaps.StableDiffusionVae(pictures.BlockOutChannels.Count), AllowReshape = true }
                    );
                case "AutoencoderKLTemporalDecoder":
                    return Load(new AutoencoderKLTemporalDecoder(config.Pictures(), initialize: false), config, device, precision);
                case "AutoencoderTiny":
                    return Load(new TinyAutoencoder(config.Tiny(), initialize: false), config, device, precision);
                default:
                    throw config.IsNot("an autoencoder: AutoencoderKL, AutoencoderKLTemporalDecoder or AutoencoderTiny");
            }
        });
    }

    /// <summary>Loads a T5 encoder and its tokenizer. The folder may also contain a full T5 model.</summary>
    /// <param name="folder">The folder of the encoder or of a pipeline. <c>spiece.model</c> is either in the encoder's folder or in a folder
    /// <c>tokenizer</c> inside or next to it.</param>
    /// <param name="maxTokens">The number of tokens that prompts are padded or truncated to.</param>
    /// <param name="cleanCaptions">true to clean prompts; false to only convert them to lowercase.</param>
    /// <param name="device">The device to load to. If null, the CPU.</param>
    /// <param name="precision">The dtype for matrix multiplications. If null, the dtype of the weights.</param>
    /// <returns>The text encoder in evaluation mode, owned by the caller.</returns>
    /// <exception cref="InvalidModelException">There is no config.json or no tokenizer, or config.json describes a different model.</exception>
    /// <exception cref="InvalidWeightsException">The weights are damaged or do not fit the model.</exception>
    /// <exception cref="InvalidTokenizerException">The tokenizer is damaged or does not fit the model.</exception>
    public static T5TextEncoder LoadT5(
        string folder,
        int maxTokens = 120,
        bool cleanCaptions = true,
        Device? device = null,
        ScalarType? precision = null
    )
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(maxTokens, 1);
        var config = PartConfig.Read(folder, "text_encoder");
        if (config.Kind is not "t5")
        {
            throw config.IsNot("a T5 model");
        }

        var encoder = config.Made(() => T5TextEncoder.Load(config.T5(), config.Weights, config.Find("spiece.model"), maxTokens, cleanCaptions));
        Prepare(encoder.Model, device, precision);
        return encoder;
    }

    /// <summary>Loads a CLIP text encoder and its tokenizer. The folder may also contain a full CLIP model.</summary>
    /// <param name="folder">The folder of the encoder or of a pipeline. <c>vocab.json</c> and <c>merges.txt</c> are either in the encoder's folder or
    /// in a folder <c>tokenizer</c> inside or next to it.</param>
    /// <param name="output">The output of the model to use as the encoding of a prompt.</param>
    /// <param name="device">The device to load to. If null, the CPU.</param>
    /// <param name="precision">The dtype for matrix multiplications. If null, the dtype of the weights.</param>
    /// <returns>The text encoder in evaluation mode, owned by the caller.</returns>
    /// <exception cref="InvalidModelException">There is no config.json or no tokenizer, or config.json describes a different model.</exception>
    /// <exception cref="InvalidWeightsException">The weights are damaged or do not fit the model.</exception>
    /// <exception cref="InvalidTokenizerException">The tokenizer is damaged or does not fit the model.</exception>
    public static ClipTextEncoder LoadClip(string folder, ClipOutput output = ClipOutput.Pooled, Device? device = null, ScalarType? precision = null)
    {
        var config = PartConfig.Read(folder, "text_encoder");
        if (config.Kind is not ("clip" or "clip_text_model"))
        {
            throw config.IsNot("a CLIP model");
        }

        var encoder = config.Made(() =>
            ClipTextEncoder.Load(
                config.Clip(output == ClipOutput.Projected),
                config.Weights,
                Path.GetDirectoryName(config.Find("merges.txt"))!,
                output
            )
        );
        Prepare(encoder.Model, device, precision);
        return encoder;
    }

    /// <summary>Loads a transformer with its configuration: STDiT2 and STDiT3 of Open-Sora.</summary>
    /// <param name="folder">The folder of the transformer or of a pipeline.</param>
    /// <param name="device">The device to load to. If null, the CPU.</param>
    /// <param name="precision">The dtype for matrix multiplications. If null, the dtype of the weights.</param>
    /// <returns>The transformer in evaluation mode, owned by the caller.</returns>
    /// <exception cref="InvalidModelException">There is no config.json, or it describes a different model.</exception>
    /// <exception cref="InvalidWeightsException">The weights are damaged or do not fit the model.</exception>
    public static IVideoTransformer LoadTransformer(string folder, Device? device = null, ScalarType? precision = null)
    {
        var config = PartConfig.Read(folder, "transformer");
        return config.Made<IVideoTransformer>(() =>
            config.Kind switch
            {
                "STDiT2" => Load(new StdiT2(config.As<StdiT2Config>(), initialize: false), config, device, precision),
                "STDiT3" => Load(new StdiT3(config.As<StdiT3Config>(), initialize: false), config, device, precision),
                _ => throw config.IsNot(
                    "a transformer: STDiT2 or STDiT3. Other transformers do not store their sizes; "
                        + "create the model from its preset and load the weights file into it"
                ),
            }
        );
    }

    private static TModule Load<TModule>(TModule module, PartConfig config, Device? device, ScalarType? precision, LoadOptions? options = null)
        where TModule : nn.Module
    {
        try
        {
            module.LoadWeights(config.Weights, options);
            Prepare(module, device, precision);
            return module;
        }
        catch
        {
            module.Dispose();
            throw;
        }
    }

    private static void Prepare(nn.Module module, Device? device, ScalarType? precision)
    {
        module.eval();
        module.to(device ?? CPU);
        module.UseComputeType(precision);
    }

    /// <summary>The contents of a part's <c>config.json</c>.</summary>
    private sealed record PartConfig(string Folder, JsonElement Root)
    {
        /// <summary>The class name (diffusers) or model type (transformers, Open-Sora).</summary>
        public string Kind => Text("_class_name") ?? Text("model_type") ?? "";

        /// <summary>The path of the weights: the full-precision file if it exists, otherwise the folder.</summary>
        public string Weights =>
            new[] { "diffusion_pytorch_model", "model", "pytorch_model" }
                .SelectMany(
                    name => new[] { ".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json" },
                    (name, end) => Path.Combine(Folder, name + end)
                )
                .FirstOrDefault(File.Exists)
            ?? Folder;

        public static PartConfig Read(string folder, string part)
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
                    ? new PartConfig(own, document.RootElement.Clone())
                    : throw new JsonException("The root is not an object.");
            }
            catch (JsonException exception)
            {
                throw new InvalidModelException(own, $"its {ConfigName} is not valid: {exception.Message}", exception);
            }
        }

        public InvalidModelException IsNot(string expected) => new(Folder, $"its {ConfigName} describes '{Kind}'; expected {expected}.");

        /// <summary>Finds a tokenizer file in the part's folder, or in a folder <c>tokenizer</c> inside or next to it.</summary>
        public string Find(string name) =>
            new[] { Folder, Path.Combine(Folder, "tokenizer"), Path.Combine(Folder, "..", "tokenizer") }
                .Select(folder => Path.GetFullPath(Path.Combine(folder, name)))
                .FirstOrDefault(File.Exists)
            ?? throw new InvalidModelException(Folder, $"the tokenizer file {name} is neither in it nor in a folder 'tokenizer' in or next to it.");

        /// <summary>Creates a part. Errors caused by invalid sizes are reported as errors in the configuration.</summary>
        public T Made<T>(Func<T> make)
        {
            try
            {
                return make();
            }
            catch (Exception exception) when (exception is ArgumentException or FormatException)
            {
                throw new InvalidModelException(Folder, $"its {ConfigName} is not valid: {exception.Message}", exception);
            }
        }

        public T As<T>(JsonElement? part = null)
            where T : class
        {
            try
            {
                return (part ?? Root).Deserialize<T>(Json) ?? throw new JsonException("The value is null.");
            }
            catch (JsonException exception)
            {
                throw new InvalidModelException(Folder, $"its {ConfigName} does not fit {typeof(T).Name}: {exception.Message}", exception);
            }
        }

        public AutoencoderKLConfig Pictures()
        {
            Expect("block_out_channels", "layers_per_block");
            Allow("act_fn", "silu");
            Allow("down_block_types", "DownEncoderBlock2D");
            foreach (var name in new[] { "use_quant_conv", "use_post_quant_conv", "mid_block_add_attention" })
            {
                Allow(name, "True");
            }

            foreach (var name in new[] { "shift_factor", "latents_mean", "latents_std" })
            {
                Allow(name, "0", "0.0");
            }

            return As<AutoencoderKLConfig>();
        }

        public TinyAutoencoderConfig Tiny()
        {
            Expect("encoder_block_out_channels", "decoder_block_out_channels", "num_encoder_blocks", "num_decoder_blocks");
            Allow("act_fn", "relu");
            Allow("upsampling_scaling_factor", "2");
            Allow("latent_magnitude", "3", "3.0");
            Allow("shift_factor", "0", "0.0");
            var channels = As<List<int>>(Root.GetProperty("encoder_block_out_channels"))
                .Concat(As<List<int>>(Root.GetProperty("decoder_block_out_channels")))
                .Distinct()
                .ToList();
            return channels is [var one]
                ? As<TinyAutoencoderConfig>() with
                {
                    Channels = one,
                }
                : throw new InvalidModelException(
                    Folder,
                    $"its {ConfigName} has layers of {string.Join(", ", channels)} channels; all layers must have the same number."
                );
        }

        public T5Config T5()
        {
            Expect("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads");
            return As<T5Config>() with { FeedForwardProj = Text("feed_forward_proj") ?? "relu" }; // not specified by the first T5 models
        }

        public ClipTextConfig Clip(bool projected)
        {
            var text = Root.TryGetProperty("text_config", out var part) && part.ValueKind == JsonValueKind.Object ? part : Root;
            var config = As<ClipTextConfig>(text);
            var projection =
                Root.TryGetProperty("projection_dim", out var size) && size.ValueKind == JsonValueKind.Number
                    ? size.GetInt32()
                    : config.ProjectionDim ?? 512;
            // early files use 2 for the last token ID, regardless of its value
            return config with
            {
                ProjectionDim = projected ? projection : null,
                EosTokenId = config.EosTokenId == 2 ? config.VocabSize - 1 : config.EosTokenId,
            };
        }

        private string? Text(string name) =>
            Root.TryGetProperty(name, out var value) && value.ValueKind == JsonValueKind.String ? value.GetString() : null;

        private void Expect(params string[] names)
        {
            if (Array.Find(names, name => !Root.TryGetProperty(name, out _)) is { } missing)
            {
                throw new InvalidModelException(Folder, $"its {ConfigName} does not contain '{missing}'.");
            }
        }

        /// <summary>Rejects values that are not supported. If the value is a list, every element must be supported.</summary>
        private void Allow(string name, params string[] supported)
        {
            if (!Root.TryGetProperty(name, out var value) || value.ValueKind == JsonValueKind.Null)
            {
                return;
            }

            IEnumerable<JsonElement> values = value.ValueKind == JsonValueKind.Array ? value.EnumerateArray() : [value];
            if (!values.All(one => supported.Contains(one.ToString(), StringComparer.Ordinal)))
            {
                throw new InvalidModelException(Folder, $"its {ConfigName} contains \"{name}\": {value.GetRawText()}, which is not supported.");
            }
        }
    }
}
