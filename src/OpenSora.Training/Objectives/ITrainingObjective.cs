using OpenSora.Diffusion;
using OpenSora.Training.Data;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Objectives;

/// <summary>A training objective: the loss to minimize and the modules to train.</summary>
public interface ITrainingObjective
{
    /// <summary>Gets the modules to train. The keys are the prefixes of the parameter names in checkpoints.</summary>
    IReadOnlyDictionary<string, nn.Module> Modules { get; }

    /// <summary>Gets a short description of the loss. It is written to checkpoints and compared when a run is resumed.</summary>
    string Fingerprint => GetType().Name;

    /// <summary>Gets a value that indicates whether <see cref="Loss"/> draws random values for the whole batch
    /// (<see cref="TrainingBatch.WholeSize"/>) and uses those of its samples (<see cref="TrainingBatch.Offset"/>), so that they do not depend on the
    /// number of processes. If false, each process draws different values.</summary>
    bool DrawsForWholeBatch => false;

    /// <summary>Computes the loss of a batch. Several threads can call this method at the same time (see
    /// <see cref="TrainingStage.Workers"/>).</summary>
    /// <param name="batch">The batch. The caller keeps ownership of it.</param>
    /// <param name="stage">The settings of the stage.</param>
    /// <param name="generator">The source of randomness. Dropout and similar modules use libtorch's global generator; with one worker, they are
    /// reproducible too, because that generator is seeded again for every step.</param>
    /// <returns>The loss to minimize, a scalar with a gradient, and its components. They belong to the current dispose scope.</returns>
    TrainingLoss Loss(TrainingBatch batch, TrainingStage stage, Generator generator);

    /// <summary>Computes the unweighted loss of each sample for the specified noise levels and noise, for
    /// <see cref="StagedTrainer.AddValidationLoss"/>. Objectives that do not add noise need not implement it.</summary>
    /// <param name="batch">The batch. The caller keeps ownership of it.</param>
    /// <param name="times">The noise levels, from 0 (clean) to 1 (noise), <c>[batch]</c>, float32.</param>
    /// <param name="noise">Standard normal noise with the shape of the video.</param>
    /// <returns>The losses, <c>[batch]</c>, owned by the caller.</returns>
    /// <exception cref="NotSupportedException">The loss does not depend on an amount of noise.</exception>
    Tensor SampleLosses(TrainingBatch batch, Tensor times, Tensor noise) =>
        throw new NotSupportedException(
            $"{GetType().Name} does not implement {nameof(SampleLosses)}, so its loss cannot be measured for each amount of noise. "
                + "Implement this method, or measure the loss in a custom callback."
        );
}
