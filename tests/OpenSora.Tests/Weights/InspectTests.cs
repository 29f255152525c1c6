using OpenSora.Cli;
using OpenSora.Models;
using OpenSora.Tests.Models;
using OpenSora.Weights;
using Spectre.Console;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Weights;

/// <summary>Tests the output of <c>opensora inspect</c>.</summary>
public sealed class InspectTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("opensora_v1.0_stdit_xl2_16x256x256", "STDiT-XL/2", "16 frames of 256 patches of 1x2x2, text 120 x 4096")]
    [InlineData("opensora_v1.0_stdit_xl2_64x512x512", "STDiT-XL/2", "64 frames of 1024 patches")]
    [InlineData("opensora_v1.0_dit_xl2_1x256x256_class", "DiT-XL/2|Latte-XL/2", "1000 classes")]
    [InlineData("opensora_v1.0_latte_xl2_16x256x256_text", "DiT-XL/2|Latte-XL/2", "text 512")]
    [InlineData("opensora_v1.0_pixart_xl2_1x512x512", "PixArt-XL/2|STDiT-XL/2, as image weights", "1024 patches")]
    [InlineData("opensora_v1.0_pixartms_xl2", "PixArtMS-XL/2", "3840 patches")]
    [InlineData("opensora_v1.1_stdit2_xl2", "STDiT2-XL/2", "text 200 x 4096")]
    [InlineData("opensora_v1.2_stdit3_xl2", "STDiT3-XL/2", "text 300 x 4096")]
    [InlineData("orig_dit_xl2_256", "DiT-XL/2|Latte-XL/2", "1000 classes")]
    [InlineData("orig_latte_xl2_ucf101", "Latte-XL/2", "101 classes")]
    [InlineData("orig_pixart_xl2_512", "PixArt-XL/2|STDiT-XL/2, as image weights", "text 120 x 4096")]
    [InlineData("orig_pixart_xl2_1024ms", "PixArtMS-XL/2", "4096 patches")]
    [InlineData("sd_vae_ft_mse_diffusers", "Stable Diffusion autoencoder", "4 latent channels")]
    [InlineData("sd_vae_ft_mse_diffusers_deprecated_names", "Stable Diffusion autoencoder", "128, 256, 512, 512")]
    [InlineData("t5_v1_1_xxl_encoder", "T5 v1.1 XXL encoder", "64 heads of 64")]
    public void Published_checkpoints_are_recognized(string manifest, string architectures, string sizes)
    {
        foreach (var prefix in new[] { "", "module." })
        {
            using var file = new Published(manifest, prefix);
            var fits = Architectures.BuiltIn.Recognize(file);
            fits.Where(fit => fit.Problems == 0).Select(fit => fit.Title).ShouldBe(architectures.Split('|'));
            fits[0].Sizes.ShouldContain(sizes);
            fits[0].Report.Unwrapped.ShouldBe(prefix.Length == 0 ? [] : [prefix]);
        }
    }

    [Fact]
    public void Missing_and_unexpected_tensors_are_reported()
    {
        using var file = new Published("opensora_v1.0_stdit_xl2_16x256x256", "", name => name is "t_block.1.bias" ? null
            : name is "final_layer.linear.bias" ? "final_layer.extra"
            : name);
        var fit = Architectures.BuiltIn.Recognize(file)[0];
        fit.Title.ShouldBe("STDiT-XL/2");
        fit.Report.Missing.ShouldBe(["final_layer.linear.bias", "t_block.1.bias"], ignoreOrder: true);
        fit.Report.Unexpected.ShouldBe(["final_layer.extra"]);
    }

    [Theory]
    [InlineData("opensora_v1.0_stdit_xl2_16x256x256", "y_embedder.y_proj.fc1.weight")]
    [InlineData("opensora_v1.0_stdit_xl2_16x256x256", "y_embedder.y_embedding")]
    [InlineData("opensora_v1.1_stdit2_xl2", "blocks.0.mlp.fc1.weight")]
    [InlineData("opensora_v1.2_stdit3_xl2", "y_embedder.y_proj.fc1.weight")]
    public void A_tensor_that_would_tell_a_size_may_be_missing(string manifest, string missing)
    {
        using var file = new Published(manifest, "", name => string.Equals(name, missing, StringComparison.Ordinal) ? null : name);
        Architectures.BuiltIn.Recognize(file)[0].Report.Missing.ShouldContain(missing);
    }

    [Fact]
    public void Weights_that_only_look_like_a_known_model_fit_none()
    {
        using var scope = NewDisposeScope();
        foreach (
            var (name, size) in new[]
            {
                ("x_embedder.proj.weight", 0),
                ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", 8),
                ("text_model.embeddings.token_embedding.weight", 8),
                ("encoder.layers.0.weight", 0),
            }
        )
        {
            WeightsFile.Write(_folder["odd"], [KeyValuePair.Create(name, zeros(size, 4))]);
            using var file = WeightsFile.Open(_folder["odd"]);
            Architectures.BuiltIn.Recognize(file).ShouldAllBe(fit => fit.Problems > 0, name);
        }
    }

    [Theory]
    [InlineData("opensora_v1.0_stdit_xl2_16x256x256")]
    [InlineData("opensora_v1.0_pixartms_xl2")]
    [InlineData("opensora_v1.1_stdit2_xl2")]
    [InlineData("opensora_v1.2_stdit3_xl2")]
    [InlineData("orig_latte_xl2_ucf101")]
    [InlineData("sd_vae_ft_mse_diffusers")]
    [InlineData("t5_v1_1_xxl_encoder")]
    public void Nonsense_in_a_known_checkpoint_does_not_end_the_tool(string manifest)
    {
        var random = new Random(7);
        var names = Manifest.Read(manifest).Keys.ToArray();
        for (var turn = 0; turn < 12; turn++)
        {
            var gone = Enumerable.Range(0, 1 << random.Next(8)).Select(_ => names[random.Next(names.Length)]).ToHashSet(StringComparer.Ordinal);
            long[] shape = [.. Enumerable.Range(0, random.Next(6)).Select(_ => new[] { 0L, 1, 3, 64, 1152, 1 << 20 }[random.Next(6)])];
            // Mostly those at the beginning and the end, which show the sizes.
            var changed = names[turn % 2 == 0 ? random.Next(Math.Min(12, names.Length)) : names.Length - 1 - random.Next(Math.Min(12, names.Length))];
            using var file = new Published(manifest, "", name => gone.Contains(name) && turn % 3 > 0 ? null : name, claim: (changed, shape));
            Architectures.BuiltIn.Recognize(file).ShouldAllBe(fit => fit.Sizes.Length > 0);
        }
    }

    [Fact]
    public void Sizes_that_the_bytes_cannot_have_are_not_believed()
    {
        // A number seen 2^40 times over, as a tensor of stride 0 may be.
        using var file = new Published("opensora_v1.0_stdit_xl2_16x256x256", "", claim: ("x_embedder.proj.weight", [1L << 40, 4, 1, 2, 2]));
        Architectures.BuiltIn.Recognize(file).ShouldBeEmpty();
    }

    [Fact]
    public void Small_models_are_recognized_without_a_preset()
    {
        using var scope = NewDisposeScope();
        using var vae = new AutoencoderKL(
            new AutoencoderKLConfig
            {
                BlockOutChannels = [8, 16],
                LayersPerBlock = 1,
                NormNumGroups = 4,
            }
        );
        vae.SaveWeights(_folder["vae.safetensors"]);
        var text = Print(_folder["vae.safetensors"]);
        text.ShouldContain("vae.safetensors: safetensors");
        text.ShouldContain("fits Stable Diffusion-style autoencoder (channels 8, 16, 4 latent channels)");
        text.ShouldContain("--all lists them");
        Print(_folder["vae.safetensors"], all: true).ShouldContain("post_quant_conv.weight");
    }

    [Fact]
    public void Other_parts_of_models_are_recognized()
    {
        using var scope = NewDisposeScope();
        using var clip = new ClipTextModel(
            new ClipTextConfig
            {
                VocabSize = 30,
                HiddenSize = 16,
                IntermediateSize = 20,
                NumHiddenLayers = 2,
                NumAttentionHeads = 2,
                MaxPositionEmbeddings = 7,
                ProjectionDim = 8,
                EosTokenId = 29,
            }
        );
        clip.SaveWeights(_folder["clip"]);
        Print(_folder["clip"]).ShouldContain("fits CLIP text encoder (width 16, 2 blocks, 7 tokens)");
        using var video = new AutoencoderKLTemporalDecoder(
            new AutoencoderKLConfig
            {
                BlockOutChannels = [8, 16],
                LayersPerBlock = 1,
                NormNumGroups = 4,
            }
        );
        video.SaveWeights(_folder["video"]);
        Print(_folder["video"]).ShouldContain("fits Stable Video Diffusion autoencoder with temporal decoder");
        using var t5 = new T5TextEncoder(
            new T5Config
            {
                VocabSize = 50,
                DModel = 16,
                DKv = 4,
                DFf = 24,
                NumLayers = 2,
                NumHeads = 2,
                FeedForwardProj = "relu",
            }
        );
        t5.SaveWeights(_folder["t5"]);
        Print(_folder["t5"]).ShouldContain("fits T5 encoder (width 16, 2 blocks, 2 heads of 4, 50 tokens)");
    }

    [Fact]
    public void A_training_checkpoint_shows_the_model_in_it()
    {
        using var scope = NewDisposeScope();
        using var model = new StdiT(
            new StdiTConfig
            {
                InputSize = [2, 4, 4],
                HiddenSize = 24,
                Depth = 2,
                NumHeads = 4,
                CaptionChannels = 12,
                ModelMaxLength = 5,
            }
        );
        var tensors = model
            .state_dict()
            .SelectMany(pair =>
                new[] { KeyValuePair.Create($"weights.model.{pair.Key}", pair.Value), KeyValuePair.Create($"adam.mean.model.{pair.Key}", pair.Value) }
            );
        WeightsFile.Write(_folder["checkpoint"], tensors, new Dictionary<string, string> { ["opensora.training"] = "{}" });
        var text = Print(_folder["checkpoint"]);
        text.ShouldContain("fits STDiT (width 24, 2 blocks");
        text.ShouldContain("dropped: adam.mean.model.");
    }

    [Fact]
    public void Halves_of_a_tiny_autoencoder_are_recognized()
    {
        using var scope = NewDisposeScope();
        using var model = new TinyAutoencoder(TinyAutoencoderConfig.Preset("TAESD3"));
        model.SaveWeights(_folder["both"]);
        var halves = model.state_dict().ToLookup(pair => pair.Key.StartsWith("encoder.", StringComparison.Ordinal));
        WeightsFile.Write(_folder["encoder"], halves[true].Select(pair => KeyValuePair.Create(pair.Key["encoder.layers.".Length..], pair.Value)));
        WeightsFile.Write(
            _folder["decoder"],
            halves[false]
                .Select(pair =>
                    pair.Key["decoder.layers.".Length..].Split('.', 2) is [var layer, var rest]
                        ? KeyValuePair.Create($"{int.Parse(layer) + 1}.{rest}", pair.Value)
                        : default
                )
        );
        Print(_folder["both"]).ShouldContain("fits TAESD3 or TAEF1 (16 latent channels)");
        Print(_folder["encoder"]).ShouldContain("fits TAESD3 or TAEF1, the encoder");
        Print(_folder["decoder"]).ShouldContain("fits TAESD3 or TAEF1, the decoder");
    }

    [Fact]
    public void A_checkpoint_is_described_with_its_sections_and_other_contents()
    {
        var text = Print(CheckpointTests.Checkpoint("training.pt"));
        text.ShouldContain("training.pt: PyTorch checkpoint");
        text.ShouldContain("sections: model (3 tensors), ema (3 tensors, selected)");
        text.ShouldContain("epoch = 3");
        text.ShouldContain("3 tensors: 3 of F32 with 17 elements");
        text.ShouldContain("fits no known architecture");
        text.ShouldMatch(@"linear\.weight\s+F32\s+3 x 4\s+12");
    }

    [Fact]
    public void A_model_folder_is_reported_part_by_part()
    {
        var text = Print(Path.Combine(TestFiles.Data("..", ".."), "models", "stickers"));
        text.ShouldContain("stickers: a model folder");
        text.ShouldMatch(
            @"denoiser: stdit[\s\S]*fits STDiT \(width 320, 8 blocks[\s\S]*"
                + @"autoencoder: autoencoder_kl[\s\S]*fits Stable Diffusion-style autoencoder[\s\S]*text encoder: t5[\s\S]*fits T5 v1.1 encoder"
        );
    }

    [Fact]
    public void Folders_of_weights_are_reported_file_by_file_and_others_refused()
    {
        Should.Throw<InvalidWeightsException>(() => Print(_folder.Path)).Message.ShouldContain("contain weights");
        foreach (var part in new[] { "transformer", "vae" })
        {
            File.Copy(CheckpointTests.Checkpoint("state_dict.pth"), Path.Combine(Directory.CreateDirectory(_folder[part]).FullName, "weights.pth"));
        }

        var text = Print(_folder.Path);
        text.ShouldContain(Path.Combine("transformer", "weights.pth"));
        text.ShouldContain(Path.Combine("vae", "weights.pth"));
    }

    [Fact]
    public void Names_with_markup_and_control_characters_are_shown_as_they_are()
    {
        using (NewDisposeScope())
        {
            WeightsFile.Write(
                _folder["odd.safetensors"],
                [KeyValuePair.Create("[red]x[/]\u001b[2J", ones(1))],
                new Dictionary<string, string> { ["[bold]"] = "[/]" }
            );
        }

        var text = Print(_folder["odd.safetensors"]);
        text.ShouldContain("[red]x[/]\uFFFD[2J");
        text.ShouldContain("[bold] = [/]");
    }

    [Fact]
    public void Unknown_types_skipped_objects_and_sets_of_shards_are_listed()
    {
        using var scope = NewDisposeScope();
        Print(TestFiles.Data("fp8", "f4.safetensors")).ShouldMatch("1 of F4 with 4 elements(.|\n)*scale +\\S? ?F4");
        Print(CheckpointTests.Checkpoint("omega.ckpt")).ShouldContain("skipped objects: omegaconf.dictconfig.DictConfig");
        for (var i = 1; i <= 3; i++)
        {
            WeightsFile.Write(_folder[$"shards/model-0000{i}-of-00003.safetensors"], [KeyValuePair.Create($"x{i}", ones(i))]);
        }

        var text = Print(_folder["shards"]);
        text.ShouldContain("model-00001-of-00003.safetensors: 3 shards, safetensors");
        text.ShouldContain("3 tensors: 3 of F32 with 6 elements");
        text.Split("shards, safetensors").Length.ShouldBe(2); // once
    }

    [Fact]
    public void No_tensor_remains_in_memory()
    {
        var before = TensorCount.Settled;
        using (var file = new Published("opensora_v1.2_stdit3_xl2", ""))
        {
            Architectures.BuiltIn.Recognize(file).Count.ShouldBe(1);
        }

        TensorCount.ShouldBe(before);
    }

    private static string Print(string path, bool all = false)
    {
        using var writer = new StringWriter();
        var console = AnsiConsole.Create(
            new AnsiConsoleSettings
            {
                Ansi = AnsiSupport.No,
                ColorSystem = ColorSystemSupport.NoColors,
                Out = new AnsiConsoleOutput(writer),
            }
        );
        console.Profile.Width = 200;
        new Printer(console, all, Architectures.BuiltIn).Print(path, null);
        return writer.ToString();
    }

    /// <summary>A published checkpoint's names and shapes, without its values.</summary>
    internal sealed class Published(string manifest, string prefix, Func<string, string?>? rename = null, (string Name, long[] Shape)? claim = null)
        : WeightsFile(manifest)
    {
        public override string Format => "names and shapes";

        public override IReadOnlyDictionary<string, string> Metadata { get; } = new Dictionary<string, string>();

        public override IReadOnlyDictionary<string, TensorEntry> Tensors { get; } =
            Manifest
                .Read(manifest)
                .Select(pair => (Name: rename is null ? pair.Key : rename(pair.Key), pair.Value))
                .Where(pair => pair.Name is not null)
                .ToDictionary(
                    pair => prefix + pair.Name,
                    pair => new TensorEntry(
                        prefix + pair.Name,
                        "F32",
                        claim is { } known && string.Equals(pair.Name, known.Name, StringComparison.Ordinal) ? known.Shape : pair.Value,
                        0,
                        4 * pair.Value.Aggregate(1L, (a, b) => a * b)
                    )
                );

        private protected override Tensor Read(TensorEntry entry, TensorMaps? maps) => throw new NotSupportedException("There are no values.");

        internal override MappedFile FileOf(TensorEntry entry) => throw new NotSupportedException("There is no file.");

        private protected override void Close() { }
    }
}
