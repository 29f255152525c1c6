using System.Text.Json;
using OpenSora.Models;
using OpenSora.Text;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.ModelFolders;

/// <summary>Loads parts of models from folders as hubs lay them out: <c>config.json</c> beside weights, and tokenizers in a folder of their
/// own.</summary>
/// <remarks>
/// A folder is the part's own, or that of a pipeline with the part in <c>vae</c>, <c>text_encoder</c> or <c>transformer</c>. Weights are a
/// safetensors file or a PyTorch
/// checkpoint, whole or in shards. Use with <c>UseVae</c> and <c>UseTextEncoder</c>; <see cref="ModelHub"/> gets such folders.
/// </remarks>
public static class HubFolder
{
    private const string ConfigName = "config.json";

    private static readonly JsonSerializerOptions Json = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        RespectNullableAnnotations = true,
    };

    /// <summary>Loads an autoencoder: diffusers' AutoencoderKL, AutoencoderKLTemporalDecoder or AutoencoderTiny.</summary>
    /// <param name="folder">The autoencoder's folder, or a pipeline's.</param>
    /// <param name="device">Where it belongs; null: the CPU.</param>
    /// <param name="precision">The type to multiply in; null: that of the weights.</param>
    /// <returns>The autoencoder, ready to be used, owned by the caller.</returns>
    /// <exception cref="InvalidModelException">There is no config.json, or it is of something else or asks for what is not supported.</exception>
    /// <exception cref="InvalidWeightsException">The weights are damaged or do not fit.</exception>
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

    /// <summary>Loads a T5 encoder with its tokenizer. A whole T5 is taken too.</summary>
    /// <param name="folder">The encoder's folder, with <c>spiece.model</c> in it or in <c>tokenizer</c> in or beside it; or a pipeline's.</param>
    /// <param name="maxTokens">Tokens a prompt is padded or cut to.</param>
    /// <param name="cleanCaptions">Whether prompts are cleaned or only lower-cased.</param>
    /// <param name="device">Where it belongs; null: the CPU.</param>
    /// <param name="precision">The type to multiply in; null: that of the weights.</param>
    /// <returns>The encoder, ready to be used, owned by the caller.</returns>
    /// <exception cref="InvalidModelException">There is no config.json or no tokenizer, or the config is of something else.</exception>
    /// <exception cref="InvalidWeightsException">The weights are damaged or do not fit.</exception>
    /// <exception cref="InvalidTokenizerException">The tokenizer is damaged or does not fit.</exception>
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
            throw config.IsNot("a T5");
        }

        var encoder = config.Made(() => T5TextEncoder.Load(config.T5(), config.Weights, config.Find("spiece.model"), maxTokens, cleanCaptions));
        Prepare(encoder.Model, device, precision);
        return encoder;
    }

    /// <summary>Loads CLIP's text encoder with its tokenizer. A whole CLIP is taken too.</summary>
    /// <param name="folder">The encoder's folder, with <c>vocab.json</c> and <c>merges.txt</c> in it or in <c>tokenizer</c> in or beside it; or a
    /// pipeline's.</param>
    /// <param name="output">What to give of a text.</param>
    /// <param name="device">Where it belongs; null: the CPU.</param>
    /// <param name="precision">The type to multiply in; null: that of the weights.</param>
    /// <returns>The encoder, ready to be used, owned by the caller.</returns>
    /// <exception cref="InvalidModelException">There is no config.json or no tokenizer, or the config is of something else.</exception>
    /// <exception cref="InvalidWeightsException">The weights are damaged or do not fit.</exception>
    /// <exception cref="InvalidTokenizerException">The tokenizer is damaged or does not fit.</exception>
    public static ClipTextEncoder LoadClip(string folder, ClipOutput output = ClipOutput.Pooled, Device? device = null, ScalarType? precision = null)
    {
        var config = PartConfig.Read(folder, "text_encoder");
        if (config.Kind is not ("clip" or "clip_text_model"))
        {
            throw config.IsNot("a CLIP");
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

    /// <summary>Loads a transformer whose folder says its sizes: Open-Sora's STDiT2 and STDiT3.</summary>
    /// <param name="folder">The transformer's folder, or a pipeline's.</param>
    /// <param name="device">Where it belongs; null: the CPU.</param>
    /// <param name="precision">The type to multiply in; null: that of the weights.</param>
    /// <returns>The transformer, ready to be used, owned by the caller.</returns>
    /// <exception cref="InvalidModelException">There is no config.json, or it is of something else.</exception>
    /// <exception cref="InvalidWeightsException">The weights are damaged or do not fit.</exception>
    public static IVideoTransformer LoadTransformer(string folder, Device? device = null, ScalarType? precision = null)
    {
        var config = PartConfig.Read(folder, "transformer");
        return config.Made<IVideoTransformer>(() =>
            config.Kind switch
            {
                "STDiT2" => Load(new StdiT2(config.As<StdiT2Config>(), initialize: false), config, device, precision),
                "STDiT3" => Load(new StdiT3(config.As<StdiT3Config>(), initialize: false), config, device, precision),
                _ => throw config.IsNot(
                    "a transformer: STDiT2 or STDiT3. Others do not say their sizes; make the model of its preset and load the file into it"
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

    /// <summary>A part's <c>config.json</c>.</summary>
    private sealed record PartConfig(string Folder, JsonElement Root)
    {
        /// <summary>The class (diffusers) or the type of model (transformers, Open-Sora).</summary>
        public string Kind => Text("_class_name") ?? Text("model_type") ?? "";

        /// <summary>The weights: those of full precision if there are several, else what the folder has.</summary>
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
                    $"there is no {ConfigName} in it, nor in a folder '{part}' in it. "
                        + (
                            Directory.Exists(folder)
                                ? "A single file of weights is loaded with LoadWeights, into a model that is made of its sizes."
                                : "There is no such folder."
                        )
                );
            try
            {
                using var document = JsonDocument.Parse(File.ReadAllBytes(Path.Combine(own, ConfigName)));
                return document.RootElement.ValueKind == JsonValueKind.Object
                    ? new PartConfig(own, document.RootElement.Clone())
                    : throw new JsonException("It is no object.");
            }
            catch (JsonException exception)
            {
                throw new InvalidModelException(own, $"its {ConfigName} is not valid: {exception.Message}", exception);
            }
        }

        public InvalidModelException IsNot(string expected) => new(Folder, $"its {ConfigName} describes '{Kind}'; expected {expected}.");

        /// <summary>A file of the tokenizer: in the part's folder, or in <c>tokenizer</c> in or beside it.</summary>
        public string Find(string name) =>
            new[] { Folder, Path.Combine(Folder, "tokenizer"), Path.Combine(Folder, "..", "tokenizer") }
                .Select(folder => Path.GetFullPath(Path.Combine(folder, name)))
                .FirstOrDefault(File.Exists)
            ?? throw new InvalidModelException(Folder, $"its tokenizer's {name} is neither in it nor in a folder 'tokenizer' in or beside it.");

        /// <summary>Makes a part; sizes of which no network can be made are the configuration's fault.</summary>
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
                return (part ?? Root).Deserialize<T>(Json) ?? throw new JsonException("It is null.");
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
                    $"its {ConfigName} has layers of {string.Join(", ", channels)} channels; here all layers have as many."
                );
        }

        public T5Config T5()
        {
            Expect("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads");
            return As<T5Config>() with { FeedForwardProj = Text("feed_forward_proj") ?? "relu" }; // the first T5's say nothing
        }

        public ClipTextConfig Clip(bool projected)
        {
            var text = Root.TryGetProperty("text_config", out var part) && part.ValueKind == JsonValueKind.Object ? part : Root;
            var config = As<ClipTextConfig>(text);
            var projection =
                Root.TryGetProperty("projection_dim", out var size) && size.ValueKind == JsonValueKind.Number
                    ? size.GetInt32()
                    : config.ProjectionDim ?? 512;
            // 2 stands in early files for the last id, whatever that is
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
                throw new InvalidModelException(Folder, $"its {ConfigName} does not say '{missing}'.");
            }
        }

        /// <summary>Refuses what is not known here; a list must hold nothing else.</summary>
        private void Allow(string name, params string[] supported)
        {
            if (!Root.TryGetProperty(name, out var value) || value.ValueKind == JsonValueKind.Null)
            {
                return;
            }

            IEnumerable<JsonElement> values = value.ValueKind == JsonValueKind.Array ? value.EnumerateArray() : [value];
            if (!values.All(one => supported.Contains(one.ToString(), StringComparer.Ordinal)))
            {
                throw new InvalidModelException(Folder, $"its {ConfigName} says \"{name}\": {value.GetRawText()}, which is not supported.");
            }
        }
    }
}
