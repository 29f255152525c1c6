namespace OpenSora.Training;

/// <summary>Where training is, told after every optimizer step.</summary>
/// <param name="Stage">The stage's name.</param>
/// <param name="Step">Steps done in the stage.</param>
/// <param name="Steps">All its steps.</param>
/// <param name="Loss">The step's loss.</param>
/// <param name="Parts">What the loss is made of, by name.</param>
/// <param name="GradientNorm">The norm of all gradients before cutting.</param>
/// <param name="LearningRate">The step's learning rate.</param>
/// <param name="SamplesPerSecond">Throughput since the run was started.</param>
/// <param name="TimeLeft">An estimate for the rest of the stage.</param>
public sealed record TrainingProgress(string Stage, long Step, long Steps, double Loss, IReadOnlyDictionary<string, double> Parts, double GradientNorm,
    double LearningRate, double SamplesPerSecond, TimeSpan TimeLeft);

/// <summary>Training cannot go on: a loss or a gradient is not a finite number. The weights are as they were before the step.</summary>
public sealed class TrainingDivergedException : Exception
{
    /// <summary>Says where training broke.</summary>
    public TrainingDivergedException(string message) : base(message)
    {
    }

    /// <summary>Says where training broke.</summary>
    public TrainingDivergedException(string message, Exception innerException) : base(message, innerException)
    {
    }

    /// <summary>Training broke.</summary>
    public TrainingDivergedException() : this("Training diverged.")
    {
    }
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
}
