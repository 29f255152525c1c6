using System.Runtime.CompilerServices;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models.Layers;

/// <summary>An operation before a block that changes nothing and whose backward pass, which follows that of the block, calls a function.</summary>
/// <remarks>libtorch's backward pass runs the operations that are ready in the reverse order of their creation, and adds to the gradients of
/// parameters before anything else. When it reaches the operation, it has therefore completed all operations of the block.</remarks>
internal sealed class GradientMark : autograd.SingleTensorFunction<GradientMark>
{
    // The table does not keep the modules in memory.
    private static readonly ConditionalWeakTable<nn.Module, Func<nn.Module, Action>> Watches = [];

    /// <inheritdoc/>
    public override string Name => nameof(GradientMark);

    /// <summary>Calls a function before the modules of a model run, until the result is disposed of.</summary>
    public static IDisposable Watch(nn.Module root, Func<nn.Module, Action> entered)
    {
        var watched = new List<nn.Module>();
        var watch = new Subscription(watched);
        try
        {
            foreach (var module in root.modules())
            {
                Watches.Add(module, entered);
                watched.Add(module);
            }
        }
        catch
        {
            watch.Dispose();
            throw;
        }

        return watch;
    }

    /// <summary>Returns the inputs of a module. If a function waits for the module, the first input that has a gradient passes through the
    /// operation.</summary>
    public static Tensor?[] Before(nn.Module module, Tensor?[] inputs)
    {
        if (
            !Watches.TryGetValue(module, out var entered)
            || Array.FindIndex(inputs, input => input?.requires_grad is true) is not (>= 0 and var place)
        )
        {
            return inputs;
        }

        Tensor?[] marked = [.. inputs];
        marked[place] = apply(inputs[place]!, entered(module));
        return marked;
    }

    /// <inheritdoc/>
    public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
    {
        ctx.save_data(nameof(Action), vars[1]);
        return ((Tensor)vars[0]).alias();
    }

    /// <inheritdoc/>
    public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
    {
        using var received = ReturnedGradients.Release(grad_output);
        ((Action)ctx.get_data(nameof(Action)))();
        return [ReturnedGradients.Add(received.alias()), null!];
    }

    private sealed class Subscription(List<nn.Module> modules) : IDisposable
    {
        public void Dispose() => modules.ForEach(module => Watches.Remove(module));
    }
}
