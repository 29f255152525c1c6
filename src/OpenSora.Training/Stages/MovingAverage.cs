using OpenSora.Runtime;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Training.Stages;

/// <summary>An exponential moving average of parameters, in float32. Buffers are not averaged, as in the published implementation.</summary>
internal sealed class MovingAverage : IDisposable
{
    private readonly IReadOnlyList<(string Name, Parameter Parameter)> _parameters;
    private readonly Dictionary<string, Tensor> _averages = new(StringComparer.Ordinal);

    public MovingAverage(IReadOnlyList<(string Name, Parameter Parameter)> parameters)
    {
        _parameters = parameters;
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        foreach (var (name, parameter) in parameters)
        {
            var average = parameter.detach().to(ScalarType.Float32, copy: true);
            average.DetachFromDisposeScope();
            _averages[name] = average;
        }
    }

    public IReadOnlyDictionary<string, Tensor> Averages => _averages;

    /// <summary>Updates the averages: <c>average = decay * average + (1 - decay) * parameter</c>.</summary>
    public void Update(double decay)
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        foreach (var (name, parameter) in _parameters)
        {
            _averages[name].MultiplyInPlace(decay).AddInPlace(parameter, 1 - decay);
        }
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
    }
}
