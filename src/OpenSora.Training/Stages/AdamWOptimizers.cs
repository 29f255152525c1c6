using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Training.Stages;

/// <summary>AdamW (Loshchilov and Hutter, 2019) for many parameters.</summary>
/// <remarks>TorchSharp's AdamW keeps two temporary tensors of each parameter until it has seen all of them: 8 bytes a parameter. With an optimizer
/// for each
/// parameter they live as long as that one's step.</remarks>
internal sealed class AdamWOptimizers : IDisposable
{
    private readonly List<AdamW> _optimizers;

    public AdamWOptimizers(IEnumerable<Parameter> parameters, TrainingStage stage) =>
        _optimizers = [
            .. parameters.Select(parameter => optim.AdamW([parameter], stage.LearningRate, stage.Beta1, stage.Beta2, 1e-8, stage.WeightDecay)),
        ];

    /// <summary>The moments and the number of steps of one parameter.</summary>
    public AdamW.State State(int parameter) => (AdamW.State)_optimizers[parameter].state_dict().State[0];

    /// <summary>Changes every parameter that has a gradient.</summary>
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
