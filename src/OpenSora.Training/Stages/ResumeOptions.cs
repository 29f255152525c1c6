using OpenSora.Training.Data;
using OpenSora.Training.Objectives;

namespace OpenSora.Training.Stages;

/// <summary>What a run accepts when it resumes from a checkpoint. By default, all settings must be the same, and a damaged checkpoint is an
/// error.</summary>
public class ResumeOptions
{
    // The optimizer state belongs to the trained parameters.
    private static readonly string[] Fixed = [nameof(TrainingStage.Parameters), nameof(TrainingStage.Trains)];

    private static readonly string[] Names =
    [
        .. StageSettings.Names.Except(Fixed, StringComparer.Ordinal),
        nameof(TrainingStage.Data),
        nameof(TrainingStage.Objective),
    ];

    /// <summary>The names of the properties of <see cref="TrainingStage"/> that may differ from the run that wrote the checkpoint, such as
    /// <see cref="TrainingStage.LearningRate"/>, <see cref="TrainingStage.Shape"/> or <see cref="TrainingStage.BatchSize"/>. The optimizer state, the
    /// moving averages, and the position in the schedule and in the data are kept; the log says what changed.</summary>
    /// <remarks>After a change of the batch size, the run continues with the first batch that has only samples that the epoch has not used yet. If
    /// moving averages are new, they start from the weights. <see cref="TrainingStage.Data"/> and <see cref="TrainingStage.Objective"/> are compared
    /// by <see cref="ITrainingData.Fingerprint"/> and <see cref="ITrainingObjective.Fingerprint"/>. The trained parameters cannot differ, because the
    /// optimizer state belongs to them.</remarks>
    public IList<string> MayDiffer { get; } = [];

    /// <summary>True to continue from the checkpoint before the newest one if that one is damaged. The log names the damaged file, and if the run
    /// saves to the same folder, <c>.damaged</c> is added to its name.</summary>
    public bool UsePreviousIfDamaged { get; set; }

    /// <summary>Determines whether a setting may differ.</summary>
    internal bool Allows(string name) => MayDiffer.Contains(name, StringComparer.OrdinalIgnoreCase);

    /// <summary>Gets the errors in the options, one sentence each.</summary>
    internal IEnumerable<string> Problems() =>
        MayDiffer
            .Where(name => !Names.Contains(name, StringComparer.OrdinalIgnoreCase))
            .Select(name =>
                Fixed.Contains(name, StringComparer.OrdinalIgnoreCase)
                    ? $"The resume options have {nameof(MayDiffer)} '{name}', which cannot differ, because the optimizer state belongs to the "
                        + "trained parameters. Start a new run from the weights with InitializeFrom."
                    : $"The resume options have {nameof(MayDiffer)} '{name}'; it must be one of {string.Join(", ", Names)}."
            );
}
