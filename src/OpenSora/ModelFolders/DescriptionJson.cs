using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using OpenSora.Models;

namespace OpenSora.ModelFolders;

/// <summary>Reads and writes <c>model.json</c> with generated code, which also works in programs without reflection-based JSON.</summary>
internal static class DescriptionJson
{
    private static readonly JsonSerializerOptions Snake = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow,
        RespectNullableAnnotations = true,
        RespectRequiredConstructorParameters = true,
        WriteIndented = true,
        DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        Converters = { ConfigJson.Enumerations },
        TypeInfoResolver = DescriptionContext.Default,
    };

    // A description without the values that every file must have. It supplies those that a file may omit.
    private static readonly ModelDescription Defaults = new()
    {
        Name = "",
        Denoiser = new ModelPart { Architecture = "" },
        Vae = new ModelPart { Architecture = "" },
        TextEncoder = new ModelPart { Architecture = "" },
        Video = new VideoDefaults(),
        License = "",
    };

    /// <summary>Reads a description.</summary>
    /// <exception cref="JsonException">A value is unknown, missing or of the wrong type.</exception>
    public static ModelDescription Read(JsonElement json)
    {
        var info = Snake.GetTypeInfo(typeof(ModelDescription));
        var filled = ConfigJson.Fill(json, JsonSerializer.SerializeToNode(Defaults, info)!.AsObject(), info);
        RenameLicence(filled);
        return (ModelDescription?)filled.Deserialize(info) ?? throw new JsonException("The value is null.");
    }

    /// <summary>Renames the properties of a file that spells <c>licence</c>.</summary>
    private static void RenameLicence(JsonObject file)
    {
        if (!file.ContainsKey("license") && file["licence"] is JsonObject licence && licence.All(property => property.Key is "name" or "file"))
        {
            file.Remove("licence");
            file["license"] = licence["name"]?.DeepClone();
            file["license_file"] = licence["file"]?.DeepClone();
        }

        foreach (var source in file["attribution"] is JsonArray sources ? sources.OfType<JsonObject>() : [])
        {
            if (!source.ContainsKey("license") && source["licence"] is { } name)
            {
                source.Remove("licence");
                source["license"] = name;
            }
        }
    }

    /// <summary>Writes a description.</summary>
    public static void Write(Stream stream, ModelDescription description) =>
        JsonSerializer.Serialize(stream, description, Snake.GetTypeInfo(typeof(ModelDescription)));
}

/// <summary>Generated code for the description of a model.</summary>
[JsonSerializable(typeof(ModelDescription))]
internal sealed partial class DescriptionContext : JsonSerializerContext;
