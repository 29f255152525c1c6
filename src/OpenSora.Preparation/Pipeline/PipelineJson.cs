using System.Text.Json.Serialization;
using OpenSora.Preparation.Cutting;
using OpenSora.Preparation.Media;
using OpenSora.Preparation.Scores;

namespace OpenSora.Preparation.Pipeline;

/// <summary>Generated code that reads and writes the JSON of the ledger.</summary>
[JsonSerializable(typeof(SourceInfo))]
[JsonSerializable(typeof(CutOptions))]
[JsonSerializable(typeof(ClipFramesOptions))]
internal sealed partial class PipelineJson : JsonSerializerContext;
