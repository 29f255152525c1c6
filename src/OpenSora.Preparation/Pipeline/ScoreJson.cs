using System.Buffers;
using System.Text;
using System.Text.Json;
using OpenSora.Preparation.Scores;

namespace OpenSora.Preparation.Pipeline;

/// <summary>Reads and writes the scores of a clip as JSON, such as <c>{"motion":1.5,"motion_kind":"pan","sharpness":null}</c>.</summary>
internal static class ScoreJson
{
    internal static string Write(IReadOnlyDictionary<string, ScoreValue> scores)
    {
        var buffer = new ArrayBufferWriter<byte>();
        using (var writer = new Utf8JsonWriter(buffer))
        {
            writer.WriteStartObject();
            foreach (var (name, value) in scores)
            {
                writer.WritePropertyName(name);
                if (value.Number is { } number)
                {
                    writer.WriteNumberValue(number);
                }
                else
                {
                    writer.WriteStringValue(value.Text); // null for a missing value
                }
            }

            writer.WriteEndObject();
        }

        return Encoding.UTF8.GetString(buffer.WrittenSpan);
    }

    internal static IReadOnlyDictionary<string, ScoreValue> Read(string json)
    {
        using var document = JsonDocument.Parse(json);
        var scores = new OrderedDictionary<string, ScoreValue>(StringComparer.Ordinal);
        foreach (var property in document.RootElement.EnumerateObject())
        {
            scores[property.Name] = property.Value.ValueKind == JsonValueKind.Number ? property.Value.GetDouble() : property.Value.GetString();
        }

        return scores;
    }
}
