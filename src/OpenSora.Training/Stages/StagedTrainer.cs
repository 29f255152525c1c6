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

/// <summary>Trains in stages, each of which starts from what the one before it learned: Open-Sora 1.0's method of going from images to low-resolution
/// video to high quality, and any other sequence of stages.</summary>
/// <remarks>
/// Parameters stay float32 masters; <see cref="ComputeTypes.UseComputeType"/> lets a model multiply in bfloat16. A run is repeatable: all randomness
/// of a step comes from the stage's seed and the step's number, so that a run that was killed and resumed gives the same weights as one that was not,
/// bit for bit on one CPU. Steps, samples, losses and durations are also told to System.Diagnostics.Metrics, by the meter <c>OpenSora.Training</c>.
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

    /// <summary>A trainer of a diffusion transformer with the published loss.</summary>
    /// <param name="model">The model; stays the caller's.</param>
    /// <param name="textEncoder">A text encoder to be trained with it, for data that hold token ids; null: data hold text states.</param>
    public StagedTrainer(IVideoTransformer model, T5Encoder? textEncoder = null)
        : this(new DiffusionTraining(model, textEncoder)) { }

    /// <summary>A trainer of anything.</summary>
    /// <param name="objective">What is trained, to what end.</param>
    public StagedTrainer(ITrainingObjective objective)
    {
        ArgumentNullException.ThrowIfNull(objective);
        this._objective = objective;
    }

    /// <summary>The stages, in their order.</summary>
    public IReadOnlyList<TrainingStage> Stages => _stages;

    /// <summary>Adds a stage.</summary>
    /// <param name="stage">Its settings; it is looked at when the run begins.</param>
    public StagedTrainer AddStage(TrainingStage stage)
    {
        ArgumentNullException.ThrowIfNull(stage);
        _stages.Add(stage);
        return this;
    }

    /// <summary>Adds somebody who looks on; callbacks are called in the order in which they were added.</summary>
    /// <param name="callback">Stays the caller's.</param>
    public StagedTrainer AddCallback(ITrainingCallback callback)
    {
        ArgumentNullException.ThrowIfNull(callback);
        _callbacks.Add(callback);
        return this;
    }

    /// <summary>Writes checkpoints.</summary>
    /// <param name="options">Where and how often. A folder that has checkpoints already is one to <see cref="Resume"/> from: another run does not
    /// begin in it.</param>
    /// <exception cref="ArgumentException">The options name no folder, or a number in them is below 1.</exception>
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

    /// <summary>Goes on with an earlier run of the same stages, exactly where its checkpoint was written.</summary>
    /// <remarks>The stage's settings, objective and data must be the same. Its <see cref="TrainingStage.Steps"/> and
    /// <see cref="TrainingStage.TimeLimit"/> may be
    /// others: the run is then longer or shorter, a last stage that was done goes on, and the learning rate follows the schedule of the new
    /// length.</remarks>
    /// <param name="path">A checkpoint or a folder of them, of which the newest is taken.</param>
    /// <param name="ifAny">Begins at the beginning where there is no checkpoint yet, instead of failing.</param>
    public StagedTrainer Resume(string path, bool ifAny = false)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        (_resumeFrom, _resumeIfAny) = (path, ifAny);
        return this;
    }

    /// <summary>Takes the weights, and nothing else, of another run or of a weights file, for a new run. Done at once.</summary>
    /// <param name="path">A file of weights as <see cref="WeightsFile"/> opens it, a checkpoint, or a folder of checkpoints, of which the newest is
    /// taken.</param>
    /// <param name="averages">Takes a checkpoint's moving averages rather than its last weights.</param>
    /// <param name="options">How the names fit; null: strictly. <see cref="LoadOptions.KeepInitial"/> names what a model has and its predecessor had
    /// not.</param>
    /// <exception cref="FileNotFoundException">There is no such file, or the folder holds no checkpoint.</exception>
    /// <exception cref="InvalidWeightsException">It does not fit.</exception>
    public StagedTrainer InitialiseFrom(string path, bool averages = true, LoadOptions? options = null)
    {
        using var file = WeightsFile.Open(Existing(path), options?.Section);
        LoadReports = Checkpoint.ReadWeights(file, _objective.Modules, averages, options);
        return this;
    }

    /// <summary>What the last <see cref="InitialiseFrom"/> loaded, left out and left as it was, by module.</summary>
    public IReadOnlyDictionary<string, LoadReport> LoadReports { get; private set; } = new Dictionary<string, LoadReport>(StringComparer.Ordinal);

    /// <summary>Runs all stages that are not done.</summary>
    /// <param name="progress">Told after every optimizer step.</param>
    /// <param name="cancellationToken">Stops after the current step; a checkpoint is written before the exception is thrown.</param>
    /// <exception cref="InvalidOperationException">A stage's settings are wrong, or do not fit the run that is resumed.</exception>
    /// <exception cref="TrainingDivergedException">A loss or gradient is not finite, or too many in a row were out of proportion.</exception>
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
                    $"The objective of stage '{stage.Name}' has modules that the trainer does not know. Make the trainer with an objective that has all modules."
                );
            }
        }
        return Task.Run(() => Run(progress, cancellationToken), CancellationToken.None);
    }

    /// <summary>Puts the last stage's moving averages into the modules: the weights to generate with.</summary>
    /// <exception cref="InvalidOperationException">No stage that keeps averages has been run.</exception>
    public void UseAverages() =>
        (_average ?? throw new InvalidOperationException("There are no moving averages: run a stage with EmaDecay first.")).CopyToParameters();

    /// <summary>Disposes of the moving averages. The modules stay the caller's.</summary>
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

            using var file = path is null ? null : SafetensorsFile.Open(path);
            var state = file is null ? null : Checkpoint.State(file);
            if (file is not null)
            {
                CheckFits(state!, file.Path);
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

    // Runs a stage to its end; returns its steps.
    private long RunStage(
        int index,
        long stepsBefore,
        CheckpointState? resumed,
        SafetensorsFile? file,
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
            _average?.CopyToParameters(); // of the stage before
        }

        _average?.Dispose();
        _average = stage.EmaDecay is null ? null : new MovingAverage(trained);

        using var optimizer = new AdamWOptimizers(trained.Select(pair => pair.Parameter), stage);
        using var workers = stage.Workers == 1 ? null : new StageWorkers(stage.Workers);
        if (file is not null)
        {
            Checkpoint.ReadProgress(file, Averages, trained, optimizer);
            file.Dispose(); // some systems do not delete a file that is open, and its time to be deleted comes
        }

        var (start, step) = (resumed?.Step ?? 0, resumed?.Step ?? 0);
        var before = TimeSpan.FromSeconds(resumed?.Seconds ?? 0);
        var finished = step >= stage.Steps || before >= stage.TimeLimit;
        if (finished)
        {
            return step;
        }

        var spikes = stage.Spikes is null ? null : new SpikeWatch(stage.Spikes, resumed?.Spikes);
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
            var result = Step(stage, trained, optimizer, workers, spikes, step, rate);
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

            // Not amid spikes: the newest checkpoint is a good one.
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

    // One optimizer step, or none, where the gradients are out of proportion.
    private TrainingProgress Step(
        TrainingStage stage,
        List<(string Name, Parameter Parameter)> trained,
        AdamWOptimizers optimizer,
        StageWorkers? workers,
        SpikeWatch? spikes,
        long step,
        double rate
    )
    {
        foreach (var module in _objective.Modules.Values)
        {
            module.train();
            module.zero_grad();
        }
        manual_seed((long)(Randomness.Mix(stage.Seed, step, -1) >> 1)); // for dropout and other modules that draw for themselves
        var (total, samples) = (0.0, 0L);
        var parts = new Dictionary<string, double>(StringComparer.Ordinal);
        var device = trained[0].Parameter.device;
        for (var micro = 0; micro < stage.Accumulation; micro++)
        {
            using var scope = NewDisposeScope();
            var number = step * stage.Accumulation + micro;
            using var batch = stage.Data!.GetBatch(number, stage.BatchSize, stage.Seed).MoveTo(device);
            var (loss, ofLoss) =
                stage.Workers == 1
                    ? OneLoss(stage, batch, number, worker: 0, share: 1.0 / stage.Accumulation, loss => loss.backward())
                    : SharedLoss(stage, batch, number, trained, workers!);
            total += loss / stage.Accumulation;
            foreach (var (name, part) in ofLoss)
            {
                parts[name] = parts.GetValueOrDefault(name) + part / stage.Accumulation;
            }

            samples += batch.Video.shape[0];
        }

        var norm = ClipGradients(trained, stage.ClipGradientNorm ?? double.PositiveInfinity);
        if (!double.IsFinite(total) || !double.IsFinite(norm))
        {
            throw Diverged(stage, step, NotFinite(trained, total, norm));
        }

        var spike = spikes?.Judge(total, norm, () => Largest(trained));
        if (spikes is { MustStop: true })
        {
            throw Diverged(stage, step, $"this is step {spikes.InARow} in a row out of proportion: {spike}");
        }

        if (spike is null || !stage.Spikes!.SkipSteps)
        {
            optimizer.Step(rate);
            _average?.Update(stage.EmaWarmUp ? Math.Min(stage.EmaDecay!.Value, (1.0 + step) / (10 + step)) : stage.EmaDecay!.Value);
        }
        return new TrainingProgress
        {
            Stage = stage.Name,
            Step = step + 1,
            Steps = stage.Steps,
            Loss = total,
            Parts = parts,
            GradientNorm = norm,
            LearningRate = rate,
            Samples = samples,
            Spike = spike,
            SkippedSteps = spikes?.History.Skipped ?? 0,
        };
    }

    // The loss of a batch, and what backward does with the share of it that counts.
    private (double Loss, IReadOnlyDictionary<string, double> Parts) OneLoss(
        TrainingStage stage,
        TrainingBatch batch,
        long number,
        int worker,
        double share,
        Action<Tensor> backward
    )
    {
        using var generator = new Generator((worker == 0 ? Randomness.Mix(stage.Seed, number) : Randomness.Mix(stage.Seed, number, worker)) >> 1);
        var loss = (stage.Objective ?? _objective).Loss(batch, stage, generator);
        backward(loss.Total * share);
        return (loss.Total.detach().cpu().item<float>(), loss.Parts);
    }

    // The same with the batch divided among threads. Their gradients are added in the threads' order, so that the sum is the same in every run.
    private (double Loss, IReadOnlyDictionary<string, double> Parts) SharedLoss(
        TrainingStage stage,
        TrainingBatch batch,
        long number,
        List<(string Name, Parameter Parameter)> trained,
        StageWorkers threads
    )
    {
        var count = batch.Video.shape[0];
        var workers = (int)Math.Min(stage.Workers, count);
        var parameters = trained.ConvertAll<Tensor>(pair => pair.Parameter);
        var gradients = new IList<Tensor?>[workers];
        var results = new (double Loss, IReadOnlyDictionary<string, double> Parts, double Share)[workers];
        void Work(int worker)
        {
            using var scope = NewDisposeScope();
            var (from, to) = (count * worker / workers, count * (worker + 1) / workers);
            var share = (double)(to - from) / count;
            var (loss, parts) = OneLoss(stage, batch.Narrow(from, to - from), number, worker, share / stage.Accumulation, loss =>
            {
                gradients[worker] = Gradients.Of([loss], parameters);
                foreach (var gradient in gradients[worker])
                {
                    gradient?.DetachFromDisposeScope();
                }
            });
            results[worker] = (loss, parts, share);
        }

        try
        {
            threads.Run(workers, Work);
            using var scope = NewDisposeScope();
            using var noGradients = no_grad();
            for (var i = 0; i < trained.Count; i++)
            {
                // Not in place: one tensor may be the gradient of several parameters.
                var parts = gradients.Select(all => all[i]).Prepend(trained[i].Parameter.grad).OfType<Tensor>().ToArray();
                if (parts.Length > 0)
                {
                    trained[i].Parameter.grad = parts.Length == 1 ? parts[0].clone() : parts.Aggregate((sum, part) => sum + part);
                }
            }
        }
        finally
        {
            foreach (var gradient in gradients.Where(all => all is not null).SelectMany(all => all))
            {
                gradient?.Dispose();
            }
        }
        return (
            results.Sum(result => result.Loss * result.Share),
            results[0].Parts.Keys.ToDictionary(name => name, name => results.Sum(result => result.Parts[name] * result.Share), StringComparer.Ordinal)
        );
    }

    // Scales all gradients so that their common norm is at most this, and returns what it was. One that is not finite changes nothing, so that it can
    // be found out whose it is
    // (nn.utils.clip_grad_norm_ of TorchSharp makes all gradients NaN then).
    private static double ClipGradients(List<(string Name, Parameter Parameter)> trained, double most)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var gradients = trained.Select(pair => pair.Parameter.grad).OfType<Tensor>().ToArray();
        if (gradients.Length == 0)
        {
            return 0;
        }

        var norm = stack(gradients.Select(gradient => gradient.norm())).to_type(ScalarType.Float64).norm().cpu().item<double>();
        var factor = most / (norm + 1e-6);
        if (factor < 1)
        {
            foreach (var gradient in gradients)
            {
                gradient.mul_(factor);
            }
        }
        return norm;
    }

    private TrainingDivergedException Diverged(TrainingStage stage, long step, string what)
    {
        var kept = _checkpoints is null ? null : Checkpoint.Newest(_checkpoints.Folder);
        return new TrainingDivergedException(
            $"Stage '{stage.Name}', step {step + 1}: {what}. The step was not taken. Lower the learning rate or look at the data"
                + (kept is null ? "." : $"; the last checkpoint is '{kept}'.")
        );
    }

    private static string NotFinite(List<(string Name, Parameter Parameter)> trained, double loss, double norm)
    {
        using var scope = NewDisposeScope();
        var first = trained.FirstOrDefault(pair => pair.Parameter.grad is { } grad && !grad.isfinite().all().item<bool>()).Name;
        return $"the loss is {loss}, the gradients' norm {norm}"
            + (first is null ? "" : $", the first gradient that is not finite is that of '{first}'");
    }

    // The parameter with the largest gradient, and the share of all gradients' squares that it has.
    private static (string Name, double Share) Largest(List<(string Name, Parameter Parameter)> trained)
    {
        using var scope = NewDisposeScope();
        var squares = trained.ConvertAll(pair =>
            pair.Parameter.grad is { } grad ? grad.to_type(ScalarType.Float64).square().sum().cpu().item<double>() : 0
        );
        var largest = squares.IndexOf(squares.Max());
        return (trained[largest].Name, squares.Sum() is var all and > 0 ? squares[largest] / all : 0);
    }

    // Named parameters of the stage; all others get no gradient.
    private List<(string Name, Parameter Parameter)> ChooseParameters(TrainingStage stage)
    {
        var trained = new List<(string, Parameter)>();
        foreach (var (part, module) in _objective.Modules)
        {
            foreach (var (name, parameter) in module.named_parameters())
            {
                var chosen = stage.Trains?.Invoke($"{part}.{name}") ?? true;
                parameter.requires_grad_(chosen);
                if (chosen)
                {
                    trained.Add(($"{part}.{name}", parameter));
                }
            }
        }
        return trained.Count > 0
            ? trained
            : throw new InvalidOperationException($"Stage '{stage.Name}' trains nothing: {nameof(TrainingStage.Trains)} refuses every parameter.");
    }

    private void CheckFits(CheckpointState state, string path)
    {
        if (state.Stage >= _stages.Count || !string.Equals(_stages[state.Stage].Name, state.StageName, StringComparison.Ordinal))
        {
            throw new InvalidOperationException(
                $"'{path}' is of stage {state.Stage + 1}, '{state.StageName}', which this run does not have there. Resume continues the same run; InitialiseFrom begins a new one from its weights."
            );
        }

        var stage = _stages[state.Stage];
        if (!string.Equals(stage.Settings, state.Settings, StringComparison.Ordinal))
        {
            throw new InvalidOperationException(
                $"Stage '{stage.Name}' was begun with other settings ({state.Settings}) than it has now ({stage.Settings}). Resume continues the same run; InitialiseFrom begins a new one from its weights."
            );
        }

        var aim = stage.Objective ?? _objective;
        // Earlier checkpoints name no objective, or only its type.
        if (
            state.Objective.Length > 0
            && !string.Equals(state.Objective, aim.GetType().Name, StringComparison.Ordinal)
            && !string.Equals(state.Objective, aim.Fingerprint, StringComparison.Ordinal)
        )
        {
            throw new InvalidOperationException(
                $"Stage '{stage.Name}' was begun with another objective ({state.Objective}) than it has now ({aim.Fingerprint}). Resume continues the same run; InitialiseFrom begins a new one from its weights."
            );
        }

        if (!string.Equals(stage.Data!.Fingerprint, state.Data, StringComparison.Ordinal))
        {
            throw new InvalidOperationException(
                $"Stage '{stage.Name}' was begun with other data ({state.Data}) than it has now ({stage.Data.Fingerprint}). Resume continues the same run; InitialiseFrom begins a new one from its weights."
            );
        }
    }

    private static string Existing(string path) =>
        Checkpoint.Newest(path) ?? throw new FileNotFoundException($"There is no checkpoint or weights file at '{path}'.", path);
}
