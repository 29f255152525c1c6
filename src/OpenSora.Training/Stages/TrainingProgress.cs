namespace OpenSora.Training.Stages;

/// <summary>Where training is, told after every optimizer step.</summary>
public sealed record TrainingProgress
{
    /// <summary>The stage's name.</summary>
    public required string Stage { get; init; }

    /// <summary>Steps done in the stage.</summary>
    public required long Step { get; init; }

    /// <summary>All its steps.</summary>
    public required long Steps { get; init; }

    /// <summary>The step's loss.</summary>
    public required double Loss { get; init; }

    /// <summary>What the loss is made of, by name.</summary>
    public IReadOnlyDictionary<string, double> Parts { get; init; } = new Dictionary<string, double>(StringComparer.Ordinal);

    /// <summary>The norm of all gradients before cutting.</summary>
    public double GradientNorm { get; init; }

    /// <summary>The step's learning rate.</summary>
    public double LearningRate { get; init; }

    /// <summary>Samples in the step.</summary>
    public long Samples { get; init; }

    /// <summary>Throughput since the run was started.</summary>
    public double SamplesPerSecond { get; init; }

    /// <summary>How long the step took.</summary>
    public TimeSpan StepTime { get; init; }

    /// <summary>An estimate for the rest of the stage.</summary>
    public TimeSpan TimeLeft { get; init; }

    /// <summary>What was out of proportion in this step, and where; null where nothing was, or nobody looked
    /// (<see cref="TrainingStage.Spikes"/>).</summary>
    public string? Spike { get; init; }

    /// <summary>Steps of the stage that were not taken because of spikes.</summary>
    public long SkippedSteps { get; init; }
}

/// <summary>Training cannot go on: a loss or a gradient is not a finite number, or too many in a row were out of proportion. The weights are as they
/// were before the step.</summary>
public sealed class TrainingDivergedException : Exception
{
    /// <summary>Says where training broke.</summary>
    public TrainingDivergedException(string message)
        : base(message) { }

    /// <summary>Says where training broke.</summary>
    public TrainingDivergedException(string message, Exception innerException)
        : base(message, innerException) { }

    /// <summary>Training broke.</summary>
    public TrainingDivergedException()
        : this("Training diverged.") { }
}

/// <summary>When checkpoints are written, where to, and how many are kept.</summary>
public class CheckpointOptions
{
    /// <summary>The folder; it is made when the first checkpoint is written.</summary>
    public string Folder { get; set; } = "";

    /// <summary>Steps between checkpoints; null: by time only.</summary>
    public int? EverySteps { get; set; }

    /// <summary>Time between checkpoints; null: by steps only. One is always written at the end of a stage, and when a run is cancelled.</summary>
    public TimeSpan? Every { get; set; } = TimeSpan.FromMinutes(10);

    /// <summary>How many are kept, the newest ones.</summary>
    public int KeepLast { get; set; } = 3;

    /// <summary>What is wrong with the options, one sentence each.</summary>
    internal IEnumerable<string> Problems()
    {
        if (string.IsNullOrWhiteSpace(Folder))
        {
            yield return $"The options of checkpoints name no {nameof(Folder)}.";
        }

        if (EverySteps < 1)
        {
            yield return $"Checkpoints have {nameof(EverySteps)} {EverySteps}; it must be at least 1, or null.";
        }

        if (Every <= TimeSpan.Zero)
        {
            yield return $"Checkpoints have {nameof(Every)} {Every}; it must be above 0, or null.";
        }

        if (KeepLast < 1)
        {
            yield return $"Checkpoints have {nameof(KeepLast)} {KeepLast}; it must be at least 1.";
        }
    }
}
