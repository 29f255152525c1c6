using OpenSora.Runtime;
using OpenSora.Training.Distributed;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Training.Stages;

/// <summary>An exponential moving average of parameters, in float32. Buffers are not averaged, as in the published implementation.</summary>
internal sealed class MovingAverage : IDisposable
{
    private readonly IReadOnlyList<(string Name, Parameter Parameter)> _parameters;
    private readonly OwnedParameters _owned;
    private readonly Dictionary<string, Tensor> _averages = new(StringComparer.Ordinal);

    public MovingAverage(OwnedParameters owned)
    {
        _owned = owned;
        var parameters = _parameters = [.. owned.All.Select(one => (one.Key, one.Values))];
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        foreach (var (name, parameter) in parameters)
        {
            var average = parameter.detach().to(ScalarType.Float32, copy: true);
            average.DetachFromDisposeScope();
            _averages[name] = average;
        }
    }

    /// <summary>Gets the averages by <see cref="OwnedParameter.Key"/>.</summary>
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

    /// <summary>Copies the averages into the parameters. If they are sharded, all processes must call it.</summary>
    public void CopyToParameters()
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        foreach (var (name, parameter) in _parameters)
        {
            parameter.copy_(_averages[name]);
        }

        _owned.Gather();
    }

    /// <summary>Copies the averages into the parameters until the returned object is disposed, which restores the parameters.</summary>
    /// <remarks>If they are sharded, only process 0 calls it, while the others <see cref="Assist"/>.</remarks>
    public IDisposable Exchange()
    {
        Announce(Request.Exchange);
        return ExchangeOwn(() => Announce(Request.Restore));
    }

    /// <summary>Ends <see cref="Assist"/> of the other processes.</summary>
    public void Release() => Announce(Request.Done);

    /// <summary>Takes part in what process 0 does with sharded averages until it calls <see cref="Release"/>.</summary>
    public void Assist()
    {
        IDisposable? exchanged = null;
        while (_owned.IsSharded && (Request)_owned.Group!.FromFirst(0L)[0] is not Request.Done and var request)
        {
            if (request == Request.Exchange)
            {
                exchanged = ExchangeOwn(() => { });
            }
            else
            {
                exchanged!.Dispose();
            }
        }
    }

    private void Announce(Request request)
    {
        if (_owned.IsSharded)
        {
            _owned.Group!.FromFirst((long)request);
        }
    }

    private Exchanged ExchangeOwn(Action restoring)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var weights = _parameters.Select(pair => pair.Parameter.detach().clone().MoveToOuterDisposeScope()).ToArray();
        CopyToParameters();
        return new Exchanged(this, weights, restoring);
    }

    private enum Request
    {
        Done,
        Exchange,
        Restore,
    }

    private sealed class Exchanged(MovingAverage owner, Tensor[] weights, Action restoring) : IDisposable
    {
        public void Dispose()
        {
            using var noGradients = no_grad();
            restoring();
            foreach (var (i, (_, parameter)) in owner._parameters.Index())
            {
                parameter.copy_(weights[i]);
                weights[i].Dispose();
            }

            owner._owned.Gather();
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
