using System.Globalization;
using System.Text;

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
                ["-v", "error", "-show_format", "-show_streams", "-of", "flat", .. FFmpegProcess.Input(path)],
                (pipe, _) => FFmpegProcess.OnThread(() => pipe.CopyTo(output)),
                cancellationToken
            )
            .ConfigureAwait(false);
        if (exitCode != 0)
        {
            throw new PreparationException("not a readable video", $"'{path}' is not a readable video: {errors.Trim()}");
        }

        var entries = Entries(Encoding.UTF8.GetString(output.GetBuffer(), 0, (int)output.Length));
        var streams = new List<string>();
        while ($"streams.stream.{streams.Count}." is var next && entries.ContainsKey(next + "codec_type"))
        {
            streams.Add(next);
        }

        var video = streams.Find(each => entries[each + "codec_type"] is "video" && Number(each + "disposition.attached_pic") is not 1)
            ?? throw new PreparationException("no video stream", $"'{path}' does not contain a video stream.");
        var (width, height) = (Number(video + "width"), Number(video + "height"));
        if (width is not > 0 || height is not > 0)
        {
            throw new PreparationException("no picture size", $"The video stream of '{path}' does not specify its width and height.");
        }

        var shown = Ratio(Text(video + "sample_aspect_ratio"), ':') is { } aspect ? Math.Max(1, Math.Round(width.Value * aspect)) : width.Value;
        var rotation = entries.Keys.FirstOrDefault(key =>
            key.StartsWith(video, StringComparison.Ordinal) && key.EndsWith(".rotation", StringComparison.Ordinal)
        );
        var turned = rotation is not null && Math.Abs(Number(rotation) ?? 0) % 180 == 90;
        var duration = Number(video + "duration") ?? Number("format.duration");
        var (average, nominal) = (Ratio(Text(video + "avg_frame_rate"), '/'), Ratio(Text(video + "r_frame_rate"), '/'));
        return new SourceInfo
        {
            Path = path,
            Width = (int)(turned ? height.Value : shown),
            Height = (int)(turned ? shown : height.Value),
            FramesPerSecond = average ?? nominal ?? 25,
            HasVariableFrameRate = average is null || nominal is null || Math.Abs(average.Value / nominal.Value - 1) > 0.001,
            Duration = duration is > 0 ? TimeSpan.FromSeconds(duration.Value) : null,
            Start = TimeSpan.FromSeconds(Number(video + "start_time") ?? 0),
            Codec = Text(video + "codec_name") ?? "",
            BitDepth = (int?)Number(video + "bits_per_raw_sample") ?? BitDepth(Text(video + "pix_fmt")),
            IsInterlaced = Text(video + "field_order") is { } order and not ("progressive" or "unknown"),
            HasAudio = streams.Exists(each => entries[each + "codec_type"] is "audio"),
        };

        string? Text(string key) => entries.GetValueOrDefault(key);

        double? Number(string key) => double.TryParse(Text(key), NumberStyles.Float, CultureInfo.InvariantCulture, out var value) ? value : null;
    }

    // Lines such as streams.stream.0.codec_name="h264". Line breaks in values are escaped.
    private static Dictionary<string, string> Entries(string text)
    {
        Dictionary<string, string> entries = new(StringComparer.Ordinal);
        foreach (var range in text.AsSpan().Split('\n'))
        {
            var line = text.AsSpan(range);
            if (line.IndexOf('=') is > 0 and var at)
            {
                entries[line[..at].ToString()] = line[(at + 1)..].Trim("\"\r").ToString();
            }
        }

        return entries;
    }

    // The digits before the byte order, as in yuv422p10le and gray12be; formats without byte order, such as yuv410p, have 8 bits.
    private static int BitDepth(string? pixelFormat)
    {
        var digits = pixelFormat is [.., 'l' or 'b', 'e'] ? pixelFormat[..^2].AsSpan() : [];
        digits = digits[(digits.LastIndexOfAnyExceptInRange('0', '9') + 1)..];
        return int.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out var bits) ? bits : 8;
    }

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
