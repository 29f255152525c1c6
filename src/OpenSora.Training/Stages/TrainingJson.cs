using System.Text.Json;
using System.Text.Json.Serialization;
using OpenSora.Training.Distributed;

namespace OpenSora.Training.Stages;

/// <summary>The JSON that this assembly reads and writes, without reflection.</summary>
[JsonSourceGenerationOptions(JsonSerializerDefaults.Web, UseStringEnumConverter = true)]
[JsonSerializable(typeof(CheckpointState))]
[JsonSerializable(typeof(TrainingStage))]
[JsonSerializable(typeof(Dictionary<string, long>))]
[JsonSerializable(typeof(ShardIndex))]
[JsonSerializable(typeof(IReadOnlyList<IReadOnlyList<string>>))]
internal sealed partial class TrainingJson : JsonSerializerContext;
