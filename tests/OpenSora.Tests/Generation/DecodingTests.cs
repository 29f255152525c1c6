using System.Runtime.InteropServices;
using Microsoft.Extensions.Logging;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Generation;

/// <summary>Tests decoding in pieces and tiles, and what happens when memory runs out.</summary>
[Collection(nameof(LiveTensorCount))]
public class DecodingTests
{
    private const string LinuxMessage =
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4294967296 bytes. "
        + "Error code 12 (Cannot allocate memory)";

    private const string CudaMessage =
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139.80 GiB of which 1.2 GiB is free.";

    [Theory]
    [InlineData(4, 8, 100, 60, true, "4,1,1 2,1,1 1,1,1 1,2,1 1,2,2 1,3,2 1,4,2 1,4,3 1,5,3 1,6,3")]
    [InlineData(4, 8, 100, 60, false, "4,1,1 4,2,1 4,2,2 4,3,2 4,4,2 4,4,3 4,5,3 4,6,3 2,6,3 1,6,3")]
    [InlineData(4, 3, 24, 24, true, "3,1,1 2,1,1 1,1,1")]
    public void Pieces_become_smaller_step_by_step(int atOnce, int frames, int height, int width, bool independent, string expected)
    {
        using var autoencoder = new Limited { FramesAtOnce = atOnce, MixesFrames = !independent };
        string.Join(' ', DecodePlan.All(autoencoder, frames, height, width).Select(plan => $"{plan.Frames},{plan.Rows},{plan.Columns}"))
            .ShouldBe(expected);
    }

    [Fact]
    public void Tiles_cover_an_axis_and_overlap_with_their_neighbors_only()
    {
        for (var length = DecodePlan.MinTile; length < 300; length++)
        {
            for (var count = 1; ; count++)
            {
                var (starts, size) = DecodePlan.Along(length, count);
                if (count > 1 && size < DecodePlan.MinTile)
                {
                    break;
                }

                starts[0].ShouldBe(0);
                (starts[^1] + size).ShouldBe(length);
                for (var i = 1; i < count; i++)
                {
                    (starts[i - 1] + size - starts[i]).ShouldBeInRange(DecodePlan.Overlap, size / 2, $"{count} tiles of {length}");
                }
            }
        }
    }

    [Fact]
    public void Tiles_of_an_autoencoder_without_context_equal_the_whole()
    {
        using var scope = NewDisposeScope();
        using var autoencoder = new TinyVae();
        using var seed = new Generator(3);
        var latents = randn([2, 4, 3, 50, 70], generator: seed);
        var whole = autoencoder.Decode(latents);
        var tiled = LatentDecoder.Tiles(autoencoder, latents, new DecodePlan(3, 2, 3), default);
        (tiled - whole).abs().max().item<float>().ShouldBeLessThan(1e-6f);
    }

    [Fact]
    public async Task Tiles_of_the_bundled_autoencoder_have_no_seam()
    {
        using var generator = VideoGenerator.Create().UseModel("stickers").UseBackend("cpu").Build();
        var video = await generator.Request("a cat").Frames(9).Steps(2).Seed(1).GenerateAsync();
        using var autoencoder = Bundled();
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var frames = video.Frames.ToTensor(); // nine frames side by side are a picture of 384x384
        var picture = frames.view(1, 3, 3, 3, 128, 128).permute(0, 1, 2, 4, 3, 5).reshape(1, 3, 1, 384, 384);
        ShouldHaveNoSeam(autoencoder, autoencoder.Encode(picture), visible: 8);
    }

    [Fact]
    public void Tiles_of_an_autoencoder_shaped_as_that_of_Stable_Diffusion_have_no_seam()
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var config = new AutoencoderKLConfig { BlockOutChannels = [16, 32, 32, 32], NormNumGroups = 8 };
        using var autoencoder = new AutoencoderKL(config, initialize: false);
        using var seed = new Generator(5);
        autoencoder.Initialize(seed);
        ShouldHaveNoSeam(autoencoder, randn([1, 4, 1, 48, 56], generator: seed), visible: 8);
    }

    // The difference from the whole is about the same between tiles and within them, and changes by no step that could be seen.
    private static void ShouldHaveNoSeam(IVideoAutoencoder autoencoder, Tensor latents, double visible)
    {
        var plan = new DecodePlan(1, 2, 2);
        var whole = autoencoder.Decode(latents).clamp(-1, 1) * 127.5;
        var difference = LatentDecoder.Tiles(autoencoder, latents, plan, default).clamp(-1, 1) * 127.5 - whole;
        difference.abs().max().item<float>().ShouldBeGreaterThan(0, "Tiles are separate calls.");
        foreach (var axis in new[] { 3, 4 })
        {
            var (starts, size) = DecodePlan.Along((int)latents.shape[axis], 2);
            var (from, to) = (starts[1] * autoencoder.SpatialFactor, size * autoencoder.SpatialFactor);
            var length = difference.shape[axis];
            double Largest(Tensor part) => part.abs().max().item<float>();
            var between = Largest(difference.narrow(axis, from, to - from));
            var within = Math.Max(Largest(difference.narrow(axis, 0, from)), Largest(difference.narrow(axis, to, length - to)));
            between.ShouldBeLessThan(1.5 * within, $"axis {axis}");
            var steps = difference.narrow(axis, 1, length - 1) - difference.narrow(axis, 0, length - 1);
            var stepsWithin = Math.Max(Largest(steps.narrow(axis, 0, from - 1)), Largest(steps.narrow(axis, to, length - 1 - to)));
            Largest(steps.narrow(axis, from - 1, to - from + 1)).ShouldBeLessThan(Math.Max(visible, 1.5 * stepsWithin), $"axis {axis}");
        }
    }

    [Fact]
    public void The_budget_chooses_the_pieces()
    {
        using var autoencoder = Bundled();
        long[] shape = [1, 8, 24, 64, 64];
        double Bytes(DecodePlan plan) => LatentDecoder.Cost((ICosted)autoencoder, shape, plan).Bytes;
        LatentDecoder.Plan(autoencoder, shape, null).ShouldBe(new DecodePlan(4, 1, 1));
        LatentDecoder.Plan(autoencoder, shape, Bytes(new(4, 1, 1))).ShouldBe(new DecodePlan(4, 1, 1));
        LatentDecoder.Plan(autoencoder, shape, Bytes(new(4, 1, 1)) - 1).ShouldBe(new DecodePlan(2, 1, 1));
        LatentDecoder.Plan(autoencoder, shape, Bytes(new(1, 2, 1))).ShouldBe(new DecodePlan(1, 2, 1));
        LatentDecoder.Plan(autoencoder, shape, 1).ShouldBe(DecodePlan.All(autoencoder, 24, 64, 64).Last());
        using var custom = new TinyVae(); // does not tell its cost
        LatentDecoder.Plan(custom, [1, 4, 24, 64, 64], 1).ShouldBe(new DecodePlan(4, 1, 1));
    }

    [Fact]
    public async Task Fewer_frames_at_a_time_give_the_same_video()
    {
        async Task<byte[]> Pixels(long? memory)
        {
            using var generator = VideoGenerator
                .Create()
                .UseModel("stickers")
                .UseBackend("cpu")
                .Configure(options => options.DecodeMemory = memory)
                .Build();
            return (await generator.Request("a cat").Frames(5).Steps(1).Seed(1).GenerateAsync()).Frames.Pixels.ToArray();
        }

        var (four, one) = (await Pixels(null), await Pixels(1));
        four.Zip(one, (a, b) => Math.Abs(a - b)).Max().ShouldBeLessThanOrEqualTo(1); // convolutions of several images may round differently
    }

    [Theory]
    [InlineData(LinuxMessage, "4.3 GB could not be allocated")]
    [InlineData("DefaultCPUAllocator: not enough memory: you tried to allocate 1000000 bytes.", "1 MB could not be allocated")]
    [InlineData(CudaMessage, "20.00 GiB could not be allocated")]
    public async Task Out_of_memory_is_answered_by_smaller_pieces(string message, string logged)
    {
        using var model = new TinyModel(Large);
        var request = new VideoRequest
        {
            Prompt = "a goat",
            Frames = 8,
            Width = 256,
            Height = 200,
            Seed = 1,
        };
        using var plenty = model.Builder().UseVae(_ => new Limited()).Build();
        var expected = (await plenty.GenerateAsync(request)).Frames;
        var before = TensorCount.Settled;
        var autoencoder = new Limited { MaxPositions = 2 * 50 * 64, Message = message };
        var log = new List<string>();
        using (var generator = model.Builder().UseVae(_ => autoencoder).UseLogger(new ListLogger(log)).Build())
        {
            var frames = (await generator.GenerateAsync(request)).Frames;
            frames.Pixels.ToArray().ShouldBe(expected.Pixels.ToArray());
            autoencoder.Shapes.ShouldBe(["4x50x64", "2x50x64", "2x50x64", "2x50x64", "2x50x64"]);
            log.ShouldContain(line =>
                line.Contains("Memory ran out while decoding 4 frames of 256x200 pixels at a time", StringComparison.Ordinal)
                && line.Contains(logged, StringComparison.Ordinal)
                && line.Contains("continues with 2 frames of 256x200", StringComparison.Ordinal)
            );

            autoencoder.MaxPositions = 40 * 40;
            autoencoder.Shapes.Clear();
            frames = (await generator.GenerateAsync(request)).Frames;
            autoencoder.Shapes.Skip(3).ShouldAllBe(shape => shape == "1x29x36"); // after 4x50x64, 2x50x64 and 1x50x64, then 2x2 tiles
            autoencoder.Shapes.Count.ShouldBe(3 + 4 * 8, string.Join(' ', autoencoder.Shapes));
            frames.Pixels.ToArray().Zip(expected.Pixels.ToArray(), (a, b) => Math.Abs(a - b)).Max().ShouldBeLessThanOrEqualTo(1);
        }

        TensorCount.ShouldBe(before);
    }

    [Fact]
    public async Task A_failed_decode_can_be_repeated()
    {
        using var model = new TinyModel(Large);
        var before = TensorCount.Settled;
        var autoencoder = new Limited();
        using (var generator = model.Builder().UseVae(_ => autoencoder).Build())
        {
            var request = new VideoRequest
            {
                Prompt = "a goat",
                Frames = 2,
                Width = 128,
                Height = 128,
                Seed = 1,
            };
            var expected = await generator.GenerateAsync(request);
            autoencoder.MaxPositions = 10;
            var failed = await Should.ThrowAsync<DecodingException>(generator.GenerateAsync(request));
            failed.Message.ShouldContain("Memory ran out while decoding 1 frame of 128x128 pixels at a time: 4.3 GB could not be allocated");
            failed.Message.ShouldContain("call DecodeAsync");
            failed.InnerException.ShouldBeOfType<ExternalException>();
            failed = await Should.ThrowAsync<DecodingException>(failed.DecodeAsync()); // there still is no memory

            autoencoder.MaxPositions = long.MaxValue;
            List<GenerationStage> heard = [];
            var video = await failed.DecodeAsync(new Listener(p => heard.Add(p.Stage)));
            heard.Distinct().ShouldBe([GenerationStage.Decoding]);
            video.Frames.Pixels.ToArray().ShouldBe(expected.Frames.Pixels.ToArray());
            (video.Prompt, video.Seed, video.Steps, video.Model).ShouldBe((expected.Prompt, expected.Seed, expected.Steps, expected.Model));

            autoencoder.Broken = true;
            failed = await Should.ThrowAsync<DecodingException>(generator.GenerateAsync(request));
            failed.Message.ShouldBe("The autoencoder failed: It broke.");
            autoencoder.Broken = false;
            (await failed.DecodeAsync()).Frames.Pixels.ToArray().ShouldBe(expected.Frames.Pixels.ToArray());
            generator.Dispose();
            await Should.ThrowAsync<ObjectDisposedException>(failed.DecodeAsync());
        }

        TensorCount.ShouldBe(before);
    }

    [Fact]
    public async Task Out_of_memory_while_denoising_is_explained()
    {
        using var model = new TinyModel();
        using var generator = model.Builder().UseSampler(_ => new Greedy()).Build();
        var exception = await Should.ThrowAsync<InsufficientMemoryException>(generator.Request("a goat").Frames(2).Size(16, 8).GenerateAsync());
        exception.Message.ShouldContain("Memory ran out while generating 2 frames of 16x8 pixels: 4.3 GB could not be allocated.");
        exception.Message.ShouldContain("denoising");
        exception.Message.ShouldContain("Request fewer frames or a smaller size");
        exception.InnerException.ShouldBeOfType<ExternalException>();
    }

    [Fact]
    public void A_pipeline_reports_the_exceptions_of_its_parts()
    {
        using var transformer = new StdiT(
            new StdiTConfig
            {
                InputSize = [2, 8, 8],
                HiddenSize = 16,
                Depth = 1,
                NumHeads = 2,
                CaptionChannels = HashTextEncoder.States,
                ModelMaxLength = HashTextEncoder.Tokens,
            }
        );
        using var text = new HashTextEncoder();
        using var autoencoder = new Limited { MaxPositions = 1 };
        var pipeline = new VideoPipeline(transformer, text, autoencoder, new OpenSora.Diffusion.DpmSolver(1));
        Should.Throw<InsufficientMemoryException>(() => pipeline.Generate(["a goat"])).Message.ShouldContain("2 frames of 32x32 pixels");
        autoencoder.Broken = true;
        Should.Throw<NotSupportedException>(() => pipeline.Generate(["a goat"])).Message.ShouldBe("It broke.");
    }

    [Fact]
    public void Real_failures_of_libtorch_are_recognized()
    {
        var exception = Should.Throw<ExternalException>(() => empty([1L << 50]));
        OpenSora.Runtime.OutOfMemory.Is(exception).ShouldBeTrue(exception.Message);
        OpenSora.Runtime.OutOfMemory.Requested(exception).ShouldBe("4503599.6 GB");
        OpenSora.Runtime.OutOfMemory.Is(Should.Throw<ExternalException>(() => ones(2) + ones(3))).ShouldBeFalse();
    }

    private static ModelDescription Large(ModelDescription description) =>
        description with
        {
            Video = description.Video with { WidthRange = new(8, 512, 4), HeightRange = new(8, 512, 4) },
        };

    private static AutoencoderKL Bundled()
    {
        var folder = ModelFolder.Open("stickers");
        var part = folder.Description.Vae;
        return (AutoencoderKL)AutoencoderKL.Architecture.Load(AutoencoderKL.Architecture.ReadConfig(part.Config), folder.WeightsOf(part));
    }

    /// <summary>An autoencoder that fails as libtorch does if its input is larger than a limit.</summary>
    private sealed class Limited : IVideoAutoencoder
    {
        private readonly TinyVae _inner = new();

        public long MaxPositions { get; set; } = long.MaxValue;

        public string Message { get; init; } = LinuxMessage;

        public bool Broken { get; set; }

        public List<string> Shapes { get; } = [];

        public int LatentChannels => _inner.LatentChannels;

        public int SpatialFactor => _inner.SpatialFactor;

        public int TemporalFactor => 1;

        public int FramesAtOnce { get; init; } = 4;

        public bool MixesFrames { get; init; }

        public Tensor Encode(Tensor video, Generator? generator = null) => _inner.Encode(video, generator);

        public Tensor Decode(Tensor latents)
        {
            var shape = latents.shape;
            Shapes.Add($"{shape[2]}x{shape[3]}x{shape[4]}");
            return Broken ? throw new NotSupportedException("It broke.")
                : shape[2] * shape[3] * shape[4] > MaxPositions ? throw new ExternalException(Message)
                : _inner.Decode(latents);
        }

        public void Dispose() => _inner.Dispose();
    }

    private sealed class Greedy : OpenSora.Diffusion.ISampler
    {
        public int? GuidedChannels => null;

        public IReadOnlyList<double> Timesteps(long[] shape) => [500];

        public Tensor Step(OpenSora.Diffusion.SamplingState state, Tensor x, Tensor output) => throw new ExternalException(LinuxMessage);
    }

    private sealed class ListLogger(List<string> lines) : ILogger
    {
        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => true;

        public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter) =>
            lines.Add(formatter(state, exception));
    }
}
