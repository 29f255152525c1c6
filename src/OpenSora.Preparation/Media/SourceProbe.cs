using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace OpenSora.Preparation.Media;

/// <summary>Reads the metadata of videos with ffprobe.</summary>
internal static class SourceProbe
{
    /// <summary>Reads the metadata of a video without decoding it.</summary>
    /// <exception cref="FileNotFoundException">The file does not exist.</exception>
    /// <exception cref="PreparationException">The file is not a readable video, or ffprobe is missing.</exception>
    internal static async Task<SourceInfo> ReadAsync(string path, string? ffmpegFolder = null, CancellationToken cancellationToken = default)
    {
        if (!File.Exists(path))
        {
            throw new FileNotFoundException($"The video '{path}' does not exist.", path);
        }

        using var output = new MemoryStream();
        var (exitCode, errors) = await FFmpegProcess
            .RunAsync(
                ffmpegFolder,
                "ffprobe",
                $"read '{path}'",
                ["-v", "error", "-show_format", "-show_streams", "-of", "json", .. FFmpegProcess.Input(path)],
                (pipe, token) => pipe.CopyToAsync(output, token),
                cancellationToken
            )
            .ConfigureAwait(false);
        if (exitCode != 0)
        {
            throw new PreparationException("not a readable video", $"'{path}' is not a readable video: {errors.Trim()}");
        }

        var json = JsonNode.Parse(output.ToArray())!;
        var streams = json["streams"]?.AsArray().Select(each => each!.AsObject()).ToArray() ?? [];
        var video = streams.FirstOrDefault(each =>
            Text(each, "codec_type") is "video" && each["disposition"]?["attached_pic"]?.GetValue<int>() is not 1
        ) ?? throw new PreparationException("no video stream", $"'{path}' does not contain a video stream.");
        var (width, height) = (Number(video, "width"), Number(video, "height"));
        if (width is not > 0 || height is not > 0)
        {
            throw new PreparationException("no picture size", $"The video stream of '{path}' does not specify its width and height.");
        }

        var shown = Ratio(Text(video, "sample_aspect_ratio"), ':') is { } aspect ? Math.Max(1, Math.Round(width.Value * aspect)) : width.Value;
        var rotation = video["side_data_list"]
            ?.AsArray()
            .Select(each => Number(each!.AsObject(), "rotation"))
            .FirstOrDefault(each => each is not null);
        var turned = Math.Abs(rotation ?? 0) % 180 == 90;
        var duration = Number(video, "duration") ?? Number(json["format"]?.AsObject(), "duration");
        var (average, nominal) = (Ratio(Text(video, "avg_frame_rate"), '/'), Ratio(Text(video, "r_frame_rate"), '/'));
        return new SourceInfo
        {
            Path = path,
            Width = (int)(turned ? height.Value : shown),
            Height = (int)(turned ? shown : height.Value),
            FramesPerSecond = average ?? nominal ?? 25,
            HasVariableFrameRate = average is null || nominal is null || Math.Abs(average.Value / nominal.Value - 1) > 0.001,
            Duration = duration is > 0 ? TimeSpan.FromSeconds(duration.Value) : null,
            Start = TimeSpan.FromSeconds(Number(video, "start_time") ?? 0),
            Codec = Text(video, "codec_name") ?? "",
            BitDepth = (int?)Number(video, "bits_per_raw_sample")
                ?? (Text(video, "pix_fmt")?.Contains("10", StringComparison.Ordinal) == true ? 10 : 8),
            IsInterlaced = Text(video, "field_order") is { } order and not ("progressive" or "unknown"),
            HasAudio = streams.Any(each => Text(each, "codec_type") is "audio"),
        };
    }

    private static string? Text(JsonObject? node, string name) => node?[name] is JsonValue value ? value.ToString() : null;

    private static double? Number(JsonObject? node, string name) =>
        double.TryParse(Text(node, name), NumberStyles.Float, CultureInfo.InvariantCulture, out var value) ? value : null;

    // A ratio such as 30000/1001; null if it is 0 or undefined.
    private static double? Ratio(string? text, char separator)
    {
        var parts = text?.Split(separator) ?? [];
        return
            parts.Length == 2
            && double.TryParse(parts[0], NumberStyles.Float, CultureInfo.InvariantCulture, out var over)
            && double.TryParse(parts[1], NumberStyles.Float, CultureInfo.InvariantCulture, out var under)
            && over > 0
            && under > 0
            ? over / under
            : null;
    }
}
