using OpenSora.Models;
using OpenSora.Tests.Media;
using OpenSora.Weights;
using TorchSharp;
using static OpenSora.Tests.Models.TransformerFamily;
using static TorchSharp.torch;

namespace OpenSora.Tests.Models;

/// <summary>Tests loading of checkpoints of the official models into those of Open-Sora.</summary>
public class PublishedWeightsTests
{
    [Theory]
    [InlineData("map_dit256_to_opensora_dit", "orig_dit_xl2_256", "opensora_v1.0_dit_xl2_1x256x256_class", false)]
    [InlineData("map_latte_to_opensora_latte", "orig_latte_xl2_ucf101", "opensora_v1.0_latte_xl2_16x256x256_class", false)]
    [InlineData("map_pixart512_to_opensora_pixart", "orig_pixart_xl2_512", "opensora_v1.0_pixart_xl2_1x512x512", false)]
    [InlineData("map_pixart1024ms_to_opensora_pixartms", "orig_pixart_xl2_1024ms", "opensora_v1.0_pixartms_xl2", false)]
    [InlineData("map_pixart512_to_stdit", "orig_pixart_xl2_512", "opensora_v1.0_stdit_xl2_16x512x512", true)]
    public void Every_published_name_is_mapped(string map, string original, string model, bool fromImage)
    {
        var (sources, targets) = (Manifest.Read(original), Manifest.Read(model));
        var options = PublishedWeights.Options(fromImage);
        var taken = new HashSet<string>(sources.Keys.Select(name => options.KeyMap!(name)).OfType<string>());
        taken.Count.ShouldBe(sources.Keys.Count(name => options.KeyMap!(name) is not null));
        foreach (var row in Manifest.Rows(map).Skip(1))
        {
            var (target, source, transform) = (row[0], row[1], row[2]);
            switch (transform)
            {
                case "copy":
                    options.KeyMap!(source).ShouldBe(target);
                    sources[source].ShouldBe(targets[target], target);
                    break;
                case "unsqueeze(2)":
                    options.KeyMap!(source).ShouldBe(target);
                    sources[source].ShouldBe(targets[target].Where((_, axis) => axis != 2), target);
                    break;
                case "dropped":
                    options.KeyMap!(source).ShouldBeNull();
                    break;
                default:
                    transform.ShouldMatch("^(recomputed|keeps its initialisation)");
                    taken.ShouldNotContain(target);
                    options.KeepInitial!(target).ShouldBeTrue(target);
                    break;
            }
            sources.Remove(source);
            targets.Remove(target);
            taken.Remove(target);
        }
        sources.ShouldBeEmpty();
        targets.ShouldBeEmpty();
        taken.ShouldBeEmpty();
    }

    private static readonly StdiTConfig Video = new()
    {
        InputSize = [3, 6, 6],
        HiddenSize = 24,
        Depth = 2,
        NumHeads = 4,
        CaptionChannels = 12,
        ModelMaxLength = 5,
    };

    private static StdiT PixArt() =>
        Randomised(
            new StdiT(
                StdiTConfig.PixArt with
                {
                    InputSize = [1, 6, 6],
                    HiddenSize = 24,
                    Depth = 2,
                    NumHeads = 4,
                    CaptionChannels = 12,
                    ModelMaxLength = 5,
                },
                initialize: false
            )
        );

    private static DiT DiT() =>
        Randomised(
            new DiT(
                new DiTConfig
                {
                    InputSize = [1, 6, 6],
                    HiddenSize = 24,
                    Depth = 2,
                    NumHeads = 4,
                    Condition = "label_7",
                },
                initialize: false
            )
        );

    // As the official models' files are: no axis of time, one position table.
    private static string Save(TemporaryFolder folder, nn.Module model, Func<string, Tensor, Tensor?>? change = null)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var tensors = new List<KeyValuePair<string, Tensor>> { new("pos_embed", randn(1, 9, 24)) };
        foreach (var (name, value) in model.state_dict())
        {
            var official =
                name.StartsWith("pos_embed", StringComparison.Ordinal) ? null
                : name is "x_embedder.proj.weight" ? value.squeeze(2)
                : value;
            if (official is not null && (change is null ? official : change(name, official)) is { } kept)
            {
                tensors.Add(new(name, kept));
            }
        }
        var path = Path.Combine(folder.Path, "official.safetensors");
        WeightsFile.Write(path, tensors);
        return path;
    }

    [Theory]
    [InlineData(AttentionOrder.Serial)]
    [InlineData(AttentionOrder.Parallel)]
    public void A_video_model_starts_as_PixArt_frame_by_frame(AttentionOrder order)
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var image = PixArt();
        var builder = new StdiTBuilder().From(Video).Attention(order).Seed(3).LoadImageWeights(Save(folder, image));
        using var video = builder.Build();
        video.eval();
        var report = builder.ImageWeights.ShouldNotBeNull();
        report.Reshaped.ShouldBe(["x_embedder.proj.weight: [24, 4, 2, 2] to [24, 4, 1, 2, 2]"]);
        report.Dropped.ShouldBe(["pos_embed"]);
        report.Initialized.ShouldBe(
            video
                .state_dict()
                .Keys.Where(name => name.StartsWith("pos_embed", StringComparison.Ordinal) || name.Contains(".attn_temp.", StringComparison.Ordinal)),
            ignoreOrder: true
        );
        report.Loaded.Count.ShouldBe(video.state_dict().Count - 1 - report.Initialized.Count);

        var (x, t, conditions) = Inputs(video, height: 6, width: 6);
        var output = video.Denoise(x, t, conditions);
        for (var frame = 0; frame < 3; frame++)
        {
            var alone = image.Denoise(x.narrow(2, frame, 1), t, conditions);
            alone.abs().max().item<float>().ShouldBeGreaterThan(0.1f);
            Difference(output.narrow(2, frame, 1), alone).ShouldBeLessThan(1e-5 * alone.abs().max().item<float>());
        }
        Difference(output.narrow(2, 0, 1), output.narrow(2, 1, 1)).ShouldBeGreaterThan(0.01);

        using var other = new StdiTBuilder().From(Video).TemporalAttention(startAtZero: false).LoadImageWeights(Save(folder, image)).Build();
        other.eval();
        Difference(other.Denoise(x, t, conditions), output).ShouldBeGreaterThan(1e-4);
    }

    [Theory]
    [InlineData(AttentionOrder.Serial)]
    [InlineData(AttentionOrder.Parallel)]
    public void A_class_conditional_video_model_starts_as_DiT_frame_by_frame(AttentionOrder order)
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var image = DiT();
        using var video = ForClasses(Video with { AttentionOrder = order }, 7, Save(folder, image));
        video.eval();
        var (x, t, conditions) = Inputs(video, height: 6, width: 6);
        var output = video.Denoise(x, t, conditions);
        for (var frame = 0; frame < 3; frame++)
        {
            var alone = image.Denoise(x.narrow(2, frame, 1), t, conditions);
            Difference(output.narrow(2, frame, 1), alone).ShouldBeLessThan(1e-5 * alone.abs().max().item<float>());
        }
    }

    [Fact]
    public void PyTorch_checkpoints_load_as_they_were_published()
    {
        static string File(string name) => TestFiles.Data("checkpoints", name);
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var builder = new StdiTBuilder().Latents(3, 4, 4).Transformer(8, depth: 1, heads: 2).Text(width: 5, tokens: 3);
        var small = new DiTConfig
        {
            InputSize = [1, 4, 4],
            HiddenSize = 8,
            Depth = 1,
            NumHeads = 2,
            Condition = "label_3",
        };

        using var pixart = new StdiT(
            StdiTConfig.PixArt with
            {
                InputSize = [1, 4, 4],
                HiddenSize = 8,
                Depth = 1,
                NumHeads = 2,
                CaptionChannels = 5,
                ModelMaxLength = 3,
            }
        );
        var report = pixart.LoadPublishedWeights(File("pixart.pth"));
        report.Unwrapped.ShouldBe(["state_dict"]);
        report.Initialized.ShouldBe(["pos_embed", "pos_embed_temporal"], ignoreOrder: true);
        using var stdit = builder.LoadImageWeights(File("pixart.pth")).Build();
        Same(stdit, pixart);

        using var dit = new DiT(small);
        dit.LoadPublishedWeights(File("dit.pt")).Unwrapped.ShouldBeEmpty();
        using var video = ForClasses(builder.Config, 3, File("dit.pt"));
        Same(video, dit);

        using var latte = new DiT(DiTConfig.Latte with { InputSize = [3, 4, 4], HiddenSize = 8, Depth = 1, NumHeads = 2, Condition = "label_3" });
        report = latte.LoadPublishedWeights(File("latte.pt"));
        report.Unwrapped.ShouldBe(["ema"]);
        report.Dropped.ShouldBe(["pos_embed", "temp_embed"], ignoreOrder: true);

        static void Same(IVideoTransformer video, IVideoTransformer image)
        {
            ((nn.Module)video).eval();
            ((nn.Module)image).eval();
            var x = randn([2, 4, 3, 4, 4]);
            var t = tensor(new[] { 100f, 900f });
            var conditions = new DenoiserConditions(video.TextWidth == 1 ? tensor(new[] { 0f, 2f }, [2, 1, 1]) : randn(2, 3, 5));
            var output = video.Denoise(x, t, conditions);
            output.abs().max().item<float>().ShouldBeGreaterThan(0.1f);
            for (var frame = 0; frame < 3; frame++)
            {
                Difference(output.narrow(2, frame, 1), image.Denoise(x.narrow(2, frame, 1), t, conditions)).ShouldBeLessThan(1e-5);
            }
        }
    }

    [Fact]
    public void The_averages_of_ema_pytorch_are_loaded_with_their_null_caption()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        using var published = WeightsFile.Open(TestFiles.Data("checkpoints", "pixart.pth"));
        const string caption = "y_embedder.y_embedding";
        var tensors = new Dictionary<string, Tensor> { ["initted"] = tensor(true), ["step"] = tensor(9L) };
        foreach (var name in published.Tensors.Keys)
        {
            tensors[$"online_model.{name}"] = zeros_like(published.Read(name));
            tensors[$"ema_model.{name}"] = published.Read(name);
        }

        WeightsFile.Write(folder["ema"], tensors);
        using var longer = new StdiT(
            StdiTConfig.PixArt with
            {
                InputSize = [1, 4, 4],
                HiddenSize = 8,
                Depth = 1,
                NumHeads = 2,
                CaptionChannels = 5,
                ModelMaxLength = 4,
            }
        );
        var report = longer.LoadPublishedWeights(folder["ema"]);
        report.Unwrapped.ShouldBe(["ema_model."]);
        report.Reshaped.ShouldContain($"{caption}: [3, 5] to [4, 5]");
        report.Dropped.ShouldContain($"online_model.{caption}");
        report.Dropped.ShouldNotContain($"ema_model.{caption}");
        longer.state_dict()[caption].narrow(0, 0, 3).eq(published.Read(caption)).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void A_model_with_full_attention_starts_as_the_image_model_for_single_frames()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var image = PixArt();
        using var video = new StdiTBuilder()
            .From(Video)
            .Attention(AttentionOrder.Full)
            .TemporalAttention(startAtZero: true, positions: false)
            .LoadImageWeights(Save(folder, image))
            .Build();
        video.eval();
        var (x, t, conditions) = Inputs(video, frames: 1, height: 6, width: 6);
        Difference(video.Denoise(x, t, conditions), image.Denoise(x, t, conditions)).ShouldBeLessThan(1e-5);
    }

    [Fact]
    public void Positions_of_nonsquare_sizes_are_stretched_as_in_PixArt()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var image = PixArt();
        var path = Save(folder, image);
        double Far(bool stretch)
        {
            using var video = new StdiTBuilder().From(Video).Positions(1, stretch: stretch).LoadImageWeights(path).Build();
            video.eval();
            var (x, t, conditions) = Inputs(video, frames: 1, height: 4, width: 8);
            return Difference(video.Denoise(x, t, conditions), image.Denoise(x, t, conditions));
        }
        Far(stretch: true).ShouldBeLessThan(1e-5);
        Far(stretch: false).ShouldBeGreaterThan(1e-3);
    }

    [Theory]
    [InlineData(3)]
    [InlineData(8)]
    public void The_null_caption_is_truncated_or_extended(int tokens)
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        using var image = PixArt();
        var builder = new StdiTBuilder().From(Video with { ModelMaxLength = tokens }).LoadImageWeights(Save(folder, image));
        using var video = builder.Build();
        builder.ImageWeights!.Reshaped.ShouldContain($"y_embedder.y_embedding: [5, 12] to [{tokens}, 12]");
        builder.ImageWeights.Dropped.ShouldBe(["pos_embed"]);
        builder.ImageWeights.Initialized.ShouldNotContain("y_embedder.y_embedding");
        var (old, made) = (image.NullCaption().squeeze(0), video.NullCaption().squeeze(0));
        for (var row = 0; row < tokens; row++)
        {
            Difference(made[row], old[Math.Min(row, 4)]).ShouldBe(0);
        }
    }

    [Fact]
    public void Latte_and_PixArt_load_their_own_checkpoints_and_keep_their_sizes()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var latte = (DiT)Make("Latte");
        using var again = Randomised(new DiT(latte.Config with { InputSize = [5, 8, 8] }), seed: 9);
        again.LoadPublishedWeights(Save(folder, latte)).IsComplete.ShouldBeTrue();
        var (x, t, conditions) = Inputs(latte);
        Difference(again.Denoise(x, t, conditions), latte.Denoise(x, t, conditions)).ShouldBe(0);

        using var stdit = (StdiT)Make("STDiT serial");
        var path = Path.Combine(folder.Path, "stdit.safetensors");
        stdit.SaveWeights(path);
        using var larger = Randomised(new StdiT(stdit.Config with { InputSize = [5, 8, 8] }), seed: 9);
        larger.LoadPublishedWeights(path).Dropped.ShouldBe(["pos_embed", "pos_embed_temporal"], ignoreOrder: true);
        (x, t, conditions) = Inputs(stdit);
        Difference(larger.Denoise(x, t, conditions), stdit.Denoise(x, t, conditions)).ShouldBe(0);
    }

    [Fact]
    public void Weights_that_do_not_fit_are_rejected_and_change_nothing()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        using var image = PixArt();
        using var dit = DiT();
        var builder = new StdiTBuilder().From(Video);
        var before = TensorCount.Now;

        var path = Save(folder, dit);
        Should
            .Throw<InvalidWeightsException>(() => builder.LoadImageWeights(path).Build())
            .Message.ShouldContain("the weights are those of a DiT or Latte");
        path = Save(folder, image);
        Should
            .Throw<InvalidWeightsException>(() => ForClasses(Video, 7, path))
            .Message.ShouldContain("the model is a DiT or a Latte, but the weights are not");
        Should
            .Throw<InvalidOperationException>(() => builder.Attention(AttentionOrder.Interleaved).Build())
            .Message.ShouldContain("Use the order Serial or Parallel");
        builder.Attention(AttentionOrder.Serial);
        Should.Throw<InvalidWeightsException>(() => builder.Transformer(24, depth: 3, heads: 4).Build()).Message.ShouldContain("blocks.2.");
        builder.From(Video);
        // As many elements in another shape are no reshaped projection.
        path = Save(folder, image, (name, value) => name is "blocks.0.mlp.fc1.weight" ? value.transpose(0, 1).contiguous() : value);
        Should.Throw<InvalidWeightsException>(() => builder.Build()).Message.ShouldContain("the file has [24, 96], the model [96, 24]");
        path = Save(folder, image, (name, value) => name is "blocks.1.attn.proj.bias" ? null : value);
        Should.Throw<InvalidWeightsException>(() => builder.Build()).Message.ShouldContain("blocks.1.attn.proj.bias");
        Should.Throw<FileNotFoundException>(() => builder.LoadImageWeights(Path.Combine(folder.Path, "nothing.pth")).Build());
        TensorCount.ShouldBe(before);

        // A video model's own checkpoint must hold its attention along time.
        using var video = Randomised(new StdiT(Video, initialize: false));
        var bias = video.state_dict()["x_embedder.proj.bias"].clone();
        Should.Throw<InvalidWeightsException>(() => video.LoadPublishedWeights(Save(folder, image))).Message.ShouldContain("attn_temp");
        Difference(video.state_dict()["x_embedder.proj.bias"], bias).ShouldBe(0);
    }

    // A video model for classes, which starts from the weights of an image model.
    private static DiT ForClasses(StdiTConfig sizes, int classes, string imageWeights)
    {
        var model = new DiT(
            new DiTConfig
            {
                InputSize = sizes.InputSize,
                InChannels = sizes.InChannels,
                PatchSize = sizes.PatchSize,
                HiddenSize = sizes.HiddenSize,
                Depth = sizes.Depth,
                NumHeads = sizes.NumHeads,
                Condition = $"label_{classes}",
                NoTemporalPosEmb = sizes.NoTemporalPosEmb,
                AttentionOrder = sizes.AttentionOrder,
                ZeroInitTemporal = sizes.ZeroInitTemporal,
            }
        );
        try
        {
            model.LoadImageWeights(imageWeights);
            return model;
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    [Fact]
    public void Parameters_are_counted_by_part()
    {
        var before = TensorCount.Now;
        var published = new StdiTBuilder().CountParameters();
        published.Values.Sum().ShouldBe(759_620_768);
        (published.Values.Sum() - published["temporal attention"]).ShouldBe(610_856_096);
        const long c = 1152;
        published["patch embedding"].ShouldBe(c * 16 + c);
        published["time embedding"].ShouldBe(256 * c + c + c * c + c + 6 * (c * c + c));
        published["condition"].ShouldBe(4096 * c + c + c * c + c);
        published["attention"].ShouldBe(28 * (4 * c * c + 4 * c));
        published["temporal attention"].ShouldBe(published["attention"]);
        published["cross attention"].ShouldBe(published["attention"]);
        published["MLP"].ShouldBe(28 * (8 * c * c + 5 * c));
        published["modulation"].ShouldBe(28 * 6 * c);
        published["final layer"].ShouldBe(2 * c + 32 * c + 32);
        published["temporal attention"].ShouldBe(148_764_672);
        new StdiTBuilder().Attention(AttentionOrder.Full).CountParameters().Values.Sum().ShouldBe(610_856_096);
        const int angles = 36; // of rotary positions, parameters that are not trained
        using (Manifest.Unallocated(() => new StdiT2(new StdiT2Config(), initialize: false), out var stdit2))
        {
            stdit2.CountParameters().Values.Sum().ShouldBe(767_452_100 - angles);
        }

        using (Manifest.Unallocated(() => new StdiT3(new StdiT3Config(), initialize: false), out var stdit3))
        {
            stdit3.CountParameters().Values.Sum().ShouldBe(1_207_643_972 - angles);
        }

        TensorCount.ShouldBe(before);

        using var scope = NewDisposeScope();
        using var dit = (nn.Module)Make("DiT label");
        dit.CountParameters().Values.Sum().ShouldBe(dit.parameters().Sum(parameter => parameter.numel()));
        using var linear = nn.Linear(2, 3);
        linear.CountParameters().ShouldBe(new Dictionary<string, long> { ["weight"] = 6, ["bias"] = 3 });
    }
}
