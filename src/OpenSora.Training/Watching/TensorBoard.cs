using OpenSora.Media;

namespace OpenSora.Training;

/// <summary>Writes what happens in training to event files, which TensorBoard shows: <c>tensorboard --logdir FOLDER</c>.</summary>
/// <remarks>Scalars of steps stand under <c>train/</c>, those of observations under their names; videos are shown as moving pictures. The steps are those of
/// all stages together. A run that is resumed writes another file into the same folder, and TensorBoard drops what the first one wrote after the checkpoint.</remarks>
/// <param name="folder">A folder for this run; runs side by side under one folder are shown in one plot.</param>
/// <param name="everySteps">Steps between scalars; the last of a stage is always written.</param>
public sealed class TensorBoard(string folder, int everySteps = 10) : ITrainingCallback, IDisposable
{
    private readonly string folder = string.IsNullOrEmpty(folder) ? throw new ArgumentException("TensorBoard needs a folder to write to.", nameof(folder)) : folder;
    private readonly int everySteps = everySteps > 0 ? everySteps : throw new ArgumentOutOfRangeException(nameof(everySteps), everySteps, "The number of steps must be above 0.");
    private EventFile? file;

    /// <inheritdoc/>
    public void StageStarted(TrainingRun run)
    {
        ArgumentNullException.ThrowIfNull(run);
        if (file is not null)
            return;
        file = new EventFile(folder);
        file.WriteStart(run.TotalStep + 1); // TensorBoard drops what earlier files hold of this step and those after it
    }

    /// <inheritdoc/>
    public void StepDone(TrainingRun run, TrainingProgress progress)
    {
        ArgumentNullException.ThrowIfNull(run);
        ArgumentNullException.ThrowIfNull(progress);
        if (run.TotalStep % everySteps != 0 && progress.TimeLeft > TimeSpan.Zero)
            return;
        File.WriteScalars(run.TotalStep, progress.Parts.Select(part => Scalar(part.Key, part.Value)).Concat(
        [
            Scalar("loss", progress.Loss), Scalar("gradient_norm", progress.GradientNorm), Scalar("learning_rate", progress.LearningRate),
            Scalar("samples_per_second", progress.SamplesPerSecond), Scalar("skipped_steps", progress.SkippedSteps),
        ]));

        static KeyValuePair<string, double> Scalar(string name, double value) => new($"train/{name}", value);
    }

    /// <inheritdoc/>
    public void Observed(TrainingRun run, TrainingObservation observation)
    {
        ArgumentNullException.ThrowIfNull(run);
        ArgumentNullException.ThrowIfNull(observation);
        if (observation.Scalars.Count > 0)
            File.WriteScalars(run.TotalStep, observation.Scalars.Select(pair => KeyValuePair.Create($"{observation.Name}/{pair.Key}", pair.Value)));
        foreach (var (name, video) in observation.Videos)
            File.WriteImage(run.TotalStep, $"{observation.Name}/{name}", video.Width, video.Height, Encode(video));
    }

    /// <summary>Closes the file.</summary>
    public void Dispose()
    {
        file?.Dispose();
        file = null;
    }

    private EventFile File => file ?? throw new ObjectDisposedException(nameof(TensorBoard));

    private static byte[] Encode(VideoFrames video)
    {
        var temporary = Path.Combine(Path.GetTempPath(), $"{Guid.NewGuid():N}{(video.Count == 1 ? ".png" : ".gif")}");
        try
        {
            var write = video.Count == 1 ? new ImageCodec().WriteAsync(video, temporary) : new VideoWriter().WriteAsync(video, temporary, VideoFormat.Gif);
            write.GetAwaiter().GetResult();
            return System.IO.File.ReadAllBytes(temporary);
        }
        finally
        {
            System.IO.File.Delete(temporary);
        }
    }
}
