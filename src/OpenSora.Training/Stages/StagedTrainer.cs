using System.Diagnostics;
using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Data;
using OpenSora.Training.Distributed;
using OpenSora.Training.Objectives;
using OpenSora.Weights;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Training.Stages;

/// <summary>Trains in stages, each of which starts from the weights of the previous stage. Open-Sora 1.0 uses this method to progress from images to
/// low-resolution video to high-quality video. Any other sequence of stages is possible.</summary>
/// <remarks>
/// The parameters are float32 master weights; with <see cref="ModelExtensions.UseComputeType"/>, a model performs matrix multiplications in bfloat16.
/// Runs are reproducible: all randomness of a step is derived from the stage's seed and the step number, so a run that was killed and resumed
/// produces the same weights as an uninterrupted run, bit for bit on one CPU. Steps, samples, losses and durations are also reported to
/// System.Diagnostics.Metrics through the meter <c>OpenSora.Training</c>.
/// </remarks>
public sealed partial class StagedTrainer : IDisposable
{
    private readonly ITrainingObjective _objective;
    private readonly List<TrainingStage> _stages = [];
    private readonly List<ITrainingCallback> _callbacks = [];
    private readonly List<IDisposable> _ownCallbacks = [];
    private CheckpointOptions? _checkpoints;
    private OwnedParameters? _owned;
    private MovingAverage? _average;
    private int _running;

    /// <summary>Creates a trainer for a diffusion transformer with the published loss.</summary>
    /// <param name="model">The model. The caller keeps ownership of it.</param>
    /// <param name="textEncoder">A text encoder to train together with the model, for data that contain token IDs; null if the data contain text
    /// encoder states.</param>
    public StagedTrainer(IVideoTransformer model, T5TextEncoder? textEncoder = null)
        : this(new DiffusionTraining(model, textEncoder)) { }

    /// <summary>Creates a trainer for a custom objective.</summary>
    /// <param name="objective">The loss to minimize and the modules to train.</param>
    public StagedTrainer(ITrainingObjective objective)
    {
        ArgumentNullException.ThrowIfNull(objective);
        _objective = objective;
    }

    /// <summary>Gets the stages in the order in which they run.</summary>
    public IReadOnlyList<TrainingStage> Stages => _stages;

    /// <summary>Adds a stage after the existing stages.</summary>
    /// <param name="stage">The settings of the stage. They are validated when the run starts.</param>
    public StagedTrainer AddStage(TrainingStage stage)
    {
        ArgumentNullException.ThrowIfNull(stage);
        _stages.Add(stage);
        return this;
    }

    /// <summary>Adds a callback. Callbacks are called in the order in which they were added.</summary>
    /// <param name="callback">The callback. The caller keeps ownership of it.</param>
    public StagedTrainer AddCallback(ITrainingCallback callback)
    {
        ArgumentNullException.ThrowIfNull(callback);
        _callbacks.Add(callback);
        return this;
    }

    /// <summary>Enables checkpoints.</summary>
    /// <param name="options">The folder and the frequency of the checkpoints. If the folder already contains checkpoints, the run must
    /// <see cref="Resume"/> from them; a new run cannot start in that folder.</param>
    /// <exception cref="ArgumentException">The options do not name a folder, or a value in them is out of range.</exception>
    public StagedTrainer SaveTo(CheckpointOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        if (options.Problems().FirstOrDefault() is { } problem)
        {
            throw new ArgumentException(problem, nameof(options));
        }

        _checkpoints = options;
        return this;
    }

    /// <summary>Loads the weights, and nothing else, of another run or of a weights file for a new run. The weights are loaded immediately.</summary>
    /// <param name="path">The path of a weights file that <see cref="WeightsFile"/> can open, of a checkpoint, or of a folder, from which the newest
    /// checkpoint is used.</param>
    /// <param name="averages">true to load the moving averages of a checkpoint; false to load its last weights.</param>
    /// <param name="options">The options for matching names; null for strict matching. <see cref="LoadOptions.KeepInitial"/> selects parameters that
    /// the model has but the file does not.</param>
    /// <exception cref="FileNotFoundException">The file does not exist, or the folder contains no checkpoint.</exception>
    /// <exception cref="InvalidWeightsException">The weights do not fit the modules.</exception>
    public StagedTrainer InitializeFrom(string path, bool averages = true, LoadOptions? options = null)
    {
        using var file = WeightsFile.Open(Existing(path), options?.Section);
        LoadReports = Checkpoint.ReadWeights(file, _objective.Modules, averages, options);
        return this;
    }

    /// <summary>Gets the reports of the last call to <see cref="InitializeFrom"/> by module: the tensors that were loaded, skipped or left
    /// unchanged.</summary>
    public IReadOnlyDictionary<string, LoadReport> LoadReports { get; private set; } = new Dictionary<string, LoadReport>(StringComparer.Ordinal);

    /// <summary>Runs all stages that are not complete.</summary>
    /// <param name="progress">Receives the progress after every optimizer step.</param>
    /// <param name="cancellationToken">Stops the run after the current step. If checkpoints are enabled, one is written before the exception is
    /// thrown.</param>
    /// <exception cref="InvalidOperationException">There are no stages, the settings of a stage are invalid, or they do not match the run that is
    /// resumed.</exception>
    /// <exception cref="TrainingDivergedException">A loss or gradient is not finite, or there were too many spikes in a row (see
    /// <see cref="TrainingStage.Spikes"/>).</exception>
    public Task RunAsync(IProgress<TrainingProgress>? progress = null, CancellationToken cancellationToken = default)
    {
        if (_stages.Count == 0)
        {
            throw new InvalidOperationException("There is nothing to train: add a stage with AddStage.");
        }

        foreach (var stage in _stages)
        {
            stage.Validate();
            RequireSamplesForAll(stage);
            if (stage.Objective?.Modules.Values.Except(_objective.Modules.Values).Any() is true)
            {
                throw new InvalidOperationException(
                    $"The objective of stage '{stage.Name}' has modules that the trainer's objective does not have. "
                        + "Create the trainer with an objective that has all modules."
                );
            }
        }
        return TrainingThread.RunAsync(() => RunStagesAsync(progress, cancellationToken));
    }

    /// <summary>Copies the last stage's moving averages into the modules, for generation. If several processes share the averages (see
    /// <see cref="Sharding"/>), all of them must call this method.</summary>
    /// <exception cref="InvalidOperationException">No stage with moving averages has been run.</exception>
    public void UseAverages() =>
        (_average ?? throw new InvalidOperationException("There are no moving averages: run a stage with EmaDecay first.")).CopyToParameters();

    /// <summary>Disposes the moving averages and closes the files of callbacks that the library provides. The caller keeps ownership of the
    /// modules.</summary>
    public void Dispose()
    {
        _average?.Dispose();
        _owned?.Dispose();
        _group?.Dispose();
        _ownCallbacks.ForEach(callback => callback.Dispose());
    }

    // Runs on the training thread, as everything that it calls.
    private async Task RunStagesAsync(IProgress<TrainingProgress>? progress, CancellationToken cancellationToken)
    {
        if (Interlocked.Exchange(ref _running, 1) == 1)
        {
            throw new InvalidOperationException("This trainer is already running.");
        }

        try
        {
            RequireSameStages();
            RequireDivisible();
            using var point = FindCheckpoint();
            if (_checkpoints is not null)
            {
                Together(() => Checkpoint.Prepare(_checkpoints.Folder, point), onlyFirst: true);
            }

            var notes = Start(point);
            var steps = point?.State.StepsBefore ?? 0;
            for (var i = point?.State.Stage ?? 0; i < _stages.Count; i++)
            {
                ThrowIfCanceled(cancellationToken);
                var resumed = i == point?.State.Stage ? point : null;
                steps += await RunStageAsync(i, steps, resumed, resumed is null ? [] : notes, progress, cancellationToken).ConfigureAwait(true);
            }
        }
        finally
        {
            Volatile.Write(ref _running, 0);
        }
    }

    // The data type in which the modules multiply matrices.
    private ScalarType ComputeType() =>
        _objective.Modules.Values.SelectMany(module => module.modules()).OfType<Models.Layers.Linear>().FirstOrDefault()?.ComputeType
        ?? ScalarType.Float32;

    // Runs a stage to its end and returns its number of steps.
    private async Task<long> RunStageAsync(
        int index,
        long stepsBefore,
        ResumePoint? point,
        IReadOnlyList<string> notes,
        IProgress<TrainingProgress>? progress,
        CancellationToken cancellationToken
    )
    {
        var (stage, resumed) = (_stages[index], point?.State);
        var trained = Prepare(stage, startsFromAverages: resumed is null && index > 0 && stage.StartFromEma);
        var owned = _owned!;
        using var optimizer = new AdamWOptimizers(
            owned.All.Select(one => (one.Name, one.Values)),
            stage,
            StageMemory.StateScratch(stage, trained),
            ComputeType()
        );
        using var memory = StageMemory.Of(stage, _objective.Modules.Values, trained);
        if (point is not null)
        {
            Together(() => Checkpoint.ReadProgress(point.File, Averages, trained, owned.All, optimizer));
            point.Dispose(); // some systems cannot delete an open file, and this file is deleted later
        }

        var (start, step) = (resumed?.Step ?? 0, resumed?.Step ?? 0);
        var before = TimeSpan.FromSeconds(resumed?.Seconds ?? 0);
        var finished = step >= stage.Steps || before >= stage.TimeLimit;
        var run = new TrainingRun(stage, _objective.Modules, _average, stepsBefore, OwnCallbacks, cancellationToken) { Step = step, Memory = memory };
        if (finished)
        {
            await CallAllAsync(() => ReportCompleteAsync(run, notes)).ConfigureAwait(true);
            return step;
        }

        using var workers = stage.Workers == 1 ? null : new StageWorkers(stage.Workers);
        var spikes = stage.Spikes is null ? null : new SpikeWatch(stage.Spikes, resumed?.Spikes);
        var firstBatch = resumed is null ? 0 : StageSettings.FirstBatch(resumed, stage);
        var batchOffset = firstBatch - step * stage.Accumulation;
        var batches = new StageBatches(stage, firstBatch, _group);
        await using var disposed = batches.ConfigureAwait(true);
        using var reduction = _group is null ? null : new GradientReduction(trained, owned);
        var stageStep = new StageStep(
            stage,
            _objective,
            trained,
            optimizer,
            batches,
            workers,
            spikes,
            _average,
            memory,
            _checkpoints?.Folder,
            owned,
            reduction
        );
        await CallAllAsync(() => run.NotifyAsync(callback => callback.StageStartedAsync(run))).ConfigureAwait(true);
        await CallAllAsync(() => ReportAsync(run, notes)).ConfigureAwait(true);

        var clock = Stopwatch.StartNew();
        var (lastSaved, lastSavedStep) = (TimeSpan.Zero, step);
        var agreed = before; // the time spent, as process 0 measures it
        var samples = 0L;
        while (!finished)
        {
            var began = clock.Elapsed;
            var rate = stage.LearningRateAt(step, _group is null ? before + began : agreed);
            TrainingProgress result;
            try
            {
                // Several processes stop at the end of a step, when all know of it.
                result = await stageStep.RunAsync(step, rate, _group is null ? cancellationToken : CancellationToken.None).ConfigureAwait(true);
            }
            catch (OperationCanceledException)
                when (_group is null && _checkpoints is not null && cancellationToken.IsCancellationRequested && step > lastSavedStep)
            {
                Save();
                throw;
            }

            run.Step = ++step;
            samples += result.Samples;

            var spent = before + clock.Elapsed;
            finished = step >= stage.Steps || spent >= stage.TimeLimit;
            var bySteps = clock.Elapsed / (step - start) * (stage.Steps - step);
            var left = stage.TimeLimit is { } limit && limit - spent < bySteps ? limit - spent : bySteps;
            var now = result with
            {
                SamplesPerSecond = samples / clock.Elapsed.TotalSeconds,
                StepTime = clock.Elapsed - began,
                Elapsed = spent,
                Fraction = finished ? 1 : Math.Clamp(Math.Max((double)step / stage.Steps, stage.TimeLimit is { } most ? spent / most : 0), 0, 1),
                TimeLeft = finished || left < TimeSpan.Zero ? TimeSpan.Zero : left,
            };
            if (finished || OwnCallbacks.Any(callback => callback.GetType().Assembly != typeof(StagedTrainer).Assembly))
            {
                memory?.Settle(); // for callbacks that read the weights; those of the library use Evaluate
            }

            Report(now, stage, progress);
            var failure = await CallAsync(() => run.NotifyAsync(callback => callback.StepDoneAsync(run, now))).ConfigureAwait(true);

            // Not during spikes, so that the newest checkpoint is always a good one.
            var isDue =
                spikes?.InARow is null or 0
                && (step % _checkpoints?.EverySteps == 0 || clock.Elapsed - lastSaved >= (_checkpoints?.Every ?? TimeSpan.MaxValue));
            var next = Agree(new StepDecision(finished, isDue, cancellationToken.IsCancellationRequested, failure, spent));
            (finished, agreed) = (next.IsFinished, next.Spent);
            if (_checkpoints is not null && (finished || next.IsCanceled || next.IsDue || next.HasFailed))
            {
                var path = Save();
                (lastSaved, lastSavedStep) = (clock.Elapsed, step);
                if (!next.HasFailed)
                {
                    await CallAllAsync(() => run.NotifyAsync(callback => callback.CheckpointWrittenAsync(run, path))).ConfigureAwait(true);
                }
            }

            next.ThrowIfFailed();
            if (!finished && (next.IsCanceled || (_group is null && cancellationToken.IsCancellationRequested)))
            {
                throw new OperationCanceledException(cancellationToken);
            }
        }
        await CallAllAsync(() => run.NotifyAsync(callback => callback.StageFinishedAsync(run))).ConfigureAwait(true);
        return step;

        string Save()
        {
            using var whole = memory?.Whole();
            return Checkpoint.Write(
                _checkpoints!,
                new CheckpointState
                {
                    Stage = index,
                    StageName = stage.Name,
                    Step = step,
                    StepsBefore = stepsBefore,
                    BatchOffset = batchOffset,
                    Seconds = (before + clock.Elapsed).TotalSeconds,
                    Settings = StageSettings.Of(stage),
                    Objective = (stage.Objective ?? _objective).Fingerprint,
                    Data = stage.Data!.Fingerprint,
                    Spikes = spikes?.History,
                },
                new CheckpointContents(_objective.Modules, Averages, trained, owned, optimizer)
            );
        }
    }

    // Selects the parameters that the stage trains, and creates its moving average.
    private List<(string Name, Parameter Parameter)> Prepare(TrainingStage stage, bool startsFromAverages)
    {
        using var scope = NewDisposeScope();
        var trained = ChooseParameters(stage);
        foreach (var module in _objective.Modules.Values)
        {
            module.UseGradientCheckpointing(stage.GradientCheckpointing, stage.CheckpointSlices);
        }

        if (startsFromAverages)
        {
            _average?.CopyToParameters(); // of the previous stage
        }

        _average?.Dispose();
        _owned?.Dispose();
        _owned = new OwnedParameters(trained, _group);
        _average = stage.EmaDecay is null ? null : new MovingAverage(_owned, StageMemory.StateScratch(stage, trained));
        return trained;
    }

    private IReadOnlyDictionary<string, Tensor> Averages => _average?.Averages ?? new Dictionary<string, Tensor>(StringComparer.Ordinal);

    // Selects the parameters that the stage trains and disables gradients for all others.
    private List<(string Name, Parameter Parameter)> ChooseParameters(TrainingStage stage)
    {
        var trained = new List<(string, Parameter)>();
        foreach (var (part, module) in _objective.Modules)
        {
            foreach (var (name, parameter) in module.named_parameters())
            {
                var chosen = stage.Trains?.Invoke($"{part}.{name}") ?? stage.Parameters.Includes(part, module, name);
                parameter.requires_grad_(chosen);
                if (chosen)
                {
                    trained.Add(($"{part}.{name}", parameter));
                }
            }
        }
        return trained.Count > 0
            ? trained
            : throw new InvalidOperationException(
                $"Stage '{stage.Name}' trains nothing: {nameof(TrainingStage.Trains)} or {nameof(TrainingStage.Parameters)} selects no parameter."
            );
    }
}
