using OpenSora.Weights;

namespace OpenSora.Training.Stages;

/// <summary>The checkpoint from which a run resumes, opened.</summary>
internal sealed class ResumePoint : IDisposable
{
    private ResumePoint(WeightsFile file, CheckpointState state) => (File, State) = (file, state);

    public WeightsFile File { get; }

    public CheckpointState State { get; }

    /// <summary>Gets the newer checkpoints that are damaged, with the reasons, beginning with the newest.</summary>
    public IReadOnlyList<(string Path, string Reason)> Damaged { get; private init; } = [];

    /// <summary>Opens a checkpoint, or the newest one in a folder.</summary>
    /// <param name="path">The path of a checkpoint or a folder.</param>
    /// <param name="rules">Whether an older checkpoint is accepted.</param>
    /// <returns>null if a folder contains no checkpoint, or does not exist.</returns>
    /// <exception cref="InvalidWeightsException">The checkpoint is damaged, or a newer version of this library wrote it.</exception>
    public static ResumePoint? Find(string path, ResumeRules rules)
    {
        if (System.IO.File.Exists(path))
        {
            var (file, state) = Open(path, isNamed: false);
            return new ResumePoint(file, state);
        }

        List<(string Path, string Reason)> damaged = [];
        InvalidWeightsException? first = null;
        foreach (var candidate in Checkpoint.All(path).Reverse())
        {
            WeightsFile file;
            CheckpointState state;
            try
            {
                (file, state) = Open(candidate, isNamed: true);
            }
            catch (InvalidWeightsException e) when (e.InnerException is not NotSupportedException) // not of a newer version of the library
            {
                first ??= e;
                var isShard = !string.Equals(Path.GetFileName(e.Path), Path.GetFileName(candidate), StringComparison.Ordinal);
                damaged.Add((candidate, isShard ? $"its shard '{Path.GetFileName(e.Path)}' cannot be used: {e.Reason}" : e.Reason));
                continue;
            }

            return damaged.Count == 0 || rules.UsePreviousIfDamaged
                ? new ResumePoint(file, state) { Damaged = damaged }
                : throw NotUsed(file, state, damaged[0], first);
        }

        return damaged.Count switch
        {
            0 => null,
            1 => throw first!,
            var count => throw new InvalidWeightsException(
                damaged[0].Path,
                $"{damaged[0].Reason} The {count - 1} checkpoints before it are damaged too.",
                first
            ),
        };
    }

    public void Dispose() => File.Dispose();

    private static InvalidWeightsException NotUsed(
        WeightsFile file,
        CheckpointState state,
        (string Path, string Reason) newest,
        InvalidWeightsException? inner
    )
    {
        var previous = Path.GetFileName(file.Path);
        file.Dispose();
        return new InvalidWeightsException(
            newest.Path,
            $"{newest.Reason} The newest checkpoint is damaged; the one before it that is not is '{previous}', after step {state.Step} of stage "
                + $"'{state.StageName}'. Set usePreviousIfDamaged of {nameof(StagedTrainer.Resume)}, or the option "
                + $"{nameof(TrainingOptions.UsePreviousIfDamaged)}, to continue from it, or delete the damaged file.",
            inner
        );
    }

    // The name of a checkpoint in a folder must fit its contents: a copy under a newer name would be mistaken for the newest.
    private static (WeightsFile, CheckpointState) Open(string path, bool isNamed)
    {
        WeightsFile? file = null;
        try
        {
            file = WeightsFile.Open(path);
            var state = Checkpoint.State(file);
            return !isNamed || CheckpointName.Fits(Path.GetFileName(path), state)
                ? (file, state)
                : throw new InvalidWeightsException(
                    path,
                    $"it has the name of another checkpoint: it was written as '{CheckpointName.Of(state)}'. Rename or move it."
                );
        }
        catch (IOException e) when (e is not FileNotFoundException)
        {
            file?.Dispose();
            throw new InvalidWeightsException(path, $"it cannot be read: {e.Message}", e);
        }
        catch
        {
            file?.Dispose();
            throw;
        }
    }
}
