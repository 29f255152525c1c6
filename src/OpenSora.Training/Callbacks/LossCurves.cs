using System.Globalization;
using OpenSora.Media;
using OpenSora.Training.Data;
using OpenSora.Training.Stages;

namespace OpenSora.Training.Callbacks;

/// <summary>Writes the loss of every step to <c>losses.csv</c> and draws <c>losses.svg</c>, with a curve for each stage, at intervals and at the end
/// of a stage.</summary>
/// <remarks>A resumed run continues the same files; lines after the checkpoint are dropped.</remarks>
/// <param name="folder">The folder of the files.</param>
internal sealed class LossCurves(string folder) : ITrainingCallback, IDisposable
{
    private const string Header = "total_step,stage,step,loss,gradient_norm,learning_rate";

    private readonly string _folder = string.IsNullOrEmpty(folder)
        ? throw new ArgumentException("Loss curves need a folder to be written to.", nameof(folder))
        : folder;
    private readonly List<(string Stage, List<(double Step, double Loss)> Points)> _stages = [];
    private readonly Interval _interval = new();
    private StreamWriter? _writer;
    private long _last; // the step that was written last

    /// <summary>The time between drawings.</summary>
    public TimeSpan Every { get; set; } = TimeSpan.FromMinutes(1);

    /// <summary>True for a logarithmic axis of the losses.</summary>
    public bool LogY { get; set; } = true;

    /// <inheritdoc/>
    public async ValueTask StageStartedAsync(TrainingRun run)
    {
        ArgumentNullException.ThrowIfNull(run);
        if (_writer is not null && run.TotalStep >= _last)
        {
            return;
        }

        Dispose(); // the run continues from a checkpoint before that step
        _stages.Clear();
        Directory.CreateDirectory(_folder);
        var path = Path.Combine(_folder, "losses.csv");
        var kept = run.TotalStep == 0 || !File.Exists(path) ? [] : Rows(path).Where(row => row.TotalStep <= run.TotalStep).ToList();
        foreach (var (total, stage, loss, _) in kept)
        {
            Add(stage, total, loss);
        }

        var lines = kept.Select(row => row.Line).Prepend(Header);
        await AtomicOutput.WriteFileAsync(path, temporary => File.WriteAllLinesAsync(temporary, lines, run.CancellationToken)).ConfigureAwait(false);
        _writer = new StreamWriter(new FileStream(path, FileMode.Append, FileAccess.Write, FileShare.Read)) { AutoFlush = true };
    }

    /// <inheritdoc/>
    public async ValueTask StepDoneAsync(TrainingRun run, TrainingProgress progress)
    {
        ArgumentNullException.ThrowIfNull(run);
        ArgumentNullException.ThrowIfNull(progress);
        _last = run.TotalStep;
        Add(progress.Stage, _last, progress.Loss);
        var line = string.Create(
            CultureInfo.InvariantCulture,
            $"{_last},{Quoted(progress.Stage)},{progress.Step},{progress.Loss:R},{progress.GradientNorm:R},{progress.LearningRate:R}"
        );
        await (_writer ?? throw new ObjectDisposedException(nameof(LossCurves))).WriteLineAsync(line).ConfigureAwait(false);
        if (_interval.IsDue(run, null, Every))
        {
            await DrawAsync(run).ConfigureAwait(false);
        }
    }

    /// <inheritdoc/>
    public ValueTask StageFinishedAsync(TrainingRun run)
    {
        ArgumentNullException.ThrowIfNull(run);
        return DrawAsync(run);
    }

    /// <summary>Closes the file.</summary>
    public void Dispose()
    {
        _writer?.Dispose();
        _writer = null;
    }

    private async ValueTask DrawAsync(TrainingRun run)
    {
        var chart = new LossChart { LogY = LogY && _stages.Any(stage => stage.Points.Any(point => point.Loss > 0)) };
        foreach (var (stage, points) in _stages)
        {
            chart.Add(stage, points);
        }

        await chart.SaveAsync(Path.Combine(_folder, "losses.svg"), run.CancellationToken).ConfigureAwait(false);
        _interval.Done(run);
    }

    private void Add(string stage, long step, double loss)
    {
        if (_stages.Count == 0 || !string.Equals(_stages[^1].Stage, stage, StringComparison.Ordinal))
        {
            _stages.Add((stage, []));
        }

        _stages[^1].Points.Add((step, loss));
    }

    // A last line that was truncated when the process was killed is skipped.
    internal static IEnumerable<(long TotalStep, string Stage, double Loss, string Line)> Rows(string path)
    {
        var text = File.ReadAllText(path);
        using var reader = new StringReader(text[..(text.LastIndexOf('\n') + 1)]);
        if (!string.Equals(reader.ReadLine(), Header, StringComparison.Ordinal))
        {
            throw new InvalidDataException($"'{path}' holds no losses: its first line must be '{Header}'.");
        }

        while (reader.ReadLine() is { } line)
        {
            using var one = new StringReader(line);
            if (
                Csv.Records(one).FirstOrDefault() is not [var total, var stage, _, var loss, _, _]
                || !long.TryParse(total, CultureInfo.InvariantCulture, out var step)
                || !double.TryParse(loss, CultureInfo.InvariantCulture, out var value)
            )
            {
                throw new InvalidDataException($"'{path}' has a line that is no step: '{line}'.");
            }

            yield return (step, stage, value, line);
        }
    }

    private static string Quoted(string text) =>
        text.AsSpan().ContainsAny(",\"") ? $"\"{text.Replace("\"", "\"\"", StringComparison.Ordinal)}\"" : text;
}
