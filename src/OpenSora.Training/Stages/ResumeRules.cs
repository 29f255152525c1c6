namespace OpenSora.Training.Stages;

/// <summary>What a run accepts when it resumes from a checkpoint.</summary>
/// <param name="mayDiffer">The names of the settings that may differ.</param>
/// <param name="usePreviousIfDamaged">true to accept the checkpoint before a damaged one.</param>
internal sealed class ResumeRules(IEnumerable<string>? mayDiffer = null, bool usePreviousIfDamaged = false)
{
    // The optimizer state belongs to the trained parameters.
    private static readonly string[] Fixed = [nameof(TrainingStage.Parameters), nameof(TrainingStage.Trains)];

    private static readonly string[] Names =
    [
        .. StageSettings.Names.Except(Fixed, StringComparer.Ordinal),
        nameof(TrainingStage.Data),
        nameof(TrainingStage.Objective),
    ];

    private readonly IReadOnlyList<string> _mayDiffer = [.. mayDiffer ?? []];

    /// <summary>Gets a value that indicates whether the checkpoint before a damaged one is accepted.</summary>
    public bool UsePreviousIfDamaged { get; } = usePreviousIfDamaged;

    /// <summary>Determines whether a setting may differ.</summary>
    public bool Allows(string name) => _mayDiffer.Contains(name, StringComparer.OrdinalIgnoreCase);

    /// <summary>Gets the errors in the names, one sentence each.</summary>
    public IEnumerable<string> Problems() =>
        _mayDiffer
            .Where(name => !Names.Contains(name, StringComparer.OrdinalIgnoreCase))
            .Select(name =>
                Fixed.Contains(name, StringComparer.OrdinalIgnoreCase)
                    ? $"The setting '{name}' is listed in MayDiffer, but it cannot differ, because the optimizer state belongs to the "
                        + "trained parameters. Start a new run from the weights with InitializeFrom."
                    : $"'{name}', listed in MayDiffer, is not a setting that may differ; expected one of {string.Join(", ", Names)}."
            );
}
