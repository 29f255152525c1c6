using System.Globalization;
using System.Runtime.CompilerServices;

namespace OpenSora.Preparation.PublicSets.Lists;

/// <summary>Reads the lists of Panda-70M.</summary>
internal static class PandaList
{
    private static readonly string[] Required = ["videoID", "url", "timestamp", "caption"];

    internal static async IAsyncEnumerable<PublicSetEntry> ReadAsync(
        string path,
        Action<PublicSetNotice> report,
        [EnumeratorCancellation] CancellationToken cancellationToken
    )
    {
        await foreach (var row in CsvRows.ReadAsync(path, Required, cancellationToken).ConfigureAwait(false))
        {
            var (video, url) = (row["videoID"], row["url"]);
            if (video.Length == 0 || url.Length == 0)
            {
                throw ListValues.Error(path, row.Line, "The row has no videoID or no url.");
            }

            var times = List(path, row, "timestamp");
            var captions = List(path, row, "caption");
            if (captions.Count != times.Count)
            {
                throw ListValues.Error(path, row.Line, $"The video {video} has {times.Count} timestamps and {captions.Count} captions.");
            }

            var others = row
                .Values.Keys.Except(Required, StringComparer.Ordinal)
                .Select(name => (Name: name, Values: List(path, row, name)))
                .ToArray();
            if (others.FirstOrDefault(other => other.Values.Count != times.Count) is { Name: { } column } wrong)
            {
                throw ListValues.Error(
                    path,
                    row.Line,
                    $"The video {video} has {times.Count} timestamps and {wrong.Values.Count} values of {column}."
                );
            }

            for (var i = 0; i < times.Count; i++)
            {
                if (
                    times[i] is not List<object> { Count: 2 } pair
                    || ListValues.Time(pair[0] as string ?? "") is not { } start
                    || ListValues.Time(pair[1] as string ?? "") is not { } end
                    || end <= start
                )
                {
                    throw ListValues.Error(
                        path,
                        row.Line,
                        $"Timestamp {i + 1} of the video {video} is not a pair such as ['0:00:06.000', '0:00:54.000'] with the end after the start."
                    );
                }

                var caption = (captions[i] as string ?? "").Trim();
                if (caption.Length == 0)
                {
                    report(new(path, row.Line, "no caption", $"Clip {i} of the video {video} has no caption."));
                }

                yield return new()
                {
                    Set = PublicSet.Panda70M.Name,
                    Id = string.Create(CultureInfo.InvariantCulture, $"{video}_{i:D5}"),
                    VideoId = video,
                    Url = url,
                    Start = start,
                    End = end,
                    Caption = caption.Length == 0 ? null : caption,
                    Columns = others.ToDictionary(other => other.Name, other => Text(other.Values[i]), StringComparer.Ordinal),
                };
            }
        }
    }

    private static string Text(object value) => value as string ?? $"[{string.Join(", ", ((List<object>)value).Select(Text))}]";

    private static List<object> List(string path, CsvRow row, string column)
    {
        try
        {
            return ListValues.PythonList(row[column]);
        }
        catch (FormatException e)
        {
            throw ListValues.Error(path, row.Line, $"The column {column} is not a Python list: {e.Message}", e);
        }
    }
}
