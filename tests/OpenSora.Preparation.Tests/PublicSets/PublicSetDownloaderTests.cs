using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using Microsoft.AspNetCore.Http;
using OpenSora.Preparation.PublicSets;

namespace OpenSora.Preparation.Tests.PublicSets;

public sealed class PublicSetDownloaderTests : IClassFixture<FileServer>, IDisposable
{
    private const string Agent = "TestCrawler/1.0 (+https://example.test/crawler)";
    private readonly TemporaryFolder _folder = new();
    private readonly HttpClient _http = new();
    private readonly FileServer _server;

    public PublicSetDownloaderTests(FileServer server) => (_server = server).Reset();

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public void Dispose()
    {
        _http.Dispose();
        _folder.Dispose();
    }

    private static DownloadOptions Options(Action<DownloadOptions>? change = null)
    {
        var options = new DownloadOptions
        {
            UserAgent = Agent,
            DelayPerHost = TimeSpan.Zero,
            RetryDelay = TimeSpan.FromMilliseconds(5),
            Retries = 3,
            MinFreeBytes = 0,
        };
        change?.Invoke(options);
        return options;
    }

    private static PublicSetEntry Entry(string url, string id = "id", string? sha256 = null) =>
        new()
        {
            Set = "Test",
            Id = id,
            VideoId = id,
            Url = url,
            Sha256 = sha256,
        };

    private async Task<DownloadReport> DownloadAsync(DownloadOptions options, params PublicSetEntry[] entries)
    {
        using var ledger = DownloadLedger.Open(_folder.Path);
        return await new PublicSetDownloader(_http, options).DownloadAsync(entries.ToAsyncEnumerable(), ledger, cancellationToken: Token);
    }

    private async Task<string> ResultAsync(PublicSetEntry entry, DownloadOptions? options = null) =>
        (await DownloadAsync(options ?? Options(), entry)).Counts.Single().Key;

    private LedgerFile Row(string url)
    {
        using var ledger = DownloadLedger.Open(_folder.Path);
        return ledger.Find(url).ShouldNotBeNull();
    }

    private void ShouldHave(string url, byte[] bytes)
    {
        var row = Row(url);
        row.State.ShouldBe(DownloadState.Done);
        row.Bytes.ShouldBe(bytes.Length);
        row.Sha256.ShouldBe(Convert.ToHexStringLower(SHA256.HashData(bytes)));
        File.ReadAllBytes(_folder[row.Path!]).ShouldBe(bytes);
        Directory.GetFiles(_folder.Path, "*.part", SearchOption.AllDirectories).ShouldBeEmpty();
    }

    private (string Path, string? Range)[] Files() =>
        [.. _server.Requests.Where(request => request.Path is not "/robots.txt").Select(request => (request.Path, request.Range))];

    [Fact]
    public async Task FilesAreDownloadedOnceAndRecorded()
    {
        var (a, b) = (FileServer.Contents("a", 100_000), FileServer.Contents("b", 1));
        var (urlA, urlB) = (_server.Serve("/a.webm", a), _server.Serve("/b?x=1", b));
        List<DownloadProgress> reports = [];
        PublicSetEntry[] entries =
        [
            Entry(urlA, "one"),
            Entry(urlA, "two"),
            Entry(urlB, "../../Ä b", Convert.ToHexString(SHA256.HashData(b))),
            Entry("https://www.youtube.com/watch?v=abc"),
            Entry("file:///etc/passwd"),
            Entry("not an address"),
            Entry(urlB + "&x", sha256: "12"),
            Entry("") with
            {
                Url = null,
                Path = "/x",
            },
        ];
        DownloadReport report;
        using (var ledger = DownloadLedger.Open(_folder.Path))
        {
            report = await new PublicSetDownloader(_http, Options()).DownloadAsync(
                entries.ToAsyncEnumerable(),
                ledger,
                new Immediate(reports.Add),
                Token
            );
            ledger.List().Select(row => row.Source).ShouldBe(new[] { urlA, urlB }.Order(StringComparer.Ordinal));
            ledger.Count().ShouldBe(new Dictionary<string, long> { ["done"] = 2 });
        }

        report.Counts.ShouldBe(
            new Dictionary<string, long>
            {
                ["downloaded"] = 2,
                ["invalid address"] = 2,
                ["invalid checksum"] = 1,
                ["local file"] = 1,
                ["needs yt-dlp"] = 1,
                ["same file as another entry"] = 1,
            }
        );
        (report.Entries, report.Bytes).ShouldBe((8, 100_001));
        ShouldHave(urlA, a);
        ShouldHave(urlB, b);
        Path.GetExtension(Row(urlA).Path).ShouldBe(".webm");
        Row(urlB).Path!.ShouldEndWith(".mp4");
        Row(urlB).Path!.Split('/').Length.ShouldBe(2);
        _server.Requests.ShouldAllBe(request => request.Agent == Agent);
        reports[^1].ShouldBe(new(8, 2, 3, 100_001, reports[^1].Current));

        (await DownloadAsync(Options(), entries)).Counts["already downloaded"].ShouldBe(3);
        Files().Length.ShouldBe(2);

        File.Delete(_folder[Row(urlA).Path!]); // a deleted file is downloaded again
        (await ResultAsync(entries[0])).ShouldBe("downloaded");
        ShouldHave(urlA, a);
    }

    [Fact]
    public async Task CutConnectionsAreResumed()
    {
        var bytes = FileServer.Contents("cut", 300_000);
        var url = _server.Serve("/cut.mp4", bytes, i => i < 5 ? 60_000 : null);
        (await ResultAsync(Entry(url))).ShouldBe("downloaded"); // more cuts than retries, but each attempt makes progress
        ShouldHave(url, bytes);
        Files().Select(request => request.Range).ShouldBe([null, "bytes=60000-", "bytes=120000-", "bytes=180000-", "bytes=240000-"]);
    }

    [Fact]
    public async Task ServersWithoutRangesStartAgain()
    {
        var bytes = FileServer.Contents("whole", 200_000);
        var url = _server.On("/whole.mp4", (context, i) => FileServer.SendAsync(context, bytes, i < 2 ? 90_000 : null, "\"v1\"", ranges: false));
        (await ResultAsync(Entry(url))).ShouldBe("downloaded");
        ShouldHave(url, bytes);

        // A server that always cuts at the same place ends after the retries.
        var never = _server.On("/never.mp4", (context, _) => FileServer.SendAsync(context, bytes, 90_000, null, ranges: false));
        (await ResultAsync(Entry(never))).ShouldBe("connection was cut");
        Files().Count(request => request.Path is "/never.mp4").ShouldBe(5); // the first attempt made progress
        (Row(never).State, Row(never).IsFinal).ShouldBe((DownloadState.Failed, false));
    }

    [Fact]
    public async Task FilesThatChangeInBetweenStartAgain()
    {
        var (first, second) = (FileServer.Contents("x1", 150_000), FileServer.Contents("x2", 160_000));
        var url = _server.On("/changes.mp4", (context, i) =>
            FileServer.SendAsync(context, i == 0 ? first : second, i == 0 ? 70_000 : null, i == 0 ? "\"v1\"" : "\"v2\"", true)
        );
        (await ResultAsync(Entry(url))).ShouldBe("downloaded");
        ShouldHave(url, second);

        // A server that ignores If-Range sends a part of the new file; the part is not appended.
        var rude = _server.On("/rude.mp4", async (context, i) =>
        {
            var bytes = i == 0 ? first : second;
            context.Request.Headers.IfRange = i == 0 ? "\"r1\"" : "\"r2\"";
            await FileServer.SendAsync(context, bytes, i == 0 ? 70_000 : null, i == 0 ? "\"r1\"" : "\"r2\"", true);
        });
        (await ResultAsync(Entry(rude))).ShouldBe("downloaded");
        ShouldHave(rude, second);
        Files().Where(request => request.Path is "/rude.mp4").Select(request => request.Range).ShouldBe([null, "bytes=70000-", null]);
    }

    [Fact]
    public async Task WithoutValidatorAPartIsNotContinued()
    {
        var bytes = FileServer.Contents("plain", 100_000);
        var url = _server.Serve("/plain.mp4", bytes, i => i == 0 ? 50_000 : null, _ => null);
        (await ResultAsync(Entry(url))).ShouldBe("downloaded");
        ShouldHave(url, bytes);
        Files().ShouldAllBe(request => request.Range == null);

        // Last-Modified is a validator too; a weak ETag is not.
        var dated = _server.On("/dated.mp4", async (context, i) =>
        {
            const string date = "Wed, 21 Oct 2015 07:28:00 GMT";
            context.Response.Headers.LastModified = date;
            var isRest = context.Request.Headers.IfRange.ToString() is date;
            await FileServer.SendAsync(context, bytes, i == 0 ? 50_000 : null, "W/\"weak\"", isRest);
        });
        (await ResultAsync(Entry(dated))).ShouldBe("downloaded");
        ShouldHave(dated, bytes);
        Files().Last().Range.ShouldBe("bytes=50000-");
    }

    [Fact]
    public async Task KilledRunsContinueInTheNextRun()
    {
        var bytes = FileServer.Contents("kill", 400_000);
        var url = _server.Serve("/kill.mp4", bytes, i => i == 0 ? 150_000 : null);
        using (var cancel = new CancellationTokenSource())
        using (var ledger = DownloadLedger.Open(_folder.Path))
        {
            // Stops after the first bytes; what was received stays.
            var task = new PublicSetDownloader(_http, Options(options => options.BytesPerSecondPerHost = 500_000)).DownloadAsync(
                new[] { Entry(url) }.ToAsyncEnumerable(),
                ledger,
                new Immediate(_ => cancel.Cancel()),
                cancel.Token
            );
            await Should.ThrowAsync<OperationCanceledException>(() => task);
            ledger.Find(url)!.State.ShouldBe(DownloadState.Partial);
        }

        var part = Directory.GetFiles(_folder.Path, "*.part", SearchOption.AllDirectories).Single();
        var have = new FileInfo(part).Length;
        have.ShouldBeInRange(1, 399_999);
        (await ResultAsync(Entry(url))).ShouldBe("downloaded");
        ShouldHave(url, bytes);
        Files().Last().Range.ShouldBe($"bytes={have}-");

        // Killed between the verification and the last entry of the ledger, before and after the rename.
        var path = _folder[Row(url).Path!];
        foreach (var wasRenamed in new[] { true, false })
        {
            using (var ledger = DownloadLedger.Open(_folder.Path))
            {
                ledger.Save(ledger.Find(url)! with { State = DownloadState.Finishing });
            }

            if (!wasRenamed)
            {
                File.Move(path, part);
            }

            (await ResultAsync(Entry(url))).ShouldBe("already downloaded");
            ShouldHave(url, bytes);
        }

        Files().Length.ShouldBe(2);
    }

    [Fact]
    public async Task FailuresThatStayAreNotRepeated()
    {
        string Status(int status) => _server.On($"/{status}.mp4", (context, _) =>
            {
                context.Response.StatusCode = status;
                return Task.CompletedTask;
            });
        var html = _server.On("/html.mp4", (context, _) =>
            FileServer.SendAsync(context, "<html>"u8.ToArray(), null, null, false, "text/html; charset=utf-8")
        );
        var hidden = _server.On("/hidden.mp4", (context, _) =>
            FileServer.SendAsync(context, "\uFEFF\n<!DOCTYPE html><p>"u8.ToArray(), null, null, false)
        );
        var empty = _server.Serve("/empty.mp4", []);
        var large = _server.Serve("/large.mp4", new byte[5_000]);
        var endless = _server.On("/endless.mp4", async (context, _) =>
        {
            context.Response.ContentType = "video/mp4"; // without a length
            for (var i = 0; i < 100; i++)
            {
                await context.Response.Body.WriteAsync(new byte[100]);
                await context.Response.Body.FlushAsync();
            }
        });
        var zipped = _server.On("/zipped.mp4", (context, _) =>
        {
            context.Response.Headers.ContentEncoding = "gzip";
            return FileServer.SendAsync(context, new byte[10], null, null, false);
        });
        var wrong = _server.Serve("/wrong.mp4", new byte[10]);
        var entries = new[] { Status(404), Status(410), Status(403), Status(401), Status(418), html, hidden, empty, large, endless, zipped }
            .Select(url => Entry(url))
            .Append(Entry(wrong, sha256: new string('0', 64)))
            .ToArray();
        var options = Options(options => options.MaxFileBytes = 4_000);
        Dictionary<string, long> expected = new()
        {
            ["checksum does not match"] = 1,
            ["compressed content"] = 1,
            ["content is HTML"] = 1,
            ["content type text/html"] = 1,
            ["file is empty"] = 1,
            ["forbidden"] = 2,
            ["not found"] = 2,
            ["status 418"] = 1,
            ["too large"] = 2,
        };
        (await DownloadAsync(options, entries)).Counts.ShouldBe(expected);
        Files().Length.ShouldBe(12);
        Row(wrong).IsFinal.ShouldBeTrue();
        (await DownloadAsync(options, entries)).Counts.ShouldBe(expected);
        Files().Length.ShouldBe(12);

        options.RetryFinalFailures = true;
        (await DownloadAsync(options, entries)).Counts.ShouldBe(expected);
        Files().Length.ShouldBe(24);
        Directory.GetFiles(_folder.Path, "*", SearchOption.AllDirectories).ShouldAllBe(file => Path.GetFileName(file).StartsWith("downloads.db"));
    }

    [Fact]
    public async Task FailuresThatPassAreRepeatedNowAndInTheNextRun()
    {
        var bytes = FileServer.Contents("busy", 10);
        var isDown = true;
        var url = _server.On("/busy.mp4", (context, i) =>
        {
            if (isDown || i % 2 == 0)
            {
                context.Response.StatusCode = i % 3 == 0 ? 500 : 503;
                return Task.CompletedTask;
            }

            return FileServer.SendAsync(context, bytes, null, null, false);
        });
        (await ResultAsync(Entry(url))).ShouldBe("status 500"); // requests 0 to 3
        Files().Length.ShouldBe(4);
        isDown = false;
        (await ResultAsync(Entry(url))).ShouldBe("downloaded");
        Files().Length.ShouldBe(6);
        ShouldHave(url, bytes);
        (await ResultAsync(Entry("http://127.0.0.1:1/x.mp4"), Options(options => (options.Retries, options.RespectRobots) = (0, false)))).ShouldBe(
            "connection failed"
        );
    }

    [Fact]
    public async Task RetryAfterIsRespectedByAllRequestsToTheHost()
    {
        var url = _server.On("/limited.mp4", (context, i) =>
        {
            if (i == 0)
            {
                context.Response.StatusCode = 429;
                context.Response.Headers.RetryAfter = "1";
                return Task.CompletedTask;
            }

            return FileServer.SendAsync(context, [1], null, null, false);
        });
        var other = _server.Serve("/other.mp4", [2]);
        (await DownloadAsync(Options(options => options.Connections = 1), Entry(url), Entry(other))).Counts["downloaded"].ShouldBe(2);
        var times = _server.Requests.Where(request => request.Path is not "/robots.txt").Select(request => request.Time).ToArray();
        (times[1] - times[0]).ShouldBeGreaterThan(TimeSpan.FromSeconds(0.9));

        // A wait that is too long leaves the host's files for a later run, without further requests.
        var later = _server.On("/later.mp4", (context, _) =>
        {
            context.Response.StatusCode = 503;
            context.Response.Headers.RetryAfter = DateTimeOffset.UtcNow.AddDays(100).ToString("R", CultureInfo.InvariantCulture);
            return Task.CompletedTask;
        });
        var next = _server.Serve("/next.mp4", [3]);
        var report = await DownloadAsync(Options(options => options.Connections = 1), Entry(later), Entry(next));
        report.Counts.ShouldBe(new Dictionary<string, long> { ["host is unavailable"] = 1, ["status 503"] = 1 });
        Files().Count(request => request.Path is "/later.mp4" or "/next.mp4").ShouldBe(1);
        Row(next).IsFinal.ShouldBeFalse();
    }

    [Fact]
    public async Task AHostThatKeepsFailingIsGivenUpForTheRun()
    {
        var urls = Enumerable
            .Range(0, 10)
            .Select(i => _server.On($"/down{i}.mp4", (context, _) =>
                {
                    context.Response.StatusCode = 502;
                    return Task.CompletedTask;
                }));
        var options = Options(options => (options.Connections, options.Retries, options.HostFailureLimit) = (1, 0, 3));
        (await DownloadAsync(options, [.. urls.Select(url => Entry(url))])).Counts.ShouldBe(
            new Dictionary<string, long> { ["host is unavailable"] = 7, ["status 502"] = 3 }
        );
        Files().Length.ShouldBe(3);
    }

    [Fact]
    public async Task SlowServersEndAfterTheStallTimeout()
    {
        var url = _server.On("/slow.mp4", async (context, i) =>
        {
            context.Response.ContentType = "video/mp4";
            context.Response.ContentLength = 2;
            if (i > 0)
            {
                await context.Response.Body.WriteAsync(new byte[1]);
                await context.Response.Body.FlushAsync();
            }

            await Task.Delay(Timeout.Infinite, context.RequestAborted).ContinueWith(_ => { }, TaskScheduler.Default);
        });
        (await ResultAsync(Entry(url), Options(options => (options.StallTimeout, options.Retries) = (TimeSpan.FromMilliseconds(200), 1)))).ShouldBe(
            "no data in time"
        );
    }

    [Fact]
    public async Task WrongLengthsAreNotAccepted()
    {
        // The Content-Range promises another length than the part has.
        var bytes = FileServer.Contents("liar", 100_000);
        var url = _server.On("/liar.mp4", async (context, i) =>
        {
            if (i == 1)
            {
                context.Response.StatusCode = 206;
                context.Response.ContentType = "video/mp4";
                context.Response.Headers.ETag = "\"v1\"";
                context.Response.Headers.ContentRange = "bytes 40000-99999/100000";
                context.Response.ContentLength = 10;
                await context.Response.Body.WriteAsync(new byte[10]);
                return;
            }

            await FileServer.SendAsync(context, bytes, i == 0 ? 40_000 : null, "\"v1\"", ranges: i != 2);
        });
        (await ResultAsync(Entry(url))).ShouldBe("downloaded");
        Files().Select(request => request.Range).ShouldBe([null, "bytes=40000-", "bytes=40010-"]);
        ShouldHave(url, bytes);

        // The server says that the rest does not exist: the file starts again.
        var gone = _server.On("/gone.mp4", (context, i) =>
        {
            if (i == 1)
            {
                context.Response.StatusCode = 416;
                return Task.CompletedTask;
            }

            return FileServer.SendAsync(context, bytes, i == 0 ? 40_000 : null, "\"v1\"", ranges: true);
        });
        (await ResultAsync(Entry(gone))).ShouldBe("downloaded");
        ShouldHave(gone, bytes);
    }

    [Fact]
    public async Task LimitsPerHostAreKept()
    {
        var (now, most) = (0, 0);
        var urls = Enumerable
            .Range(0, 6)
            .Select(i => _server.On($"/limit{i}.mp4", async (context, _) =>
                {
                    most = Math.Max(most, Interlocked.Increment(ref now));
                    await Task.Delay(30);
                    Interlocked.Decrement(ref now);
                    await FileServer.SendAsync(context, new byte[20_000], null, null, false);
                }))
            .ToArray();
        var options = Options(options => (options.ConnectionsPerHost, options.DelayPerHost) = (2, TimeSpan.FromMilliseconds(60)));
        options.BytesPerSecondPerHost = 200_000;
        var start = DateTime.UtcNow;
        (await DownloadAsync(options, [.. urls.Select(url => Entry(url))])).Counts["downloaded"].ShouldBe(6);
        (DateTime.UtcNow - start).ShouldBeGreaterThan(TimeSpan.FromSeconds(0.58)); // 120,000 bytes
        most.ShouldBeLessThanOrEqualTo(2);
        (_server.Requests.Max(request => request.Time) - start).ShouldBeGreaterThan(TimeSpan.FromSeconds(0.36)); // robots.txt and 6 files
    }

    [Fact]
    public async Task RobotsAreRespected()
    {
        _server.On("/robots.txt", (context, _) => context.Response.WriteAsync("User-agent: testcrawler\nDisallow: /private/\nAllow: /private/ok"));
        var (ok, no) = (_server.Serve("/private/ok.mp4", [1]), _server.Serve("/private/no.mp4", [2]));
        (await DownloadAsync(Options(), Entry(ok), Entry(no))).Counts.ShouldBe(
            new Dictionary<string, long> { ["downloaded"] = 1, ["excluded by robots.txt"] = 1 }
        );
        _server.Requests.Count(request => request.Path is "/robots.txt").ShouldBe(1);
        var options = Options(options => (options.RespectRobots, options.RetryFinalFailures) = (false, true));
        (await ResultAsync(Entry(no), options)).ShouldBe("downloaded");

        _server.On("/robots.txt", (context, _) =>
        {
            context.Response.StatusCode = 500;
            return Task.CompletedTask;
        });
        var more = _server.Serve("/more.mp4", [3]);
        (await ResultAsync(Entry(more))).ShouldBe("robots.txt cannot be read");
        Row(more).IsFinal.ShouldBeFalse();
        _server.On("/robots.txt", (context, _) =>
        {
            context.Response.StatusCode = 403;
            return Task.CompletedTask;
        });
        (await ResultAsync(Entry(more))).ShouldBe("downloaded");
    }

    [Fact]
    public async Task AFullDiskStopsTheRunAndTheNextRunContinues()
    {
        var url = _server.Serve("/disk.mp4", new byte[1_000]);
        var free = 5_500L;
        var options = Options(options => options.MinFreeBytes = 5_000);
        async Task<DownloadReport> Run()
        {
            using var ledger = DownloadLedger.Open(_folder.Path);
            return await new PublicSetDownloader(_http, options) { FreeBytes = _ => free }.DownloadAsync(
                new[] { Entry(url) }.ToAsyncEnumerable(),
                ledger,
                cancellationToken: Token
            );
        }

        (await Should.ThrowAsync<PreparationException>(Run)).Reason.ShouldBe("disk is full");
        Files().Length.ShouldBe(1);
        free = 4_000;
        (await Should.ThrowAsync<PreparationException>(Run)).Message.ShouldContain("MinFreeBytes");
        Files().Length.ShouldBe(1); // checked before any request
        free = 1 << 20;
        (await Run()).Counts["downloaded"].ShouldBe(1);
        ShouldHave(url, new byte[1_000]);
    }

    [Fact]
    public void OptionsAndLedgersAreChecked()
    {
        Should.Throw<ArgumentException>(() => new PublicSetDownloader(_http, new())).Message.ShouldContain("UserAgent is empty");
        Should
            .Throw<ArgumentException>(() => new PublicSetDownloader(_http, Options(options => options.Connections = 0)))
            .Message.ShouldContain("Connections");
        using (DownloadLedger.Open(_folder["a"]))
        {
            Should.Throw<PreparationException>(() => DownloadLedger.Open(_folder["a"])).Reason.ShouldBe("folder is in use");
        }

        DownloadLedger.Open(_folder["a"]).Dispose();
        Directory.CreateDirectory(_folder["b"]);
        File.WriteAllText(_folder["b/downloads.db"], new string('x', 5_000));
        Should.Throw<PreparationException>(() => DownloadLedger.Open(_folder["b"])).Reason.ShouldBe("ledger is damaged");
        File.Delete(_folder["b/downloads.db"]);
        DownloadLedger.Open(_folder["b"]).Dispose();
    }

    [Fact]
    public async Task ManyEntriesAreReadWithBoundedMemory()
    {
        const int entries = 20_000;
        var url = _server.Serve("/many.mp4", [1]);
        using var ledger = DownloadLedger.Open(_folder.Path);
        var (read, open) = (0, 0);
        async IAsyncEnumerable<PublicSetEntry> Read()
        {
            await Task.CompletedTask;
            for (var i = 0; i < entries; i++)
            {
                open = Math.Max(open, Interlocked.Increment(ref read));
                yield return Entry(url, i.ToString(CultureInfo.InvariantCulture));
            }
        }

        var report = await new PublicSetDownloader(_http, Options()).DownloadAsync(
            Read(),
            ledger,
            new Immediate(_ => Interlocked.Decrement(ref read)),
            Token
        );
        report.Counts.ShouldBe(new Dictionary<string, long> { ["downloaded"] = 1, ["same file as another entry"] = entries - 1 });
        open.ShouldBeLessThan(100);
    }

    private sealed class Immediate(Action<DownloadProgress> report) : IProgress<DownloadProgress>
    {
        public void Report(DownloadProgress value) => report(value);
    }
}
