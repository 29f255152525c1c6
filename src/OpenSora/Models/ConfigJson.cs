using System.Collections.Concurrent;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using System.Text.Json.Serialization.Metadata;

namespace OpenSora.Models;

/// <summary>Reads and writes configuration records as JSON with names in snake case. The types of this library use generated code, so this also works
/// in programs without reflection-based JSON, such as file-based apps.</summary>
internal static class ConfigJson
{
    /// <summary>The converter of enumerations in all files of this library.</summary>
    public static readonly JsonConverter Enumerations = new JsonStringEnumConverter(JsonNamingPolicy.SnakeCaseLower, allowIntegerValues: false);

    // Names that configurations in existing files may have, and their current names.
    private static readonly (string Old, string New)[] Aliases = [("learn_sigma", "pred_sigma")];

    private static readonly ConcurrentDictionary<(IJsonTypeInfoResolver? Resolver, bool Strict), JsonSerializerOptions> Known = new();

    /// <summary>Reads a configuration.</summary>
    /// <param name="json">The JSON object.</param>
    /// <param name="type">The type of the configuration.</param>
    /// <param name="defaults">The values of settings that the object does not contain; null for those of a new instance.</param>
    /// <param name="custom">The generated code for the type; null for that of a built-in architecture, or reflection.</param>
    /// <param name="strict">Whether unknown settings are errors.</param>
    /// <exception cref="JsonException">A setting is unknown, missing or of the wrong type.</exception>
    /// <exception cref="NotSupportedException">There is no resolver for the type.</exception>
    public static object Read(JsonElement json, Type type, object? defaults = null, IJsonTypeInfoResolver? custom = null, bool strict = true)
    {
        var info = InfoOf(type, custom, strict);
        if (json.ValueKind != JsonValueKind.Object)
        {
            throw new JsonException($"It is of the kind {json.ValueKind}, but a JSON object is expected.");
        }

        return Fill(json, defaults is null ? null : JsonSerializer.SerializeToNode(defaults, info)!.AsObject(), info).Deserialize(info)
            ?? throw new JsonException("The value is null.");
    }

    /// <summary>Writes a configuration.</summary>
    /// <exception cref="NotSupportedException">There is no resolver for the type.</exception>
    public static JsonElement Write(object config, IJsonTypeInfoResolver? custom = null) =>
        JsonSerializer.SerializeToElement(config, InfoOf(config.GetType(), custom, strict: true));

    /// <summary>Copies an object and adds the default values of the properties that it does not contain.</summary>
    /// <remarks>Generated code sets every init-only property, those without a value in the JSON to default(T), so the values of a new instance must
    /// be in the JSON.</remarks>
    /// <param name="json">The object.</param>
    /// <param name="defaults">The default values; null for none.</param>
    /// <param name="info">The type of the object.</param>
    public static JsonObject Fill(JsonElement json, JsonObject? defaults, JsonTypeInfo info)
    {
        var filled = new JsonObject();
        foreach (var property in json.EnumerateObject())
        {
            filled[property.Name] = property.Value.ValueKind switch
            {
                JsonValueKind.Object => JsonObject.Create(property.Value),
                JsonValueKind.Array => JsonArray.Create(property.Value),
                JsonValueKind.Null => null,
                _ => JsonValue.Create(property.Value),
            };
        }

        foreach (var (old, current) in Aliases)
        {
            if (filled.ContainsKey(old) && info.Properties.Any(property => property.Name.Equals(current, StringComparison.Ordinal)))
            {
                var value = filled[old]?.DeepClone();
                filled.Remove(old);
                filled.TryAdd(current, value);
            }
        }

        foreach (var property in defaults is null ? [] : info.Properties)
        {
            if (!defaults!.TryGetPropertyValue(property.Name, out var value))
            {
                continue;
            }

            if (!json.TryGetProperty(property.Name, out var own))
            {
                if (!property.IsRequired && !filled.ContainsKey(property.Name))
                {
                    filled[property.Name] = value?.DeepClone();
                }
            }
            else if (
                own.ValueKind == JsonValueKind.Object
                && value is JsonObject nested
                && info.Options.GetTypeInfo(property.PropertyType) is { Kind: JsonTypeInfoKind.Object } nestedInfo
            )
            {
                filled[property.Name] = Fill(own, nested, nestedInfo);
            }
        }

        return filled;
    }

    private static JsonTypeInfo InfoOf(Type type, IJsonTypeInfoResolver? custom, bool strict)
    {
        custom ??= Architectures.BuiltIn.JsonOf(type).Resolver;
        return Known.GetOrAdd((custom, strict), Options).TryGetTypeInfo(type, out var info)
            ? info
            : throw new NotSupportedException(
                $"The configuration {type.Name} cannot be read or written as JSON, because reflection-based JSON is disabled in this program, as in "
                    + "file-based apps. Pass the JsonTypeInfo of a JsonSerializerContext to Architecture.Of, or set "
                    + "JsonSerializerIsReflectionEnabledByDefault to true in the project."
            );
    }

    private static JsonSerializerOptions Options((IJsonTypeInfoResolver? Resolver, bool Strict) key) =>
        new()
        {
            PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
            UnmappedMemberHandling = key.Strict ? JsonUnmappedMemberHandling.Disallow : JsonUnmappedMemberHandling.Skip,
            RespectNullableAnnotations = true,
            RespectRequiredConstructorParameters = true,
            DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
            Converters = { Enumerations },
            TypeInfoResolver = JsonTypeInfoResolver.Combine(
                key.Resolver,
                JsonSerializer.IsReflectionEnabledByDefault ? new DefaultJsonTypeInfoResolver() : null
            ),
        };
}
