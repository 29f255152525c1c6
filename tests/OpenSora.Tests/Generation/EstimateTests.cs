using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.Models;
using OpenSora.Runtime;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Generation;

/// <summary>Tests the estimates of memory and time. docs/lab/performance.md compares them with measurements.</summary>
public class EstimateTests
{
    private static VideoRequest Request(int frames = 4, int size = 32) =>
        new()
        {
            Prompt = "a goat",
            Frames = frames,
            Width = size,
            Height = size,
            Seed = 1,
        };

    [Fact]
    public async Task Memory_consists_of_weights_and_the_largest_stage()
    {
        using var model = new TinyModel();
        using var generator = model.Whole();
        var estimate = await generator.EstimateMemoryAsync(Request());
        var files = Directory.GetFiles(model.Path, "*.safetensors").Sum(path => new FileInfo(path).Length);
        estimate.Weights.ShouldBeGreaterThan(files / 3);

        // Only a request that encodes frames needs the encoder of the autoencoder, which otherwise stays in the mapped file.
        var edit = Request();
        edit.EditVideo(new VideoFrames(new byte[3 * 4 * 32 * 32], 4, 32, 32, 8), 0.5);
        var encodes = await generator.EstimateMemoryAsync(edit);
        ((double)encodes.Weights).ShouldBe(files, 0.15 * files); // files have headers, and no buffers
        using var file = WeightsFile.Open(model["vae.safetensors"]);
        var encoder = file.Tensors.Where(named => named.Key.StartsWith("encoder.", StringComparison.Ordinal));
        (encodes.Weights - estimate.Weights).ShouldBe(encoder.Sum(named => 4 * named.Value.Shape.Aggregate(1L, (all, side) => all * side)));
        estimate.Frames.ShouldBe(3 * 4 * 32 * 32);
        estimate.Peak.ShouldBe(estimate.Weights + Math.Max(estimate.TextEncoding, Math.Max(estimate.Denoising, estimate.Decoding + estimate.Frames)));
        estimate.ToString().ShouldContain("weights");
    }

    [Fact]
    public async Task Memory_grows_with_the_size_and_with_guidance()
    {
        using var model = new TinyModel();
        using var generator = model.Whole();
        var (small, large) = (await generator.EstimateMemoryAsync(Request(4)), await generator.EstimateMemoryAsync(Request(8)));
        ((double)large.Denoising).ShouldBe(2 * small.Denoising, 0.1 * large.Denoising);
        large.Decoding.ShouldBe(small.Decoding); // in pieces of four frames
        large.Frames.ShouldBe(2 * small.Frames);
        (await generator.EstimateMemoryAsync(Request(4, 64))).Decoding.ShouldBe(4 * small.Decoding);
        var alone = Request(4);
        alone.GuidanceScale = 1;
        ((double)(await generator.EstimateMemoryAsync(alone)).Denoising).ShouldBe(small.Denoising / 2, 0.1 * small.Denoising);
    }

    [Fact]
    public async Task A_released_text_encoder_counts_only_while_it_encodes()
    {
        using var model = new TinyModel();
        using var kept = model.Whole();
        using var released = VideoGenerator
            .Create()
            .UseModel(model.Path)
            .UseBackend("cpu")
            .Configure(options => options.TextEncoderResidency = Residency.Release)
            .Build();
        var (with, without) = (await kept.EstimateMemoryAsync(Request()), await released.EstimateMemoryAsync(Request()));
        without.Weights.ShouldBeLessThan(with.Weights);
        (without.TextEncoding - with.TextEncoding).ShouldBe(with.Weights - without.Weights);
        var file = new FileInfo(model["t5.safetensors"]).Length; // with a header
        ((double)(with.Weights - without.Weights)).ShouldBe(file, 0.02 * file);

        using var streamed = VideoGenerator
            .Create()
            .UseModel(model.Path)
            .UseBackend("cpu")
            .Configure(options => options.TransformerResidency = Residency.Stream)
            .Build();
        var one = await streamed.EstimateMemoryAsync(Request());
        var transformer = with.Weights - one.Weights;
        (one.Denoising - with.Denoising).ShouldBeInRange(transformer / 3, transformer * 9 / 10); // the larger of two blocks, and the other layers
    }

    [Fact]
    public async Task Decoding_stays_within_its_budget()
    {
        using var generator = VideoGenerator
            .Create()
            .UseModel("stickers")
            .UseBackend("cpu")
            .Configure(options => options.DecodeMemory = 10_000_000)
            .Build();
        var estimate = await generator.EstimateMemoryAsync(new VideoRequest { Prompt = "a cat" });
        estimate.Decoding.ShouldBeInRange(5_000_000, 10_000_000);
    }

    [Fact]
    public async Task The_time_is_known_after_one_request()
    {
        using var model = new TinyModel();
        using var generator = model.Whole();
        (await generator.EstimateTimeAsync(Request())).ShouldBeNull();
        await generator.GenerateAsync(Request());
        var four = Request();
        var forty = Request();
        (four.Steps, forty.Steps) = (4, 40);
        var (few, many) = ((await generator.EstimateTimeAsync(four))!.Value, (await generator.EstimateTimeAsync(forty))!.Value);
        few.ShouldBeGreaterThan(TimeSpan.Zero);
        many.ShouldBeGreaterThan(few); // by how much depends on how fast the text was encoded; the test below has exact times
    }

    [Fact]
    public void Times_are_those_of_the_closest_request_scaled_by_its_work()
    {
        static RequestCost Cost(double step, double decoding) => new(new MemoryEstimate(), step, decoding);
        var clock = new StageClock(null);
        clock.Report(new(GenerationStage.EncodingText, 1, 1));
        clock.Report(new(GenerationStage.Denoising, 0, 2));
        for (var step = 1; step <= 2; step++)
        {
            Thread.Sleep(20);
            clock.Report(new(GenerationStage.Denoising, step, 2));
        }

        clock.Report(new(GenerationStage.Decoding, 0, 8));
        Thread.Sleep(10);
        clock.Report(new(GenerationStage.Decoding, 4, 8));
        clock.Report(new(GenerationStage.Decoding, 8, 8));
        clock.IsComplete.ShouldBeTrue();

        var calibration = new Calibration();
        calibration.Estimate(Cost(1, 1), 1).ShouldBeNull();
        calibration.Add(Cost(100, 50), clock);
        var expected = clock.Before + 10 * 2 * clock.Step + 3 * clock.Decoding;
        calibration.Estimate(Cost(200, 150), 10)!.Value.TotalSeconds.ShouldBe(expected.TotalSeconds, 1e-6);
        calibration.Estimate(Cost(200, 150) with { Step = null }, 10).ShouldBeNull();

        // With larger requests, the operators are more efficient: up to 4 times the work.
        var gained = clock.Before + 10 * Math.Pow(2, 0.9) * clock.Step + 8 / Math.Pow(4, 0.1) * clock.Decoding;
        calibration.Estimate(Cost(200, 400) with { Gain = 0.1 }, 10)!.Value.TotalSeconds.ShouldBe(gained.TotalSeconds, 1e-6);
    }

    [Fact]
    public async Task Requests_that_cannot_fit_are_refused_before_the_work()
    {
        using var model = new TinyModel(d => d with { Video = d.Video with { WidthRange = new(8, 8192, 4), HeightRange = new(8, 8192, 4) } });
        using var generator = model.Whole();
        await generator.LoadAsync();
        List<GenerationProgress> heard = [];
        var error = await Should.ThrowAsync<InsufficientMemoryException>(generator.GenerateAsync(Request(8, 8192), new Listener(heard.Add)));
        error.Message.ShouldContain("The request needs about");
        error.Message.ShouldContain("Request fewer frames or a smaller size");
        heard.ShouldBeEmpty();
    }

    [Fact]
    public async Task Requests_that_need_much_more_than_is_available_get_a_warning()
    {
        using var model = new TinyModel();
        using var generator = model.Whole();
        var estimate = await generator.EstimateMemoryAsync(Request());
        generator.Machine = () => new MachineMemory(long.MaxValue, (estimate.Peak - estimate.Weights) / 4);
        (await generator.GenerateAsync(Request())).Warnings.ShouldHaveSingleItem().ShouldContain("in addition to the weights, but only");
        generator.Machine = () => new MachineMemory(long.MaxValue, estimate.Peak);
        (await generator.GenerateAsync(Request())).Warnings.ShouldBeEmpty();
    }

    [Fact]
    public void The_memory_of_the_machine_is_read()
    {
        var memory = MachineMemory.Read();
        memory.Total.ShouldBeGreaterThan(1L << 28);
        memory.Available.ShouldBeInRange(1, memory.Total);
    }

    [Fact]
    public void Half_the_bytes_of_a_value_need_half_the_activations()
    {
        using var network = new AutoencoderKL(new AutoencoderKLConfig(), initialize: false);
        var size = new CallSize(1, 4, 32, 32);
        var full = ((ICosted)network).Cost(size).Bytes;
        network.UseComputeType(ScalarType.BFloat16);
        ((ICosted)network).Cost(size).Bytes.ShouldBe(full / 2, 0.05 * full);
    }
}
