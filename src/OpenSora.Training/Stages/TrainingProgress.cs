namespace OpenSora.Training.Stages;

/// <summary>The progress of training, reported after every optimizer step.</summary>
public sealed record TrainingProgress
{
    /// <summary>The name of the stage.</summary>
    public required string Stage { get; init; }

    /// <summary>The number of steps completed in the stage.</summary>
    public required long Step { get; init; }

    /// <summary>The total number of steps of the stage.</summary>
    public required long Steps { get; init; }

    /// <summary>The loss of the step.</summary>
    public required double Loss { get; init; }

    /// <summary>The components of the loss, by name.</summary>
    public IReadOnlyDictionary<string, double> Parts { get; init; } = new Dictionary<string, double>(StringComparer.Ordinal);

    /// <summary>The norm of all gradients before clipping.</summary>
    public double GradientNorm { get; init; }

    /// <summary>The learning rate of the step.</summary>
    public double LearningRate { get; init; }

    /// <summary>The number of samples in the step.</summary>
    public long Samples { get; init; }

    /// <summary>The throughput since the stage was started or resumed, in samples per second.</summary>
    public double SamplesPerSecond { get; init; }

    /// <summary>The duration of the step.</summary>
    public TimeSpan StepTime { get; init; }

    /// <summary>The time spent in the stage, over all its runs.</summary>
    public TimeSpan Elapsed { get; init; }

    /// <summary>The completed fraction of the stage, from 0 to 1: of its steps or of its <see cref="TrainingStage.TimeLimit"/>, whichever is
    /// larger.</summary>
    public double Fraction { get; init; }

    /// <summary>The estimated time until the end of the stage.</summary>
    public TimeSpan TimeLeft { get; init; }

    /// <summary>A description of the loss or gradient spike in this step; null if there was none or if the stage does not detect spikes (see
    /// <see cref="TrainingStage.Spikes"/>).</summary>
    public string? Spike { get; init; }

    /// <summary>The number of steps of the stage that were skipped because of spikes.</summary>
    public long SkippedSteps { get; init; }
}

/// <summary>The exception that is thrown when training cannot continue because a loss or a gradient is not finite, or because there were too many
/// spikes in a row. The weights are those before the step.</summary>
public sealed class TrainingDivergedException : Exception
{
    /// <summary>Initializes a new exception with a message.</summary>
    public TrainingDivergedException(string message)
        : base(message) { }

    /// <summary>Initializes a new exception with a message and an inner exception.</summary>
    public TrainingDivergedException(string message, Exception innerException)
        : base(message, innerException) { }

    /// <summary>Initializes a new exception with a default message.</summary>
    public TrainingDivergedException()
        : this("Training diverged.") { }
}

/// <summary>The folder, the frequency and the number of checkpoints.</summary>
public class CheckpointOptions
{
    /// <summary>The folder for checkpoints. It is created when the first checkpoint is written.</summary>
    public string Folder { get; set; } = "";

    /// <summary>The number of steps between checkpoints; null to write checkpoints by time only.</summary>
    public int? EverySteps { get; set; }

    /// <summary>The time between checkpoints; null to write checkpoints by steps only. A checkpoint is also written at the end of each stage and when
    /// a run is canceled.</summary>
    public TimeSpan? Every { get; set; } = TimeSpan.FromMinutes(10);

    /// <summary>The number of checkpoints to keep. Older checkpoints are deleted.</summary>
    public int KeepLast { get; set; } = 3;

    /// <summary>Gets the errors in the options, one sentence each.</summary>
    internal IEnumerable<string> Problems()
    {
        if (string.IsNullOrWhiteSpace(Folder))
        {
            yield return $"The checkpoint options have no {nameof(Folder)}.";
        }

        if (EverySteps < 1)
        {
            yield return $"The checkpoint options have {nameof(EverySteps)} {EverySteps}; it must be at least 1, or null.";
        }

        if (Every <= TimeSpan.Zero)
        {
            yield return $"The checkpoint options have {nameof(Every)} {Every}; it must be above 0, or null.";
        }

        if (KeepLast < 1)
        {
            yield return $"The checkpoint options have {nameof(KeepLast)} {KeepLast}; it must be at least 1.";
        }
    }
}
