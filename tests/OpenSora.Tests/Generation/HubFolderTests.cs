using System.Text.Json;
using System.Text.Json.Nodes;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Text;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Generation;

/// <summary>Tests small folders with the files, names and configurations of published parts.</summary>
public sealed class HubFolderTests : IDisposable
{
    private static readonly AutoencoderKLConfig Vae = new()
    {
        BlockOutChannels = [8, 16],
        LayersPerBlock = 2,
        NormNumGroups = 4,
        ScalingFactor = 0.5,
    };

    private const string VaeJson = """
        {"_class_name": "AutoencoderKL", "_diffusers_version": "0.25.0", "act_fn": "silu", "block_out_channels": [8, 16],
         "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
         "in_channels": 3, "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 4, "out_channels": 3,
         "sample_size": 16, "scaling_factor": 0.5, "shift_factor": null, "force_upcast": true,
         "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"]}
        """;

    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    private void Write(string name, string text)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(_folder[name])!);
        File.WriteAllText(_folder[name], text);
    }

    private static string Changed(string json, string name, JsonNode? value)
    {
        var node = JsonNode.Parse(json)!.AsObject();
        node[name] = value;
        return node.ToJsonString();
    }

    private static double Difference(Tensor a, Tensor b) => (a - b).abs().max().item<float>();

    [Fact]
    public void An_image_autoencoder_loads_from_its_folder_and_from_that_of_a_pipeline()
    {
        var before = TensorCount.Now;
        using (NewDisposeScope())
        {
            using var model = new AutoencoderKL(Vae);
            Write("vae/config.json", VaeJson);
            model.SaveWeights(_folder["vae/diffusion_pytorch_model.safetensors"]);
            Write("vae/diffusion_pytorch_model.fp16.safetensors", "of another precision, not taken");
            var video = rand([1, 3, 2, 8, 8]);
            foreach (var path in new[] { _folder.Path, _folder["vae"] })
            {
                using var loaded = ModelHub.LoadAutoencoder(path).ShouldBeOfType<AutoencoderKL>();
                loaded.training.ShouldBeFalse();
                Difference(loaded.Encode(video), model.Encode(video)).ShouldBe(0);
            }
            using var rough = ModelHub.LoadAutoencoder(_folder.Path, CPU, ScalarType.BFloat16);
            Difference(rough.Encode(video), model.Encode(video)).ShouldBeInRange(1e-6, 0.1);
        }
        TensorCount.ShouldBe(before);
    }

    [Fact]
    public void A_temporal_decoder_loads_from_its_folder()
    {
        using var scope = NewDisposeScope();
        using var model = new AutoencoderKLTemporalDecoder(Vae);
        Write("config.json", Changed(VaeJson, "_class_name", "AutoencoderKLTemporalDecoder"));
        model.SaveWeights(_folder["diffusion_pytorch_model.safetensors"], ScalarType.Float16);
        using var loaded = ModelHub.LoadAutoencoder(_folder.Path).ShouldBeOfType<AutoencoderKLTemporalDecoder>();
        var latents = rand([1, 4, 3, 4, 4]);
        Difference(loaded.Decode(latents), model.Decode(latents)).ShouldBeInRange(1e-7, 1e-2); // what half precision loses
    }

    [Fact]
    public void A_tiny_autoencoder_loads_from_its_folder()
    {
        using var scope = NewDisposeScope();
        using var model = new TinyAutoencoder(
            new()
            {
                Channels = 8,
                NumEncoderBlocks = [1, 2],
                NumDecoderBlocks = [2, 1],
                LatentChannels = 6,
            }
        );
        const string json = """
            {"_class_name": "AutoencoderTiny", "act_fn": "relu", "decoder_block_out_channels": [8, 8], "encoder_block_out_channels": [8, 8],
             "force_upcast": false, "in_channels": 3, "latent_channels": 6,
             "latent_magnitude": 3, "latent_shift": 0.5, "num_decoder_blocks": [2, 1], "num_encoder_blocks": [1, 2],
             "out_channels": 3, "scaling_factor": 1.0, "upsampling_scaling_factor": 2}
            """;
        Write("config.json", json);
        model.SaveWeights(_folder["diffusion_pytorch_model.safetensors"]);
        using (var loaded = ModelHub.LoadAutoencoder(_folder.Path))
        {
            var latents = rand([1, 6, 1, 4, 4]);
            Difference(loaded.Decode(latents), model.Decode(latents)).ShouldBe(0);
        }
        Write("config.json", Changed(json, "decoder_block_out_channels", new JsonArray(8, 16)));
        Should.Throw<InvalidModelException>(() => ModelHub.LoadAutoencoder(_folder.Path)).Message.ShouldContain("layers of 8, 16 channels");
    }

    [Fact]
    public void A_sharded_T5_loads_with_its_tokenizer()
    {
        var before = TensorCount.Now;
        using (NewDisposeScope())
        {
            using var model = new T5TextEncoder(
                new T5Config
                {
                    VocabSize = 512,
                    DModel = 16,
                    DKv = 4,
                    DFf = 32,
                    NumLayers = 2,
                    NumHeads = 2,
                    FeedForwardProj = "relu",
                },
                SentencePieceTokenizer.Open(TestFiles.Data("sentencepiece", "t5.model")),
                9
            );
            Write(
                "text_encoder/config.json",
                """
                {"architectures": ["T5EncoderModel"], "d_ff": 32, "d_kv": 4, "d_model": 16, "decoder_start_token_id": 0, "layer_norm_epsilon": 1e-06,
                 "model_type": "t5", "num_heads": 2, "num_layers": 2,
                 "relative_attention_num_buckets": 32, "vocab_size": 512}
                """
            );
            var weights = model.state_dict().ToList();
            var half = weights.Count / 2;
            SafetensorsWriter.Write(_folder["text_encoder/model-00001-of-00002.safetensors"], weights.Take(half));
            SafetensorsWriter.Write(_folder["text_encoder/model-00002-of-00002.safetensors"], weights.Skip(half));
            Write(
                "text_encoder/model.safetensors.index.json",
                JsonSerializer.Serialize(
                    new
                    {
                        metadata = new { total_size = 1 },
                        weight_map = weights
                            .Select((pair, i) => (pair.Key, File: $"model-0000{(i < half ? 1 : 2)}-of-00002.safetensors"))
                            .ToDictionary(pair => pair.Key, pair => pair.File),
                    }
                )
            );
            Should
                .Throw<InvalidModelException>(() => ModelHub.LoadTextEncoder(_folder.Path))
                .Message.ShouldContain("the tokenizer file spiece.model");
            Directory.CreateDirectory(_folder["tokenizer"]);
            File.Copy(TestFiles.Data("sentencepiece", "t5.model"), _folder["tokenizer/spiece.model"]);
            Should
                .Throw<ArgumentException>(() => ModelHub.LoadTextEncoder(_folder.Path, new TextEncoderSettings { Output = "pooled" }))
                .Message.ShouldContain("T5 has no output 'pooled'");
            using var loaded = ModelHub.LoadTextEncoder(_folder.Path, new TextEncoderSettings { MaxTokens = 9 });
            Difference(loaded.Encode(["a goat"]).States, model.Encode(["a goat"]).States).ShouldBe(0);
        }
        TensorCount.ShouldBe(before);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_CLIP_loads_alone_and_as_part_of_a_full_model(bool whole)
    {
        using var scope = NewDisposeScope();
        using var model = new ClipTextModel(
            new()
            {
                VocabSize = 654,
                HiddenSize = 16,
                IntermediateSize = 32,
                NumHiddenLayers = 1,
                NumAttentionHeads = 2,
                MaxPositionEmbeddings = 12,
                ProjectionDim = 6,
                HiddenAct = "gelu",
                EosTokenId = 653,
            }
        );
        const string text = """
            {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "vocab_size": 654, "hidden_size": 16,
             "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
             "max_position_embeddings": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-05, "projection_dim": 6,
             "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
            """;
        var part = whole ? "" : "text_encoder/";
        Write(
            part + "config.json",
            whole
                ? $$"""
                {"model_type": "clip", "projection_dim": 6, "logit_scale_init_value": 2.6592,
                 "text_config": {{text}}, "vision_config": {"hidden_size": 4} }
                """
                : text
        );
        var weights = model.state_dict();
        if (whole)
        {
            weights["vision_model.post_layernorm.bias"] = zeros(4);
        }

        SafetensorsWriter.Write(_folder[part + "model.safetensors"], weights);
        foreach (var name in new[] { "vocab.json", "merges.txt" })
        {
            Write((whole ? "" : "tokenizer/") + name, File.ReadAllText(TestFiles.Data("clip", name)));
        }

        foreach (var (output, expected) in new[] { (null, ClipOutput.Pooled), ("projected", ClipOutput.Projected), ("states", ClipOutput.States) })
        {
            using var loaded = ModelHub.LoadTextEncoder(_folder.Path, new TextEncoderSettings { Output = output });
            var direct = new ClipTextEncoder(model, ClipTokenizer.Open(TestFiles.Data("clip")), expected);
            Difference(loaded.Encode(["a cat"]).States, direct.Encode(["a cat"]).States).ShouldBe(0);
        }

        Should
            .Throw<ArgumentException>(() => ModelHub.LoadTextEncoder(_folder.Path, new TextEncoderSettings { Output = "last" }))
            .Message.ShouldContain("CLIP has no output 'last'; its outputs are pooled, projected, states");
    }

    [Fact]
    public void A_transformer_with_a_configuration_loads_from_its_folder()
    {
        using var scope = NewDisposeScope();
        using var model = new StdiT3(
            new StdiT3Config
            {
                HiddenSize = 16,
                Depth = 1,
                NumHeads = 2,
                CaptionChannels = 8,
                ModelMaxLength = 5,
            }
        );
        const string json = """
            {"architectures": ["STDiT3"], "caption_channels": 8, "class_dropout_prob": 0.1, "depth": 1, "drop_path": 0.0, "enable_flash_attn": true,
             "freeze_y_embedder": true, "hidden_size": 16, "in_channels": 4,
             "input_size": [null, null, null], "input_sq_size": 512, "mlp_ratio": 4.0, "model_max_length": 5, "model_type": "STDiT3",
             "num_heads": 2, "only_train_temporal": true, "patch_size": [1, 2, 2],
             "pred_sigma": true, "qk_norm": true, "torch_dtype": "float32"}
            """;
        Write("config.json", json);
        model.SaveWeights(_folder["model.safetensors"]);
        using var loaded = ModelHub.LoadTransformer(_folder.Path).ShouldBeOfType<StdiT3>();
        loaded.Config.ModelMaxLength.ShouldBe(5);
        var theirs = loaded.state_dict();
        foreach (var (name, tensor) in model.state_dict())
        {
            theirs[name].eq(tensor).all().item<bool>().ShouldBeTrue(name);
        }

        Write("config.json", Changed(json, "depth", 2));
        Should.Throw<InvalidWeightsException>(() => ModelHub.LoadTransformer(_folder.Path)).Message.ShouldContain("Missing: ");
    }

    [Fact]
    public void Other_folders_are_rejected_and_leave_no_tensor()
    {
        var before = TensorCount.Now;
        void Refused(string message, Func<object> load) => Should.Throw<InvalidModelException>(load).Message.ShouldContain(message);
        Refused("The folder does not exist", () => ModelHub.LoadAutoencoder(_folder["none"]));
        Refused("neither the folder nor its subfolder 'vae' contains a config.json", () => ModelHub.LoadAutoencoder(_folder.Path));
        Write("config.json", "{");
        Refused("its config.json is not valid", () => ModelHub.LoadAutoencoder(_folder.Path));
        Write("config.json", "[]");
        Refused("The root is not an object", () => ModelHub.LoadTextEncoder(_folder.Path));
        Write("config.json", """{"model_type": "bert"}""");
        Refused("describes 'bert'; expected an autoencoder", () => ModelHub.LoadAutoencoder(_folder.Path));
        Refused("describes 'bert'; expected a text encoder: t5, clip", () => ModelHub.LoadTextEncoder(_folder.Path));
        Refused("describes 'bert'; expected a transformer", () => ModelHub.LoadTransformer(_folder.Path));
        Write("config.json", """{"model_type": "t5", "d_model": 4}""");
        Refused("does not contain 'vocab_size'", () => ModelHub.LoadTextEncoder(_folder.Path));
        Write("config.json", Changed(VaeJson, "block_out_channels", "wide"));
        Refused("does not fit AutoencoderKLConfig", () => ModelHub.LoadAutoencoder(_folder.Path));
        foreach (
            var (name, value) in new (string, JsonNode)[]
            {
                ("act_fn", "gelu"),
                ("down_block_types", new JsonArray("DownEncoderBlock2D", "AttnDownEncoderBlock2D")),
                ("use_quant_conv", false),
                ("shift_factor", 0.1),
                ("latents_mean", new JsonArray(0.1)),
            }
        )
        {
            Write("config.json", Changed(VaeJson, name, value));
            Refused($"contains \"{name}\": ", () => ModelHub.LoadAutoencoder(_folder.Path));
        }
        Write("config.json", Changed(VaeJson, "block_out_channels", new JsonArray()));
        Refused("BlockOutChannels is empty", () => ModelHub.LoadAutoencoder(_folder.Path));
        Write("config.json", Changed(VaeJson, "layers_per_block", 2_000_000_000));
        Refused("at most 16 levels of 100 layers", () => ModelHub.LoadAutoencoder(_folder.Path));
        Write(
            "config.json",
            """
            {"_class_name": "AutoencoderTiny", "encoder_block_out_channels": null, "decoder_block_out_channels": [8],
             "num_encoder_blocks": [1], "num_decoder_blocks": [1]}
            """
        );
        Refused("must be a list of integers", () => ModelHub.LoadAutoencoder(_folder.Path));
        Write("config.json", VaeJson);
        Should.Throw<InvalidWeightsException>(() => ModelHub.LoadAutoencoder(_folder.Path)).Message.ShouldContain("contains no weights");
        TensorCount.ShouldBe(before);
    }
}
