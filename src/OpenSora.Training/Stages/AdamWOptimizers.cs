using OpenSora.Runtime;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Training.Stages;

/// <summary>AdamW (Loshchilov and Hutter, 2019) for a list of parameters.</summary>
/// <remarks>The arithmetic is that of TorchSharp's AdamW, bit for bit, with two differences: the numbers stay alive until each operation returns
/// (see <see cref="TensorArithmetic"/>), and the temporary tensors of a parameter, 8 bytes per value, are released before the next parameter's
/// update.</remarks>
internal sealed class AdamWOptimizers : IDisposable
{
    private const double Epsilon = 1e-8;

    private readonly Parameter[] _parameters;
    private readonly AdamWState[] _states;
    private readonly (double Beta1, double Beta2, double WeightDecay) _settings;

    public AdamWOptimizers(IEnumerable<Parameter> parameters, TrainingStage stage)
    {
        _parameters = [.. parameters];
        _states = Array.ConvertAll(_parameters, parameter => new AdamWState(parameter));
        _settings = (stage.Beta1, stage.Beta2, stage.WeightDecay);
    }

    /// <summary>Gets the moments and the step count of a parameter.</summary>
    public AdamWState State(int parameter) => _states[parameter];

    /// <summary>Updates every parameter that has a gradient.</summary>
    public void Step(double learningRate)
    {
        using var noGradients = no_grad();
        var (beta1, beta2, weightDecay) = _settings;
        foreach (var (parameter, state) in _parameters.Zip(_states))
        {
            using var scope = NewDisposeScope();
            if (parameter.grad is not { } gradient)
            {
                continue;
            }

            state.Steps++;
            parameter.MultiplyInPlace(1 - learningRate * weightDecay);
            state.Mean.MultiplyInPlace(beta1).AddInPlace(gradient, 1 - beta1);
            state.Square.MultiplyInPlace(beta2).AddProductInPlace(gradient, gradient, 1 - beta2);
            var (correction1, correction2) = (1 - Math.Pow(beta1, state.Steps), 1 - Math.Pow(beta2, state.Steps));
            var deviation = state.Square.sqrt().Over(Math.Sqrt(correction2)).AddInPlace(Epsilon);
            parameter.AddQuotientInPlace(state.Mean, deviation, -(learningRate / correction1));
        }
    }

    /// <inheritdoc/>
    public void Dispose() => Array.ForEach(_states, state => state.Dispose());
}

/// <summary>The moments and the step count of a parameter.</summary>
internal sealed class AdamWState(Tensor parameter) : IDisposable
{
    /// <summary>The number of updates of the parameter.</summary>
    public long Steps { get; set; }

    /// <summary>The moving average of the gradients.</summary>
    public Tensor Mean { get; } = zeros_like(parameter).DetachFromDisposeScope();

    /// <summary>The moving average of the squared gradients.</summary>
    public Tensor Square { get; } = zeros_like(parameter).DetachFromDisposeScope();

    /// <inheritdoc/>
    public void Dispose()
    {
        Mean.Dispose();
        Square.Dispose();
    }
}
