using System.Security.Cryptography;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Options;
using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Training.Stages;
using OpenSora.Weights;
using static TorchSharp.torch;

namespace OpenSora.Tests.Generation;

/// <summary>Marks tests that count all tensors of the process, so that no other test runs at the same time.</summary>
[CollectionDefinition(nameof(LiveTensorCount), DisableParallelization = true)]
public sealed class LiveTensorCount;

[Collection(nameof(LiveTensorCount))]
public class VideoGeneratorTests
{
    private static string Bytes(GeneratedVideo video) => Convert.ToHexString(SHA256.HashData(video.Frames.Pixels.Span));

    [Fact]
    public async Task A_prompt_becomes_a_video_of_the_models_own_size()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        var video = await generator.Request("a goat").Seed(42).GenerateAsync();
        (video.Frames.Count, video.Frames.Width, video.Frames.Height, video.Frames.FramesPerSecond).ShouldBe((4, 32, 32, 6.0));
        video.Frames.Pixels.ToArray().Distinct().Count().ShouldBeGreaterThan(20);
        (video.Prompt, video.NegativePrompt, video.Seed, video.Steps, video.GuidanceScale).ShouldBe(("a goat", null, 42, 4, 3.0));
        (video.Sampler, video.Model, video.Backend).ShouldBe(("Iddpm", "tiny", "cpu"));
        video.Elapsed.ShouldBeGreaterThan(TimeSpan.Zero);
        video.Warnings.ShouldBeEmpty();
    }

    [Fact]
    public async Task A_models_own_parts_are_read_from_its_folder()
    {
        using var model = new TinyModel();
        var before = TensorCount.Settled;
        using (var generator = model.Whole())
        {
            var video = await generator.Request("a goat").Seed(1).GenerateAsync();
            (video.Frames.Count, video.Frames.Width, video.Frames.Height).ShouldBe((4, 32, 32));
            Bytes(await generator.Request("a boat").Seed(1).GenerateAsync()).ShouldNotBe(Bytes(video));
            Bytes(await generator.Request("<b>A goat</b>").Seed(1).GenerateAsync()).ShouldBe(Bytes(video)); // captions are cleaned
            await generator.Request(string.Concat(Enumerable.Repeat("ziege 山羊 🐐 ", 1000))).Seed(1).GenerateAsync();
            await generator.Request("").GenerateAsync();

            var concurrent = await Task.WhenAll(Enumerable.Range(0, 4).Select(_ => generator.Request("a goat").Seed(1).GenerateAsync()));
            concurrent.Select(Bytes).ShouldAllBe(bytes => bytes == Bytes(video));
        }
        TensorCount.ShouldBe(before, settled: true);
    }

    [Fact]
    public async Task Every_value_of_a_request_has_an_effect()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        var plain = Bytes(await generator.Request("a goat").Seed(1).GenerateAsync());
        Bytes(await generator.Request("a goat").Seed(1).GenerateAsync()).ShouldBe(plain);
        Bytes(await model.Generator().Request("a goat").Seed(1).GenerateAsync()).ShouldBe(plain);

        VideoRequestBuilder Request() => generator.Request("a goat").Seed(1);
        foreach (
            var other in new[]
            {
                generator.Request("a boat").Seed(1),
                Request().Seed(2),
                Request().Steps(5),
                Request().GuidanceScale(4),
                Request().GuidanceScale(1),
                Request().NegativePrompt("a boat"),
            }
        )
        {
            Bytes(await other.GenerateAsync()).ShouldNotBe(plain);
        }

        var sized = await Request().Frames(3).Size(24, 40).Fps(9.5).GenerateAsync();
        (sized.Frames.Count, sized.Frames.Width, sized.Frames.Height, sized.Frames.FramesPerSecond).ShouldBe((3, 24, 40, 9.5));
        Bytes(await Request().Fps(30).NegativePrompt(" ").GenerateAsync()).ShouldBe(plain);
    }

    [Fact]
    public async Task A_seed_that_was_drawn_makes_the_video_again()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        var first = await generator.Request("a goat").GenerateAsync();
        var second = await generator.Request("a goat").GenerateAsync();
        second.Seed.ShouldNotBe(first.Seed);
        Bytes(await generator.Request("a goat").Seed(first.Seed).GenerateAsync()).ShouldBe(Bytes(first));
        Bytes(await generator.Request("a goat").Seed(-5).GenerateAsync()).ShouldNotBe(Bytes(first));
    }

    [Theory]
    [InlineData(SamplerKind.Iddpm)]
    [InlineData(SamplerKind.Ddim)]
    [InlineData(SamplerKind.DpmSolver)]
    public async Task Every_sampler_can_be_requested(SamplerKind sampler)
    {
        using var model = new TinyModel();
        using var generator = model.Builder().UseSampler(sampler).Build();
        (await generator.Request("a goat").Seed(1).GenerateAsync()).Sampler.ShouldBe(sampler.ToString());
    }

    [Fact]
    public async Task A_rectified_flow_is_sampled_only_as_a_rectified_flow()
    {
        static ModelDescription Flow(ModelDescription model, bool shift) =>
            model with
            {
                Diffusion = new() { ShiftBySize = shift },
                Sampling = model.Sampling with { Sampler = SamplerKind.RectifiedFlow },
            };
        using var model = new TinyModel(d => Flow(d, shift: true));
        using var unshifted = new TinyModel(d => Flow(d, shift: false));
        using var generator = model.Generator();
        var video = await generator.Request("a goat").Seed(1).GenerateAsync();
        video.Sampler.ShouldBe(nameof(RectifiedFlow));
        using var other = unshifted.Generator();
        Bytes(await other.Request("a goat").Seed(1).GenerateAsync()).ShouldNotBe(Bytes(video));

        Refused(model, SamplerKind.Ddim).ShouldContain("use RectifiedFlow");
        using var gaussian = new TinyModel();
        Refused(gaussian, SamplerKind.RectifiedFlow).ShouldContain("use Iddpm");

        static string Refused(TinyModel model, SamplerKind sampler) =>
            Should.Throw<OptionsValidationException>(() => model.Builder().UseSampler(sampler).Build()).Message;
    }

    [Fact]
    public async Task A_custom_sampler_receives_the_steps()
    {
        using var model = new TinyModel();
        using var generator = model.Builder().UseSampler(steps => new Ddim(steps, eta: 0.5)).Build();
        using var standard = model.Builder().UseSampler(SamplerKind.Ddim).Build();
        var video = await generator.Request("a goat").Seed(1).Steps(3).GenerateAsync();
        Bytes(video).ShouldNotBe(Bytes(await standard.Request("a goat").Seed(1).Steps(3).GenerateAsync()));
    }

    [Fact]
    public async Task Concurrent_requests_give_the_same_results_as_single_ones()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        VideoRequest[] requests =
        [
            .. Enumerable
                .Range(0, 8)
                .Select(i => new VideoRequest
                {
                    Prompt = i % 2 == 0 ? "a goat" : "a red boat",
                    Seed = i / 2,
                    Frames = 2 + i % 3,
                }),
        ];
        var together = await Task.WhenAll(requests.Select(r => generator.GenerateAsync(r)));
        for (var i = 0; i < requests.Length; i++)
        {
            Bytes(await generator.GenerateAsync(requests[i])).ShouldBe(Bytes(together[i]));
        }
    }

    [Fact]
    public async Task Progress_reports_every_stage_and_step_in_order()
    {
        using var model = new TinyModel();
        using var folder = new TemporaryFolder();
        using var generator = model.Generator();
        List<GenerationProgress> heard = [];
        var video = await generator.Request("a goat").Frames(8).Steps(3).GenerateAsync(new Listener(heard.Add));
        await video.SaveGifAsync(folder["a.gif"], new Listener(heard.Add));

        heard.Select(p => p.Stage).ShouldBe(heard.Select(p => p.Stage).Order());
        heard
            .GroupBy(p => p.Stage)
            .ToDictionary(g => g.Key, g => string.Join(' ', g.Select(p => $"{p.Step}/{p.Steps}")))
            .ShouldBe(
                new Dictionary<GenerationStage, string>
                {
                    [GenerationStage.Loading] = "0/3 1/3 2/3 3/3",
                    [GenerationStage.EncodingText] = "0/1 1/1",
                    [GenerationStage.Denoising] = "0/3 1/3 2/3 3/3",
                    [GenerationStage.Decoding] = "0/8 4/8 8/8",
                    [GenerationStage.Writing] = "0/1 1/1",
                },
                ignoreOrder: true
            );

        heard.Clear();
        await generator.Request("a goat").GenerateAsync(new Listener(heard.Add));
        heard.ShouldNotContain(p => p.Stage == GenerationStage.Loading); // only once
    }

    // There, a few generations would keep the other requests of a web application waiting.
    [Fact]
    public async Task Computations_do_not_run_on_thread_pool_threads()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        HashSet<(GenerationStage Stage, bool IsPool)> heard = [];
        var progress = new Listener(p => heard.Add((p.Stage, Thread.CurrentThread.IsThreadPoolThread)));
        await generator.Request("a goat").Steps(2).GenerateAsync(progress);
        GenerationStage[] expected = [GenerationStage.Loading, GenerationStage.EncodingText, GenerationStage.Denoising, GenerationStage.Decoding];
        heard.ShouldBe(expected.Select(stage => (stage, false)), ignoreOrder: true);
    }

    [Theory]
    [InlineData(GenerationStage.Loading)]
    [InlineData(GenerationStage.EncodingText)]
    [InlineData(GenerationStage.Denoising)]
    [InlineData(GenerationStage.Decoding)]
    public async Task Canceling_in_any_stage_leaves_no_tensor_and_a_generator_that_works(GenerationStage stage)
    {
        using var model = new TinyModel();
        var before = TensorCount.Settled;
        var generator = model.Generator();
        using (var cancel = new CancellationTokenSource())
        {
            List<GenerationStage> heard = [];
            await Should.ThrowAsync<OperationCanceledException>(
                generator
                    .Request("a goat")
                    .GenerateAsync(
                        new Listener(p =>
                        {
                            heard.Add(p.Stage);
                            if (p.Stage == stage)
                            {
                                cancel.Cancel();
                            }
                        }),
                        cancel.Token
                    )
            );
            heard[^1].ShouldBe(stage);
        }
        (await generator.Request("a goat").GenerateAsync()).Frames.Count.ShouldBe(4);
        generator.Dispose();
        TensorCount.ShouldBe(before, settled: true);
    }

    [Fact]
    public async Task Generating_leaves_no_tensor()
    {
        using var model = new TinyModel();
        var before = TensorCount.Settled;
        using (var generator = model.Generator())
        {
            await generator.LoadAsync();
            var loaded = TensorCount.Settled;
            loaded.ShouldBeGreaterThan(before);
            await generator.Request("a goat").NegativePrompt("a boat").GenerateAsync();
            TensorCount.ShouldBe(loaded, settled: true);
            await generator.Request("").Size(16, 8).GenerateAsync();
            TensorCount.ShouldBe(loaded, settled: true);
        }
        TensorCount.ShouldBe(before, settled: true);
    }

    [Fact]
    public async Task Progress_that_throws_ends_only_its_request()
    {
        using var model = new TinyModel();
        var before = TensorCount.Settled;
        using (var generator = model.Generator())
        {
            (
                await Should.ThrowAsync<InvalidOperationException>(
                    generator.Request("a goat").GenerateAsync(new Listener(p => throw new InvalidOperationException("no more")))
                )
            ).Message.ShouldBe("no more");
            await generator.Request("a goat").GenerateAsync();
        }
        TensorCount.ShouldBe(before, settled: true);
    }

    [Fact]
    public async Task Empty_prompts_are_unconditional_and_long_ones_are_truncated()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        var empty = Bytes(await generator.Request("").Seed(1).GenerateAsync());
        Bytes(await generator.Request(" \n").Seed(1).GuidanceScale(9).NegativePrompt("a boat").GenerateAsync()).ShouldBe(empty);
        Bytes(await generator.Request("a goat").Seed(1).GenerateAsync()).ShouldNotBe(empty);

        var words = string.Join(' ', Enumerable.Repeat("goat", 2000)); // 10,000 characters
        Bytes(await generator.Request(words).Seed(1).GenerateAsync())
            .ShouldBe(Bytes(await generator.Request(words + " boat").Seed(1).GenerateAsync()));

        Should.Throw<ArgumentNullException>(() => generator.Request(null!));
        await Should.ThrowAsync<ArgumentException>(() => generator.GenerateAsync(new VideoRequest { Prompt = null! }));
    }

    public static TheoryData<Action<VideoRequest>, string> Mistakes =>
        new()
        {
            { r => r.Frames = 0, "Frames is 0" },
            { r => r.Frames = 9, "Frames is 9; tiny supports 1 to 8" },
            { r => r.Steps = 0, "Steps is 0" },
            { r => r.Steps = -3, "Steps is -3" },
            { r => r.Steps = 2000, "Steps is 2000" },
            { r => r.GuidanceScale = double.PositiveInfinity, "GuidanceScale is" },
            { r => r.FramesPerSecond = -1, "FramesPerSecond is -1" },
            { r => r.Width = 32, "Width and Height must be set together" },
            { r => (r.Width, r.Height) = (0, -8), "Width is 0; it must be at least 1 pixel. Height is -8" },
            { r => (r.Width, r.Height) = (33, 32), "Width is 33; tiny supports 8 to 64 in steps of 4" },
            { r => (r.Width, r.Height) = (32, 36), "Height is 36; it must be a multiple of 8" },
            {
                r => (r.Width, r.Height, r.Frames) = (68, 128, 100),
                "Width is 68; tiny supports 8 to 64 in steps of 4. Height is 128; tiny supports 8 to 64 in steps of 4. Frames is 100"
            },
        };

    [Theory]
    [MemberData(nameof(Mistakes))]
    public async Task Unsupported_requests_are_rejected_with_the_supported_values(Action<VideoRequest> mistake, string message)
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        var request = new VideoRequest { Prompt = "a goat" };
        mistake(request);
        (await Should.ThrowAsync<ArgumentException>(generator.GenerateAsync(request))).Message.ShouldContain(message);
    }

    [Fact]
    public async Task Options_override_the_model_and_requests_override_options()
    {
        using var model = new TinyModel();
        using var generator = model
            .Builder()
            .Configure(o => (o.Frames, o.Steps, o.Width, o.Height, o.FramesPerSecond, o.GuidanceScale) = (2, 3, 16, 24, 5, 2))
            .Build();
        var video = await generator.Request("a goat").Steps(2).GenerateAsync();
        (video.Frames.Count, video.Frames.Width, video.Frames.Height, video.Frames.FramesPerSecond).ShouldBe((2, 16, 24, 5.0));
        (video.Steps, video.GuidanceScale).ShouldBe((2, 2.0));
    }

    [Fact]
    public async Task Precision_changes_only_matrix_multiplications()
    {
        using var model = new TinyModel();
        using var exact = model.Generator();
        using var coarse = model.Builder().Configure(o => o.Precision = ScalarType.BFloat16).Build();
        var (a, b) = (await exact.Request("a goat").Seed(1).GenerateAsync(), await coarse.Request("a goat").Seed(1).GenerateAsync());
        Bytes(b).ShouldNotBe(Bytes(a));
        a.Frames.Pixels.ToArray().Zip(b.Frames.Pixels.ToArray(), (x, y) => Math.Abs(x - y)).Average().ShouldBeLessThan(8);
    }

    [Fact]
    public async Task Models_that_cannot_be_read_are_reported_and_can_be_repaired()
    {
        using var model = new TinyModel();
        var before = TensorCount.Settled;
        using (var generator = model.Generator())
        {
            var weights = await File.ReadAllBytesAsync(model["stdit.safetensors"]);
            await File.WriteAllBytesAsync(model["stdit.safetensors"], weights[..(weights.Length / 2)]);
            await Should.ThrowAsync<InvalidWeightsException>(generator.LoadAsync());
            TensorCount.ShouldBe(before, settled: true);
            await File.WriteAllBytesAsync(model["stdit.safetensors"], weights);
            await generator.LoadAsync();
        }
        TensorCount.ShouldBe(before, settled: true);
        Should
            .Throw<OptionsValidationException>(() => VideoGenerator.Create().UseModel("no-such-model").Build())
            .Message.ShouldContain("OpenSora:Model is 'no-such-model': ");
        using var future = new TinyModel(d => d with { Denoiser = d.Denoiser with { Architecture = "stdit9" } });
        Should.Throw<OptionsValidationException>(() => future.Generator()).Message.ShouldContain("'stdit9'; the architectures known for");
        using var without = new TinyModel(d => d with { TextEncoder = d.TextEncoder with { Tokenizer = null } });
        using var whole = without.Whole();
        (await Should.ThrowAsync<InvalidModelException>(whole.LoadAsync())).Message.ShouldContain(
            "names no tokenizer, which the text encoder t5 requires"
        );
    }

    [Fact]
    public async Task Overflowing_numbers_are_reported()
    {
        using var model = new TinyModel(spread: 1000);
        var before = TensorCount.Settled;
        using (var generator = model.Generator())
        {
            (await Should.ThrowAsync<InvalidOperationException>(generator.Request("a goat").Seed(1).GenerateAsync())).Message.ShouldContain(
                "not finite"
            );
        }

        TensorCount.ShouldBe(before, settled: true);
    }

    [Fact]
    public async Task Parts_that_do_not_fit_the_model_are_rejected()
    {
        using var model = new TinyModel();
        var before = TensorCount.Settled;
        using (var generator = model.Builder().UseVae(_ => new WideVae()).Build())
        {
            (await Should.ThrowAsync<InvalidOperationException>(generator.LoadAsync())).Message.ShouldContain(
                "WideVae has 9 latent channels, but tiny expects 4"
            );
        }

        using (var generator = model.Builder().UseTextEncoder(_ => new WideEncoder()).Build())
        {
            (await Should.ThrowAsync<InvalidOperationException>(generator.LoadAsync())).Message.ShouldContain("width 99");
        }

        TensorCount.ShouldBe(before, settled: true);
    }

    [Fact]
    public async Task A_text_encoder_can_be_released_after_every_prompt()
    {
        using var model = new TinyModel();
        var before = HashTextEncoder.Alive;
        using (var generator = model.Generator())
        {
            await generator.LoadAsync();
            HashTextEncoder.Alive.ShouldBe(before + 1);
            var kept = Bytes(await generator.Request("a goat").Seed(1).GenerateAsync());
            using var sparing = model.Builder().Configure(o => o.TextEncoderResidency = Residency.Release).Build();
            Bytes(await sparing.Request("a goat").Seed(1).GenerateAsync()).ShouldBe(kept);
            HashTextEncoder.Alive.ShouldBe(before + 1);
        }
        HashTextEncoder.Alive.ShouldBe(before);
    }

    [Fact]
    public async Task Disposing_rejects_new_requests_and_lets_running_ones_finish()
    {
        using var model = new TinyModel();
        var before = TensorCount.Settled;
        var generator = model.Generator();
        var video = await generator
            .Request("a goat")
            .GenerateAsync(
                new Listener(p =>
                {
                    if (p.Stage == GenerationStage.Denoising)
                    {
                        generator.Dispose();
                    }
                })
            );
        video.Frames.Count.ShouldBe(4);
        TensorCount.ShouldBe(before, settled: true);
        await Should.ThrowAsync<ObjectDisposedException>(generator.Request("a goat").GenerateAsync());
        generator.Dispose();
    }

    [Fact]
    public async Task Results_are_written_in_every_format_and_outlive_the_generator()
    {
        using var model = new TinyModel();
        using var folder = new TemporaryFolder();
        GeneratedVideo video;
        using (var generator = model.Generator())
        {
            video = await generator.Request("a goat").GenerateAsync();
        }

        await video.SaveMp4Async(folder["new/a.mp4"]);
        await video.SaveGifAsync(folder["new/a.gif"]);
        await video.SavePngSequenceAsync(folder["new/frames"]);
        await video.SaveContactSheetAsync(folder["new/a.png"], columns: 2);
        Directory
            .GetFileSystemEntries(folder["new"])
            .Select(Path.GetFileName)
            .Order(StringComparer.Ordinal)
            .ShouldBe(["a.gif", "a.mp4", "a.png", "frames"]);
        (await new OpenSora.Media.VideoReader().ReadAsync(folder["new/a.mp4"])).Count.ShouldBe(4);
    }

    [Fact]
    public async Task Canceling_while_writing_leaves_no_file()
    {
        using var model = new TinyModel();
        using var folder = new TemporaryFolder();
        using var generator = model.Generator();
        var video = await generator.Request("a goat").GenerateAsync();
        using var cancel = new CancellationTokenSource();
        var stop = new Listener(p => cancel.Cancel());
        await Should.ThrowAsync<OperationCanceledException>(video.SaveMp4Async(folder["a.mp4"], stop, cancel.Token));
        await Should.ThrowAsync<OperationCanceledException>(video.SaveContactSheetAsync(folder["a.png"], 2, stop, cancel.Token));
        await Should.ThrowAsync<OperationCanceledException>(video.SavePngSequenceAsync(folder["frames"], stop, cancel.Token));
        folder.Entries.ShouldBeEmpty();
    }

    [Fact]
    public async Task A_container_injects_services_into_parts()
    {
        using var model = new TinyModel();
        var before = TensorCount.Settled;
        await using (
            var services = new ServiceCollection()
                .AddSingleton(new Greeting("hello"))
                .AddOpenSora(o => (o.Model, o.Backend) = (model.Path, "cpu"))
                .UseVae<TinyVae>()
                .UseTextEncoder<GreetingEncoder>()
                .Services.BuildServiceProvider()
        )
        {
            var video = await services.GetRequiredService<VideoGenerator>().Request("a goat").GenerateAsync();
            video.Frames.Count.ShouldBe(4);
            GreetingEncoder.Heard.ShouldBe($"hello from {model.Path} on cpu");
        }
        TensorCount.ShouldBe(before, settled: true); // the container disposed of the generator
    }

    private sealed record Greeting(string Text);

    private sealed class GreetingEncoder : ITextEncoder
    {
        private readonly HashTextEncoder _inner = new();

        public GreetingEncoder(Greeting greeting, ModelFolder folder, Device device) => Heard = $"{greeting.Text} from {folder.Path} on {device}";

        // The provider knows no such service, so that it takes the other constructor.
        public GreetingEncoder(Greeting greeting, ModelFolder folder, Device device, Uri unknown) =>
            Heard = $"{greeting.Text} {folder.Path} {device} {unknown}";

        public static string? Heard { get; private set; }

        public int Width => _inner.Width;

        public int MaxTokens => _inner.MaxTokens;

        public TextStates Encode(IReadOnlyList<string> prompts) => _inner.Encode(prompts);

        public void Dispose() => _inner.Dispose();
    }

    private sealed class WideVae : IVideoAutoencoder
    {
        public int LatentChannels => 9;

        public int SpatialFactor => 4;

        public int TemporalFactor => 1;

        public Tensor Encode(Tensor video, Generator? generator = null) => throw new NotSupportedException("Not called.");

        public Tensor Decode(Tensor latents) => throw new NotSupportedException("Not called.");

        public void Dispose() { }
    }

    private sealed class WideEncoder : ITextEncoder
    {
        public int Width => 99;

        public int MaxTokens => 6;

        public TextStates Encode(IReadOnlyList<string> prompts) => throw new NotSupportedException("Not called.");

        public void Dispose() { }
    }
}
