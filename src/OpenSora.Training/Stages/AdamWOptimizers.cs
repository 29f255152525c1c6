using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Training.Stages;

/// <summary>A set of AdamW optimizers (Loshchilov and Hutter, 2019), one for each parameter.</summary>
/// <remarks>TorchSharp's AdamW keeps two temporary tensors per parameter until it has updated all of its parameters: 8 bytes per value. With a
/// separate optimizer for each parameter, these tensors are released after each parameter's update.</remarks>
internal sealed class AdamWOptimizers : IDisposable
{
    private readonly List<AdamW> _optimizers;

    public AdamWOptimizers(IEnumerable<Parameter> parameters, TrainingStage stage) =>
        _optimizers = [
            .. parameters.Select(parameter => optim.AdamW([parameter], stage.LearningRate, stage.Beta1, stage.Beta2, 1e-8, stage.WeightDecay)),
        ];

    /// <summary>Gets the moments and the step count of a parameter.</summary>
    public AdamW.State State(int parameter) => (AdamW.State)_optimizers[parameter].state_dict().State[0];

    /// <summary>Updates every parameter that has a gradient.</summary>
    public void Step(double learningRate)
    {
        foreach (var optimizer in _optimizers)
        {
            optimizer.ParamGroups.Single().LearningRate = learningRate;
            optimizer.step();
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _optimizers.ForEach(optimizer => optimizer.Dispose());
}
