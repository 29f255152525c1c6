using System.Text.Json;

namespace OpenSora.Models;

/// <summary>The contents of the <c>config.json</c> of one part in a folder of a model hub.</summary>
/// <remarks>Errors are <see cref="FormatException"/>s with messages that continue the words "its config.json".</remarks>
internal sealed record HubConfig(JsonElement Root)
{
    /// <summary>The class name (diffusers) or model type (transformers, Open-Sora).</summary>
    public string Kind => Text("_class_name") ?? Text("model_type") ?? "";

    /// <summary>Gets a string; null if there is none with this name.</summary>
    public string? Text(string name) =>
        Root.TryGetProperty(name, out var value) && value.ValueKind == JsonValueKind.String ? value.GetString() : null;

    /// <summary>Reads the settings of an architecture. Unknown settings are ignored.</summary>
    /// <exception cref="JsonException">A setting has the wrong type.</exception>
    public T As<T>(T? defaults, JsonElement? part = null)
        where T : class => (T)ConfigJson.Read(part ?? Root, typeof(T), defaults, strict: false);

    /// <summary>Reads a list of numbers.</summary>
    /// <exception cref="FormatException">The value is not such a list.</exception>
    public IEnumerable<int> Numbers(string name)
    {
        var list = Root.GetProperty(name);
        return
            list.ValueKind == JsonValueKind.Array
            && list.EnumerateArray().All(item => item.ValueKind == JsonValueKind.Number && item.TryGetInt32(out _))
            ? [.. list.EnumerateArray().Select(item => item.GetInt32())]
            : throw new FormatException($"contains \"{name}\": {list.GetRawText()}; it must be a list of integers.");
    }

    /// <summary>Requires values.</summary>
    /// <exception cref="FormatException">A value is missing.</exception>
    public void Expect(params string[] names)
    {
        if (Array.Find(names, name => !Root.TryGetProperty(name, out _)) is { } missing)
        {
            throw new FormatException($"does not contain '{missing}'.");
        }
    }

    /// <summary>Rejects values that are not supported. If the value is a list, every element must be supported.</summary>
    /// <exception cref="FormatException">The value is not supported.</exception>
    public void Allow(string name, params string[] supported)
    {
        if (!Root.TryGetProperty(name, out var value) || value.ValueKind == JsonValueKind.Null)
        {
            return;
        }

        IEnumerable<JsonElement> values = value.ValueKind == JsonValueKind.Array ? value.EnumerateArray() : [value];
        if (!values.All(one => supported.Contains(one.ToString(), StringComparer.Ordinal)))
        {
            throw new FormatException($"contains \"{name}\": {value.GetRawText()}, which is not supported.");
        }
    }
}
