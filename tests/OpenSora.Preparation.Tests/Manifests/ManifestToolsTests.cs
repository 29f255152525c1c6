using OpenSora.Preparation.Manifests;

namespace OpenSora.Preparation.Tests.Manifests;

public sealed class ManifestToolsTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task Join_adds_the_values_of_the_same_path()
    {
        ManifestRow[] rows =
        [
            new() { Path = "a.mp4", Text = "old", NumFrames = 3, Fps = 24, Columns = [new("motion", 1), new("kind", "pan")] },
            new() { Path = "b.mp4", Text = "alone" },
            new() { Path = "a.mp4", Text = "another caption" },
        ];
        ManifestRow[] other =
        [
            new() { Path = "a.mp4", Text = "12", NumFrames = 5, Columns = [new("Motion", double.NaN), new("sharp", "007"), new("kind", default)] },
            new() { Path = "c.mp4", Columns = [new("late", 0.5)] },
        ];
        ManifestRow joined = new()
        {
            Path = "a.mp4",
            Text = "12",
            NumFrames = 5,
            Fps = 24,
            Columns = [new("motion", double.NaN), new("kind", "pan"), new("sharp", "007"), new("late", default)],
        };
        var dropped = new DropReport();
        (await rows.ToAsyncEnumerable().JoinAsync(other.ToAsyncEnumerable(), dropped: dropped).ToArrayAsync()).ShouldBe([
            joined,
            rows[1],
            joined with
            {
                Fps = null,
                Columns = [new("Motion", double.NaN), new("sharp", "007"), new("kind", default), new("late", default)],
            },
        ]);
        dropped.Counts.ShouldBe([new("join", "only in the other manifest", 1)]);

        (await rows.ToAsyncEnumerable().JoinAsync(other.ToAsyncEnumerable(), keepUnmatched: false, dropped).CountAsync()).ShouldBe(2);
        dropped.Counts.ShouldBe([new("join", "only in the other manifest", 2), new("join", "not in the other manifest", 1)]);

        var twice = await Should.ThrowAsync<PreparationException>(() =>
            rows.ToAsyncEnumerable().JoinAsync(rows.ToAsyncEnumerable()).CountAsync().AsTask()
        );
        twice.Message.ShouldContain("'a.mp4'");
        Directory.GetFiles(Path.GetTempPath(), "opensora-join-*").ShouldBeEmpty();
    }

    [Fact]
    public async Task Sample_is_uniform_and_repeatable()
    {
        var rows = Enumerable.Range(0, 20).Select(i => new ManifestRow { Path = $"{i:D2}" }).ToArray();
        var chosen = new Dictionary<string, int>();
        for (var seed = 0; seed < 2000; seed++)
        {
            var sample = await rows.ToAsyncEnumerable().SampleAsync(5, seed);
            sample.Count.ShouldBe(5);
            sample.Select(row => row.Path).ShouldBeInOrder();
            foreach (var row in sample)
            {
                chosen[row.Path] = chosen.GetValueOrDefault(row.Path) + 1;
            }
        }

        // 500 expected, with a standard deviation of 19.
        chosen.Count.ShouldBe(20);
        chosen.Values.ShouldAllBe(count => count > 410 && count < 590);
        (await rows.ToAsyncEnumerable().SampleAsync(5, 3)).ShouldBe(await rows.ToAsyncEnumerable().SampleAsync(5, 3));
        (await rows.ToAsyncEnumerable().SampleAsync(50)).ShouldBe(rows);
    }

    [Fact]
    public async Task Manifests_of_different_folders_are_concatenated_and_filtered()
    {
        Directory.CreateDirectory(_folder["one"]);
        Directory.CreateDirectory(_folder["two"]);
        await Manifest.WriteAsync(_folder["one/a.csv"], Rows(new ManifestRow { Path = "clips/a.mp4", Columns = [new("motion", 0.7)] }));
        await Manifest.WriteAsync(
            _folder["two/b.parquet"],
            Rows(new ManifestRow { Path = "../b's.mp4", Columns = [new("motion", 0.2)] }, new ManifestRow { Path = "/data/c.mp4" })
        );
        await Manifest.WriteAsync(
            _folder["all.csv"],
            Manifest
                .ReadAsync(_folder["one/a.csv"])
                .Rebase(_folder["one"], _folder.Path)
                .Concat(Manifest.ReadAsync(_folder["two/b.parquet"]).Rebase(_folder["two"], _folder.Path))
                .Where(row => row["motion"].Number is not < 0.5 || row.Path.StartsWith('b'))
        );
        (await Manifest.ReadAsync(_folder["all.csv"]).Select(row => row.Path).ToArrayAsync()).ShouldBe(["one/clips/a.mp4", "b's.mp4", "/data/c.mp4"]);
    }

    [Fact]
    public async Task Split_never_moves_files_when_others_are_added_or_renamed()
    {
        var rows = new List<ManifestRow>();
        for (var i = 0; i < 300; i++)
        {
            await File.WriteAllTextAsync(_folder[$"{i}.mp4"], $"contents {i}");
            rows.Add(new() { Path = $"{i}.mp4" });
        }

        var options = new SplitOptions { ValidationFraction = 0.2, Folder = _folder.Path };
        var (training, validation) = await rows.ToAsyncEnumerable().Take(100).SplitAsync(_folder["t1.csv"], _folder["v1.csv"], options);
        (training + validation).ShouldBe(100);
        validation.ShouldBeInRange(8, 35);
        var before = await PathsAsync("v1.csv");
        before.ShouldBeSubsetOf(rows.Take(100).Select(row => row.Path));
        (await PathsAsync("t1.csv")).ShouldBe(rows.Take(100).Select(row => row.Path).Except(before));

        // More clips, in another order, one of which has another name and one of which is a copy.
        File.Move(_folder[before[0]], _folder["renamed.mp4"]);
        File.Copy(_folder["renamed.mp4"], _folder["copy.mp4"]);
        var more = rows.AsEnumerable().Reverse().Where(row => !row.Path.Equals(before[0])).Append(new() { Path = "renamed.mp4" }).Append(new() { Path = "copy.mp4" });
        await more.ToAsyncEnumerable().SplitAsync(_folder["t2.parquet"], _folder["v2.parquet"], options);
        var after = await PathsAsync("v2.parquet");
        after.ShouldContain("renamed.mp4");
        after.ShouldContain("copy.mp4");
        before.Skip(1).ShouldBeSubsetOf(after);
        after.Intersect(await PathsAsync("t1.csv")).ShouldBeEmpty();

        options.Salt = "other";
        await rows.Skip(1).ToAsyncEnumerable().Where(row => !row.Path.Equals(before[0])).SplitAsync(_folder["t3.csv"], _folder["v3.csv"], options);
        (await PathsAsync("v3.csv")).Order().SequenceEqual(after.Order()).ShouldBeFalse();
    }

    [Fact]
    public async Task Split_keeps_rows_with_the_same_key_together_and_counts_files_that_cannot_be_read()
    {
        var rows = Enumerable.Range(0, 200).Select(i => new ManifestRow { Path = $"{i}.mp4", Columns = [new("source", $"film {i / 10}")] }).ToArray();
        var options = new SplitOptions { ValidationFraction = 0.3, Key = row => row["source"].ToString() };
        await rows.ToAsyncEnumerable().SplitAsync(_folder["t.csv"], _folder["v.csv"], options);
        var validation = await Manifest.ReadAsync(_folder["v.csv"]).ToArrayAsync();
        validation.Length.ShouldBeInRange(10, 190);
        validation.GroupBy(row => row["source"]).ShouldAllBe(film => film.Count() == 10);

        var dropped = new DropReport();
        options = new SplitOptions { Folder = _folder.Path };
        (await rows.ToAsyncEnumerable().SplitAsync(_folder["t4.csv"], _folder["v4.csv"], options, dropped)).ShouldBe((0, 0));
        dropped.Counts.ShouldBe([new("split", "file cannot be read", 200)]);
        await Should.ThrowAsync<PreparationException>(() => rows.ToAsyncEnumerable().SplitAsync(_folder["t5.csv"], _folder["v5.csv"], options));
        var invalid = rows.Append(new() { Path = "a", Text = "\0" }).ToAsyncEnumerable();
        options = new SplitOptions { Key = row => row.Path };
        (await Should.ThrowAsync<PreparationException>(() => invalid.SplitAsync(_folder["t5.csv"], _folder["v5.csv"], options)))
            .Reason.ShouldBe("not valid in a manifest");
        Directory.GetFiles(_folder.Path).Length.ShouldBe(4);
    }

    [Fact]
    public async Task Files_are_checked_and_repaired()
    {
        await Videos.MakeAsync("-f", "lavfi", "-i", "testsrc=size=64x36:rate=12", "-frames:v", "7", _folder["a, 'b'.mp4"]);
        await Videos.MakeAsync("-f", "lavfi", "-i", "testsrc=size=32x48:rate=1", "-frames:v", "1", _folder["image.png"]);
        await File.WriteAllTextAsync(_folder["text.mp4"], "not a video");
        Directory.CreateDirectory(_folder["folder.mp4"]);
        var whole = await File.ReadAllBytesAsync(_folder["image.png"]);
        await File.WriteAllBytesAsync(_folder["half.png"], whole[..(whole.Length / 2)]);
        ManifestRow video = new()
        {
            Path = "a, 'b'.mp4",
            NumFrames = 7,
            Height = 36,
            Width = 64,
            AspectRatio = 0.5625,
            Fps = 12,
            Resolution = 2304,
        };
        ManifestRow image = new() { Path = "image.png", NumFrames = 1, Height = 48, Width = 32, AspectRatio = 1.5, Resolution = 1536 };
        ManifestRow[] rows =
        [
            video,
            new() { Path = "a, 'b'.mp4", Text = "kept", NumFrames = 8, Columns = [new("x", 1)] },
            image,
            new() { Path = "image.png", NumFrames = 1, Width = 33 },
            new() { Path = "missing.mp4" },
            new() { Path = "text.mp4" },
            new() { Path = "folder.mp4" },
            new() { Path = "half.png" },
            new() { Path = "a, 'b'.mp4", Fps = 12.5 },
            new() { Path = "a, 'b'.mp4", AspectRatio = 0.5627 },
        ];
        var options = new ManifestFileOptions { Folder = _folder.Path, Parallelism = 3 };
        var problems = await rows.ToAsyncEnumerable().CheckFilesAsync(options).ToArrayAsync();
        problems.Select(problem => (Array.IndexOf(rows, problem.Row), problem.Reason)).ShouldBe([
            (1, "wrong num_frames"),
            (3, "wrong width"),
            (4, "file does not exist"),
            (5, "not a readable video"),
            (6, "not a file"),
            (7, problems.Single(problem => problem.Row.Path is "half.png").Reason),
            (8, "wrong fps"),
        ]);
        problems[0].Message.ShouldBe("The manifest has num_frames 8 for 'a, 'b'.mp4'; the file has 7.");

        var dropped = new DropReport();
        var reported = new List<ManifestProblem>();
        var repaired = await rows.ToAsyncEnumerable().RepairAsync(options, dropped, new Listed(reported)).ToArrayAsync();
        repaired.ShouldBe([video, video with { Text = "kept", Columns = [new("x", 1)] }, image, image, video, video]);
        dropped.Counts.Sum(count => count.Count).ShouldBe(4);
        reported.Select(problem => problem.Row.Path).ShouldBe(["missing.mp4", "text.mp4", "folder.mp4", "half.png"]);
        (await repaired.ToAsyncEnumerable().CheckFilesAsync(options).CountAsync()).ShouldBe(0);
    }

    private static IAsyncEnumerable<ManifestRow> Rows(params ManifestRow[] rows) => rows.ToAsyncEnumerable();

    private async Task<string[]> PathsAsync(string name) => await Manifest.ReadAsync(_folder[name]).Select(row => row.Path).ToArrayAsync();

    private sealed class Listed(List<ManifestProblem> list) : IProgress<ManifestProblem>
    {
        public void Report(ManifestProblem value) => list.Add(value);
    }
}
