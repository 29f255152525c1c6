using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Weights;
using static TorchSharp.torch;

namespace OpenSora.Tests.Generation;

/// <summary>Tests conditioning frames: images are animated, videos are continued and connected.</summary>
[Collection(nameof(LiveTensorCount))]
public class GivenFramesTests
{
    private static TinyModel Model(string kind = "stdit3") =>
        new(
            d =>
                d with
                {
                    Video = d.Video with { GivenFrames = true },
                    Diffusion = kind is "stdit3" ? new() : new() { SinglePrecision = true },
                    Sampling = d.Sampling with { Sampler = kind is "stdit3" ? SamplerKind.RectifiedFlow : SamplerKind.Iddpm, GuidedChannels = 4 },
                },
            architecture: kind
        );

    /// <summary>Frames of one color each.</summary>
    private static VideoFrames Plain(int width, int height, params byte[] grays) =>
        new(grays.SelectMany(gray => Enumerable.Repeat(gray, width * height * 3)).ToArray(), grays.Length, height, width, 8);

    private static double Difference(VideoFrames video, int frame, byte gray) => video.Frame(frame).ToArray().Max(value => Math.Abs(value - gray));

    private static byte[] Bytes(VideoFrames video, int frame) => video.Frame(frame).ToArray();

    [Theory]
    [InlineData("stdit")]
    [InlineData("stdit2")]
    [InlineData("stdit3")]
    public async Task An_image_is_animated_and_a_video_is_continued(string kind)
    {
        using var model = Model(kind);
        using var generator = model.Generator();
        var alone = (await generator.Request("a goat").Seed(1).GenerateAsync()).Frames;
        var animated = (await generator.Request("a goat").Seed(1).ConditionOn(Plain(32, 32, 200)).GenerateAsync()).Frames;
        Difference(animated, 0, 200).ShouldBeLessThan(6);
        Bytes(animated, 1).ShouldNotBe(Bytes(alone, 1));
        var other = (await generator.Request("a goat").Seed(1).ConditionOn(Plain(32, 32, 40)).GenerateAsync()).Frames;
        Difference(other, 0, 40).ShouldBeLessThan(6);
        Bytes(other, 3).ShouldNotBe(Bytes(animated, 3)); // what is given matters to frames that are not

        // The end of one video is the beginning of the next one; both ends are given; without guidance and without a prompt as well.
        var next = (await generator.Request("a goat").Seed(2).Frames(6).ConditionOn(animated.Slice(2, 2)).GenerateAsync()).Frames;
        Bytes(next, 1).Zip(Bytes(animated, 3), (a, b) => Math.Abs(a - b)).Max().ShouldBeLessThan(6);
        foreach (
            var request in new[]
            {
                generator.Request("").Seed(3),
                generator.Request("a goat").GuidanceScale(1).Seed(3),
                generator.Request("a goat").NegativePrompt("a boat").Seed(3),
            }
        )
        {
            var connected = (await request.ConditionOn(Plain(32, 32, 60)).ConditionOn(Plain(32, 32, 180), frame: -1).GenerateAsync()).Frames;
            Difference(connected, 0, 60).ShouldBeLessThan(6);
            Difference(connected, 3, 180).ShouldBeLessThan(6);
            Difference(connected, 1, 60).ShouldBeGreaterThan(6);
        }
    }

    [Fact]
    public async Task Models_with_frame_rate_conditioning_receive_it_and_images_have_none()
    {
        using var model = Model();
        using var generator = model.Generator();
        async Task<byte[]> Pixels(int frames, double rate) =>
            (await generator.Request("a goat").Seed(1).Frames(frames).Fps(rate).GenerateAsync()).Frames.Pixels.ToArray();
        (await Pixels(4, 8)).ShouldNotBe(await Pixels(4, 24));
        (await Pixels(1, 8)).ShouldBe(await Pixels(1, 24));
    }

    [Fact]
    public async Task References_are_encoded_by_the_autoencoder_of_the_model()
    {
        using var model = Model();
        var before = TensorCount.Now;
        using (var generator = model.Whole())
        {
            async Task<byte[]> Last(byte gray) =>
                Bytes(
                    (
                        await generator
                            .Request("a goat")
                            .Seed(1)
                            .ConditionOn(Plain(32, 32, gray, gray, gray, gray, gray), frame: 1)
                            .Frames(8)
                            .GenerateAsync()
                    ).Frames,
                    7
                );
            (await Last(10)).ShouldNotBe(await Last(240));
            (await Last(10)).ShouldBe(await Last(10));
        }
        TensorCount.ShouldBe(before);
    }

    [Fact]
    public async Task The_edit_ratio_sets_how_much_is_generated_again()
    {
        using var model = Model();
        using var generator = model.Generator();
        async Task<double> Change(double ratio) =>
            Difference((await generator.Request("a goat").Seed(1).ConditionOn(Plain(32, 32, 128), 0, ratio).GenerateAsync()).Frames, 0, 128);
        (await Change(0)).ShouldBeLessThan(6);
        (await Change(0.6)).ShouldBeGreaterThan(await Change(0));
    }

    [Fact]
    public async Task The_text_format_of_Open_Sora_is_equivalent()
    {
        using var model = Model();
        using var generator = model.Generator();
        var (picture, video) = (Plain(32, 32, 90), Plain(32, 32, 10, 50, 250));
        var request = new VideoRequest
        {
            Prompt = "a goat",
            Seed = 4,
            Frames = 6,
        }
            .ConditionOn(picture, 3)
            .ConditionOn([picture, video], "0,0,0,-1,1;0,1,-2,0,2,0.4");
        var same = new VideoRequest
        {
            Prompt = "a goat",
            Seed = 4,
            Frames = 6,
        }
            .ConditionOn(picture, 3)
            .ConditionOn(picture, -1)
            .ConditionOn(video.Slice(1, 2), 0, 0.4);
        (await generator.GenerateAsync(request)).Frames.Pixels.ToArray().ShouldBe((await generator.GenerateAsync(same)).Frames.Pixels.ToArray());
        Should.Throw<FormatException>(() => request.ConditionOn([picture], "first")).Message.ShouldContain("'first'");
        (request.References.Count, request.MaskStrategies.Count).ShouldBe((3, 3));
    }

    [Fact]
    public void References_of_other_sizes_cover_the_video()
    {
        using var scope = NewDisposeScope();
        // 8x4, the left and right quarter black: the middle is kept and scaled.
        var wide = ones([1, 3, 1, 4, 8]);
        wide.narrow(4, 0, 2).fill_(-1);
        wide.narrow(4, 6, 2).fill_(-1);
        var square = GivenFrames.Cover(wide, 8, 8);
        square.shape.ShouldBe([1, 3, 1, 8, 8]);
        square.narrow(4, 2, 4).min().item<float>().ShouldBe(1, 1e-5f);
        GivenFrames.Cover(wide, 2, 2).shape.ShouldBe([1, 3, 1, 2, 2]);
        GivenFrames.Cover(wide, 2, 2).min().item<float>().ShouldBeGreaterThan(0);
        GivenFrames.Cover(wide, 4, 8).ShouldBeSameAs(wide);
        foreach (var (height, width) in new[] { (3, 7), (7, 3), (5, 5), (1, 1), (9, 8) })
        {
            GivenFrames.Cover(wide, height, width).shape.ShouldBe([1, 3, 1, height, width]);
        }
    }

    public static TheoryData<Action<VideoRequest>, string> Mistakes =>
        new()
        {
            { r => r.ConditionOn(Plain(8, 8, 1), 4), "frame 4 of the video does not exist; it has 4 frames" },
            { r => r.ConditionOn(Plain(8, 8, 1), -5), "frame -5 of the video does not exist" },
            { r => r.ConditionOn(Plain(8, 8, 1, 2, 3, 4)), "Every frame is a conditioning frame, so there is nothing to generate" },
            { r => r.ConditionOn(Plain(8, 8, 1), 0, 1), "the edit ratio is 1, which discards the frames" },
            { r => r.ConditionOn(Plain(8, 8, 1), 0, -0.5), "the edit ratio -0.5 is not between 0 and 1" },
            { r => r.References = [Plain(8, 8, 1)], "no MaskStrategies that place their frames" },
            { r => r.MaskStrategies = [new()], "the reference is 0, but the request has 0" },
            {
                r => (r.References, r.MaskStrategies) = ([Plain(8, 8, 1)], MaskStrategy.Parse("1;0,0,3")),
                "make another request conditioned on the end of this video. In the mask strategy '0,0,3,0,1,0', frame 3 of the reference"
            },
        };

    [Theory]
    [MemberData(nameof(Mistakes))]
    public async Task References_that_do_not_fit_are_rejected(Action<VideoRequest> mistake, string message)
    {
        using var model = Model();
        using var generator = model.Generator();
        var request = new VideoRequest { Prompt = "a goat" };
        mistake(request);
        (await Should.ThrowAsync<ArgumentException>(generator.GenerateAsync(request))).Message.ShouldContain(message);
    }

    [Fact]
    public async Task A_request_for_too_many_frames_allocates_no_memory()
    {
        using var model = Model();
        using var generator = model.Generator();
        (
            await Should.ThrowAsync<ArgumentException>(generator.Request("a goat").Frames(int.MaxValue).ConditionOn(Plain(8, 8, 1)).GenerateAsync())
        ).Message.ShouldContain("Frames is 2147483647");
    }

    [Fact]
    public async Task Models_and_samplers_without_support_for_references_reject_them()
    {
        using var untrained = new TinyModel();
        using var generator = untrained.Generator();
        (await Should.ThrowAsync<ArgumentException>(generator.Request("a goat").ConditionOn(Plain(8, 8, 1)).GenerateAsync())).Message.ShouldContain(
            "tiny was not trained with conditioning frames"
        );

        using var model = Model("stdit2");
        using var ddim = model.Builder().UseSampler(SamplerKind.Ddim).Build();
        (await Should.ThrowAsync<ArgumentException>(ddim.Request("a goat").ConditionOn(Plain(8, 8, 1)).GenerateAsync())).Message.ShouldContain(
            "Ddim does not support conditioning frames; use Iddpm"
        );
        using var own = model.Builder().UseSampler(steps => new DpmSolver(steps)).Build();
        (await Should.ThrowAsync<InvalidOperationException>(own.Request("a goat").ConditionOn(Plain(8, 8, 1)).GenerateAsync())).Message.ShouldContain(
            "DpmSolver does not support conditioning frames"
        );

        var patches = new StdiTConfig
        {
            InputSize = [4, 8, 8],
            PatchSize = [2, 2, 2],
            HiddenSize = 32,
            Depth = 2,
            NumHeads = 2,
            CaptionChannels = HashTextEncoder.States,
            ModelMaxLength = HashTextEncoder.Tokens,
        };
        using var wrong = new TinyModel(d =>
            d with
            {
                Video = d.Video with { GivenFrames = true },
                Denoiser = d.Denoiser with { Config = ModelFolder.WriteConfig(patches) },
            }
        );
        using (var network = new StdiT(patches))
        {
            network.SaveWeights(wrong["stdit.safetensors"]);
        }

        using var never = wrong.Generator();
        (await Should.ThrowAsync<InvalidOperationException>(never.LoadAsync())).Message.ShouldContain("does not support conditioning frames");
    }

    [Fact]
    public async Task Progress_is_reported_and_canceling_leaves_nothing()
    {
        using var model = Model();
        using var generator = model.Generator();
        await generator.LoadAsync();
        var request = new VideoRequest { Prompt = "a goat", Frames = 8 }.ConditionOn(Plain(16, 16, 1, 2, 3, 4, 5));
        var before = TensorCount.Now;
        List<GenerationProgress> heard = [];
        await generator.GenerateAsync(request, new Listener(heard.Add));
        heard
            .Where(progress => progress.Stage == GenerationStage.EncodingReferences)
            .ShouldBe([
                new(GenerationStage.EncodingReferences, 0, 5),
                new(GenerationStage.EncodingReferences, 4, 5),
                new(GenerationStage.EncodingReferences, 5, 5),
            ]);
        heard
            .Select(progress => progress.Stage)
            .Distinct()
            .ShouldBe([GenerationStage.EncodingText, GenerationStage.EncodingReferences, GenerationStage.Denoising, GenerationStage.Decoding]);

        using var cancel = new CancellationTokenSource();
        await Should.ThrowAsync<OperationCanceledException>(
            generator.GenerateAsync(
                request,
                new Listener(progress =>
                {
                    if (progress is { Stage: GenerationStage.EncodingReferences, Step: 4 })
                    {
                        cancel.Cancel();
                    }
                }),
                cancel.Token
            )
        );
        TensorCount.ShouldBe(before);
    }

    [Fact]
    public void Requests_of_a_builder_are_independent()
    {
        using var model = Model();
        using var generator = model.Generator();
        var builder = generator.Request("a goat").ConditionOn(Plain(8, 8, 1));
        var first = builder.Build();
        var second = builder.ConditionOn(Plain(8, 8, 2), frame: -1).Build();
        (first.References.Count, first.MaskStrategies.Count).ShouldBe((1, 1));
        second.MaskStrategies.Select(strategy => strategy.ToString()).ShouldBe(["0,0,0,0,1,0", "0,1,0,-1,1,0"]);
    }
}
