using OpenSora.Training.Objectives;

namespace OpenSora.Training.Stages;

/// <summary>Checks that a run continues what it was started as.</summary>
internal static class ResumeCheck
{
    private const string Accept = " To continue with other settings, name them in the argument mayDiffer of Resume, or in the option MayDiffer.",
        Advice = " Use Resume to continue the same run, or InitializeFrom to start a new run from its weights.";

    /// <summary>Throws if a checkpoint was written by another stage, with other settings, another objective or other data, unless they may
    /// differ.</summary>
    /// <returns>What differs, one sentence without a full stop each.</returns>
    /// <exception cref="InvalidOperationException">The checkpoint does not fit; the message says why.</exception>
    public static IReadOnlyList<string> Require(
        CheckpointState state,
        string path,
        IReadOnlyList<TrainingStage> stages,
        ITrainingObjective objective,
        ResumeRules rules
    )
    {
        if (state.Stage >= stages.Count || !string.Equals(stages[state.Stage].Name, state.StageName, StringComparison.Ordinal))
        {
            throw new InvalidOperationException(
                $"'{path}' was written by stage {state.Stage + 1}, '{state.StageName}', but this run has no such stage at that position." + Advice
            );
        }

        var stage = stages[state.Stage];
        List<string> accepted = [];
        var differences = StageSettings.Differences(state.Settings, stage).ToLookup(setting => rules.Allows(setting.Name));
        accepted.AddRange(differences[true].Select(Describe));
        if (differences[false].Any())
        {
            throw new InvalidOperationException(
                $"Stage '{stage.Name}' was started with different settings: {string.Join("; ", differences[false].Select(Describe))}."
                    + Advice
                    + Accept
            );
        }

        var aim = stage.Objective ?? objective;
        // Older checkpoints do not name the objective, or name only its type.
        if (
            state.Objective.Length > 0
            && !string.Equals(state.Objective, aim.GetType().Name, StringComparison.Ordinal)
            && !string.Equals(state.Objective, aim.Fingerprint, StringComparison.Ordinal)
        )
        {
            accepted.Add(
                rules.Allows(nameof(TrainingStage.Objective))
                    ? Describe((nameof(TrainingStage.Objective), state.Objective, aim.Fingerprint))
                    : throw new InvalidOperationException(
                        $"Stage '{stage.Name}' was started with a different objective ({state.Objective}) than it has now ({aim.Fingerprint})."
                            + Advice
                            + Accept
                    )
            );
        }

        if (!string.Equals(stage.Data!.Fingerprint, state.Data, StringComparison.Ordinal))
        {
            accepted.Add(
                rules.Allows(nameof(TrainingStage.Data))
                    ? Describe((nameof(TrainingStage.Data), state.Data, stage.Data.Fingerprint))
                    : throw new InvalidOperationException(
                        $"Stage '{stage.Name}' was started with different data ({state.Data}) than it has now ({stage.Data.Fingerprint})."
                            + Advice
                            + Accept
                    )
            );
        }

        return accepted;
    }

    private static string Describe((string Name, string Then, string Now) setting) => $"{setting.Name} was {setting.Then} and is now {setting.Now}";
}
