using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Models.Layers;

/// <summary>A block that can be computed again in the backward pass instead of keeping its activations.</summary>
public interface ICheckpointedBlock
{
    /// <summary>Whether the block keeps its inputs only. <see cref="GradientCheckpointing.UseGradientCheckpointing"/> sets it.</summary>
    bool GradientCheckpointing { get; set; }
}

/// <summary>A function that keeps its inputs only, and runs again in the backward pass. It must do the same each time: no dropout within.</summary>
internal sealed class Checkpointed : autograd.SingleTensorFunction<Checkpointed>
{
    public override string Name => nameof(Checkpointed);

    /// <summary>Runs a function of tensors and of a module's parameters.</summary>
    /// <param name="module">The module. Its parameters are inputs of the operation as well, so that gradients reach them however they are asked
    /// for.</param>
    /// <param name="function">The function; it gets the inputs in their order.</param>
    /// <param name="inputs">All tensors, apart from the parameters, that the function depends on.</param>
    public static Tensor Run(nn.Module module, Func<Tensor?[], Tensor> function, params Tensor?[] inputs)
    {
        if (!is_grad_enabled())
        {
            return function(inputs);
        }

        Parameter[] parameters = [.. module.parameters().Where(parameter => parameter.requires_grad)];
        var call = new Call(function, Array.ConvertAll(inputs, input => input is not null), parameters);
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
