using System.Text.Json.Serialization;
using OpenSora.Preparation.Media;

namespace OpenSora.Preparation.Pipeline;

/// <summary>Generated code that reads and writes the JSON of the ledger.</summary>
[JsonSerializable(typeof(SourceInfo))]
[JsonSerializable(typeof(Dictionary<string, double>))]
internal sealed partial class PipelineJson : JsonSerializerContext;
