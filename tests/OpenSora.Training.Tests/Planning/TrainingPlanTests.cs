using OpenSora.Benchmarks;
using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Training.Distributed;
using OpenSora.Training.Planning;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests.Planning;

public class TrainingPlanTests
{
    private static readonly StdiTConfig Small = new()
    {
        HiddenSize = 256,
        Depth = 6,
        NumHeads = 4,
        CaptionChannels = 128,
        ModelMaxLength = 20,
    };

    private static TrainingPlan One(PlannedStage stage) => new() { Model = Small, Stages = [stage] };

    [Fact]
    public void The_published_hours_and_price_follow_from_the_published_steps()
    {
        var stages = TrainingPlan.OpenSora10.Estimate();
        stages[0].GpuHours.ShouldBe(2808, 280.8);
        (stages[1].GpuHours + stages[2].GpuHours).ShouldBe(1920, 192.0);
        stages.Sum(stage => stage.GpuHours).ShouldBe(4728, 472.8);
        stages.Sum(stage => stage.Dollars).ShouldBe(10_000, 1000.0);
        stages.ShouldAllBe(stage => stage.Fits && Math.Abs(stage.WallTime.TotalHours * 64 - stage.GpuHours) < 0.01);
        stages[0].Samples.ShouldBe(80_000 * 512);
    }

    [Fact]
    public void Larger_images_are_as_much_slower_as_published()
    {
        var stage = new PlannedStage { Name = "speed", Steps = 1000 };
        var estimates = (TrainingPlan.OpenSora10 with { Stages = [stage, stage with { Height = 512, Width = 512 }] }).Estimate();
        // 7.00 and 1.45 samples a second on an H800.
        (estimates[1].GpuHours / estimates[0].GpuHours).ShouldBe(7.00 / 1.45, 0.1 * 7.00 / 1.45);
    }

    [Fact]
    public void Twice_the_samples_cost_twice_as_much_and_twice_the_speed_half()
    {
        var plan = One(new PlannedStage { Name = "clips", Steps = 1000 });
        var once = plan.Estimate()[0];
        var twice = (plan with { Stages = [plan.Stages[0] with { Steps = 2000 }] }).Estimate()[0];
        (twice.GpuHours / once.GpuHours).ShouldBe(2, 1e-9);
        (twice.Dollars / once.Dollars).ShouldBe(2, 1e-9);
        var faster = (plan with { Hardware = Hardware.H800 with { BFloat16 = 2 * Hardware.H800.BFloat16 } }).Estimate()[0];
        (once.GpuHours / faster.GpuHours).ShouldBe(2, 1e-9);
        var two = (plan with { Devices = 2 }).Estimate()[0];
        two.WallTime.TotalHours.ShouldBe(once.WallTime.TotalHours, 1e-6);
        two.GpuHours.ShouldBe(2 * once.GpuHours, 1e-9 * once.GpuHours);
    }

    [Fact]
    public void A_step_is_three_forward_passes_or_four_with_checkpointing_and_encoding_is_one()
    {
        var stage = new PlannedStage
        {
            Name = "clips",
            Steps = 10,
            BatchSize = 2,
            Accumulation = 3,
            CachedLatents = true,
            CachedText = true,
        };
        var plain = One(stage).Estimate()[0];
        plain.Encoding.Total.ShouldBe(0);
        plain.Samples.ShouldBe(60);
        (plain.Flops / (60 * plain.Forward.Total)).ShouldBe(3, 1e-9);
        (One(stage with { GradientCheckpointing = true }).Estimate()[0].Flops / (60 * plain.Forward.Total)).ShouldBe(4, 1e-9);
        var encoded = One(stage with { CachedLatents = false, CachedText = false }).Estimate()[0];
        (encoded.Flops / 60 - 3 * plain.Forward.Total).ShouldBe(encoded.Encoding.Total, 1);
        encoded.Encoding.Total.ShouldBe(
            FlopEstimate.OfEncoding(new AutoencoderKLConfig(), 16, 256, 256).Total + FlopEstimate.OfEncoding(new T5Config(), 20).Total,
            1
        );
        encoded.Memory["encoders"].ShouldBeGreaterThan(9e9);
        plain.Memory["encoders"].ShouldBe(0);
    }

    [Fact]
    public void Estimated_operations_equal_those_of_the_models()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var stdit = new StdiTConfig
        {
            InputSize = [4, 8, 12],
            HiddenSize = 32,
            Depth = 2,
            NumHeads = 4,
            CaptionChannels = 12,
            ModelMaxLength = 5,
        };
        using var first = new StdiT(stdit);
        first.eval();
        Counted(first, () => first.forward(randn([1, 4, 4, 8, 12]), ones(1), randn(1, 1, 5, 12), null))
            .ShouldBe(FlopEstimate.Of(stdit, 4, 8, 12).Linear);

        var dit = new DiTConfig
        {
            InputSize = [4, 8, 12],
            HiddenSize = 32,
            Depth = 2,
            NumHeads = 4,
            CaptionChannels = 12,
        };
        using var second = new DiT(dit);
        second.eval();
        Counted(second, () => second.forward(randn([1, 4, 4, 8, 12]), ones(1), randn(1, 1, 1, 12))).ShouldBe(FlopEstimate.Of(dit, 4, 8, 12).Linear);
        FlopEstimate.Of(dit, 4, 8, 12).SpatialAttention.ShouldBe(2 * 2 * 2.0 * 96 * 96 * 32);

        var vae = new AutoencoderKLConfig
        {
            BlockOutChannels = [8, 16, 32],
            NormNumGroups = 4,
            LayersPerBlock = 2,
        };
        using var third = new AutoencoderKL(vae);
        Counted(third, () => third.EncodeImages(randn(3, 3, 16, 32))).ShouldBe(FlopEstimate.OfEncoding(vae, 3, 16, 32).Linear);
        Counted(third, () => third.Decode(randn([1, 4, 3, 6, 8]))).ShouldBe(FlopEstimate.OfDecoding(vae, 3, 6, 8).Linear);

        var t5 = new T5Config
        {
            VocabSize = 50,
            DModel = 16,
            DKv = 4,
            DFf = 40,
            NumLayers = 2,
            NumHeads = 3,
        };
        using var fourth = new T5TextEncoder(t5);
        Counted(fourth, () => fourth.forward(ones([1, 7], ScalarType.Int64), null)).ShouldBe(FlopEstimate.OfEncoding(t5, 7).Linear);
    }

    [Fact]
    public void Estimated_operations_equal_those_of_the_models_for_many_sizes()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var conditions = new DenoiserConditions(randn(1, 5, 12))
        {
            Frames = 3,
            Height = 56,
            Width = 88,
        };
        var stdit2 = new StdiT2Config
        {
            HiddenSize = 48,
            Depth = 3,
            NumHeads = 4,
            CaptionChannels = 12,
            ModelMaxLength = 5,
        };
        using var second = new StdiT2(stdit2);
        second.eval();
        // Height and width are padded to 8 and 12.
        Counted(second, () => second.forward(randn([1, 4, 3, 7, 11]), ones(1), conditions)).ShouldBe(FlopEstimate.Of(stdit2, 3, 7, 11).Linear);
        FlopEstimate.Of(stdit2, 3, 7, 11).TemporalAttention.ShouldBe(3 * 4.0 * 72 * 3 * 48);

        var stdit3 = new StdiT3Config
        {
            HiddenSize = 48,
            Depth = 3,
            NumHeads = 4,
            CaptionChannels = 12,
            ModelMaxLength = 5,
        };
        using var third = new StdiT3(stdit3);
        third.eval();
        Counted(third, () => third.forward(randn([1, 4, 3, 7, 11]), ones(1), conditions)).ShouldBe(FlopEstimate.Of(stdit3, 3, 7, 11).Linear);
        FlopEstimate.Of(stdit3, 3, 7, 11).SpatialAttention.ShouldBe(3 * 4.0 * 72 * 24 * 48);
    }

    [Theory]
    [InlineData(AttentionOrder.Serial, 96 * 24 * 3, 96 * 4 * 3)]
    [InlineData(AttentionOrder.Parallel, 96 * 24 * 3, 96 * 4 * 3)]
    [InlineData(AttentionOrder.Interleaved, 96 * 24 * 2, 96 * 4)]
    [InlineData(AttentionOrder.Full, 96 * 96 * 3, 0)]
    public void Each_order_of_attention_has_its_own_operations_and_parameters(AttentionOrder order, double spatial, double temporal)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var stdit = new StdiTConfig
        {
            InputSize = [4, 8, 12],
            HiddenSize = 48,
            Depth = 3,
            NumHeads = 4,
            CaptionChannels = 12,
            ModelMaxLength = 5,
            AttentionOrder = order,
            QkNorm = true,
            SizeConditioning = true,
        };
        using var first = new StdiT(stdit);
        first.eval();
        var operations = FlopEstimate.Of(stdit, 4, 8, 12);
        Counted(first, () => first.forward(randn([1, 4, 4, 8, 12]), ones(1), randn(1, 1, 5, 12), null)).ShouldBe(operations.Linear);
        (operations.SpatialAttention, operations.TemporalAttention).ShouldBe((4 * 48 * spatial, 4 * 48 * temporal));
        MemoryEstimate.ParameterCount(stdit).ShouldBe(first.parameters().Sum(parameter => parameter.numel()));

        var dit = new DiTConfig
        {
            InputSize = [4, 8, 12],
            HiddenSize = 48,
            Depth = 3,
            NumHeads = 4,
            CaptionChannels = 12,
            AttentionOrder = order,
        };
        using var second = new DiT(dit);
        second.eval();
        operations = FlopEstimate.Of(dit, 4, 8, 12);
        Counted(second, () => second.forward(randn([1, 4, 4, 8, 12]), ones(1), randn(1, 1, 1, 12))).ShouldBe(operations.Linear);
        (operations.SpatialAttention, operations.TemporalAttention).ShouldBe((4 * 48 * spatial, 4 * 48 * temporal));
    }

    [Fact]
    public void Published_sizes_have_the_published_parameter_counts()
    {
        MemoryEstimate.ParameterCount(new StdiTConfig()).ShouldBe(759_620_768);
        var small = Small with { QkNorm = true, PredSigma = false };
        using var model = new StdiT(small, initialize: false);
        MemoryEstimate.ParameterCount(small).ShouldBe(model.parameters().Sum(parameter => parameter.numel()));
        // T5-v1.1-XXL's encoder, and the encoder of Stable Diffusion's autoencoder with its last projection; both in bfloat16.
        var stage = new PlannedStage { Name = "clips", Steps = 1 };
        One(stage with { CachedLatents = true }).Estimate()[0].Memory["encoders"].ShouldBe(2 * 4_762_310_656.0);
        using var vae = new AutoencoderKL(new AutoencoderKLConfig(), initialize: false);
        One(stage with { CachedText = true })
            .Estimate()[0]
            .Memory["encoders"]
            .ShouldBe(
                2.0
                    * vae.named_parameters()
                        .Where(pair =>
                            pair.name.StartsWith("encoder.", StringComparison.Ordinal)
                            || pair.name.StartsWith("quant_conv.", StringComparison.Ordinal)
                        )
                        .Sum(pair => pair.parameter.numel())
            );
    }

    public static TheoryData<int, int, int, bool, bool> Sizes =>
        new()
        {
            { 2, 8, 16, false, false },
            { 1, 4, 32, true, false },
            { 2, 8, 16, false, true },
            { 4, 8, 16, true, true },
        };

    [Theory]
    [MemberData(nameof(Sizes))]
    public void Estimated_memory_matches_measurements(int batch, int frames, int side, bool bfloat16, bool checkpointing)
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Peak memory is read from /proc.");
        new MemoryCase(Small with { Depth = 1 }, 1, 2, 8, bfloat16, checkpointing).Measure(); // maps what the libraries need for themselves
        var size = new MemoryCase(Small, batch, frames, side, bfloat16, checkpointing);
        var measured = size.MeasureLeast(share: 0.85);
        (size.Estimate() / measured).ShouldBeInRange(0.85, 1.15, $"{measured / 1e6:F0} MB were measured.");
    }

    [Fact]
    public void Measuring_leaves_no_tensor()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Peak memory is read from /proc.");
        var before = TensorCount.Now;
        new MemoryCase(Small with { Depth = 1 }, 1, 2, 8, BFloat16: false, Checkpointing: false).Measure().ShouldBeGreaterThan(0);
        TensorCount.ShouldBe(before);
    }

    [Fact]
    public void The_table_shows_stages_that_do_not_fit()
    {
        var plan = TrainingPlan.OpenSora10;
        plan.ToString().ShouldContain("64 x H800, bfloat16");
        plan.ToString().ShouldNotContain("exceeds memory");
        var greedy = plan with { Stages = [plan.Stages[2] with { BatchSize = 8, GradientCheckpointing = false }] };
        greedy.Estimate()[0].Fits.ShouldBeFalse();
        greedy.ToString().ShouldContain("(exceeds memory)");
        Hardware.ThisMachine(1e11).BFloat16.ShouldBe(1e11);
    }

    [Fact]
    public void Bad_plans_are_rejected()
    {
        var stage = new PlannedStage { Name = "clips", Steps = 10 };
        foreach (
            var (plan, message) in new[]
            {
                (One(stage with { Steps = 0 }), "Stage 'clips' has 0 Steps"),
                (One(stage with { Width = 250 }), "256x250 pixels; expected multiples of 16x16"),
                (One(stage with { Frames = 0 }), "0 Frames"),
                (One(stage with { BatchSize = 0 }), "both must be above 0"),
                (One(stage) with { Devices = 0 }, "0 Devices"),
                (One(stage with { CheckpointSlices = 0 }), "0 CheckpointSlices"),
                (One(stage with { Sharding = (Sharding)3 }), "Sharding 3"),
                (One(stage with { SequenceParallel = 2 }), "SequenceParallel 2"),
                (One(stage with { Offload = new() { Activations = true } }), "requires GradientCheckpointing"),
                (One(stage) with { Hardware = Hardware.H800 with { Utilization = 2 } }, "as a fraction, it must be at most 1"),
                (One(stage) with { Hardware = Hardware.H800 with { Memory = double.NaN } }, "Memory NaN"),
            }
        )
        {
            Should.Throw<InvalidOperationException>(plan.Estimate).Message.ShouldContain(message);
        }
    }

    [Fact]
    public void One_minute_of_1080p_fits_on_8_devices_with_inputs_on_the_host()
    {
        var estimates = TrainingPlan.OneMinute1080p.Estimate();
        estimates.First(estimate => estimate.Fits).Stage.Name.ShouldBe("+ activations on the host");
        estimates[^1].Fits.ShouldBeTrue();
        // 1,440 frames of 68 x 120 tokens of 1,152 values in bfloat16, for each of 28 blocks, over all devices.
        var tokens = 1440.0 * 68 * 120;
        estimates.First(estimate => estimate.Fits).HostMemory.ShouldBe(28 * tokens * 1152 * 2, 1);
        estimates[^1].HostMemory.ShouldBeInRange(758e9, 800e9);
        estimates.ShouldAllBe(estimate => estimate.BoundBy == "attention");
        TrainingPlan.OneMinute1080p.ToString().ShouldContain("| + activations on the host |");
    }

    [Fact]
    public void A_simulated_step_does_one_thing_at_a_time_in_each_lane()
    {
        foreach (var estimate in TrainingPlan.OneMinute1080p.Estimate())
        {
            foreach (var lane in estimate.Timeline.GroupBy(one => one.Lane))
            {
                lane.Zip(lane.Skip(1)).ShouldAllBe(pair => pair.First.End <= pair.Second.Start + 1e-9);
                lane.ShouldAllBe(one => one.End >= one.Start);
            }

            estimate.StepTime.TotalSeconds.ShouldBe(estimate.Timeline.Where(one => one.Lane is "device").Max(one => one.End), 1e-6);
        }

        // The forward pass of a block waits for the update of its weights.
        var slow = TrainingPlan.OneMinute1080p with { Hardware = Hardware.H800 with { HostMemoryBandwidth = 1e8 } };
        var last = slow.Estimate()[^2];
        var updated = last.Timeline.Single(one => one.Name is "update 5").End;
        last.Timeline.First(one => one.Name is "forward 5, linear layers").Start.ShouldBeGreaterThanOrEqualTo(updated);
        last.StepTime.ShouldBeGreaterThan(TrainingPlan.OneMinute1080p.Estimate()[^2].StepTime);
    }

    [Fact]
    public void Each_combination_needs_less_device_memory()
    {
        var peaks = TrainingPlan.OneMinute1080p.Estimate().Select(estimate => estimate.PeakMemory).ToList();
        peaks.Zip(peaks.Skip(1)).ShouldAllBe(pair => pair.Second <= pair.First);
    }

    // Operations of every linear layer and convolution that runs: each of its outputs is a sum over its weights.
    private static double Counted(nn.Module model, Action run)
    {
        var total = 0.0;
        foreach (var module in model.modules())
        {
            var weight = module switch
            {
                Linear dense => dense.weight,
                Conv2d conv => conv.weight,
                _ => null,
            };
            if (weight is not null)
            {
                ((nn.Module<Tensor, Tensor>)module).register_forward_hook(
                    (_, _, output) =>
                    {
                        total += 2.0 * output.numel() * (weight.numel() / weight.shape[0]);
                        return output;
                    }
                );
            }
        }
        run();
        return total;
    }
}
