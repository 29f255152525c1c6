using OpenSora.Runtime;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Training.Stages;

/// <summary>An exponential moving average of parameters, in float32. Buffers are not averaged, as in the published implementation.</summary>
internal sealed class MovingAverage : IDisposable
{
    private readonly IReadOnlyList<(string Name, Parameter Parameter)> _parameters;
    private readonly ScratchMemory? _memory;
    private readonly Dictionary<string, Tensor> _averages = new(StringComparer.Ordinal);

    /// <summary>Creates averages that equal the parameters.</summary>
    /// <param name="parameters">The parameters.</param>
    /// <param name="memory">The memory of the averages, which this object owns; null for that of the parameters.</param>
    public MovingAverage(IReadOnlyList<(string Name, Parameter Parameter)> parameters, ScratchMemory? memory = null)
    {
        (_parameters, _memory) = (parameters, memory);
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        foreach (var (name, parameter) in parameters)
        {
            _averages[name] = memory?.Copy(parameter, ScalarType.Float32)
                ?? parameter.detach().to(ScalarType.Float32, copy: true).DetachFromDisposeScope();
            memory?.Drop(_averages[name]);
        }
    }

    public IReadOnlyDictionary<string, Tensor> Averages => _averages;

    /// <summary>Updates the averages: <c>average = decay * average + (1 - decay) * parameter</c>.</summary>
    public void Update(double decay)
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        foreach (var (i, (_, parameter)) in _parameters.Index())
        {
            Update(i, parameter, decay);
        }
    }

    /// <summary>Updates the average of one parameter. The caller disables gradients and provides a dispose scope.</summary>
    /// <param name="number">The number of the parameter.</param>
    /// <param name="weights">The parameter, or its values in the memory of the average.</param>
    /// <param name="decay">The decay rate.</param>
    public void Update(int number, Tensor weights, double decay)
    {
        var average = _averages[_parameters[number].Name];
        average.MultiplyInPlace(decay).AddInPlace(weights, 1 - decay);
        _memory?.Drop(average);
    }

    /// <summary>Copies the averages into the parameters.</summary>
    public void CopyToParameters()
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        foreach (var (name, parameter) in _parameters)
        {
            parameter.copy_(_averages[name]);
        }
    }

    /// <summary>Copies the averages into the parameters until the returned object is disposed, which restores the parameters.</summary>
    public IDisposable Exchange()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var weights = _parameters.Select(pair => pair.Parameter.detach().clone().MoveToOuterDisposeScope()).ToArray();
        CopyToParameters();
        return new Exchanged(this, weights);
    }

    private sealed class Exchanged(MovingAverage owner, Tensor[] weights) : IDisposable
    {
        public void Dispose()
        {
            using var noGradients = no_grad();
            foreach (var (i, (_, parameter)) in owner._parameters.Index())
            {
                parameter.copy_(weights[i]);
                weights[i].Dispose();
            }
        }
    }

    public void Dispose()
    {
        foreach (var average in _averages.Values)
        {
            average.Dispose();
        }

        _memory?.Dispose();
    }
}
