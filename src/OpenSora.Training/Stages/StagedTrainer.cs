using System.Diagnostics;
using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Data;
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
public sealed class StagedTrainer : IDisposable
{
    private readonly ITrainingObjective _objective;
    private readonly List<TrainingStage> _stages = [];
    private readonly List<ITrainingCallback> _callbacks = [];
    private CheckpointOptions? _checkpoints;
    private string? _resumeFrom;
    private bool _resumeIfAny;
    private MovingAverage? _average;
    private int _running;

    /// <summary>Creates a trainer for a diffusion transformer with the published loss.</summary>
    /// <param name="model">The model. The caller keeps ownership of it.</param>
    /// <param name="textEncoder">A text encoder to train together with the model, for data that contain token IDs; null if the data contain text
    /// encoder states.</param>
    public StagedTrainer(IVideoTransformer model, T5Encoder? textEncoder = null)
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

    /// <summary>Continues an earlier run of the same stages from the exact point at which its checkpoint was written.</summary>
    /// <remarks>The settings, objective and data of the stage must be the same. <see cref="TrainingStage.Steps"/> and
    /// <see cref="TrainingStage.TimeLimit"/> can differ: the run is then longer or shorter, a last stage that was complete continues if it is now
    /// longer, and the learning rate follows the schedule for the new length.</remarks>
    /// <param name="path">The path of a checkpoint, or of a folder, from which the newest checkpoint is used.</param>
    /// <param name="ifAny">true to start from the beginning if there is no checkpoint yet; false to fail.</param>
    public StagedTrainer Resume(string path, bool ifAny = false)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        (_resumeFrom, _resumeIfAny) = (path, ifAny);
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
    public StagedTrainer InitialiseFrom(string path, bool averages = true, LoadOptions? options = null)
    {
        using var file = WeightsFile.Open(Existing(path), options?.Section);
        LoadReports = Checkpoint.ReadWeights(file, _objective.Modules, averages, options);
        return this;
    }

    /// <summary>Gets the reports of the last call to <see cref="InitialiseFrom"/> by module: the tensors that were loaded, skipped or left
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
            if (stage.Objective?.Modules.Values.Except(_objective.Modules.Values).Any() is true)
            {
                throw new InvalidOperationException(
                    $"The objective of stage '{stage.Name}' has modules that the trainer's objective does not have. "
                        + "Create the trainer with an objective that has all modules."
                );
            }
        }
        return Task.Run(() => Run(progress, cancellationToken), CancellationToken.None);
    }

    /// <summary>Copies the last stage's moving averages into the modules, for generation.</summary>
    /// <exception cref="InvalidOperationException">No stage with moving averages has been run.</exception>
    public void UseAverages() =>
        (_average ?? throw new InvalidOperationException("There are no moving averages: run a stage with EmaDecay first.")).CopyToParameters();

    /// <summary>Disposes the moving averages. The caller keeps ownership of the modules.</summary>
    public void Dispose() => _average?.Dispose();

    private void Run(IProgress<TrainingProgress>? progress, CancellationToken cancellationToken)
    {
        if (Interlocked.Exchange(ref _running, 1) == 1)
        {
            throw new InvalidOperationException("This trainer is already running.");
        }

        try
        {
            var path =
                _resumeFrom is null ? null
                : _resumeIfAny ? Checkpoint.Newest(_resumeFrom)
                : Existing(_resumeFrom);
            if (_checkpoints is not null)
            {
                Checkpoint.Prepare(_checkpoints.Folder, path);
            }

            using var file = path is null ? null : WeightsFile.Open(path);
            var state = file is null ? null : Checkpoint.State(file);
            if (file is not null)
            {
                ResumeCheck.Require(state!, file.Path, _stages, _objective);
                Checkpoint.ReadWeights(file, _objective.Modules, averages: false, options: null);
            }

            var steps = state?.StepsBefore ?? 0;
            for (var i = state?.Stage ?? 0; i < _stages.Count; i++)
            {
                cancellationToken.ThrowIfCancellationRequested();
                var resumed = i == state?.Stage ? state : null;
                steps += RunStage(i, steps, resumed, resumed is null ? null : file, progress, cancellationToken);
            }
        }
        finally
        {
            Volatile.Write(ref _running, 0);
        }
    }

    // Runs a stage to its end and returns its number of steps.
    private long RunStage(
        int index,
        long stepsBefore,
        CheckpointState? resumed,
        WeightsFile? file,
        IProgress<TrainingProgress>? progress,
        CancellationToken cancellationToken
    )
    {
        using var scope = NewDisposeScope();
        var stage = _stages[index];
        var trained = ChooseParameters(stage);
        foreach (var module in _objective.Modules.Values)
        {
            module.UseGradientCheckpointing(stage.GradientCheckpointing);
        }

        if (resumed is null && index > 0 && stage.StartFromEma)
        {
            _average?.CopyToParameters(); // of the previous stage
        }

        _average?.Dispose();
        _average = stage.EmaDecay is null ? null : new MovingAverage(trained);

        using var optimizer = new AdamWOptimizers(trained.Select(pair => pair.Parameter), stage);
        using var workers = stage.Workers == 1 ? null : new StageWorkers(stage.Workers);
        if (file is not null)
        {
            Checkpoint.ReadProgress(file, Averages, trained, optimizer);
            file.Dispose(); // some systems cannot delete an open file, and this file is deleted later
        }

        var (start, step) = (resumed?.Step ?? 0, resumed?.Step ?? 0);
        var before = TimeSpan.FromSeconds(resumed?.Seconds ?? 0);
        var finished = step >= stage.Steps || before >= stage.TimeLimit;
        if (finished)
        {
            return step;
        }

        var spikes = stage.Spikes is null ? null : new SpikeWatch(stage.Spikes, resumed?.Spikes);
        var stageStep = new StageStep(stage, _objective, trained, optimizer, workers, spikes, _average, _checkpoints?.Folder);
        var run = new TrainingRun(stage, _objective.Modules, _average, stepsBefore, _callbacks, cancellationToken) { Step = step };
        run.Notify(callback => callback.StageStarted(run));

        var clock = Stopwatch.StartNew();
        var lastSaved = TimeSpan.Zero;
        var samples = 0L;
        while (!finished)
        {
            using var inner = NewDisposeScope();
            var began = clock.Elapsed;
            var rate = stage.LearningRateAt(step, before + began);
            var result = stageStep.Run(step, rate);
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
                TimeLeft = finished || left < TimeSpan.Zero ? TimeSpan.Zero : left,
            };
            TrainingMetrics.Record(now, skipped: now.Spike is not null && stage.Spikes!.SkipSteps);
            progress?.Report(now);
            try
            {
                run.Notify(callback => callback.StepDone(run, now));
            }
            catch when (_checkpoints is not null)
            {
                Save();
                throw;
            }

            // Not during spikes, so that the newest checkpoint is always a good one.
            if (
                _checkpoints is not null
                && (
                    finished
                    || cancellationToken.IsCancellationRequested
                    || (spikes?.InARow is null or 0 && (step % _checkpoints.EverySteps == 0 || clock.Elapsed - lastSaved >= _checkpoints.Every))
                )
            )
            {
                var path = Save();
                lastSaved = clock.Elapsed;
                run.Notify(callback => callback.CheckpointWritten(run, path));
            }
            if (!finished)
            {
                cancellationToken.ThrowIfCancellationRequested();
            }
        }
        run.Notify(callback => callback.StageFinished(run));
        return step;

        string Save() =>
            Checkpoint.Write(
                _checkpoints!,
                new CheckpointState
                {
                    Stage = index,
                    StageName = stage.Name,
                    Step = step,
                    StepsBefore = stepsBefore,
                    Seconds = (before + clock.Elapsed).TotalSeconds,
                    Settings = stage.Settings,
                    Objective = (stage.Objective ?? _objective).Fingerprint,
                    Data = stage.Data!.Fingerprint,
                    Spikes = spikes?.History,
                },
                _objective.Modules,
                Averages,
                trained,
                optimizer
            );
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

    private static string Existing(string path) =>
        Checkpoint.Newest(path) ?? throw new FileNotFoundException($"There is no checkpoint or weights file at '{path}'.", path);
}
