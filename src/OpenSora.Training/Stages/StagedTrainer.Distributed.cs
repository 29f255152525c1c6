using System.Globalization;
using System.Runtime.ExceptionServices;
using OpenSora.Distributed;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Data;
using OpenSora.Training.Distributed;

namespace OpenSora.Training.Stages;

/// <content>Training with several processes.</content>
public sealed partial class StagedTrainer
{
    private TrainingGroup? _group;

    /// <summary>Trains with several processes, each of which must create the same trainer and call the same methods. With a group of one process,
    /// nothing changes.</summary>
    /// <remarks>
    /// <para><see cref="TrainingStage.BatchSize"/> remains the size of the whole batch: every process uses its part of it
    /// (<see cref="ITrainingData.GetPartAsync"/>), and gradients are added up, so that losses and weights do not depend on the number of processes,
    /// apart from rounding. Dropout and objectives that draw their own random values do (see
    /// <see cref="Objectives.ITrainingObjective.DrawsForWholeBatch"/>).</para>
    /// <para>Process 0 sends its initial weights to the others, and only process 0 calls callbacks and reports progress, while the others wait. All
    /// decisions that depend on the time or on a callback are those of process 0. A process that is canceled cancels all of them after the
    /// step.</para>
    /// <para>Each process writes its part of a checkpoint into the same folder. A run can resume with any number of processes.</para>
    /// </remarks>
    /// <param name="collectives">The group of processes. The caller keeps ownership of it.</param>
    /// <param name="sharding">The state that each process holds only a part of; null for that of the configuration, or
    /// <see cref="Sharding.None"/>.</param>
    /// <param name="sequenceProcesses">The number of processes that compute a sample together, each with some of its frames
    /// (<see cref="Models.ModelExtensions.UseSequenceParallel"/>), for videos that are too long for one process. The number of processes must be a
    /// multiple of it; processes with consecutive ranks compute the same samples. The loss may depend on trained parameters only through the output
    /// of the transformer. 1 gives each process its own samples; null is the number in the configuration, or 1.</param>
    /// <param name="bucketBytes">The size of a bucket in bytes: gradients are sent together until they reach it, and a parameter that is larger has
    /// its own bucket. Null for the size in the configuration, or 25 MB.</param>
    /// <exception cref="ArgumentException">An argument is invalid.</exception>
    public StagedTrainer UseCollectives(
        ICollectives collectives,
        Sharding? sharding = null,
        int? sequenceProcesses = null,
        int? bucketBytes = null
    ) =>
        UseCollectives(
            collectives,
            new DistributedOptions
            {
                Sharding = sharding ?? _distributed.Sharding,
                SequenceProcesses = sequenceProcesses ?? _distributed.SequenceProcesses,
                BucketBytes = bucketBytes ?? _distributed.BucketBytes,
            }
        );

    private DistributedOptions _distributed = new();

    /// <summary>Trains with several processes.</summary>
    internal StagedTrainer UseCollectives(ICollectives collectives, DistributedOptions? options)
    {
        ArgumentNullException.ThrowIfNull(collectives);
        options ??= new DistributedOptions();
        if (options.Problems().FirstOrDefault() is { } problem)
        {
            throw new ArgumentException(problem, nameof(options));
        }

        if (collectives.Size % options.SequenceProcesses != 0)
        {
            throw new ArgumentException(
                $"{nameof(options.SequenceProcesses)} is {options.SequenceProcesses}, but there are {collectives.Size} processes. Start a "
                    + $"multiple of {options.SequenceProcesses}, or change the option.",
                nameof(options)
            );
        }

        _group?.Dispose();
        _group = collectives.Size == 1 ? null : new TrainingGroup(collectives, options);
        return this;
    }

    /// <summary>Sets the options that <see cref="UseCollectives(ICollectives, Sharding?, int?, int?)"/> uses by default.</summary>
    internal StagedTrainer SetDistributed(DistributedOptions options)
    {
        _distributed = options;
        return this;
    }

    private IReadOnlyList<ITrainingCallback> OwnCallbacks => _group is null or { IsFirst: true } ? _callbacks : [];

    private void RequireSamplesForAll(TrainingStage stage)
    {
        if (_group is not null && stage.Offload is ({ Optimizer: true } or { Parameters: true }))
        {
            throw new InvalidOperationException(
                $"Stage '{stage.Name}' has {nameof(TrainingStage.Offload)} with {nameof(OffloadOptions.Optimizer)} or "
                    + $"{nameof(OffloadOptions.Parameters)}, which is not implemented for several processes. Use only "
                    + $"{nameof(OffloadOptions.Activations)}, or train with one process."
            );
        }

        if (_group is not null && stage.MuonScale is not null && _group.Options.Sharding != Sharding.None)
        {
            throw new InvalidOperationException(
                $"Stage '{stage.Name}' has {nameof(TrainingStage.MuonScale)}, which requires whole matrices, but {nameof(Sharding)} is "
                    + $"{_group.Options.Sharding}. Use {nameof(Sharding)}.{nameof(Sharding.None)}, or train with AdamW."
            );
        }

        if (_group is not null && stage.BatchSize < _group.Parts)
        {
            throw new InvalidOperationException(
                $"Stage '{stage.Name}' has {nameof(TrainingStage.BatchSize)} {stage.BatchSize}, but {_group.Parts} processes share a batch. "
                    + "Increase the size of batches, or use fewer processes."
            );
        }
    }

    // Settings that differ between processes would make them wait for each other forever, or train different models.
    private void RequireSameStages()
    {
        if (_group is null)
        {
            return;
        }

        _group.Device = _objective.Modules.Values.SelectMany(module => module.parameters()).FirstOrDefault()?.device ?? TorchSharp.torch.CPU;
        foreach (var stage in _stages)
        {
            _group.RequireSame(
                string.Create(
                    CultureInfo.InvariantCulture,
                    $"{StageSettings.Of(stage).GetRawText()}, steps {stage.Steps}, time {stage.TimeLimit}, from averages {stage.StartFromEma}, "
                        + $"data {stage.Data!.Fingerprint}"
                ),
                $"settings of stage '{stage.Name}'"
            );
        }

        var options = _group.Options;
        _group.RequireSame(
            string.Create(
                CultureInfo.InvariantCulture,
                $"{_stages.Count} stages, sharding {options.Sharding}, {options.SequenceProcesses} processes for a sample, "
                    + $"buckets of {options.BucketBytes} bytes, "
                    + $"checkpoints '{_checkpoints?.Folder}', resuming '{_resumeFrom}'"
            ),
            "settings"
        );
    }

    // Fails before the first step if samples cannot be divided.
    private void RequireDivisible()
    {
        using var divided = _group?.DivideTokens(_objective.Modules.Values);
        if (divided is not null && _stages.Find(stage => stage.Workers > 1) is { } stage)
        {
            throw new InvalidOperationException(
                $"Stage '{stage.Name}' has {nameof(TrainingStage.Workers)} {stage.Workers}, but with {nameof(DistributedOptions.SequenceProcesses)} "
                    + $"{_group!.Options.SequenceProcesses} it must be 1, because threads cannot exchange tokens at the same time."
            );
        }
    }

    private void Together(Action work, bool onlyFirst = false)
    {
        if (_group is null)
        {
            work();
        }
        else
        {
            _group.Together(work, onlyFirst);
        }
    }

    // Loads the weights of a checkpoint, or makes all processes start from the same ones, and returns what people should know about resuming.
    private List<string> Start(ResumePoint? point)
    {
        List<string> notes = [];
        if (point is not null)
        {
            Together(() => notes = Continue(point));
        }

        _group?.SendFromFirst(_objective.Modules.Values.SelectMany(module => module.state_dict().Values));
        return notes;
    }

    private void ThrowIfCanceled(CancellationToken cancellationToken)
    {
        if (
            _group?.Maximum(cancellationToken.IsCancellationRequested ? 1 : 0)[0] > 0
            || (_group is null && cancellationToken.IsCancellationRequested)
        )
        {
            throw new OperationCanceledException(cancellationToken);
        }
    }

    // Calls callbacks in process 0 while the others wait, and returns their failure.
    private async ValueTask<Exception?> CallAsync(Func<ValueTask> call)
    {
        if (_group is { IsFirst: false })
        {
            _average?.Assist();
            return null;
        }

        try
        {
            await call().ConfigureAwait(true);
            return null;
        }
        catch (Exception failure) when (failure is not CollectiveException)
        {
            return failure;
        }
        finally
        {
            _average?.Release();
        }
    }

    // Calls callbacks in process 0, and fails in all processes if they fail.
    private async ValueTask CallAllAsync(Func<ValueTask> call)
    {
        if (_group is null)
        {
            await call().ConfigureAwait(true);
            return;
        }

        _group.Require(await CallAsync(call).ConfigureAwait(true));
    }

    private void Report(TrainingProgress now, TrainingStage stage, IProgress<TrainingProgress>? progress)
    {
        if (_group is null or { IsFirst: true })
        {
            TrainingMetrics.Record(now, skipped: now.Spike is not null && stage.Spikes!.SkipSteps);
            progress?.Report(now);
        }
    }

    // Makes the decisions after a step the same in all processes: those of process 0, and a failure or cancellation of any.
    private StepDecision Agree(StepDecision own)
    {
        if (_group is null)
        {
            return own;
        }

        var first = _group.IsFirst;
        var all = _group.Maximum(
            first && own.IsFinished ? 1 : 0,
            first && own.IsDue ? 1 : 0,
            own.IsCanceled ? 1 : 0,
            _group.Failed(own.Failure),
            first ? own.Spent.Ticks : 0
        );
        return new StepDecision(all[0] > 0, all[1] > 0, all[2] > 0, own.Failure, TimeSpan.FromTicks((long)all[4]))
        {
            FailureElsewhere = all[3] > 0 && own.Failure is null ? () => _group.Require(null, all[3]) : null,
        };
    }

    /// <summary>What follows a step.</summary>
    /// <param name="IsFinished">true if the stage is complete.</param>
    /// <param name="IsDue">true if a checkpoint is due.</param>
    /// <param name="IsCanceled">true if the run is canceled.</param>
    /// <param name="Failure">The failure of a callback in this process.</param>
    /// <param name="Spent">The time spent in the stage.</param>
    private readonly record struct StepDecision(bool IsFinished, bool IsDue, bool IsCanceled, Exception? Failure, TimeSpan Spent)
    {
        public Action? FailureElsewhere { get; init; }

        public bool HasFailed => Failure is not null || FailureElsewhere is not null;

        public void ThrowIfFailed()
        {
            FailureElsewhere?.Invoke();
            if (Failure is not null)
            {
                ExceptionDispatchInfo.Throw(Failure);
            }
        }
    }
}
