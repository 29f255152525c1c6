using System.Globalization;
using OpenSora.Runtime;
using OpenSora.Training.Data;
using OpenSora.Training.Objectives;
using OpenSora.Training.Stages;
using TorchSharp;
using static OpenSora.Runtime.TensorArithmetic;
using static TorchSharp.torch;

namespace OpenSora.Training.Callbacks;

/// <summary>Measures the loss on held-out data by band of timesteps, that is, for little, medium and much noise. Samples, noise and timesteps are the
/// same every time, so that only the model makes a difference.</summary>
/// <remarks>Every measurement is reported to all callbacks (<see cref="ITrainingCallback.ObservedAsync"/>) as <c>validation</c>: before the
/// first step, at intervals, and at the end of the stage. It costs one forward pass per sample and band.</remarks>
/// <param name="objective">The objective that is trained.</param>
/// <param name="data">Held-out data.</param>
internal sealed class ValidationLoss(ITrainingObjective objective, ITrainingData data) : ITrainingCallback
{
    private const string Name = "validation";

    private readonly ITrainingObjective _objective = objective ?? throw new ArgumentNullException(nameof(objective));
    private readonly ITrainingData _data = data ?? throw new ArgumentNullException(nameof(data));
    private readonly Interval _interval = new();

    /// <summary>The number of steps between measurements; null to use the time only.</summary>
    public int? EverySteps
    {
        get;
        set => field = Interval.Checked(value);
    } = 1000;

    /// <summary>The time between measurements; null to use the steps only.</summary>
    public TimeSpan? Every { get; set; }

    /// <summary>The number of equal bands of timesteps.</summary>
    public int Bands { get; set; } = 10;

    /// <summary>The number of samples, each of which is used once in every band.</summary>
    public int Samples { get; set; } = 32;

    /// <summary>The number of samples in a batch, if the data do not choose it themselves.</summary>
    public int BatchSize { get; set; } = 8;

    /// <summary>The seed of samples and noise.</summary>
    public int Seed { get; set; } = 7;

    /// <summary>True to measure the moving averages, if there are any; false to measure the last weights.</summary>
    public bool Averages { get; set; } = true;

    /// <inheritdoc/>
    public ValueTask StageStartedAsync(TrainingRun run)
    {
        ArgumentNullException.ThrowIfNull(run);
        return run.Step == 0 ? MeasureNowAsync(run) : default;
    }

    /// <inheritdoc/>
    public ValueTask StepDoneAsync(TrainingRun run, TrainingProgress progress)
    {
        ArgumentNullException.ThrowIfNull(run);
        return _interval.IsDue(run, EverySteps, Every) ? MeasureNowAsync(run) : default;
    }

    /// <inheritdoc/>
    public ValueTask StageFinishedAsync(TrainingRun run)
    {
        ArgumentNullException.ThrowIfNull(run);
        return _interval.IsDone(run) ? default : MeasureNowAsync(run);
    }

    private async ValueTask MeasureNowAsync(TrainingRun run)
    {
        await run.AnnounceAsync(Name).ConfigureAwait(true);
        using var samples = await LoadAsync(run.CancellationToken).ConfigureAwait(true); // continues on the training thread
        TrainingObservation? result = null;
        run.Evaluate(() => result = Measure(samples, run.CancellationToken), Averages);
        await run.ReportAsync(result!).ConfigureAwait(true);
        _interval.Done(run);
    }

    /// <summary>Measures the loss independently of a training run. The modules must be in evaluation mode.</summary>
    /// <param name="cancellationToken">Checked between batches.</param>
    /// <exception cref="InvalidOperationException">The number of bands, samples, or samples in a batch is below 1.</exception>
    public async Task<TrainingObservation> MeasureAsync(CancellationToken cancellationToken = default)
    {
        using var samples = await LoadAsync(cancellationToken).ConfigureAwait(false);
        return Measure(samples, cancellationToken);
    }

    private async Task<HeldOut> LoadAsync(CancellationToken cancellationToken)
    {
        if (Bands < 1 || Samples < 1 || BatchSize < 1)
        {
            throw new InvalidOperationException(
                $"{nameof(Bands)} is {Bands}, {nameof(Samples)} {Samples}, {nameof(BatchSize)} {BatchSize}; all must be at least 1."
            );
        }

        var loaded = new HeldOut();
        try
        {
            for (var (number, count) = (0, 0L); count < Samples; number++)
            {
                var batch = await _data.GetBatchAsync(number, BatchSize, Seed, cancellationToken).ConfigureAwait(false);
                loaded.Batches.Add(batch);
                count += batch.Video.shape[0];
            }
            return loaded;
        }
        catch
        {
            loaded.Dispose();
            throw;
        }
    }

    private TrainingObservation Measure(HeldOut samples, CancellationToken cancellationToken)
    {
        using var noGradients = no_grad();
        var sums = new double[Bands];
        var device = _objective.Modules.Values.SelectMany(module => module.parameters()).FirstOrDefault()?.device ?? CPU;
        var done = 0;
        foreach (var loaded in samples.Batches)
        {
            using var scope = NewDisposeScope();
            var count = (int)Math.Min(loaded.Video.shape[0], Samples - done); // some data choose the size of their batches
            using var batch = loaded.Narrow(0, count).MoveTo(device);
            using var generator = new Generator(Randomness.Mix(Seed, done) >> 1);
            var noise = randn(batch.Video.shape, generator: generator).to(batch.Video.device);
            for (var band = 0; band < Bands; band++)
            {
                cancellationToken.ThrowIfCancellationRequested();
                using var inner = NewDisposeScope();
                // The timesteps of the samples are spread evenly over the band.
                var times = Range(done, done + count, ScalarType.Float32).Plus(0.5).Over(Samples).to(device).Plus(band).Over(Bands);
                sums[band] += _objective.SampleLosses(batch, times, noise).sum().cpu().item<float>();
            }
            done += count;
        }
        var bands = Array.ConvertAll(sums, sum => sum / Samples);
        var scalars = new Dictionary<string, double>(StringComparer.Ordinal) { ["loss"] = bands.Average() };
        for (var band = 0; band < Bands; band++)
        {
            scalars[string.Create(CultureInfo.InvariantCulture, $"{(double)band / Bands:0.0#}-{(band + 1.0) / Bands:0.0#}")] = bands[band];
        }

        return new TrainingObservation(Name) { Scalars = scalars };
    }

    /// <summary>The batches of a measurement.</summary>
    private sealed class HeldOut : IDisposable
    {
        public List<TrainingBatch> Batches { get; } = [];

        public void Dispose() => Batches.ForEach(batch => batch.Dispose());
    }
}
