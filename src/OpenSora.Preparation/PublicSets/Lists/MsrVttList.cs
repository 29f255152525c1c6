using System.Globalization;
using System.Runtime.CompilerServices;
using System.Text.Json;

namespace OpenSora.Preparation.PublicSets.Lists;

/// <summary>Reads the annotation files of MSR-VTT. Captions and videos are separate lists, so the file (10,000 videos) is read into memory.</summary>
internal static class MsrVttList
{
    internal static async IAsyncEnumerable<PublicSetEntry> ReadAsync(
        string path,
        Action<PublicSetNotice> report,
        [EnumeratorCancellation] CancellationToken cancellationToken
    )
    {
        List<(string Id, PublicSetEntry Entry)> videos = [];
        HashSet<string> known = new(StringComparer.Ordinal);
        Dictionary<string, List<string>> captions = new(StringComparer.Ordinal);
        var isCoco = false;
        await foreach (
            var (name, value, line) in JsonMembers
                .ReadAsync(path, name => name is "videos" or "sentences" or "images" or "annotations", cancellationToken)
                .ConfigureAwait(false)
        )
        {
            switch (name)
            {
                case "videos":
                    var video = Video(path, line, value);
                    if (!known.Add(video.Id))
                    {
                        throw ListValues.Error(path, line, $"The video '{video.Id}' is listed twice.");
                    }

                    videos.Add((video.Id, video));
                    break;
                case "sentences":
                case "annotations":
                    isCoco |= name is "annotations";
                    var id = Text(value, name is "sentences" ? "video_id" : "image_id");
                    if (id is null || Text(value, "caption") is not { } caption)
                    {
                        throw ListValues.Error(path, line, $"An element of '{name}' has no identifier of a video or no caption.");
                    }

                    if (!captions.TryGetValue(id, out var list))
                    {
                        captions[id] = list = [];
                    }

                    list.Add(caption.Trim());
                    break;
                default:
                    break; // info, licenses
            }
        }

        if (videos.Count == 0 && !isCoco)
        {
            throw ListValues.Error(path, 1, "The file has neither 'videos' nor 'annotations'. Is this the annotation file of MSR-VTT?");
        }

        if (isCoco)
        {
            foreach (var id in captions.Keys.Where(known.Add))
            {
                if (LocalFile(path, id) is { } file)
                {
                    videos.Add(
                        (
                            id,
                            new()
                            {
                                Set = PublicSet.MsrVtt.Name,
                                Id = id,
                                VideoId = id,
                                Path = file,
                            }
                        )
                    );
                }
                else
                {
                    report(new(path, 0, "file is missing", $"There is no videos/all/{id}.mp4 for '{id}', and the file has no addresses."));
                }
            }
        }

        foreach (var id in captions.Keys.Where(id => !known.Contains(id)))
        {
            report(new(path, 0, "caption without a video", $"There are captions for '{id}', which is not in the list of videos."));
        }

        foreach (var (id, video) in videos)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var texts = (captions.TryGetValue(id, out var list) ? list : []).Where(text => text.Length > 0).ToArray();
            if (texts.Length == 0)
            {
                report(new(path, 0, "no caption", $"The video '{id}' has no captions."));
            }

            yield return video with
            {
                Caption = texts.FirstOrDefault(),
                OtherCaptions = texts.Length > 1 ? texts[1..] : [],
            };
        }
    }

    private static PublicSetEntry Video(string path, long line, JsonElement value)
    {
        var (id, url) = (Text(value, "video_id"), Text(value, "url"));
        if (string.IsNullOrEmpty(id) || string.IsNullOrEmpty(url))
        {
            throw ListValues.Error(path, line, "A video has no 'video_id' or no 'url'.");
        }

        if (Seconds(value, "start time") is not { } start || Seconds(value, "end time") is not { } end || end <= start)
        {
            throw ListValues.Error(path, line, $"The video '{id}' has no 'start time' and later 'end time' in seconds.");
        }

        // The distributed files are the clips already; addresses are of whole videos.
        var file = LocalFile(path, id);
        return new()
        {
            Set = PublicSet.MsrVtt.Name,
            Id = id,
            VideoId = id,
            Path = file,
            Url = file is null ? url : null,
            Start = file is null ? start : null,
            End = file is null ? end : null,
            Columns = new[] { "category", "split" }
                .Where(name => value.TryGetProperty(name, out _))
                .ToDictionary(name => name, name => value.GetProperty(name).ToString(), StringComparer.Ordinal),
        };
    }

    private static string? LocalFile(string path, string id)
    {
        if (id.AsSpan().IndexOfAny("/\\:") >= 0)
        {
            return null;
        }

        var folder = Path.GetDirectoryName(Path.GetFullPath(path))!;
        return new[] { "videos/all", "../videos/all", "TrainValVideo", "TestVideo" }
            .Select(name => Path.GetFullPath(Path.Combine(folder, name, id + ".mp4")))
            .FirstOrDefault(File.Exists);
    }

    private static string? Text(JsonElement value, string name) =>
        value.ValueKind == JsonValueKind.Object && value.TryGetProperty(name, out var text)
            ? text.ValueKind switch
            {
                JsonValueKind.String => text.GetString(),
                JsonValueKind.Number => text.GetRawText(),
                _ => null,
            }
            : null;

    private static TimeSpan? Seconds(JsonElement value, string name) =>
        Text(value, name) is { } text
        && double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out var seconds)
        && seconds is >= 0 and < 1e7
            ? TimeSpan.FromSeconds(seconds)
            : null;
}
