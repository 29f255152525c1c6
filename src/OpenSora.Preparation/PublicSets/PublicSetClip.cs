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
        await foreach (var entry in entries.WithCancellation(cancellationToken).ConfigureAwait(false))
        {
            var (clip, reason) = Find(entry, ledger);
            if (clip is not null)
            {
                yield return clip;
            }
            else
            {
                missing?.Invoke(entry, reason);
            }
        }
    }

    private static (PublicSetClip? Clip, string Reason) Find(PublicSetEntry entry, DownloadLedger? ledger)
    {
        if (entry.Url is not { } url)
        {
            return File.Exists(entry.Path)
                ? (new(entry.Id, System.IO.Path.GetFullPath(entry.Path), entry.Start, entry.End, entry.Caption, entry), "")
                : (null, "file is missing");
        }

        if (ledger?.PathOf(ledger.Find(YtDlpList.Section(entry))) is { } section)
        {
            return (new(entry.Id, section, null, null, entry.Caption, entry), "");
        }

        var file = ledger?.Find(url);
        return ledger?.PathOf(file) is { } path ? (new(entry.Id, path, entry.Start, entry.End, entry.Caption, entry), "")
            : file is { State: DownloadState.Done } ? (null, "file is missing")
            : file is { State: DownloadState.Failed, Reason: { } reason } ? (null, reason)
            : (null, "not downloaded");
    }
}
