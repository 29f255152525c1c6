using OpenSora.Preparation.Captions;
using OpenSora.Preparation.Cutting;
using OpenSora.Preparation.Manifests;
using OpenSora.Preparation.Scores;
using OpenSora.Preparation.Shots;

namespace OpenSora.Preparation.Tests.Pipeline;

public class VideoPreparationTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task A_folder_of_videos_becomes_clips_with_captions()
    {
        using var folder = new TemporaryFolder();
        await MakeFilmAsync(folder["films/a.mp4"]);
        await File.WriteAllTextAsync(folder["films/notes.txt"], "no video", Token);
        await File.WriteAllTextAsync(folder["films/broken.mp4"], "no video either", Token);

        var report = await Preparation(folder).CaptionWith(new Numbered()).Build().RunAsync(cancellationToken: Token);

        var rows = await ReadAsync(report.Manifest);
        (report.Sources, report.Shots, report.Clips, report.Kept).ShouldBe((2, 3, 3, 3));
        report.Dropped.ShouldBe([new("source", "not a readable video", 1)]);
        report.DroppedSources.ShouldHaveSingleItem().Message.ShouldContain("broken.mp4");
        report.PassedOver.ShouldHaveSingleItem().Path.ShouldEndWith("notes.txt");
        rows.Select(row => row.Text).ShouldBe(["from 0.1", "from 2.1", "from 3.6"]);
        rows.Select(row => row.NumFrames).ShouldBe([18, 13, 13]);
        foreach (var row in rows)
        {
            File.Exists(Path.Combine(folder["data"], row.Path)).ShouldBeTrue(row.Path);
            (row.Width, row.Height, row.Fps).ShouldBe((64, 48, 10));
            row["source"].Text.ShouldBe("a.mp4");
            row["motion"].Number.ShouldNotBeNull();
        }
    }

    [Fact]
    public async Task A_second_run_repeats_nothing_and_writes_the_same()
    {
        using var folder = new TemporaryFolder();
        await MakeFilmAsync(folder["films/a.mp4"]);
        var captioner = new Numbered();
        var first = await Preparation(folder).CaptionWith(captioner).Build().RunAsync(cancellationToken: Token);
        var (manifest, page) = (await File.ReadAllBytesAsync(first.Manifest, Token), await File.ReadAllBytesAsync(first.Statistics, Token));
        var times = Directory.GetFiles(folder["data/clips"], "*.mp4", SearchOption.AllDirectories).Select(File.GetLastWriteTimeUtc).ToArray();

        var second = await Preparation(folder).CaptionWith(captioner).Build().RunAsync(cancellationToken: Token);

        captioner.Calls.ShouldBe(3);
        (await File.ReadAllBytesAsync(second.Manifest, Token)).ShouldBe(manifest);
        (await File.ReadAllBytesAsync(second.Statistics, Token)).ShouldBe(page);
        Directory.GetFiles(folder["data/clips"], "*.mp4", SearchOption.AllDirectories).Select(File.GetLastWriteTimeUtc).ShouldBe(times);
    }

    [Fact]
    public async Task Filters_can_change_between_runs()
    {
        using var folder = new TemporaryFolder();
        await MakeFilmAsync(folder["films/a.mp4"]);
        var strict = await Preparation(folder).Where("duration > 1.5").Build().RunAsync(cancellationToken: Token);
        strict.Kept.ShouldBe(1);
        (strict.Dropped.ShouldHaveSingleItem() is { Stage: "filter", Count: 2 }).ShouldBeTrue();
        strict.Dropped[0].Reason.ShouldContain("duration > 1.5");

        var all = await Preparation(folder).Build().RunAsync(cancellationToken: Token);

        (all.Kept, all.Dropped.Count).ShouldBe((3, 0));
    }

    [Fact]
    public async Task Other_settings_are_refused_until_the_run_is_restarted()
    {
        using var folder = new TemporaryFolder();
        await MakeFilmAsync(folder["films/a.mp4"]);
        await Preparation(folder).Build().RunAsync(cancellationToken: Token);

        var error = await Should.ThrowAsync<PreparationException>(() =>
            Preparation(folder).Cut(cut => cut.ShortSide = 32).Build().RunAsync(cancellationToken: Token)
        );
        error.Message.ShouldContain("other settings of the clips");
        error.Message.ShouldContain("Restart");
        var report = await Preparation(folder)
            .Cut(cut => cut.ShortSide = 32)
            .Configure(options => options.Restart = true)
            .Build()
            .RunAsync(cancellationToken: Token);

        (await ReadAsync(report.Manifest)).ShouldAllBe(row => row.Height == 32);
    }

    [Fact]
    public async Task Near_duplicates_in_all_videos_are_dropped()
    {
        using var folder = new TemporaryFolder();
        await MakeFilmAsync(folder["films/a.mp4"]);
        await Videos.MakeAsync("-i", folder["films/a.mp4"], "-vf", "scale=96:72", "-crf", "30", folder["films/b.mp4"]);

        var report = await Preparation(folder).Build().RunAsync(cancellationToken: Token);

        (report.Clips, report.Kept).ShouldBe((6, 3));
        report.Dropped.ShouldBe([new("duplicate", "near-duplicate", 3)]);
        (await ReadAsync(report.Manifest)).ShouldAllBe(row => row["source"].Text == "b.mp4"); // more pixels
    }

    [Fact]
    public async Task Clips_without_a_caption_are_counted_and_asked_for_again_only_if_it_can_help()
    {
        using var folder = new TemporaryFolder();
        await MakeFilmAsync(folder["films/a.mp4"]);
        var captioner = new Refusing();

        var first = await Preparation(folder).CaptionWith(captioner).Build().RunAsync(cancellationToken: Token);
        first.Kept.ShouldBe(1);
        first.Dropped.ShouldBe([new("caption", "refused", 1), new("caption", "server busy", 1)]);
        var second = await Preparation(folder).CaptionWith(captioner).Build().RunAsync(cancellationToken: Token);

        second.Kept.ShouldBe(2);
        second.Dropped.ShouldBe([new("caption", "refused", 1)]);
        captioner.Calls.ShouldBe(4);
    }

    [Fact]
    public async Task Parts_of_a_list_are_cut_without_shot_detection()
    {
        using var folder = new TemporaryFolder();
        var film = await MakeFilmAsync(folder["films/a.mp4"]);
        var source = new PreparationSource(film)
        {
            Name = "a",
            Parts = [new(TimeSpan.FromSeconds(0.5), TimeSpan.FromSeconds(2.5), "across a cut"), new(TimeSpan.FromSeconds(3), null, "the end")],
        };

        var report = await VideoPreparation.Create().From([source]).To(folder["data"]).Build().RunAsync(cancellationToken: Token);

        var rows = await ReadAsync(report.Manifest);
        rows.Select(row => (row.Text, row.NumFrames)).ShouldBe([("across a cut", 20), ("the end", 20)]);
    }

    [Fact]
    public async Task A_missing_ffmpeg_stops_the_run_at_once()
    {
        using var folder = new TemporaryFolder();
        Directory.CreateDirectory(folder["films"]);
        var error = await Should.ThrowAsync<PreparationException>(() =>
            Preparation(folder).Configure(options => options.FFmpegFolder = folder["nothing"]).Build().RunAsync(cancellationToken: Token)
        );
        error.Reason.ShouldBe("ffmpeg is missing");
    }

    [Fact]
    public async Task Cancellation_keeps_what_is_done()
    {
        using var folder = new TemporaryFolder();
        await MakeFilmAsync(folder["films/a.mp4"]);
        using var stop = new CancellationTokenSource();
        var captioner = new Numbered { OnCall = calls => (calls == 2 ? stop : null)?.Cancel() };
        await Should.ThrowAsync<OperationCanceledException>(() =>
            Preparation(folder).CaptionWith(captioner).Build().RunAsync(cancellationToken: stop.Token)
        );

        captioner.OnCall = null;
        await File.WriteAllTextAsync(
            Path.Combine(Directory.GetDirectories(folder["data/clips"])[0], "00001.mp4.0.tmp"),
            "of a killed process",
            Token
        );
        var report = await Preparation(folder).CaptionWith(captioner).Build().RunAsync(cancellationToken: Token);

        report.Kept.ShouldBe(3);
        Directory.GetFiles(folder["data"], "*.tmp", SearchOption.AllDirectories).ShouldBeEmpty();
    }

    [Fact]
    public async Task A_run_that_ends_while_clips_are_scored_continues()
    {
        using var folder = new TemporaryFolder();
        await MakeFilmAsync(folder["films/a.mp4"]);
        var score = new Stopping { Allowed = 1 };
        await Should.ThrowAsync<InvalidOperationException>(() => Preparation(folder).AddScore(score).Build().RunAsync(cancellationToken: Token));
        score.Allowed = int.MaxValue;
        var report = await Preparation(folder).AddScore(score).Build().RunAsync(cancellationToken: Token);

        report.Kept.ShouldBe(3);
        (await ReadAsync(report.Manifest)).Select(row => row["calls"].Number).ShouldAllBe(value => value == 1);
    }

    private static VideoPreparationBuilder Preparation(TemporaryFolder folder) =>
        VideoPreparation.Create().From(folder["films"]).To(folder["data"]).DetectShots(new ContentDetector());

    /// <summary>A film of 5 s with cuts at 2 and 3.5 s.</summary>
    private static Task<string> MakeFilmAsync(string path) =>
        Videos.MakeAsync(
            "-f",
            "lavfi",
            "-i",
            "testsrc=size=64x48:rate=10:duration=2",
            "-f",
            "lavfi",
            "-i",
            "mandelbrot=size=64x48:rate=10",
            "-f",
            "lavfi",
            "-i",
            "smptebars=size=64x48:rate=10:duration=1.5",
            "-filter_complex",
            "[1]trim=duration=1.5,setpts=PTS-STARTPTS[m];[0][m][2]concat=n=3",
            "-pix_fmt",
            "yuv420p",
            path
        );

    private static async Task<List<ManifestRow>> ReadAsync(string manifest)
    {
        List<ManifestRow> rows = [];
        await foreach (var row in Manifest.ReadAsync(manifest, Token))
        {
            rows.Add(row);
        }

        return rows;
    }

    private sealed class Numbered : ICaptioner
    {
        private int _calls;

        public int Calls => _calls;

        public Action<int>? OnCall { get; set; }

        public Task<CaptionResult> CaptionAsync(ClipToCaption clip, CancellationToken cancellationToken = default)
        {
            var call = Interlocked.Increment(ref _calls);
            OnCall?.Invoke(call);
            cancellationToken.ThrowIfCancellationRequested();
            return Task.FromResult(CaptionResult.Of(FormattableString.Invariant($"from {clip.SourceStart.TotalSeconds}"), "test"));
        }
    }

    private sealed class Refusing : ICaptioner
    {
        private int _calls;

        public int Calls => _calls;

        public Task<CaptionResult> CaptionAsync(ClipToCaption clip, CancellationToken cancellationToken = default)
        {
            var call = Interlocked.Increment(ref _calls);
            return Task.FromResult(
                clip.SourceStart < TimeSpan.FromSeconds(1) ? CaptionResult.None("refused", "I'm sorry.")
                : clip.SourceStart < TimeSpan.FromSeconds(3) && call <= 3 ? CaptionResult.None("server busy", isTemporary: true)
                : CaptionResult.Of("a caption", "test")
            );
        }
    }

    /// <summary>A score that fails after some clips, as a bug or the end of the process would.</summary>
    private sealed class Stopping : IClipScore
    {
        public int Allowed { get; set; }

        public int Calls;

        public IReadOnlyList<ScoreColumn> Columns { get; } = [new("calls", "1.")];

        public ValueTask<IReadOnlyList<ScoreValue>> ComputeAsync(ClipFrames frames, CancellationToken cancellationToken = default) =>
            Interlocked.Increment(ref Calls) <= Allowed ? new([1]) : throw new InvalidOperationException("stopped");
    }
}
