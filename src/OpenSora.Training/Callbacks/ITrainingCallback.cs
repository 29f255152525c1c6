using OpenSora.Media;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Callbacks;

/// <summary>Looks on while a run trains, and may look into it. All members do nothing where they are not implemented.</summary>
/// <remarks>Callbacks are called on the training thread, between steps, in the order in which they were added. An exception ends the run: it is what
/// <see cref="StagedTrainer.RunAsync"/> throws, and a checkpoint of the last step is written first, where checkpoints are written at all.</remarks>
public interface ITrainingCallback
{
    /// <summary>A stage begins, or goes on where it was resumed.</summary>
    void StageStarted(TrainingRun run) { }

    /// <summary>A step is done.</summary>
    void StepDone(TrainingRun run, TrainingProgress progress) { }

    /// <summary>Somebody told the run what they had found (<see cref="TrainingRun.Tell"/>).</summary>
    void Observed(TrainingRun run, TrainingObservation observation) { }

    /// <summary>A checkpoint is complete.</summary>
    void CheckpointWritten(TrainingRun run, string path) { }

    /// <summary>A stage is over.</summary>
    void StageFinished(TrainingRun run) { }
}

/// <summary>Something found out about a run apart from its steps, such as a validation loss or a preview: told by one callback, shown by
/// others.</summary>
/// <param name="Name">What it is, such as <c>validation</c>.</param>
public record TrainingObservation(string Name)
{
    /// <summary>Numbers by their names.</summary>
    public IReadOnlyDictionary<string, double> Scalars { get; init; } = new Dictionary<string, double>(StringComparer.Ordinal);

    /// <summary>Pictures and videos by their names.</summary>
    public IReadOnlyDictionary<string, VideoFrames> Videos { get; init; } = new Dictionary<string, VideoFrames>(StringComparer.Ordinal);
}

/// <summary>The stage that is being trained, as callbacks see it.</summary>
public sealed class TrainingRun
{
    private readonly IReadOnlyList<ITrainingCallback> _callbacks;
    private readonly MovingAverage? _average;
    private readonly long _before;

    internal TrainingRun(
        TrainingStage stage,
        IReadOnlyDictionary<string, nn.Module> modules,
        MovingAverage? average,
        long before,
        IReadOnlyList<ITrainingCallback> callbacks,
        CancellationToken cancellationToken
    )
    {
        (Stage, Modules, CancellationToken) = (stage, modules, cancellationToken);
        (_average, _before, _callbacks) = (average, before, callbacks);
    }

    /// <summary>The stage's settings.</summary>
    public TrainingStage Stage { get; }

    /// <summary>The modules under training, by the objective's names for them.</summary>
    public IReadOnlyDictionary<string, nn.Module> Modules { get; }

    /// <summary>Steps done in the stage.</summary>
    public long Step { get; internal set; }

    /// <summary>Steps done in this stage and all before it.</summary>
    public long TotalStep => _before + Step;

    /// <summary>Stops the run.</summary>
    public CancellationToken CancellationToken { get; }

    /// <summary>Tells all callbacks what was found.</summary>
    public void Tell(TrainingObservation observation)
    {
        ArgumentNullException.ThrowIfNull(observation);
        Notify(callback => callback.Observed(this, observation));
    }

    /// <summary>Does something with the model as it would be used: without gradients, in evaluation mode, with the moving averages in place of the
    /// weights. Afterwards all is as before, so that training goes on as if nothing had been done.</summary>
    /// <param name="work">What to do. Its tensors are disposed of with it.</param>
    /// <param name="averages">Whether the moving averages are used, where the stage keeps any, rather than the last weights.</param>
    public void Evaluate(Action work, bool averages = true)
    {
        ArgumentNullException.ThrowIfNull(work);
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var exchanged = averages ? _average?.Exchange() : null;
        foreach (var module in Modules.Values)
        {
            module.eval();
        }

        try
        {
            work();
        }
        finally
        {
            foreach (var module in Modules.Values)
            {
                module.train();
            }
        }
    }

    internal void Notify(Action<ITrainingCallback> notify)
    {
        foreach (var callback in _callbacks)
        {
            notify(callback);
        }
    }
}
