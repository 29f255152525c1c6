using OpenSora.Media;
using OpenSora.Training.Stages;

namespace OpenSora.Training.Callbacks;

/// <summary>Writes event files for TensorBoard: <c>tensorboard --logdir FOLDER</c>.</summary>
/// <remarks>Scalars of steps are under <c>train/</c>, those of observations under their names; videos are shown as animated images. Steps are counted
/// over all stages. A resumed run writes another file into the same folder, and TensorBoard drops what the first one wrote after the
/// checkpoint.</remarks>
/// <param name="folder">The folder of this run; runs in folders under a common folder are shown in one plot.</param>
/// <param name="everySteps">The number of steps between scalars; the last step of a stage is always written.</param>
internal sealed class TensorBoard(string folder, int everySteps = 10) : ITrainingCallback, IDisposable
{
    private readonly string _folder = string.IsNullOrEmpty(folder)
        ? throw new ArgumentException("TensorBoard needs a folder to write to.", nameof(folder))
        : folder;
    private readonly int _everySteps =
        everySteps > 0 ? everySteps : throw new ArgumentOutOfRangeException(nameof(everySteps), everySteps, "The number of steps must be above 0.");
    private EventFile? _file;
    private long _last; // the step that was written last
    private bool _disposed;

    /// <inheritdoc/>
    public ValueTask StageStartedAsync(TrainingRun run)
    {
        ArgumentNullException.ThrowIfNull(run);
        At(run);
        return default;
    }

    /// <inheritdoc/>
    public ValueTask StepDoneAsync(TrainingRun run, TrainingProgress progress)
    {
        ArgumentNullException.ThrowIfNull(run);
        ArgumentNullException.ThrowIfNull(progress);
        if (run.TotalStep % _everySteps != 0 && progress.TimeLeft > TimeSpan.Zero)
        {
            return default;
        }

        At(run)
            .WriteScalars(
                run.TotalStep,
                progress
                    .Parts.Select(part => Scalar(part.Key, part.Value))
                    .Concat([
                        Scalar("loss", progress.Loss),
                        Scalar("gradient_norm", progress.GradientNorm),
                        Scalar("learning_rate", progress.LearningRate),
                        Scalar("samples_per_second", progress.SamplesPerSecond),
                        Scalar("skipped_steps", progress.SkippedSteps),
                    ])
            );
        return default;

        static KeyValuePair<string, double> Scalar(string name, double value) => new($"train/{name}", value);
    }

    /// <inheritdoc/>
    public async ValueTask ObservedAsync(TrainingRun run, TrainingObservation observation)
    {
        ArgumentNullException.ThrowIfNull(run);
        ArgumentNullException.ThrowIfNull(observation);
        if (observation.Scalars.Count > 0)
        {
            At(run)
                .WriteScalars(run.TotalStep, observation.Scalars.Select(pair => KeyValuePair.Create($"{observation.Name}/{pair.Key}", pair.Value)));
        }

        foreach (var (name, video) in observation.Videos)
        {
            At(run)
                .WriteImage(
                    run.TotalStep,
                    $"{observation.Name}/{name}",
                    video.Width,
                    video.Height,
                    await EncodeAsync(video, run.CancellationToken).ConfigureAwait(false)
                );
        }
    }

    /// <summary>Closes the file.</summary>
    public void Dispose()
    {
        _disposed = true;
        _file?.Dispose();
        _file = null;
    }

    // The file. Its first record makes TensorBoard drop earlier records of the next step and later steps.
    private EventFile At(TrainingRun run)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (_file is null || run.TotalStep < _last)
        {
            _file ??= new EventFile(_folder);
            _file.WriteStart(run.TotalStep + 1);
        }
        _last = run.TotalStep;
        return _file;
    }

    private static async Task<byte[]> EncodeAsync(VideoFrames video, CancellationToken cancellationToken)
    {
        var temporary = Path.Combine(Path.GetTempPath(), $"{Guid.NewGuid():N}{(video.Count == 1 ? ".png" : ".gif")}");
        try
        {
            await new VideoWriter().WriteAsync(video, temporary, cancellationToken: cancellationToken).ConfigureAwait(false);
            return await File.ReadAllBytesAsync(temporary, cancellationToken).ConfigureAwait(false);
        }
        finally
        {
            File.Delete(temporary);
        }
    }
}
