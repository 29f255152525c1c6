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
    private static readonly ConditionalWeakTable<nn.Module, Action<nn.Module>> Listeners = [];

    /// <inheritdoc/>
    public override string Name => nameof(GradientMark);

    /// <summary>Calls a function when the backward pass has completed a module, until the result is disposed of.</summary>
    public static IDisposable Add(nn.Module root, Action<nn.Module> completed)
    {
        var added = new List<nn.Module>();
        var subscription = new Subscription(added);
        try
        {
            foreach (var module in root.modules())
            {
                Listeners.Add(module, completed);
                added.Add(module);
            }
        }
        catch
        {
            subscription.Dispose();
            throw;
        }

        return subscription;
    }

    /// <summary>Returns the inputs of a module. If a function waits for the module, the first input that has a gradient passes through the
    /// operation.</summary>
    public static Tensor?[] Before(nn.Module module, Tensor?[] inputs)
    {
        if (
            !Listeners.TryGetValue(module, out var completed)
            || Array.FindIndex(inputs, input => input?.requires_grad is true) is not (>= 0 and var place)
        )
        {
            return inputs;
        }

        Tensor?[] marked = [.. inputs];
        marked[place] = apply(inputs[place]!, new Call(module, completed));
        return marked;
    }

    /// <inheritdoc/>
    public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
    {
        ctx.save_data(nameof(Call), vars[1]);
        return ((Tensor)vars[0]).alias();
    }

    /// <inheritdoc/>
    public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
    {
        var (module, completed) = (Call)ctx.get_data(nameof(Call));
        completed(module);
        return [grad_output.alias(), null!];
    }

    private sealed record Call(nn.Module Module, Action<nn.Module> Completed);

    private sealed class Subscription(List<nn.Module> modules) : IDisposable
    {
        public void Dispose() => modules.ForEach(module => Listeners.Remove(module));
    }
}
