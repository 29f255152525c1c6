using System.Text.Json;
using OpenSora.Runtime;
using OpenSora.Training.Data;

namespace OpenSora.Preparation.Captions;

/// <summary>Reads captions from files beside a clip, or beside the video that it was cut from: <c>.txt</c> and <c>.caption</c> with text, <c>.json</c>
/// with a property <c>caption</c>, <c>text</c> or <c>description</c>.</summary>
/// <remarks>For <c>a.mp4</c>, the files are <c>a.txt</c>, <c>a.caption</c>, <c>a.json</c>, and the same after the full name, such as <c>a.mp4.txt</c>.
/// The first one that exists is used. Text is UTF-8, or UTF-16 with a byte order mark.</remarks>
public sealed class SidecarCaptioner : ICaptioner
{
    private const long MostBytes = 1 << 20;
    private static readonly string[] Extensions = [".txt", ".caption", ".json"];
    private static readonly string[] Properties = ["caption", "text", "description"];

    /// <summary>Gets or initializes the least number of words of a caption.</summary>
    public int MinWords { get; init; } = 1;

    /// <summary>Gets or initializes the most words of a caption. Longer texts are cut at the end of a sentence, a clause or a word.</summary>
    public int MaxWords { get; init; } = 90;

    /// <inheritdoc/>
    public Task<CaptionResult> CaptionAsync(ClipToCaption clip, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(clip);
        return Task.Run(() => Caption(clip), cancellationToken);
    }

    /// <summary>Lists the possible files beside a video, in the order in which they are searched.</summary>
    internal static IEnumerable<string> Beside(string video, IEnumerable<string> extensions) =>
        extensions
            .SelectMany(extension => (string[])[Path.ChangeExtension(video, extension), video + extension])
            .Where(each => !string.Equals(each, video, StringComparison.Ordinal))
            .Distinct(StringComparer.Ordinal);

    private CaptionResult Caption(ClipToCaption clip)
    {
        var file = Beside(clip.Path, Extensions)
            .Concat(clip.SourcePath is { } source ? Beside(source, Extensions) : [])
            .FirstOrDefault(each => FileKinds.Of(each) == FileKind.Regular);
        if (file is null)
        {
            return CaptionResult.None("no sidecar file");
        }

        try
        {
            if (new FileInfo(file).Length > MostBytes)
            {
                return CaptionResult.None("sidecar file is too large", $"'{file}' has more than {MostBytes >> 20} MB, so it is not a caption.");
            }

            var text = file.EndsWith(".json", StringComparison.OrdinalIgnoreCase) ? FromJson(file) : TextFile.Read(file, ReadAll);
            if (text is null)
            {
                return CaptionResult.None("sidecar file without a caption", $"'{file}' has no text in a property {string.Join(", ", Properties)}.");
            }

            text = CaptionAnswer.OneLine(text);
            var result =
                text.Length == 0
                    ? CaptionResult.None("empty sidecar file", $"'{file}' is empty.")
                    : CaptionAnswer.Limit(text, MinWords, MaxWords, $"'{file}': {text}");
            return result.HasCaption ? result with { Source = "sidecar file" } : result;
        }
        catch (Exception e) when (e is InvalidDataException or JsonException or IOException or UnauthorizedAccessException)
        {
            return CaptionResult.None("unreadable sidecar file", $"The caption file '{file}' cannot be read: {e.Message}");
        }

        static string ReadAll(TextReader reader) => TextFile.Checked(reader.ReadToEnd());
    }

    // Property names are compared without regard to case. Of several captions, the first one is used.
    private static string? FromJson(string file)
    {
        using var json = JsonDocument.Parse(JsonBytes.Read(file));
        var root = json.RootElement;
        if (root.ValueKind != JsonValueKind.Object)
        {
            return FirstText(root);
        }

        return Properties
            .SelectMany(name => root.EnumerateObject().Where(each => string.Equals(each.Name, name, StringComparison.OrdinalIgnoreCase)))
            .Select(each => FirstText(each.Value))
            .FirstOrDefault(each => each is not null);

        static string? FirstText(JsonElement value) =>
            value.ValueKind switch
            {
                JsonValueKind.String => value.GetString(),
                JsonValueKind.Array => value
                    .EnumerateArray()
                    .Where(each => each.ValueKind == JsonValueKind.String)
                    .Select(each => each.GetString())
                    .FirstOrDefault(),
                _ => null,
            };
    }
}
