using System.Globalization;
using System.Reflection;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;

namespace OpenSora.Training.Stages;

/// <summary>Marks a setting of a stage that may differ when a run is resumed. Every other setting must be the same.</summary>
[AttributeUsage(AttributeTargets.Property)]
internal sealed class MayDifferAttribute : Attribute;

/// <summary>The settings of a stage that a checkpoint contains and that must be the same when a run is resumed.</summary>
internal static class StageSettings
{
    private static readonly JsonTypeInfo<TrainingStage> Json =
        (JsonTypeInfo<TrainingStage>)
            new JsonSerializerOptions(TrainingJson.Default.Options)
            {
                TypeInfoResolver = TrainingJson.Default.WithAddedModifier(RemoveSettingsThatMayDiffer),
            }.GetTypeInfo(typeof(TrainingStage));

    /// <summary>Gets the names of the settings that must be the same.</summary>
    public static IReadOnlyList<string> Names { get; } = [.. Of(new TrainingStage()).EnumerateObject().Select(Name)];

    public static JsonElement Of(TrainingStage stage) => JsonSerializer.SerializeToElement(stage, Json);

    /// <summary>Computes the number of the batch with which a resumed stage continues. If the size of batches changed, no sample of an epoch is used
    /// twice.</summary>
    public static long FirstBatch(CheckpointState state, TrainingStage stage)
    {
        if (state.Settings.ValueKind == JsonValueKind.String) // settings of version 1 cannot differ
        {
            return state.Step * stage.Accumulation;
        }

        var then = Read(state.Settings);
        var batches = state.Step * then.Accumulation + state.BatchOffset;
        return then.BatchSize == stage.BatchSize ? batches : (batches * then.BatchSize + stage.BatchSize - 1) / stage.BatchSize;
    }

    /// <summary>Returns the settings that differ; none if the run can be resumed.</summary>
    /// <param name="then">The settings in the checkpoint. A setting that the checkpoint does not contain had its default value.</param>
    /// <param name="stage">The stage with its settings now.</param>
    public static IReadOnlyList<(string Name, string Then, string Now)> Differences(JsonElement then, TrainingStage stage)
    {
        if (then.ValueKind == JsonValueKind.String)
        {
            var (before, after) = (then.GetString()!, TextOfVersion1(stage));
            return string.Equals(before, after, StringComparison.Ordinal) ? [] : [("The text of the settings", $"\"{before}\"", $"\"{after}\"")];
        }

        var complete = Of(Read(then));
        return
        [
            .. Of(stage)
                .EnumerateObject()
                .Select(now => (Name(now), Then: complete.GetProperty(now.Name).GetRawText(), Now: now.Value.GetRawText()))
                .Where(setting => !string.Equals(setting.Then, setting.Now, StringComparison.Ordinal)),
        ];
    }

    // Earlier checkpoints have the shape of the learning rate too, and a final learning rate, which a constant one ignores.
    private static TrainingStage Read(JsonElement settings)
    {
        var stage = settings.Deserialize(Json)!;
        if (settings.TryGetProperty("shape", out var shape) && shape.ValueEquals("Constant"))
        {
            stage.FinalLearningRate = null;
        }

        return stage;
    }

    // The name of the property in C# and in configuration.
    private static string Name(JsonProperty setting) => char.ToUpperInvariant(setting.Name[0]) + setting.Name[1..];

    private static void RemoveSettingsThatMayDiffer(JsonTypeInfo type)
    {
        foreach (var property in type.Properties.ToList())
        {
            if (property.AttributeProvider?.IsDefined(typeof(MayDifferAttribute), inherit: false) is true)
            {
                type.Properties.Remove(property);
            }
        }
    }

    // The settings as checkpoints of version 1 contain them.
    private static string TextOfVersion1(TrainingStage stage) =>
        string.Create(
            CultureInfo.InvariantCulture,
            $"batch {stage.BatchSize} x {stage.Accumulation}{(stage.Workers == 1 ? "" : $" by {stage.Workers}")}, "
                + $"lr {stage.LearningRate} to {stage.FinalLearningRate ?? 0} {(stage.FinalLearningRate is null ? "Constant" : "Cosine")} "
                + $"after {stage.WarmUpSteps}, "
                + $"betas {stage.Beta1} {stage.Beta2}, decay {stage.WeightDecay}, clip {stage.ClipGradientNorm}, "
                + $"ema {stage.EmaDecay} {stage.EmaWarmUp}, dropout {stage.CaptionDropout}, seed {stage.Seed}"
        )
        + (
            stage.Spikes is { } spikes
                ? FormattableString.Invariant($", spikes {spikes.Factor} of {spikes.Window} {(spikes.SkipSteps ? "skipped" : "taken")}")
                : ""
        );
}
