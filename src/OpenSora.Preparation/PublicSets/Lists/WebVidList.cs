using System.Runtime.CompilerServices;

namespace OpenSora.Preparation.PublicSets.Lists;

/// <summary>Reads the lists of WebVid.</summary>
internal static class WebVidList
{
    internal static async IAsyncEnumerable<PublicSetEntry> ReadAsync(
        string path,
        Action<PublicSetNotice> report,
        [EnumeratorCancellation] CancellationToken cancellationToken
    )
    {
        var rows = CsvRows.ReadAsync(path, ["videoid", "contentUrl", "name"], cancellationToken);
        await foreach (var row in rows.ConfigureAwait(false))
        {
            var (id, url, caption) = (row["videoid"], row["contentUrl"], row["name"]);
            if (id.Length == 0)
            {
                throw ListValues.Error(path, row.Line, "The row has no videoid.");
            }

            if (url.Length == 0)
            {
                report(new(path, row.Line, "no address", $"The video {id} has no contentUrl."));
                continue;
            }

            if (caption.Length == 0)
            {
                report(new(path, row.Line, "no caption", $"The video {id} has no name."));
            }

            yield return new()
            {
                Set = PublicSet.WebVid10M.Name,
                Id = id,
                VideoId = id,
                Url = url,
                Caption = caption.Length == 0 ? null : caption,
                Columns = row.Values.Where(column => column.Key is not ("videoid" or "contentUrl" or "name")).ToDictionary(StringComparer.Ordinal),
            };
        }
    }
}
