using OpenSora.Distributed;
using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Models;

/// <summary>Transformers with tokens that are divided among the members of a group compute what one process computes.</summary>
public class SequenceParallelTests
{
    private static readonly string[] Names =
    [
        "STDiT serial",
        "STDiT parallel",
        "STDiT interleaved",
        "DiT serial",
        "Latte",
        "STDiT2",
        "STDiT2 of two frames",
        "STDiT3",
    ];

    public static TheoryData<string, int> Groups => [.. Names.SelectMany(_ => Enumerable.Range(1, 4), (name, size) => (name, size))];

    public static TheoryData<string> Models => [.. Names];

    // 5 frames and 15 places of tokens: shares of 2 and 3 frames, or of 2, 1, 1 and 1; of 7 and 8 places, or of 4, 4, 4 and 3.
    [Theory]
    [MemberData(nameof(Groups))]
    public void Output_and_gradients_equal_those_of_one_process(string name, int size) => Compare(new Run(name), size, 1e-5);

    [Theory]
    [MemberData(nameof(Models))]
    public void Conditioning_frames_may_be_in_any_share(string name)
    {
        if (Model(name) is { SupportsNoisyFrames: true })
        {
            Compare(new Run(name, Noisy: true), 3, 1e-5);
        }
        else
        {
            name.ShouldBeOneOf("DiT serial", "Latte", "STDiT2 of two frames");
        }
    }

    [Theory]
    [MemberData(nameof(Models))]
    public void Exchanges_are_repeated_by_gradient_checkpointing(string name) => Compare(new Run(name, Checkpointing: true), 3, 1e-5);

    [Theory]
    [MemberData(nameof(Models))]
    public void Tokens_can_be_bfloat16(string name) => Compare(new Run(name, Type: ScalarType.BFloat16), 2, 0.03);

    [Theory]
    [InlineData(1, 6, 10)]
    [InlineData(3, 6, 10)]
    [InlineData(8, 2, 6)]
    public void A_video_with_less_than_a_share_for_each_process_is_not_divided(int frames, int height, int width)
    {
        var run = new Run("STDiT3", Length: frames, Height: height, Width: width);
        Compare(run, 4, 1e-5);
        InProcessCollectives.Run(4, group =>
        {
            Compute(run, group);
            group.Calls.ShouldAllBe(call => call.StartsWith("AllReduce", StringComparison.Ordinal));
        });
    }

    [Theory]
    [MemberData(nameof(Models))]
    public void Calls_without_gradients_compute_the_same(string name)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var expected = Output(null);
        InProcessCollectives.Run(2, group =>
        {
            using var noGradients = no_grad();
            using var scope = NewDisposeScope();
            Close(Output(group), expected, 1e-5, "output");
        });

        Tensor Output(ICollectives? group)
        {
            var model = Model(name).UseSequenceParallel(group);
            var (x, t, conditions) = TransformerFamily.Inputs(model, 5, 6, 10);
            return model.Denoise(x, t, conditions);
        }
    }

    [Fact]
    public void Dropped_captions_are_those_of_the_first_process()
    {
        var outputs = InProcessCollectives.Run(2, group =>
        {
            using var scope = NewDisposeScope();
            var config = new StdiT3Config
            {
                HiddenSize = 24,
                Depth = 1,
                NumHeads = 4,
                CaptionChannels = 12,
                ModelMaxLength = 5,
                ClassDropoutProb = 0.5,
            };
            var model = TransformerFamily.Randomised(new StdiT3(config)).UseSequenceParallel(group);
            using var generator = new Generator((ulong)group.Rank); // another one in each process
            model.DropoutGenerator = generator;
            model.train();
            var (x, t, conditions) = TransformerFamily.Inputs(model, 4);
            return Enumerable.Range(0, 8).Select(_ => model.Denoise(x, t, conditions).DetachFromDisposeScope()).ToArray();
        });
        outputs[0].Zip(outputs[1]).ShouldAllBe(pair => pair.First.Equals(pair.Second));
        outputs[0].Skip(1).ShouldContain(other => !other.Equals(outputs[0][0])); // some captions were dropped, others were not
        Array.ForEach(outputs, all => Array.ForEach(all, output => output.Dispose()));
    }

    [Theory]
    [InlineData(ScalarType.Float32, false)]
    [InlineData(ScalarType.Float32, true)]
    [InlineData(ScalarType.BFloat16, false)]
    public void Bytes_are_those_of_the_plan(ScalarType type, bool checkpointing)
    {
        foreach (var name in Names)
        {
            foreach (var size in new[] { 2, 3, 4 })
            {
                var run = new Run(name, Checkpointing: checkpointing, Type: type);
                using var model = (nn.Module)Model(name);
                var plan = SequenceTraffic.Of((IVideoTransformer)model.UseComputeType(type), new(2, run.Frames, 6, 10), size, checkpointing);
                InProcessCollectives.Run(size, group =>
                {
                    Compute(run, group, sum: false);
                    var calls = group.Calls.ConvertAll(call => call.Split(' '));
                    var (tokens, bytes) = (calls.FindAll(call => call[0] is "AllToAll"), type == ScalarType.BFloat16 ? 2 : 4);
                    var output = calls.Single(call => call[0] is not "AllToAll");
                    output[0].ShouldBe("AllGather");
                    var sent = tokens.Sum(call => double.Parse(call[1]) * bytes * (size - 1) / size) + double.Parse(output[1]) * 4 * (size - 1);
                    sent.ShouldBe(plan.Forward + plan.Backward, $"{name}, {size} processes");
                    tokens.Count.ShouldBe(plan.Exchanges * (checkpointing ? 3 : 2));
                });
            }
        }
    }

    [Fact]
    public void The_number_of_bytes_follows_from_the_tokens_if_shares_are_equal()
    {
        using var model = (StdiT3)Model("STDiT3");
        const int Depth = 2;
        const double Tokens = 2.0 * 8 * 16, // batch, frames, places
            Output = 2.0 * 8 * 8 * (8 * 8); // batch, channels, frames, pixels
        var plan = SequenceTraffic.Of(model, new(2, 8, 8, 8), 4);
        plan.Exchanges.ShouldBe(2 * Depth);
        plan.Backward.ShouldBe(plan.Exchanges * (Tokens / 4) * 24 * 4 * 3 / 4);
        plan.Forward.ShouldBe(plan.Backward + Output / 4 * 4 * 3);
        SequenceTraffic.Of(model, new(2, 3, 8, 8), 4).ShouldBe(default); // not divided
    }

    [Theory]
    [InlineData("STDiT full")]
    [InlineData("PixArt")]
    [InlineData("DiT text")]
    public void Models_that_attend_to_all_frames_are_refused(string name) => InProcessCollectives.Run(2, group =>
        {
            using var model = TransformerFamily.Make(name);
            Should
                .Throw<ArgumentException>(() => model.UseSequenceParallel(group))
                .Message.ShouldContain("attends to the tokens of all frames (AttentionOrder.Full)");
            model.UseSequenceParallel(null).ShouldBe(model);
        });

    [Fact]
    public void The_group_can_be_removed() => InProcessCollectives.Run(2, group =>
        {
            using var scope = NewDisposeScope();
            var model = Model("STDiT3").UseSequenceParallel(group).UseSequenceParallel(null);
            var (x, t, conditions) = TransformerFamily.Inputs(model, 5);
            model.Denoise(x, t, conditions).shape.ShouldBe([2, 8, 5, 4, 6]);
            group.Calls.ShouldBeEmpty();
        });

    private static void Compare(Run run, int size, double tolerance)
    {
        var (expected, gradients) = Compute(run, null);
        var all = InProcessCollectives.Run(size, group => Compute(run, group));
        foreach (var (output, found) in all)
        {
            Close(output, expected, tolerance, "output");
            found.Keys.ShouldBe(gradients.Keys);
            foreach (var (name, gradient) in found)
            {
                Close(gradient, gradients[name], tolerance, name);
            }
        }
    }

    private static (Tensor Output, Dictionary<string, Tensor> Gradients) Compute(Run run, ICollectives? group, bool sum = true)
    {
        using var scope = NewDisposeScope();
        var model = Model(run.Name).UseSequenceParallel(group);
        var module = ((nn.Module)model).UseGradientCheckpointing(run.Checkpointing).UseComputeType(run.Type);
        var (x, t, conditions) = TransformerFamily.Inputs(model, run.Frames, run.Height, run.Width);
        if (run.Noisy)
        {
            var noisy = Enumerable.Range(0, 2 * run.Frames).Select(i => i % 3 != 1).ToArray();
            conditions = conditions with { NoisyFrames = tensor(noisy, [2, run.Frames]) };
        }

        var output = model.Denoise(x, t, conditions);
        using var generator = new Generator(11);
        (output * randn(output.shape, generator: generator)).sum().backward();
        var gradients = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        foreach (var (name, parameter) in module.named_parameters())
        {
            if (parameter.grad is { IsInvalid: false } gradient)
            {
                if (sum)
                {
                    group?.AllReduce(gradient).Wait();
                }

                gradients[name] = gradient.clone().DetachFromDisposeScope();
            }
        }

        gradients.Count.ShouldBeGreaterThan(20);
        return (output.detach().clone().DetachFromDisposeScope(), gradients);
    }

    private static void Close(Tensor found, Tensor expected, double tolerance, string what)
    {
        using var scope = NewDisposeScope();
        var scale = Math.Max(1, expected.abs().max().item<float>());
        scale.ShouldBeGreaterThan(0);
        (TransformerFamily.Difference(found, expected) / scale).ShouldBeLessThan(tolerance, what);
    }

    private static IVideoTransformer Model(string name) =>
        name switch
        {
            "STDiT2" => TransformerFamily.Randomised(new StdiT2(Sized(new StdiT2Config()))),
            "STDiT2 of two frames" => TransformerFamily.Randomised(new StdiT2(Sized(new StdiT2Config { PatchSize = [2, 2, 2] }))),
            "STDiT3" => TransformerFamily.Randomised(new StdiT3(Sized(new StdiT3Config()))),
            _ => TransformerFamily.Make(name),
        };

    private static TConfig Sized<TConfig>(TConfig config)
        where TConfig : TransformerConfig =>
        config with
        {
            HiddenSize = 24,
            Depth = 2,
            NumHeads = 4,
            CaptionChannels = 12,
            ModelMaxLength = 5,
            ClassDropoutProb = 0,
        };

    private sealed record Run(
        string Name,
        bool Noisy = false,
        bool Checkpointing = false,
        ScalarType? Type = null,
        int? Length = null,
        int Height = 6,
        int Width = 10
    )
    {
        // The model with patches of two frames gets 5 token frames, of which the last is incomplete.
        public int Frames { get; init; } = Length ?? (Name.EndsWith("two frames", StringComparison.Ordinal) ? 9 : 5);
    }
}
