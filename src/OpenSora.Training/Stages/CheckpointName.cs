using System.Globalization;
using System.Text.RegularExpressions;

namespace OpenSora.Training.Stages;

/// <summary>The names of checkpoints: <c>checkpoint-STAGE-STEP.safetensors</c>, with at least two and eight digits. Files with other names are not
/// checkpoints of a run, so they are neither resumed from nor deleted.</summary>
internal static partial class CheckpointName
{
    /// <summary>Gets the name of a checkpoint.</summary>
    public static string Of(CheckpointState state) => Of(state.Stage + 1L, state.Step);

    /// <summary>Gets the stage, from 1, and the step of a checkpoint; null if the name is not that of a checkpoint.</summary>
    public static (long Stage, long Step)? Parse(string name) =>
        Whole().Match(name) is { Success: true } match
        && long.TryParse(match.Groups["stage"].ValueSpan, NumberStyles.None, CultureInfo.InvariantCulture, out var stage)
        && long.TryParse(match.Groups["step"].ValueSpan, NumberStyles.None, CultureInfo.InvariantCulture, out var step)
        && stage > 0
        && Of(stage, step).Equals(name, StringComparison.Ordinal) // no further zeros
            ? (stage, step)
            : null;

    /// <summary>Determines whether a name is that of a checkpoint that was not written completely.</summary>
    public static bool IsPartial(string name) => Partial().Match(name) is { Success: true } match && Parse(match.Groups["name"].Value) is not null;

    private static string Of(long stage, long step) => FormattableString.Invariant($"checkpoint-{stage:D2}-{step:D8}.safetensors");

    [GeneratedRegex(
        @"\Acheckpoint-(?<stage>[0-9]{2,})-(?<step>[0-9]{8,})\.safetensors\z",
        RegexOptions.ExplicitCapture,
        matchTimeoutMilliseconds: 1000
    )]
    private static partial Regex Whole();

    [GeneratedRegex(
        @"\A(?<name>checkpoint-[0-9]+-[0-9]+\.safetensors)\.[0-9a-f]+\.tmp\z",
        RegexOptions.ExplicitCapture,
        matchTimeoutMilliseconds: 1000
    )]
    private static partial Regex Partial();
}
