using System.Collections.Concurrent;
using System.Security.Cryptography;
using System.Text;
using OpenSora.Preparation.PublicSets.Downloads;
using Polly;
using Polly.Retry;

namespace OpenSora.Preparation.PublicSets;

/// <summary>Downloads the files of data sets that are at direct addresses, politely and resumably.</summary>
/// <remarks>
/// Every file is in the ledger of the folder: done, or failed and why, with its size and SHA-256. A run that is killed or canceled continues where
/// it stopped, by Range requests if the server supports them and its ETag or Last-Modified shows that the file is the same. Files have a temporary
/// name until they are complete and verified. Failures that may go away are tried again in the next run; others are not. Entries whose address needs
/// a site's own tool (<see cref="YtDlpList.IsNeeded"/>) are counted and not requested. Limits apply to the host of the address in the list, not to
/// hosts that it redirects to. Check the terms of each data set and site before you download.
/// </remarks>
public sealed class PublicSetDownloader
{
    private const int MaxName = 60;
    private readonly HttpClient _http;
    private readonly DownloadOptions _options;
    private readonly TimeProvider _time;

    /// <summary>Initializes a new instance.</summary>
    /// <param name="http">Sends the requests. It stays the caller's; leave automatic redirects on and automatic decompression off.</param>
    /// <param name="options">The options; the User-Agent is required.</param>
    /// <param name="time">The clock for delays; null for the system's.</param>
    /// <exception cref="ArgumentException">An option is invalid.</exception>
    public PublicSetDownloader(HttpClient http, DownloadOptions options, TimeProvider? time = null)
    {
        ArgumentNullException.ThrowIfNull(http);
        ArgumentNullException.ThrowIfNull(options);
        if (options.Problem() is { } problem)
        {
            throw new ArgumentException(problem, nameof(options));
        }

        (_http, _options, _time) = (http, options, time ?? TimeProvider.System);
    }

    /// <summary>Gets the free bytes of the disk of a folder; tests replace it.</summary>
    internal Func<string, long> FreeBytes { get; init; } = folder => new DriveInfo(folder).AvailableFreeSpace;

    /// <summary>Downloads the files of entries. The entries are read one by one.</summary>
    /// <param name="entries">The entries; several can be parts of one file, which is downloaded once.</param>
    /// <param name="ledger">The ledger of the folder to download to.</param>
    /// <param name="progress">Receives the progress.</param>
    /// <param name="cancellationToken">Stops the download; a later run continues.</param>
    /// <returns>The number of entries by result.</returns>
    /// <exception cref="PreparationException">The disk is full.</exception>
    public async Task<DownloadReport> DownloadAsync(
        IAsyncEnumerable<PublicSetEntry> entries,
        DownloadLedger ledger,
        IProgress<DownloadProgress>? progress = null,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(entries);
        ArgumentNullException.ThrowIfNull(ledger);
        var run = new Run(this, ledger, progress);
        run.Transfer.CheckSpace(0);
        await Parallel
            .ForEachAsync(
                entries,
                new ParallelOptions { MaxDegreeOfParallelism = _options.Connections, CancellationToken = cancellationToken },
                async (entry, token) => run.Count(entry, await run.ResultAsync(entry, token).ConfigureAwait(false))
            )
            .ConfigureAwait(false);
        return run.Report();
    }

    /// <summary>One run: its counts, hosts and files in progress.</summary>
    private sealed class Run
    {
        private const string SameFile = "same file as another entry";
        private static readonly TimeSpan ReportInterval = TimeSpan.FromMilliseconds(500);
        private readonly PublicSetDownloader _owner;
        private readonly DownloadLedger _ledger;
        private readonly IProgress<DownloadProgress>? _progress;
        private readonly HostLimits _hosts;
        private readonly string _id = Guid.NewGuid().ToString("N");
        private readonly ConcurrentDictionary<string, Lazy<Task<(string Result, bool IsFailure)>>> _active = new(StringComparer.Ordinal);
        private readonly SortedDictionary<string, long> _counts = new(StringComparer.Ordinal);
        private long _entries,
            _downloaded,
            _failed,
            _bytes,
            _reported;

        internal Run(PublicSetDownloader owner, DownloadLedger ledger, IProgress<DownloadProgress>? progress)
        {
            (_owner, _ledger, _progress) = (owner, ledger, progress);
            _hosts = new HostLimits(owner._options, owner._time);
            Transfer = new FileTransfer(owner._http, owner._options, owner._time, ledger, owner.FreeBytes, Received);
        }

        internal FileTransfer Transfer { get; }

        internal void Count(PublicSetEntry entry, (string Result, bool IsFailure) result)
        {
            lock (_counts)
            {
                _counts[result.Result] = _counts.GetValueOrDefault(result.Result) + 1;
                _entries++;
                _failed += result.IsFailure ? 1 : 0;
                _downloaded += result.Result is "downloaded" ? 1 : 0;
                ReportProgress(entry.Id);
            }
        }

        private void Received(int count)
        {
            Interlocked.Add(ref _bytes, count);
            var last = Interlocked.Read(ref _reported);
            if (
                _progress is not null
                && _owner._time.GetElapsedTime(last) >= ReportInterval
                && Interlocked.CompareExchange(ref _reported, _owner._time.GetTimestamp(), last) == last
            )
            {
                lock (_counts)
                {
                    ReportProgress("");
                }
            }
        }

        private void ReportProgress(string current) => _progress?.Report(new(_entries, _downloaded, _failed, Interlocked.Read(ref _bytes), current));

        internal DownloadReport Report() => new(_entries, _bytes, _counts);

        internal async Task<(string Result, bool IsFailure)> ResultAsync(PublicSetEntry entry, CancellationToken cancellationToken)
        {
            if (entry.Url is null)
            {
                return ("local file", false);
            }

            if (YtDlpList.IsNeeded(entry))
            {
                return ("needs yt-dlp", false);
            }

            if (!Uri.TryCreate(entry.Url, UriKind.Absolute, out var address) || address.Scheme is not ("http" or "https"))
            {
                return ("invalid address", true);
            }

            if (entry.Sha256 is { } hash && !(hash.Length == 64 && hash.All(char.IsAsciiHexDigit)))
            {
                return ("invalid checksum", true);
            }

            // Entries of the same file wait for the one that downloads it.
            var isFirst = false;
            var task = _active.GetOrAdd(entry.Url, _ => new(() =>
                {
                    isFirst = true;
                    return FileAsync(entry, address, cancellationToken);
                }));
            try
            {
                var result = await task.Value.ConfigureAwait(false);
                return result.Result is "downloaded" && !isFirst ? (SameFile, false) : result;
            }
            finally
            {
                if (isFirst)
                {
                    _active.TryRemove(entry.Url, out _);
                }
            }
        }

        private async Task<(string Result, bool IsFailure)> FileAsync(PublicSetEntry entry, Uri address, CancellationToken cancellationToken)
        {
            var url = entry.Url!;
            var key = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(url)));
            var name = Path.Combine(key[..2], $"{SafeName(entry.VideoId)}-{key[2..10]}");
            var part = Path.Combine(_ledger.Folder, name + ".part");
            Directory.CreateDirectory(Path.GetDirectoryName(part)!);
            var row = _ledger.Find(url) ?? new LedgerFile { Source = url };
            if (row is { State: DownloadState.Finishing, Path: { } path })
            {
                row = Resume(row, part, Path.Combine(_ledger.Folder, path));
            }

            if (_ledger.PathOf(row) is not null)
            {
                return (string.Equals(row.Run, _id, StringComparison.Ordinal) ? SameFile : "already downloaded", false);
            }

            if (
                row is { State: DownloadState.Failed, Reason: { } known }
                && (string.Equals(row.Run, _id, StringComparison.Ordinal) || (row.IsFinal && !_owner._options.RetryFinalFailures))
            )
            {
                return (known, true);
            }

            row = row with { VideoId = entry.VideoId, Run = _id };
            if (row.State is not DownloadState.Partial and not DownloadState.Failed)
            {
                File.Delete(part); // of a version that is not recorded
                row = row with { ETag = null, LastModified = null, Bytes = null };
            }

            using var lease = _hosts.Rent(address);
            try
            {
                lease.Host.ThrowIfGivenUp();
                await CheckRobotsAsync(address, lease.Host, cancellationToken).ConfigureAwait(false);
                (row, var extension) = await ReceiveAsync(address, row, part, lease.Host, cancellationToken).ConfigureAwait(false);
                var sha256 = await HashAsync(part, cancellationToken).ConfigureAwait(false);
                if (entry.Sha256 is { } expected && !expected.Equals(sha256, StringComparison.OrdinalIgnoreCase))
                {
                    throw DownloadFailure.Final("checksum does not match", $"The SHA-256 is {sha256}; expected {expected}.");
                }

                var finished = row with
                {
                    State = DownloadState.Finishing,
                    Path = name + extension,
                    Bytes = FileTransfer.Length(part),
                    Sha256 = sha256,
                };
                _ledger.Save(finished);
                File.Move(part, Path.Combine(_ledger.Folder, finished.Path), overwrite: true);
                _ledger.Save(finished with { State = DownloadState.Done });
                lease.Host.Finish(isFailure: false);
                return ("downloaded", false);
            }
            catch (DownloadFailure e)
            {
                if (e.IsFinal)
                {
                    File.Delete(part);
                }

                lease.Host.Finish(!e.IsFinal);
                row = _ledger.Find(url) ?? row; // with what the server said of the partial file
                _ledger.Save(
                    row with
                    {
                        State = DownloadState.Failed,
                        Reason = e.Reason,
                        Message = e.Message,
                        IsFinal = e.IsFinal,
                        VideoId = entry.VideoId,
                        Run = _id,
                    }
                );
                return (e.Reason, true);
            }
        }

        // A process was killed after the file was verified.
        private LedgerFile Resume(LedgerFile row, string part, string path)
        {
            if (FileTransfer.Length(part) == row.Bytes)
            {
                File.Move(part, path, overwrite: true);
            }

            row = row with { State = FileTransfer.Length(path) == row.Bytes ? DownloadState.Done : DownloadState.Partial };
            _ledger.Save(row);
            return row;
        }

        private async Task CheckRobotsAsync(Uri address, Host host, CancellationToken cancellationToken)
        {
            if (!_owner._options.RespectRobots)
            {
                return;
            }

            await host.RobotsLock.WaitAsync(cancellationToken).ConfigureAwait(false);
            try
            {
                host.Robots ??= await Retries(host)
                    .ExecuteAsync(async token => await Transfer.RobotsAsync(address, host, token).ConfigureAwait(false), cancellationToken)
                    .ConfigureAwait(false);
            }
            catch (DownloadFailure e)
            {
                throw DownloadFailure.Passing("robots.txt cannot be read", $"robots.txt of '{address.Host}' cannot be read: {e.Message}", cause: e);
            }
            finally
            {
                host.RobotsLock.Release();
            }

            if (!host.Robots.Allows(address.PathAndQuery))
            {
                throw DownloadFailure.Final("excluded by robots.txt", $"robots.txt of '{address.Host}' excludes the file.");
            }
        }

        private async Task<(LedgerFile Row, string Extension)> ReceiveAsync(
            Uri address,
            LedgerFile row,
            string part,
            Host host,
            CancellationToken cancellationToken
        )
        {
            var retries = Retries(host);
            for (var most = FileTransfer.Length(part); ; most = FileTransfer.Length(part))
            {
                var result = await retries
                    .ExecuteAsync<(LedgerFile Row, string Extension)?>(
                        async token =>
                        {
                            try
                            {
                                return await Transfer.ReceiveAsync(address, _ledger.Find(row.Source) ?? row, part, host, token).ConfigureAwait(false);
                            }
                            catch (DownloadFailure e) when (!e.IsFinal && FileTransfer.Length(part) > most)
                            {
                                return null; // it failed, but not without progress
                            }
                        },
                        cancellationToken
                    )
                    .ConfigureAwait(false);
                if (result is { } complete)
                {
                    return (complete.Row with { VideoId = row.VideoId, Run = _id }, complete.Extension);
                }
            }
        }

        private ResiliencePipeline Retries(Host host) =>
            _owner._options.Retries == 0
                ? ResiliencePipeline.Empty
                : new ResiliencePipelineBuilder { TimeProvider = _owner._time }
                    .AddRetry(
                        new RetryStrategyOptions
                        {
                            MaxRetryAttempts = _owner._options.Retries,
                            BackoffType = DelayBackoffType.Exponential,
                            Delay = _owner._options.RetryDelay,
                            MaxDelay = TimeSpan.FromMinutes(2),
                            UseJitter = true,
                            ShouldHandle = args =>
                                ValueTask.FromResult(
                                    args.Outcome.Exception is DownloadFailure { IsFinal: false } failure
                                        && !(failure.RetryAfter > _owner._options.MaxRetryAfter)
                                        && !host.IsGivenUp
                                ),
                            DelayGenerator = args => ValueTask.FromResult((args.Outcome.Exception as DownloadFailure)?.RetryAfter),
                        }
                    )
                    .Build();

        private static async Task<string> HashAsync(string path, CancellationToken cancellationToken)
        {
            var file = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, 1, FileOptions.Asynchronous | FileOptions.SequentialScan);
            await using (file.ConfigureAwait(false))
            {
                return Convert.ToHexStringLower(await SHA256.HashDataAsync(file, cancellationToken).ConfigureAwait(false));
            }
        }

        private static string SafeName(string id)
        {
            var name = string.Concat(id.Select(c => char.IsAsciiLetterOrDigit(c) || c is '_' or '.' or '-' ? c : '_')).Trim('.');
            return name.Length > MaxName ? name[..MaxName] : name;
        }
    }
}
