using System.Globalization;
using System.Text.RegularExpressions;

namespace OpenSora.Training.Stages;

/// <summary>The names of checkpoints: <c>checkpoint-STAGE-STEP.safetensors</c>, with at least two and eight digits. Files with other names are not
/// checkpoints of a run, so they are neither resumed from nor deleted.</summary>
/// <remarks>A checkpoint of several processes consists of shards, <c>checkpoint-STAGE-STEP-NUMBER-of-COUNT.safetensors</c>, and an index,
/// <c>checkpoint-STAGE-STEP.safetensors.index.json</c>, which is written last. Shards without an index are not a checkpoint.</remarks>
internal static partial class CheckpointName
{
    private const string IndexSuffix = ".index.json";

    /// <summary>Gets the name of a checkpoint of one process.</summary>
    public static string Of(CheckpointState state) => Of(state.Stage + 1L, state.Step);

    /// <summary>Gets the name of the index of a checkpoint of several processes.</summary>
    public static string IndexOf(CheckpointState state) => Of(state) + IndexSuffix;

    /// <summary>Gets the name of a shard of a checkpoint.</summary>
    /// <param name="state">The state in the checkpoint.</param>
    /// <param name="number">The number of the process, from 0.</param>
    /// <param name="count">The number of processes.</param>
    public static string ShardOf(CheckpointState state, int number, int count) =>
        FormattableString.Invariant($"{Path.GetFileNameWithoutExtension(Of(state))}-{number + 1:D5}-of-{count:D5}.safetensors");

    /// <summary>Determines whether a name is that of the index of a checkpoint.</summary>
    public static bool IsIndex(string name) => name.EndsWith(IndexSuffix, StringComparison.Ordinal) && Parse(name) is not null;

    /// <summary>Gets the name of the index to which a shard belongs; null if the name is not that of a shard.</summary>
    public static string? IndexOfShard(string name) =>
        Shard().Match(name) is { Success: true } match ? $"{match.Groups["name"].Value}.safetensors{IndexSuffix}" : null;

    /// <summary>Determines whether a checkpoint, in either form, has the name of a state.</summary>
    public static bool Fits(string name, CheckpointState state) => Parse(name) == (state.Stage + 1L, state.Step);

    /// <summary>Gets the stage, from 1, and the step of a checkpoint; null if the name is not that of a checkpoint.</summary>
    public static (long Stage, long Step)? Parse(string name) =>
        ParseWhole(name.EndsWith(IndexSuffix, StringComparison.Ordinal) ? name[..^IndexSuffix.Length] : name);

    private static (long Stage, long Step)? ParseWhole(string name) =>
        Whole().Match(name) is { Success: true } match
        && long.TryParse(match.Groups["stage"].ValueSpan, NumberStyles.None, CultureInfo.InvariantCulture, out var stage)
        && long.TryParse(match.Groups["step"].ValueSpan, NumberStyles.None, CultureInfo.InvariantCulture, out var step)
        && stage > 0
        && Of(stage, step).Equals(name, StringComparison.Ordinal) // no further zeros
            ? (stage, step)
            : null;

    /// <summary>Determines whether a name is that of a checkpoint, a shard or an index that was not written completely.</summary>
    public static bool IsPartial(string name) =>
        Partial().Match(name) is { Success: true } match
        && (Parse(match.Groups["name"].Value) is not null || IndexOfShard(match.Groups["name"].Value) is not null);

    private static string Of(long stage, long step) => FormattableString.Invariant($"checkpoint-{stage:D2}-{step:D8}.safetensors");

    [GeneratedRegex(
        @"\Acheckpoint-(?<stage>[0-9]{2,})-(?<step>[0-9]{8,})\.safetensors\z",
        RegexOptions.ExplicitCapture,
        matchTimeoutMilliseconds: 1000
    )]
    private static partial Regex Whole();

    [GeneratedRegex(
        @"\A(?<name>checkpoint-[0-9]+-[0-9]+(-[0-9]+-of-[0-9]+)?\.safetensors(\.index\.json)?)\.[0-9a-f]+\.tmp\z",
        RegexOptions.ExplicitCapture,
        matchTimeoutMilliseconds: 1000
    )]
    private static partial Regex Partial();

    [GeneratedRegex(
        @"\A(?<name>checkpoint-[0-9]{2,}-[0-9]{8,})-[0-9]{5,}-of-[0-9]{5,}\.safetensors\z",
        RegexOptions.ExplicitCapture,
        matchTimeoutMilliseconds: 1000
    )]
    private static partial Regex Shard();
}
