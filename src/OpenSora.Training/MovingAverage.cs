using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Training;

/// <summary>An exponential moving average of parameters, in float32; buffers have none, as published.</summary>
internal sealed class MovingAverage : IDisposable
{
    private readonly IReadOnlyList<(string Name, Parameter Parameter)> parameters;
    private readonly Dictionary<string, Tensor> averages = new(StringComparer.Ordinal);

    public MovingAverage(IReadOnlyList<(string Name, Parameter Parameter)> parameters)
    {
        this.parameters = parameters;
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        foreach (var (name, parameter) in parameters)
        {
            var average = parameter.detach().to(ScalarType.Float32, copy: true);
            average.DetachFromDisposeScope();
            averages[name] = average;
        }
    }

    public IReadOnlyDictionary<string, Tensor> Averages => averages;

    /// <summary><c>average = decay * average + (1 - decay) * parameter</c></summary>
    public void Update(double decay)
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        foreach (var (name, parameter) in parameters)
            averages[name].mul_(decay).add_(parameter, 1 - decay);
    }

    /// <summary>Puts the averages into the parameters.</summary>
    public void CopyToParameters()
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        foreach (var (name, parameter) in parameters)
            parameter.copy_(averages[name]);
    }

    public void Dispose()
    {
        foreach (var average in averages.Values)
            average.Dispose();
    }
}
