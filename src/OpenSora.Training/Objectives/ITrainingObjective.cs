using OpenSora.Training.Data;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Objectives;

/// <summary>A loss and what it is made of.</summary>
/// <param name="Total">What is minimised, a scalar with a gradient. It belongs to the current dispose scope.</param>
/// <param name="Parts">Its parts, for progress.</param>
public sealed record TrainingLoss(Tensor Total, IReadOnlyDictionary<string, double> Parts);

/// <summary>What training minimises, and the modules whose parameters it may change to that end.</summary>
public interface ITrainingObjective
{
    /// <summary>The modules under training, by the name with which their parameters begin in checkpoints.</summary>
    IReadOnlyDictionary<string, nn.Module> Modules { get; }

    /// <summary>What is minimised, in a few words and numbers: written into checkpoints and compared when a run is resumed.</summary>
    string Fingerprint => GetType().Name;

    /// <summary>Rates a batch. Several threads may do so at once (<see cref="TrainingStage.Workers"/>).</summary>
    /// <param name="batch">The batch; stays the caller's.</param>
    /// <param name="stage">The stage's settings.</param>
    /// <param name="generator">The source of randomness. Dropout and the like, which draw from libtorch's global generator, are repeatable too, with
    /// one
    /// worker: it is seeded anew for every step.</param>
    TrainingLoss Loss(TrainingBatch batch, TrainingStage stage, Generator generator);
}

/// <summary>An objective whose loss depends on how much noise was added.</summary>
public interface IDenoisingObjective : ITrainingObjective
{
    /// <summary>The loss of each sample with all that is random given, unweighted.</summary>
    /// <param name="batch">The batch; stays the caller's.</param>
    /// <param name="times">How far from clean (0) to noise (1), <c>[batch]</c>, float32.</param>
    /// <param name="noise">Standard normal noise of the video's shape.</param>
    /// <returns><c>[batch]</c>, owned by the caller.</returns>
    Tensor SampleLosses(TrainingBatch batch, Tensor times, Tensor noise);
}
