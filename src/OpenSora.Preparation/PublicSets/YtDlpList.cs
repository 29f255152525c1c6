using System.Globalization;
using System.Text;
using System.Text.Json;
using OpenSora.Media;

namespace OpenSora.Preparation.PublicSets;

/// <summary>Options of an exported list.</summary>
public sealed class YtDlpListOptions
{
    /// <summary>Gets or sets the largest height of the videos.</summary>
    public int MaxHeight { get; set; } = 720;

    /// <summary>Gets or sets whether only the parts of the entries are downloaded instead of whole videos, each as its own file. This saves disk
    /// space where entries are short parts of long videos, but yt-dlp encodes each part again to cut it exactly, which is slow.</summary>
    public bool Sections { get; set; }

    /// <summary>Gets or sets the seconds between two videos.</summary>
    public int SleepSeconds { get; set; } = 3;
}

/// <summary>The result of an export.</summary>
/// <param name="Entries">The number of entries that were read.</param>
/// <param name="Listed">The number of files in the list.</param>
/// <param name="Counts">The number of entries by result: <c>listed</c>, <c>same file as another entry or already there</c>, <c>direct
/// address</c>, <c>local file</c>.</param>
public sealed record YtDlpExport(long Entries, long Listed, IReadOnlyDictionary<string, long> Counts);

/// <summary>Exchanges lists with yt-dlp, which downloads from sites that have no direct addresses, such as YouTube.</summary>
/// <remarks>
/// This library does not run yt-dlp. <see cref="WriteAsync"/> writes <c>urls.txt</c> (or <c>sections.sh</c>) and <c>list.conf</c> into a folder;
/// run <c>yt-dlp --config-locations list.conf</c> (or <c>sh sections.sh</c>) there, as often as needed; <see cref="Import"/> records the files that
/// exist. Files are found by the addresses that yt-dlp writes to <c>downloaded.jsonl</c>, and by the site's identifiers in their names. Check the
/// terms of the site before you download.
/// </remarks>
public static class YtDlpList
{
    // Not yt-dlp.conf, which yt-dlp reads from the current folder in addition to the one given on its command line.
    private const string Settings = "list.conf";
    private const string Log = "downloaded.jsonl";

    private static readonly string[] Hosts =
    [
        "bilibili.com",
        "dailymotion.com",
        "facebook.com",
        "instagram.com",
        "tiktok.com",
        "twitch.tv",
        "twitter.com",
        "vimeo.com",
        "x.com",
        "youtu.be",
        "youtube-nocookie.com",
        "youtube.com",
    ];

    private static readonly string[] Extensions = [".mp4", ".webm", ".mkv", ".mov", ".m4v", ".flv", ".3gp", ".avi", ".ts"];

    /// <summary>Determines whether the address of an entry is a page of a site that needs its own tool.</summary>
    /// <param name="entry">The entry.</param>
    public static bool IsNeeded(PublicSetEntry entry)
    {
        ArgumentNullException.ThrowIfNull(entry);
        return Address(entry) is { } address
            && Array.Exists(Hosts, host =>
                address.Host.Equals(host, StringComparison.OrdinalIgnoreCase) || address.Host.EndsWith("." + host, StringComparison.OrdinalIgnoreCase)
            );
    }

    /// <summary>Writes the list of entries that need yt-dlp and are not downloaded yet. The entries are read one by one, and each file is listed
    /// once.</summary>
    /// <param name="entries">The entries.</param>
    /// <param name="ledger">The ledger that records what is listed.</param>
    /// <param name="folder">The folder for the list, to which yt-dlp downloads.</param>
    /// <param name="options">The options; null for the defaults.</param>
    /// <param name="cancellationToken">Stops the export. An earlier list stays.</param>
    public static async Task<YtDlpExport> WriteAsync(
        IAsyncEnumerable<PublicSetEntry> entries,
        DownloadLedger ledger,
        string folder,
        YtDlpListOptions? options = null,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(entries);
        ArgumentNullException.ThrowIfNull(ledger);
        ArgumentException.ThrowIfNullOrEmpty(folder);
        options ??= new();
        folder = Path.GetFullPath(folder);
        Directory.CreateDirectory(folder);
        YtDlpExport? export = null;
        await AtomicOutput
            .WriteFileAsync(Path.Combine(folder, options.Sections ? "sections.sh" : "urls.txt"), async temporary =>
            {
                var writer = new StreamWriter(temporary, append: false, new UTF8Encoding(false)) { NewLine = "\n" };
                await using (writer.ConfigureAwait(false))
                {
                    export = await ListAsync(entries, ledger, writer, options.Sections, cancellationToken).ConfigureAwait(false);
                }
            })
            .ConfigureAwait(false);
        await AtomicOutput
            .WriteFileAsync(Path.Combine(folder, Settings), temporary => File.WriteAllTextAsync(temporary, Configuration(options), cancellationToken))
            .ConfigureAwait(false);
        return export!;
    }

    /// <summary>Records the files that yt-dlp downloaded to a folder.</summary>
    /// <param name="ledger">The ledger that recorded the list.</param>
    /// <param name="folder">The folder of the list.</param>
    /// <param name="cancellationToken">Stops the import.</param>
    /// <returns>The number of files by result: <c>imported</c>, <c>already imported</c>, <c>not downloaded</c>, <c>file is empty</c>, <c>file is
    /// missing</c>, <c>not listed</c>, <c>invalid line</c>.</returns>
    public static IReadOnlyDictionary<string, long> Import(DownloadLedger ledger, string folder, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(ledger);
        ArgumentException.ThrowIfNullOrEmpty(folder);
        folder = Path.GetFullPath(folder);
        SortedDictionary<string, long> counts = new(StringComparer.Ordinal);
        if (Path.Combine(folder, Log) is var log && File.Exists(log))
        {
            foreach (var line in File.ReadLines(log).Where(line => line.Length > 0))
            {
                cancellationToken.ThrowIfCancellationRequested();
                Count(ImportLine(ledger, folder, line));
            }
        }

        foreach (var row in ledger.List().Where(row => row.State == DownloadState.Listed))
        {
            cancellationToken.ThrowIfCancellationRequested();
            var found =
                row.Source.Contains("#t=", StringComparison.Ordinal) || row.VideoId.AsSpan().IndexOfAny("/\\:") >= 0
                    ? null
                    : Extensions.Select(extension => Path.Combine(folder, row.VideoId + extension)).FirstOrDefault(File.Exists);
            Count(found is null ? "not downloaded" : Record(ledger, row, found));
        }

        return counts;

        void Count(string result) => counts[result] = counts.GetValueOrDefault(result) + 1;
    }

    /// <summary>Gets the key of the part of a video in the ledger: the address with a media fragment (W3C Media Fragments URI).</summary>
    internal static string Section(PublicSetEntry entry) =>
        entry.Start is null && entry.End is null ? entry.Source : $"{entry.Source}#t={Seconds(entry.Start ?? TimeSpan.Zero)},{Seconds(entry.End)}";

    private static async Task<YtDlpExport> ListAsync(
        IAsyncEnumerable<PublicSetEntry> entries,
        DownloadLedger ledger,
        StreamWriter writer,
        bool sections,
        CancellationToken cancellationToken
    )
    {
        const int batch = 1000;
        SortedDictionary<string, long> counts = new(StringComparer.Ordinal);
        var (run, count, listed) = (Guid.NewGuid().ToString("N"), 0L, 0L);
        List<PublicSetEntry> pending = [];
        List<PublicSetEntry> parts = []; // of one video, which are adjacent in all known lists
        if (sections)
        {
            await writer.WriteLineAsync("#!/bin/sh").ConfigureAwait(false);
        }

        await foreach (var entry in entries.WithCancellation(cancellationToken).ConfigureAwait(false))
        {
            count++;
            if (entry.Url is null || !IsNeeded(entry))
            {
                Count(entry.Url is null ? "local file" : "direct address");
                continue;
            }

            pending.Add(entry);
            if (pending.Count == batch)
            {
                await WritePendingAsync().ConfigureAwait(false);
            }
        }

        await WritePendingAsync().ConfigureAwait(false);
        if (parts.Count > 0)
        {
            await writer.WriteLineAsync(Command(parts)).ConfigureAwait(false);
        }

        return new(count, listed, counts);

        void Count(string result) => counts[result] = counts.GetValueOrDefault(result) + 1;

        async Task WritePendingAsync()
        {
            var isListed = ledger.TryList([.. pending.Select(entry => (sections ? Section(entry) : entry.Url!, SiteId(entry)))], run);
            foreach (var (entry, isNew) in pending.Zip(isListed))
            {
                Count(isNew ? "listed" : "same file as another entry or already there");
                listed += isNew ? 1 : 0;
                if (isNew && !sections)
                {
                    await writer.WriteLineAsync(entry.Url).ConfigureAwait(false);
                }
                else if (isNew)
                {
                    if (parts.Count > 0 && !string.Equals(parts[0].Url, entry.Url, StringComparison.Ordinal))
                    {
                        await writer.WriteLineAsync(Command(parts)).ConfigureAwait(false);
                        parts.Clear();
                    }

                    parts.Add(entry);
                }
            }

            pending.Clear();
        }
    }

    private static string Command(List<PublicSetEntry> parts)
    {
        var ranges = parts
            .Where(part => part.Start is not null || part.End is not null)
            .Select(part => $"--download-sections '*{Seconds(part.Start ?? TimeSpan.Zero)}-{(part.End is null ? "inf" : Seconds(part.End))}' ");
        return $"yt-dlp --config-locations {Settings} {string.Concat(ranges)}-- '{parts[0].Url!.Replace("'", @"'\''", StringComparison.Ordinal)}'";
    }

    private static string Configuration(YtDlpListOptions options) =>
        string.Create(
            CultureInfo.InvariantCulture,
            $$"""
            # Run in this folder: {{(options.Sections ? "sh sections.sh" : $"yt-dlp --config-locations {Settings}")}}
            {{(
                options.Sections
                    ? "--force-keyframes-at-cuts\n--output \"%(id)s.%(section_start)s-%(section_end)s.%(ext)s\""
                    : "--batch-file urls.txt\n--output \"%(id)s.%(ext)s\"\n--download-archive archive.txt"
            )}}
            --print-to-file "after_move:%(.{original_url,id,filepath,section_start,section_end})j" {{Log}}
            --format "bv*[height<=?{{options.MaxHeight}}][ext=mp4]/bv*[height<=?{{options.MaxHeight}}]/b[height<=?{{options.MaxHeight}}]/b"
            --no-playlist
            --ignore-errors
            --no-overwrites
            --sleep-requests 1
            --sleep-interval {{options.SleepSeconds}}

            """
        );

    private static string ImportLine(DownloadLedger ledger, string folder, string line)
    {
        try
        {
            using var json = JsonDocument.Parse(line);
            if (
                json.RootElement is not { ValueKind: JsonValueKind.Object } root
                || Text(root, "original_url") is not { } url
                || Text(root, "filepath") is not { } path
            )
            {
                return "invalid line";
            }

            var row = Number(root, "section_start") is { } start
                ? ledger.FindSection($"{url}#t={Seconds(start)},", Seconds(Number(root, "section_end")))
                : ledger.Find(url);
            path = Path.GetFullPath(path, folder);
            return row is null ? "not listed"
                : ledger.PathOf(row) is not null ? "already imported"
                : !File.Exists(path) ? "file is missing"
                : Record(ledger, row, path);
        }
        catch (JsonException)
        {
            return "invalid line"; // yt-dlp was killed while it wrote
        }

        static TimeSpan? Number(JsonElement root, string name) =>
            root.TryGetProperty(name, out var value) && value.ValueKind == JsonValueKind.Number && value.GetDouble() is >= 0 and < 1e7 and var seconds
                ? TimeSpan.FromSeconds(seconds)
                : null;

        static string? Text(JsonElement root, string name) =>
            root.TryGetProperty(name, out var text) && text.ValueKind == JsonValueKind.String ? text.GetString() : null;
    }

    private static string Record(DownloadLedger ledger, LedgerFile row, string path)
    {
        if (new FileInfo(path).Length is var bytes && bytes == 0)
        {
            return "file is empty";
        }

        ledger.Save(
            row with
            {
                State = DownloadState.Done,
                Reason = null,
                Message = null,
                IsFinal = false,
                Path = Path.GetRelativePath(ledger.Folder, path),
                Bytes = bytes,
            }
        );
        return "imported";
    }

    private static Uri? Address(PublicSetEntry entry) =>
        Uri.TryCreate(entry.Url, UriKind.Absolute, out var address)
        && address.Scheme is "http" or "https"
        && !entry.Url!.Any(c => char.IsWhiteSpace(c) || char.IsControl(c))
            ? address
            : null;

    // yt-dlp names files by the identifier of the site.
    private static string SiteId(PublicSetEntry entry)
    {
        var address = Address(entry)!;
        if (address.Host.EndsWith("youtu.be", StringComparison.OrdinalIgnoreCase))
        {
            return address.AbsolutePath.Trim('/');
        }

        var video = address.Query.TrimStart('?').Split('&').FirstOrDefault(part => part.StartsWith("v=", StringComparison.Ordinal));
        var parts = address.AbsolutePath.Split('/', StringSplitOptions.RemoveEmptyEntries);
        return video is not null ? Uri.UnescapeDataString(video[2..])
            : parts is ["embed" or "shorts" or "v" or "live", var id, ..] ? id
            : entry.VideoId;
    }

    private static string Seconds(TimeSpan? time) => time?.TotalSeconds.ToString("0.###", CultureInfo.InvariantCulture) ?? "";
}
