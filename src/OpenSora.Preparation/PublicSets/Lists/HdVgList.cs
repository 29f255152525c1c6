using System.Runtime.CompilerServices;
using System.Text.Json;

namespace OpenSora.Preparation.PublicSets.Lists;

/// <summary>Reads the metadata files of HD-VG-130M.</summary>
internal static class HdVgList
{
    internal static async IAsyncEnumerable<PublicSetEntry> ReadAsync(
        string path,
        Action<PublicSetNotice> report,
        [EnumeratorCancellation] CancellationToken cancellationToken
    )
    {
        await foreach (var member in JsonMembers.ReadAsync(path, _ => false, cancellationToken).ConfigureAwait(false))
        {
            foreach (var entry in Video(path, member, report))
            {
                yield return entry;
            }
        }
    }

    private static IEnumerable<PublicSetEntry> Video(string path, JsonMember video, Action<PublicSetNotice> report)
    {
        if (
            video.Value.ValueKind != JsonValueKind.Object
            || Text(video.Value, "url") is not { Length: > 0 } url
            || Member(video.Value, "clip") is not { ValueKind: JsonValueKind.Object } clips
        )
        {
            throw ListValues.Error(path, video.Line, $"The video '{video.Name}' has no 'url' or no object 'clip'.");
        }

        foreach (var clip in clips.EnumerateObject())
        {
            if (
                Member(clip.Value, "span") is not { ValueKind: JsonValueKind.Array } span
                || span.GetArrayLength() != 2
                || Time(span[0]) is not { } start
                || Time(span[1]) is not { } end
                || end <= start
            )
            {
                throw ListValues.Error(
                    path,
                    video.Line,
                    $"The clip '{clip.Name}' has no 'span' such as [\"00:00:07.107\", \"00:00:12.312\"] with the end after the start."
                );
            }

            if (Member(clip.Value, "scene_split") is not { ValueKind: JsonValueKind.Array } scenes)
            {
                throw ListValues.Error(path, video.Line, $"The clip '{clip.Name}' has no array 'scene_split'.");
            }

            var fps = Member(clip.Value, "fps") is { ValueKind: JsonValueKind.Number } rate ? rate.GetDouble() : 0;
            foreach (var scene in scenes.EnumerateArray())
            {
                yield return Scene(path, video, url, clip.Name, (start, end), fps, scene, report);
            }
        }
    }

    private static PublicSetEntry Scene(
        string path,
        JsonMember video,
        string url,
        string clip,
        (TimeSpan Start, TimeSpan End) span,
        double fps,
        JsonElement scene,
        Action<PublicSetNotice> report
    )
    {
        if (
            Text(scene, "clip_id") is not { Length: > 0 } id
            || Member(scene, "scene_cut") is not { ValueKind: JsonValueKind.Array } cut
            || cut.GetArrayLength() != 2
            || Frame(cut[0]) is not { } first
            || Frame(cut[1]) is not { } last
            || (last != -1 && (last <= first || first < 0))
        )
        {
            throw ListValues.Error(
                path,
                video.Line,
                $"A scene of the clip '{clip}' has no 'clip_id', or no 'scene_cut' such as [0, 120] (or [0, -1] for the whole clip)."
            );
        }

        if (last != -1 && !(fps > 0 && double.IsFinite(fps)))
        {
            throw ListValues.Error(path, video.Line, $"The clip '{clip}' is cut at frames, but has no 'fps'.");
        }

        var caption = Text(scene, "caption")?.Trim();
        if (string.IsNullOrEmpty(caption))
        {
            report(new(path, video.Line, "no caption", $"The scene '{id}' has no caption."));
        }

        return new()
        {
            Set = PublicSet.HdVg130M.Name,
            Id = id,
            VideoId = video.Name,
            Url = url,
            Start = last == -1 ? span.Start : span.Start + TimeSpan.FromSeconds(first / fps),
            End = last == -1 ? span.End : span.Start + TimeSpan.FromSeconds(last / fps),
            Caption = string.IsNullOrEmpty(caption) ? null : caption,
        };
    }

    private static JsonElement? Member(JsonElement value, string name) =>
        value.ValueKind == JsonValueKind.Object && value.TryGetProperty(name, out var member) ? member : null;

    private static string? Text(JsonElement value, string name) =>
        Member(value, name) is { ValueKind: JsonValueKind.String } text ? text.GetString() : null;

    private static TimeSpan? Time(JsonElement value) => value.ValueKind == JsonValueKind.String ? ListValues.Time(value.GetString()!) : null;

    // Programs that read the file convert frame numbers with int(), so they may be written as text.
    private static int? Frame(JsonElement value) =>
        value.ValueKind switch
        {
            JsonValueKind.Number when value.TryGetInt32(out var frame) => frame,
            JsonValueKind.String when int.TryParse(value.GetString(), System.Globalization.CultureInfo.InvariantCulture, out var frame) => frame,
            _ => null,
        };
}
