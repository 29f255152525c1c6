using OpenSora.Training.Stages;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

/// <summary>Tests the optimizer against TorchSharp's AdamW.</summary>
public class AdamWOptimizersTests
{
    [Theory]
    [InlineData(0.9, 0.999, 0)]
    [InlineData(0.8, 0.95, 0.1)]
    public void Updates_are_those_of_TorchSharp_bit_for_bit(double beta1, double beta2, double weightDecay)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(3);
        var start = new[] { randn([7, 5], generator: generator), randn([1000], generator: generator) };
        Parameter[] ours = [.. start.Select(tensor => new Parameter(tensor.clone()))];
        Parameter[] theirs = [.. start.Select(tensor => new Parameter(tensor.clone()))];
        var stage = new TrainingStage
        {
            Name = "one",
            Beta1 = beta1,
            Beta2 = beta2,
            WeightDecay = weightDecay,
        };
        using var optimizer = new AdamWOptimizers(ours.Select((parameter, i) => ($"p{i}", parameter)), stage);
        using var expected = optim.AdamW(theirs, 0.01, beta1, beta2, 1e-8, weightDecay);

        for (var step = 0; step < 20; step++)
        {
            for (var i = 0; i < ours.Length; i++)
            {
                // The second parameter has no gradient in every third step.
                var gradient = i == 1 && step % 3 == 1 ? null : randn(start[i].shape, generator: generator);
                (ours[i].grad, theirs[i].grad) = (gradient?.clone(), gradient?.clone());
            }
            var rate = 0.01 / (step + 1);
            expected.ParamGroups.Single().LearningRate = rate;
            expected.step();
            optimizer.Step(rate);
        }

        for (var i = 0; i < ours.Length; i++)
        {
            var state = (AdamW.State)expected.state_dict().State[i];
            Bytes(ours[i]).ShouldBe(Bytes(theirs[i]));
            Bytes(ours[i]).ShouldNotBe(Bytes(start[i]));
            Bytes(optimizer.State(i).Mean).ShouldBe(Bytes(state.exp_avg!));
            Bytes(optimizer.State(i).Square!).ShouldBe(Bytes(state.exp_avg_sq!));
            optimizer.State(i).Steps.ShouldBe(state.step);
        }
    }

    private static byte[] Bytes(Tensor tensor) => tensor.detach().bytes.ToArray();
}
