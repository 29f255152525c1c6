using System.Runtime.CompilerServices;

namespace OpenSora.Preparation.PublicSets;

/// <summary>A local file, or a part of it, that is ready to be cut. Shot detection is not needed where the data set specifies the times.</summary>
/// <param name="Id">The identifier of the entry in its data set.</param>
/// <param name="Path">The full path of the file.</param>
/// <param name="Start">The start time in the file; null for its start.</param>
/// <param name="End">The end time in the file; null for its end.</param>
/// <param name="Caption">The caption; null if there is none.</param>
/// <param name="Entry">The entry with everything else that the list contains.</param>
public sealed record PublicSetClip(string Id, string Path, TimeSpan? Start, TimeSpan? End, string? Caption, PublicSetEntry Entry)
{
    /// <summary>Lists the clips of entries whose files exist: local files, and files that are downloaded or imported.</summary>
    /// <param name="entries">The entries. They are read one by one.</param>
    /// <param name="ledger">The ledger of the download folder; null if all entries are local files.</param>
    /// <param name="missing">Receives each entry without a file, and the reason in a few words.</param>
    /// <param name="cancellationToken">Stops the enumeration.</param>
    public static async IAsyncEnumerable<PublicSetClip> ListAsync(
        IAsyncEnumerable<PublicSetEntry> entries,
        DownloadLedger? ledger,
        Action<PublicSetEntry, string>? missing = null,
        [EnumeratorCancellation] CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(entries);
        var source = new Source(null, null, "file is missing", HasSections: false); // of the previous entry, because parts of a video are adjacent
        await foreach (var entry in entries.WithCancellation(cancellationToken).ConfigureAwait(false))
        {
            if (!string.Equals(source.Url, entry.Url, StringComparison.Ordinal))
            {
                source = Find(entry.Url, ledger);
            }

            if (entry.Url is null && File.Exists(entry.Path))
            {
                yield return new(entry.Id, System.IO.Path.GetFullPath(entry.Path), entry.Start, entry.End, entry.Caption, entry);
            }
            else if (source.HasSections && ledger!.PathOf(ledger.Find(YtDlpList.Section(entry))) is { } section)
            {
                yield return new(entry.Id, section, null, null, entry.Caption, entry);
            }
            else if (source.Path is not null)
            {
                yield return new(entry.Id, source.Path, entry.Start, entry.End, entry.Caption, entry);
            }
            else
            {
                missing?.Invoke(entry, source.Reason);
            }
        }
    }

    private static Source Find(string? url, DownloadLedger? ledger)
    {
        var file = url is null ? null : ledger?.Find(url);
        return new(
            url,
            ledger?.PathOf(file),
            url is null || file is { State: DownloadState.Done } ? "file is missing"
                : file is { State: DownloadState.Failed, Reason: { } reason } ? reason
                : "not downloaded",
            url is not null && ledger?.FindFirst(url + "#t=") is not null
        );
    }

    private sealed record Source(string? Url, string? Path, string Reason, bool HasSections);
}
