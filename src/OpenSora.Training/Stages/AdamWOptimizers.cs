using OpenSora.Runtime;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Training.Stages;

/// <summary>AdamW (Loshchilov and Hutter, 2019) for a list of parameters, or for those that <see cref="Muon"/> does not train.</summary>
/// <remarks>The arithmetic is that of TorchSharp's AdamW, bit for bit, with two differences: the numbers stay alive until each operation returns
/// (see <see cref="TensorArithmetic"/>), and the temporary tensors of a parameter, 8 bytes per value, are released before the next parameter's
/// update.</remarks>
internal sealed class AdamWOptimizers : IDisposable
{
    private const double Epsilon = 1e-8;

    private readonly (string Name, Parameter Values)[] _parameters;
    private readonly ScratchMemory? _memory;
    private readonly AdamWState[] _states;
    private readonly (double Beta1, double Beta2, double WeightDecay) _settings;
    private readonly double? _muonScale;
    private readonly ScalarType _computeType;

    /// <summary>Creates the optimizer.</summary>
    /// <param name="parameters">The parameters with their names.</param>
    /// <param name="stage">The settings.</param>
    /// <param name="memory">The memory of the state, which this object owns; null for that of the parameters.</param>
    /// <param name="computeType">The data type in which Muon multiplies matrices.</param>
    public AdamWOptimizers(
        IEnumerable<(string Name, Parameter Values)> parameters,
        TrainingStage stage,
        ScratchMemory? memory = null,
        ScalarType computeType = ScalarType.Float32
    )
    {
        (_parameters, _memory, _muonScale, _computeType) = ([.. parameters], memory, stage.MuonScale, computeType);
        _states = Array.ConvertAll(_parameters, one => new AdamWState(one.Values, memory, hasSquare: !UsesMuon(one)));
        _settings = (stage.Beta1, stage.Beta2, stage.WeightDecay);
    }

    /// <summary>Gets the moments and the step count of a parameter.</summary>
    public AdamWState State(int parameter) => _states[parameter];

    /// <summary>Updates every parameter that has a gradient.</summary>
    public void Step(double learningRate)
    {
        using var noGradients = no_grad();
        List<(string, Parameter, Tensor)> matrices = [];
        foreach (var (i, (name, parameter)) in _parameters.Index())
        {
            using var scope = NewDisposeScope();
            if (parameter.grad is not { } gradient)
            {
                continue;
            }

            if (_states[i].Square is null)
            {
                _states[i].Steps++;
                matrices.Add((name, parameter, _states[i].Mean));
            }
            else
            {
                Update(i, parameter, gradient, learningRate);
            }
        }

        Muon.Step(matrices, learningRate, _muonScale ?? 0, _settings.WeightDecay, _computeType);
    }

    /// <summary>Updates one parameter. The caller disables gradients and provides a dispose scope.</summary>
    /// <param name="number">The number of the parameter.</param>
    /// <param name="weights">The parameter, or its values in the memory of the state.</param>
    /// <param name="gradient">The gradient, on the same device.</param>
    /// <param name="learningRate">The learning rate.</param>
    public void Update(int number, Tensor weights, Tensor gradient, double learningRate)
    {
        var (beta1, beta2, weightDecay) = _settings;
        var state = _states[number];
        state.Steps++;
        weights.MultiplyInPlace(1 - learningRate * weightDecay);
        state.Mean.MultiplyInPlace(beta1).AddInPlace(gradient, 1 - beta1);
        var square = state.Square!;
        square.MultiplyInPlace(beta2).AddProductInPlace(gradient, gradient, 1 - beta2);
        var (correction1, correction2) = (1 - Math.Pow(beta1, state.Steps), 1 - Math.Pow(beta2, state.Steps));
        var deviation = square.sqrt().Over(Math.Sqrt(correction2)).AddInPlace(Epsilon);
        weights.AddQuotientInPlace(state.Mean, deviation, -(learningRate / correction1));
        _memory?.Drop(state.Mean);
        _memory?.Drop(square);
    }

    private bool UsesMuon((string Name, Parameter Values) one) => _muonScale is not null && Muon.Trains(one.Name, one.Values);

    /// <inheritdoc/>
    public void Dispose()
    {
        Array.ForEach(_states, state => state.Dispose());
        _memory?.Dispose();
    }
}

/// <summary>The moments and the step count of a parameter.</summary>
/// <param name="parameter">The parameter.</param>
/// <param name="memory">The memory of the moments; null for that of the parameter.</param>
/// <param name="hasSquare">Whether the optimizer needs the second moment. Muon does not.</param>
internal sealed class AdamWState(Tensor parameter, ScratchMemory? memory = null, bool hasSquare = true) : IDisposable
{
    /// <summary>The number of updates of the parameter.</summary>
    public long Steps { get; set; }

    /// <summary>The moving average of the gradients.</summary>
    public Tensor Mean { get; } = memory?.Zeros(parameter.shape, parameter.dtype) ?? zeros_like(parameter).DetachFromDisposeScope();

    /// <summary>The moving average of the squared gradients; null if the optimizer does not need it.</summary>
    public Tensor? Square { get; } =
        hasSquare ? memory?.Zeros(parameter.shape, parameter.dtype) ?? zeros_like(parameter).DetachFromDisposeScope() : null;

    /// <inheritdoc/>
    public void Dispose()
    {
        Mean.Dispose();
        Square?.Dispose();
    }
}
