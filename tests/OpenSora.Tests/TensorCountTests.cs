using OpenSora.Models;
using static TorchSharp.torch;

namespace OpenSora.Tests;

/// <summary>The count that other tests look for leaks with: it sees one leaked tensor, and no leak where there is none.</summary>
public class TensorCountTests
{
    [Fact]
    public void A_leaked_tensor_is_seen_until_it_is_disposed_of()
    {
        var count = TensorCount.Start();
        var leaked = zeros(3);
        count.More.ShouldBe(1);
        Should.Throw<ShouldAssertException>(() => TensorCount.ShouldBe(TensorCount.Now - 1));
        leaked.Dispose();
        count.More.ShouldBe(0);
    }

    [Fact]
    public void A_leak_inside_a_scope_is_seen_if_the_tensor_left_the_scope()
    {
        var count = TensorCount.Start();
        Tensor leaked;
        using (NewDisposeScope())
        {
            _ = zeros(3) + 1;
            leaked = ones(3).DetachFromDisposeScope();
        }
        count.More.ShouldBe(1);
        leaked.Dispose();
        count.More.ShouldBe(0);
    }

    [Fact]
    public void A_model_and_its_gradients_leave_nothing()
    {
        var count = TensorCount.Start();
        using (
            var model = new StdiT(
                new StdiTConfig
                {
                    InputSize = [1, 4, 4],
                    HiddenSize = 8,
                    Depth = 1,
                    NumHeads = 2,
                    CaptionChannels = 4,
                    ModelMaxLength = 2,
                }
            )
        )
        {
            count.More.ShouldBe(model.state_dict().Count); // each parameter and buffer once
            using (NewDisposeScope())
            {
                model.forward(zeros([1, 4, 1, 4, 4]), zeros(1), zeros(1, 2, 4), null).sum().backward();
            }
        }
        count.More.ShouldBe(0);
    }
}
