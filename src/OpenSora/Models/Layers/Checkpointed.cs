using System.Runtime.CompilerServices;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Models.Layers;

/// <summary>A function that stores only its inputs and runs again in the backward pass. It must compute the same result each time, so it must not use
/// dropout.</summary>
internal sealed class Checkpointed : autograd.SingleTensorFunction<Checkpointed>
{
    // The modules with checkpointing turned on. The table does not keep them in memory.
    private static readonly ConditionalWeakTable<nn.Module, object> Modules = [];
    private static readonly object On = new();

    public override string Name => nameof(Checkpointed);

    /// <summary>Turns checkpointing on or off for the functions of a module.</summary>
    public static void Set(nn.Module module, bool on)
    {
        if (on)
        {
            Modules.AddOrUpdate(module, On);
        }
        else
        {
            Modules.Remove(module);
        }
    }

    /// <summary>Runs a function of tensors and of the parameters of a module. Without checkpointing, the function runs as it is.</summary>
    /// <param name="module">The module. Its parameters are also inputs of the operation, so that gradients reach them both through <c>backward</c>
    /// and through <c>autograd.grad</c>.</param>
    /// <param name="function">The function, which receives the inputs in order.</param>
    /// <param name="inputs">All tensors, other than the parameters, on which the function depends.</param>
    public static Tensor Run(nn.Module module, Func<Tensor?[], Tensor> function, params Tensor?[] inputs)
    {
        if (!is_grad_enabled())
        {
            return function(inputs);
        }

        inputs = GradientMark.Before(module, inputs);
        if (!Modules.TryGetValue(module, out _))
        {
            return function(inputs);
        }

        Parameter[] parameters = [.. module.parameters().Where(parameter => parameter.requires_grad)];
        var call = new Call(SequenceParallel.Keep(function), Array.ConvertAll(inputs, input => input is not null), parameters);
        return apply([call, .. inputs.OfType<Tensor>(), .. parameters]);
    }

    public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
    {
        var call = (Call)vars[0];
        var given = vars.Skip(1).SkipLast(call.Parameters.Length).Cast<Tensor>().ToList();
        ctx.save_data(nameof(Call), call);
        ctx.save_for_backward(given);
        return call.Run(given);
    }

    public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
    {
        var call = (Call)ctx.get_data(nameof(Call));
        using var scope = NewDisposeScope();
        using var gradients = enable_grad();
        var given = ctx.get_saved_variables().ConvertAll(saved => saved.detach().requires_grad_(saved.requires_grad));
        Tensor[] sources = [.. given.Where(input => input.requires_grad), .. call.Parameters];
        var found = new Queue<Tensor?>(Gradients.Of([call.Run(given)], sources, [grad_output]));
        return [null!, .. given.Concat(call.Parameters).Select(source => source.requires_grad ? found.Dequeue()?.MoveToOuterDisposeScope()! : null!)];
    }

    private sealed record Call(Func<Tensor?[], Tensor> Function, bool[] Given, Parameter[] Parameters)
    {
        public Tensor Run(List<Tensor> given)
        {
            var next = new Queue<Tensor>(given);
            return Function(Array.ConvertAll(Given, isGiven => isGiven ? next.Dequeue() : null));
        }
    }
}
