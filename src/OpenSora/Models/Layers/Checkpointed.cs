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
    private static readonly ConditionalWeakTable<nn.Module, Settings> Modules = [];

    public override string Name => nameof(Checkpointed);

    /// <summary>Turns checkpointing on or off for the functions of a module.</summary>
    /// <param name="module">The module.</param>
    /// <param name="on">Whether checkpointing is on.</param>
    /// <param name="slices">The number of slices of tokens in which <see cref="Sliced"/> runs.</param>
    public static void Set(nn.Module module, bool on, int slices = 1)
    {
        if (on)
        {
            Modules.AddOrUpdate(module, new Settings(DeviceMemory.Instance, slices));
        }
        else
        {
            Modules.Remove(module);
        }
    }

    /// <summary>Turns checkpointing on and sets where inputs and weights are.</summary>
    public static void Set(nn.Module module, IBlockMemory memory) =>
        Modules.AddOrUpdate(module, new Settings(memory, Modules.TryGetValue(module, out var settings) ? settings.Slices : 1));

    /// <summary>Runs a part of a block, which computes tokens separately along an axis. If checkpointing uses slices, the part runs on one slice of
    /// the tokens after the other, and each slice keeps only its inputs until its backward pass.</summary>
    /// <param name="block">The block, for which slices are set.</param>
    /// <param name="part">The module that owns the parameters that the function uses.</param>
    /// <param name="axis">The axis of the tokens, which have 4 axes, along which the function computes separately.</param>
    /// <param name="function">The function, which receives the inputs in order.</param>
    /// <param name="inputs">The tokens, and all other tensors, except for parameters, on which the function depends. Tensors with 4 axes that are as
    /// long as the tokens along the axis are divided too.</param>
    public static Tensor Sliced(nn.Module block, nn.Module part, int axis, Func<Tensor?[], Tensor> function, params Tensor?[] inputs)
    {
        var length = inputs[0]!.shape[axis];
        if (!Modules.TryGetValue(block, out var settings) || settings.Slices == 1 || length == 1)
        {
            return function(inputs);
        }

        using var scope = NewDisposeScope();
        var count = Math.Min(settings.Slices, length);
        var divided = Array.ConvertAll(inputs, input => input?.dim() == 4 && input.shape[axis] == length ? input.chunk(count, axis) : null);
        Parameter[] parameters = [.. part.parameters().Where(parameter => parameter.requires_grad)];
        List<Tensor> results = [];
        for (var slice = 0; slice < divided[0]!.Length; slice++)
        {
            Tensor?[] own = [.. inputs.Select((input, i) => divided[i]?[slice] ?? input)];
            if (!is_grad_enabled())
            {
                using var inner = NewDisposeScope();
                results.Add(function(own).MoveToOuterDisposeScope());
                continue;
            }

            // Without gradients, functions may change the tokens in place, but the backward pass needs them.
            Tensor Keeping(Tensor?[] given) => function(is_grad_enabled() ? given : [given[0]!.clone(), .. given[1..]]);
            var kept = SequenceParallel.Keep(Keeping);
            var call = new Call(part, DeviceMemory.Instance, kept, Array.ConvertAll(own, input => input is not null), parameters);
            results.Add(apply([call, .. own.OfType<Tensor>(), .. parameters]));
        }

        return cat(results, axis).MoveToOuterDisposeScope();
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
        if (!Modules.TryGetValue(module, out var settings))
        {
            return function(inputs);
        }

        Parameter[] parameters = [.. module.parameters().Where(parameter => parameter.requires_grad)];
        var kept = SequenceParallel.Keep(function);
        var call = new Call(module, settings.Memory, kept, Array.ConvertAll(inputs, input => input is not null), parameters);
        return apply([call, .. inputs.OfType<Tensor>(), .. parameters]);
    }

    public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
    {
        var call = (Call)vars[0];
        var given = vars.Skip(1).SkipLast(call.Parameters.Length).Cast<Tensor>().ToList();
        ctx.save_data(nameof(Call), call);
        Tensor result;
        using (call.Memory.Use(call.Module, isBackward: false))
        {
            using var scope = NewDisposeScope();
            result = call.Run(given).MoveToOuterDisposeScope();
        }

        call.Kept = call.Given[0] ? call.Memory.Keep(given[0]) : null;
        call.KeptNeedsGradient = given[0].requires_grad;
        ctx.save_for_backward(call.Kept is null ? given : given[1..]);
        return result;
    }

    public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
    {
        var call = (Call)ctx.get_data(nameof(Call));
        using var received = ReturnedGradients.Release(grad_output);
        using var scope = NewDisposeScope();
        using var gradients = enable_grad();
        using var weights = call.Memory.Use(call.Module, isBackward: true);
        var given = ctx.get_saved_variables().ConvertAll(saved => saved.detach().requires_grad_(saved.requires_grad));
        if (call.Kept is { } kept)
        {
            var values = kept();
            scope.Attach(values);
            given.Insert(0, values.detach().requires_grad_(call.KeptNeedsGradient));
        }

        Tensor[] sources = [.. given.Where(input => input.requires_grad), .. call.Parameters];
        var found = new Queue<Tensor?>(Gradients.Of([call.Run(given)], sources, [received]));
        Tensor Gradient(Tensor source) =>
            source.requires_grad && found.Dequeue() is { } gradient ? ReturnedGradients.Add(gradient.MoveToOuterDisposeScope()) : null!;
        return [null!, .. given.Select(Gradient), .. call.Parameters.Select(Gradient)];
    }

    private sealed record Call(nn.Module Module, IBlockMemory Memory, Func<Tensor?[], Tensor> Function, bool[] Given, Parameter[] Parameters)
    {
        /// <summary>Returns the first input, if it is not saved in the graph.</summary>
        public Func<Tensor>? Kept { get; set; }

        public bool KeptNeedsGradient { get; set; }

        public Tensor Run(List<Tensor> given)
        {
            var next = new Queue<Tensor>(given);
            return Function(Array.ConvertAll(Given, isGiven => isGiven ? next.Dequeue() : null));
        }
    }

    /// <summary>The settings of a module with checkpointing.</summary>
    private sealed record Settings(IBlockMemory Memory, int Slices);

    /// <summary>Leaves inputs and weights where they are.</summary>
    private sealed class DeviceMemory : IBlockMemory
    {
        public static readonly DeviceMemory Instance = new();

        public IDisposable? Use(nn.Module block, bool isBackward) => null;

        public Func<Tensor>? Keep(Tensor input) => null;
    }
}
