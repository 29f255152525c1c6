using OpenSora.Preparation.PublicSets;

namespace OpenSora.Preparation.Tests.PublicSets;

public sealed class YtDlpListTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    private static PublicSetEntry Entry(string? url, string id, double? start = null, double? end = null, string? path = null) =>
        new()
        {
            Set = "Test",
            Id = id,
            VideoId = id.Split('_')[0],
            Url = url,
            Path = path,
            Start = start is null ? null : TimeSpan.FromSeconds(start.Value),
            End = end is null ? null : TimeSpan.FromSeconds(end.Value),
            Caption = "caption of " + id,
        };

    private static readonly PublicSetEntry[] Entries =
    [
        Entry("https://www.youtube.com/watch?v=-aB_1", "-aB_1_0", 1.5, 4),
        Entry("https://www.youtube.com/watch?v=-aB_1", "-aB_1_1", 10, 12.345),
        Entry("https://youtu.be/short", "video7", 0, 3),
        Entry("https://vimeo.com/it's", "vimeo1"),
        Entry("https://example.test/direct.mp4", "direct"),
    ];

    private async Task<List<PublicSetClip>> ClipsAsync(DownloadLedger ledger, Dictionary<string, string> missing, params PublicSetEntry[] entries) =>
        await PublicSetClip
            .ListAsync(entries.ToAsyncEnumerable(), ledger, (entry, reason) => missing.Add(entry.Id, reason), Token)
            .ToListAsync(Token);

    [Theory]
    [InlineData("https://www.youtube.com/watch?v=a", true)]
    [InlineData("http://m.YouTube.com/watch?v=a", true)]
    [InlineData("https://youtu.be/a", true)]
    [InlineData("https://notyoutube.com/a", false)]
    [InlineData("https://example.test/youtube.com/a.mp4", false)]
    [InlineData("https://youtube.com.example.test/a", false)]
    [InlineData("ftp://youtube.com/a", false)]
    [InlineData("https://www.youtube.com/watch?v=a\n--exec rm", false)]
    public void SitesAreRecognized(string url, bool expected) => YtDlpList.IsNeeded(Entry(url, "x")).ShouldBe(expected);

    [Fact]
    public async Task WholeVideosAreListedOnceAndFoundAgain()
    {
        using var ledger = DownloadLedger.Open(_folder["data"]);
        var folder = _folder["list"];
        var export = await YtDlpList.WriteAsync(Entries.Append(Entry(null, "l", path: "/x")).ToAsyncEnumerable(), ledger, folder, null, Token);
        export.Counts.ShouldBe(
            new Dictionary<string, long>
            {
                ["direct address"] = 1,
                ["listed"] = 3,
                ["local file"] = 1,
                ["same file as another entry or already there"] = 1,
            }
        );
        (export.Entries, export.Listed).ShouldBe((6, 3));
        File.ReadAllLines(_folder["list/urls.txt"])
            .ShouldBe(["https://www.youtube.com/watch?v=-aB_1", "https://youtu.be/short", "https://vimeo.com/it's"]);
        var configuration = await File.ReadAllTextAsync(_folder["list/list.conf"], Token);
        configuration.ShouldContain("--output \"%(id)s.%(ext)s\"\n");
        configuration.ShouldContain("--batch-file urls.txt\n");

        YtDlpList.Import(ledger, folder, Token).ShouldBe(new Dictionary<string, long> { ["not downloaded"] = 3 });
        Dictionary<string, string> missing = [];
        (await ClipsAsync(ledger, missing, Entries)).ShouldBeEmpty();
        missing.Values.ShouldAllBe(reason => reason == "not downloaded");

        // One is found by its name, one by the log; a part and an empty file are no files.
        await File.WriteAllTextAsync(_folder["list/-aB_1.webm"], "x", Token);
        await File.WriteAllTextAsync(_folder["list/short.mp4.part"], "x", Token);
        await File.WriteAllTextAsync(_folder["list/short.mp4"], "", Token);
        await File.WriteAllTextAsync(_folder["list/it.mp4"], "xy", Token);
        await File.WriteAllTextAsync(
            _folder["list/downloaded.jsonl"],
            """
            {"original_url": "https://vimeo.com/it's", "id": "it", "filepath": "it.mp4"}
            {"original_url": "https://vimeo.com/other", "id": "o", "filepath": "it.mp4"}
            {"original_url": "https://youtu.be/short", "id": "short", "filepath": "gone.mp4"}
            {"original_url": "https://vim
            """,
            Token
        );
        YtDlpList
            .Import(ledger, folder, Token)
            .ShouldBe(
                new Dictionary<string, long>
                {
                    ["file is empty"] = 1,
                    ["file is missing"] = 1,
                    ["imported"] = 2,
                    ["invalid line"] = 1,
                    ["not listed"] = 1,
                }
            );
        missing.Clear();
        var clips = await ClipsAsync(ledger, missing, Entries);
        clips
            .Select(clip => (clip.Id, Path.GetRelativePath(_folder.Path, clip.Path), clip.Start?.TotalSeconds, clip.End?.TotalSeconds, clip.Caption))
            .ShouldBe([
                ("-aB_1_0", "list/-aB_1.webm", 1.5, 4.0, "caption of -aB_1_0"),
                ("-aB_1_1", "list/-aB_1.webm", 10.0, 12.345, "caption of -aB_1_1"),
                ("vimeo1", "list/it.mp4", null, null, "caption of vimeo1"),
            ]);
        missing.ShouldBe(new Dictionary<string, string> { ["video7"] = "not downloaded", ["direct"] = "not downloaded" });

        // The next list has what is missing.
        (await YtDlpList.WriteAsync(Entries.ToAsyncEnumerable(), ledger, folder, null, Token)).Listed.ShouldBe(1);
        File.ReadAllLines(_folder["list/urls.txt"]).ShouldBe(["https://youtu.be/short"]);
        YtDlpList.Import(ledger, folder, Token)["already imported"].ShouldBe(1);
        File.Delete(_folder["list/it.mp4"]);
        missing.Clear();
        await ClipsAsync(ledger, missing, Entries[3]);
        missing["vimeo1"].ShouldBe("file is missing");
    }

    [Fact]
    public async Task SectionsAreListedByVideoAndFoundByTheirTimes()
    {
        using var ledger = DownloadLedger.Open(_folder["data"]);
        var folder = _folder["list"];
        var export = await YtDlpList.WriteAsync(Entries.ToAsyncEnumerable(), ledger, folder, new() { Sections = true }, Token);
        export.Listed.ShouldBe(4);
        File.ReadAllLines(_folder["list/sections.sh"])
            .ShouldBe([
                "#!/bin/sh",
                "yt-dlp --config-locations list.conf --download-sections '*1.5-4' --download-sections '*10-12.345' "
                    + "-- 'https://www.youtube.com/watch?v=-aB_1'",
                "yt-dlp --config-locations list.conf --download-sections '*0-3' -- 'https://youtu.be/short'",
                @"yt-dlp --config-locations list.conf -- 'https://vimeo.com/it'\''s'",
            ]);
        await File.WriteAllTextAsync(_folder["list/-aB_1.10.0-12.345.mp4"], "x", Token);
        await File.WriteAllTextAsync(
            _folder["list/downloaded.jsonl"],
            """
            {"original_url": "https://www.youtube.com/watch?v=-aB_1", "filepath": "-aB_1.10.0-12.345.mp4", "section_start": 10.0, "section_end": 12.3}
            {"original_url": "https://www.youtube.com/watch?v=-aB_1", "filepath": "-aB_1.10.0-12.345.mp4", "section_start": 11.0, "section_end": 12.3}
            """,
            Token
        );
        YtDlpList
            .Import(ledger, folder, Token)
            .ShouldBe(
                new Dictionary<string, long>
                {
                    ["imported"] = 1,
                    ["not downloaded"] = 3,
                    ["not listed"] = 1,
                }
            );
        Dictionary<string, string> missing = [];
        var clip = (await ClipsAsync(ledger, missing, Entries)).Single();
        (clip.Id, Path.GetFileName(clip.Path), clip.Start, clip.End).ShouldBe(("-aB_1_1", "-aB_1.10.0-12.345.mp4", null, null));
        missing.Count.ShouldBe(4);
    }

    [Fact]
    public async Task SectionsWithTheSameStartAreDistinguishedByTheirEnd()
    {
        using var ledger = DownloadLedger.Open(_folder["data"]);
        const string url = "https://youtu.be/a";
        var entries = new[] { Entry(url, "a_0", 1, 2), Entry(url, "a_1", 1, 3), Entry(url, "a_2", 5) };
        await YtDlpList.WriteAsync(entries.ToAsyncEnumerable(), ledger, _folder["list"], new() { Sections = true }, Token);
        File.ReadAllLines(_folder["list/sections.sh"])[1].ShouldContain("'*1-2' --download-sections '*1-3' --download-sections '*5-inf' --");
        foreach (var name in new[] { "2", "3", "NA" })
        {
            await File.WriteAllTextAsync(_folder[$"list/{name}.mp4"], name, Token);
        }

        await File.WriteAllTextAsync(
            _folder["list/downloaded.jsonl"],
            """
            {"original_url": "https://youtu.be/a", "filepath": "NA.mp4", "section_start": 5.0, "section_end": null}
            {"original_url": "https://youtu.be/a", "filepath": "3.mp4", "section_start": 1.0, "section_end": 3}
            {"original_url": "https://youtu.be/a", "filepath": "2.mp4", "section_start": 1.0, "section_end": 2}
            """,
            Token
        );
        YtDlpList.Import(ledger, _folder["list"], Token).ShouldBe(new Dictionary<string, long> { ["imported"] = 3 });
        (await ClipsAsync(ledger, [], entries)).Select(clip => Path.GetFileName(clip.Path)).ShouldBe(["2.mp4", "3.mp4", "NA.mp4"]);
    }

    [Fact]
    public async Task LocalFilesNeedNoLedger()
    {
        await File.WriteAllTextAsync(_folder["a.avi"], "x", Token);
        Dictionary<string, string> missing = [];
        var entries = new[] { Entry(null, "a", path: _folder["a.avi"]), Entry(null, "b", path: _folder["b.avi"]) };
        var clips = await PublicSetClip
            .ListAsync(entries.ToAsyncEnumerable(), null, (entry, reason) => missing.Add(entry.Id, reason), Token)
            .ToListAsync(Token);
        clips.Single().Path.ShouldBe(_folder["a.avi"]);
        missing.ShouldBe(new Dictionary<string, string> { ["b"] = "file is missing" });
    }

    [Fact]
    public async Task AnExportThatFailsLeavesTheEarlierList()
    {
        using var ledger = DownloadLedger.Open(_folder["data"]);
        await YtDlpList.WriteAsync(Entries.ToAsyncEnumerable(), ledger, _folder["list"], null, Token);
        var before = await File.ReadAllTextAsync(_folder["list/urls.txt"], Token);
        async IAsyncEnumerable<PublicSetEntry> Broken()
        {
            await Task.CompletedTask;
            yield return Entries[0];
            throw new PreparationException("invalid list", "broken");
        }

        await Should.ThrowAsync<PreparationException>(() => YtDlpList.WriteAsync(Broken(), ledger, _folder["list"], null, Token));
        (await File.ReadAllTextAsync(_folder["list/urls.txt"], Token)).ShouldBe(before);
        Directory.GetFiles(_folder["list"]).Length.ShouldBe(2);
        (await YtDlpList.WriteAsync(Entries.ToAsyncEnumerable(), ledger, _folder["list"], null, Token)).Listed.ShouldBe(3);
    }
}
