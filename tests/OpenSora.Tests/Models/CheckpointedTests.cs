using OpenSora.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Models;

public class CheckpointedTests
{
    [Fact]
    public void The_backward_pass_keeps_no_gradients_of_the_blocks_that_it_has_left()
    {
        const int Depth = 12;
        using var scope = NewDisposeScope();
        nn.Module<Tensor, Tensor>[] blocks = [.. Enumerable.Range(0, Depth).Select(_ => nn.Linear(4, 4))];
        List<long> counts = [];
        var x = ones([2, 4], requires_grad: true);
        var y = x;
        foreach (var block in blocks)
        {
            Checkpointed.Set(block, on: true);
            y = Checkpointed.Run(
                block,
                inputs =>
                {
                    counts.Add(TensorCount.Now);
                    return block.call(inputs[0]!);
                },
                y
            );
        }

        counts.Clear();
        y.sum().backward();
        counts.Count.ShouldBe(Depth); // each block runs again
        (counts[^1] - counts[1]).ShouldBe(0);
        x.grad!.shape.ShouldBe(x.shape);
        Array.ForEach(blocks, block => block.Dispose());
    }
}
