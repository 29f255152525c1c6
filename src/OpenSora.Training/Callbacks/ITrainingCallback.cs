using OpenSora.Media;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Callbacks;

/// <summary>Observes a training run. Every member does nothing by default.</summary>
/// <remarks>Callbacks are called on the training thread, one after the other, between steps, in the order in which they were added; training
/// continues when the returned task is complete. What follows an <c>await</c> without <c>ConfigureAwait(false)</c> runs on that thread too, so a
/// callback must not block on a task. An exception ends the run:
/// <see cref="StagedTrainer.RunAsync"/> throws it after writing a checkpoint of the last step, if checkpoints are enabled.</remarks>
public interface ITrainingCallback
{
    /// <summary>Called when a stage starts or is resumed.</summary>
    ValueTask StageStartedAsync(TrainingRun run) => default;

    /// <summary>Called after every step.</summary>
    ValueTask StepDoneAsync(TrainingRun run, TrainingProgress progress) => default;

    /// <summary>Called before another callback does work that can take long, such as a preview (<see cref="TrainingRun.AnnounceAsync"/>).</summary>
    ValueTask AnnouncedAsync(TrainingRun run, string name) => default;

    /// <summary>Called when another callback reports an observation (<see cref="TrainingRun.ReportAsync"/>).</summary>
    ValueTask ObservedAsync(TrainingRun run, TrainingObservation observation) => default;

    /// <summary>Called after a checkpoint was written.</summary>
    ValueTask CheckpointWrittenAsync(TrainingRun run, string path) => default;

    /// <summary>Called when a stage is complete.</summary>
    ValueTask StageFinishedAsync(TrainingRun run) => default;
}

/// <summary>An observation apart from the steps, such as a validation loss or a preview, which one callback makes and others show.</summary>
/// <param name="Name">The name, such as <c>validation</c>.</param>
public record TrainingObservation(string Name)
{
    /// <summary>A message for the log, such as the settings that changed when a run resumed; null for none.</summary>
    public string? Text { get; init; }

    /// <summary>The numbers of the observation by name.</summary>
    public IReadOnlyDictionary<string, double> Scalars { get; init; } = new Dictionary<string, double>(StringComparer.Ordinal);

    /// <summary>The images and videos of the observation by name.</summary>
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

    /// <summary>The settings of the stage.</summary>
    public TrainingStage Stage { get; }

    /// <summary>The modules that are trained, by their names in the objective.</summary>
    public IReadOnlyDictionary<string, nn.Module> Modules { get; }

    /// <summary>The number of completed steps in the stage.</summary>
    public long Step { get; internal set; }

    /// <summary>The number of completed steps in this stage and all previous stages.</summary>
    public long TotalStep => _before + Step;

    /// <summary>What the stage offloads; null for nothing.</summary>
    internal StageMemory? Memory { get; init; }

    /// <summary>The token that stops the run.</summary>
    public CancellationToken CancellationToken { get; }

    /// <summary>Announces work that can take long to all callbacks, so that training does not seem to hang.</summary>
    /// <param name="name">The name of the observation that will be reported, such as <c>preview</c>.</param>
    public ValueTask AnnounceAsync(string name)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        return NotifyAsync(callback => callback.AnnouncedAsync(this, name));
    }

    /// <summary>Reports an observation to all callbacks.</summary>
    public ValueTask ReportAsync(TrainingObservation observation)
    {
        ArgumentNullException.ThrowIfNull(observation);
        return NotifyAsync(callback => callback.ObservedAsync(this, observation));
    }

    /// <summary>Runs a function with the model in the state in which it is used: without gradients, in evaluation mode, with the moving averages in
    /// place of the weights. The previous state is restored, so that training continues as if nothing had happened.</summary>
    /// <param name="work">The function. Tensors that it creates are disposed when it returns. It must not be asynchronous: the state belongs to the
    /// thread.</param>
    /// <param name="averages">true to use the moving averages if the stage keeps any; false to use the last weights.</param>
    public void Evaluate(Action work, bool averages = true)
    {
        ArgumentNullException.ThrowIfNull(work);
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var whole = Memory?.Whole();
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

    internal async ValueTask NotifyAsync(Func<ITrainingCallback, ValueTask> notify)
    {
        foreach (var callback in _callbacks)
        {
            await notify(callback).ConfigureAwait(true); // on the training thread
        }
    }
}
