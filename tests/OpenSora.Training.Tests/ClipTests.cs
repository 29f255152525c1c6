using OpenSora.Media;
using OpenSora.Training.Data;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

public class ClipTests
{
    [Fact]
    public void Clips_are_assigned_to_the_bucket_that_keeps_most_of_them()
    {
        Bucket[] buckets = [new(1, 256, 256, 8), new(16, 256, 256, 4), new(16, 240, 426, 4), new(16, 426, 240, 4), new(64, 512, 512, 1)];
        (int, int, int)[] clips = [(1, 300, 300), (20, 720, 1280), (20, 1280, 720), (100, 600, 600), (100, 500, 500), (30, 100, 100), (16, 256, 256)];
        var (chosen, left) = Bucket.Sort(clips, buckets);
        chosen.ShouldBe([
            [0],
            [4, 6],
            [1],
            [2],
            [3],
        ]);
        left.ShouldBe([5], "too small for any");

        // Half of the clips of a bucket move on to the next one.
        var many = Enumerable.Repeat((100, 600, 600), 1000).ToArray();
        var (shared, none) = Bucket.Sort(many, [new(64, 512, 512, 1, Share: 0.5), new(16, 256, 256, 4)], seed: 3);
        shared[0].Length.ShouldBeInRange(450, 550);
        (shared[0].Length + shared[1].Length).ShouldBe(1000);
        none.ShouldBeEmpty();
        Bucket.Sort(many, [new(64, 512, 512, 1, Share: 0.5)], seed: 3).Clips[0].ShouldBe(shared[0]);
    }

    [Fact]
    public async Task A_batch_contains_one_bucket_and_an_epoch_contains_all()
    {
        var (large, small) = (new Numbered(5, "large"), new Numbered(9, "small"));
        var data = new BucketedData((new Bucket(8, 64, 64, 2), large), (new Bucket(1, 64, 64, 4), small));
        data.Count.ShouldBe(14);
        data.Fingerprint.ShouldBe("2 of (large) + 4 of (small)");
        const int Epoch = 3 + 3;
        for (var epoch = 0; epoch < 3; epoch++)
        {
            for (var i = 0; i < Epoch; i++)
            {
                (await data.GetBatchAsync(epoch * Epoch + i, size: 99, seed: 1)).Dispose();
            }

            large.Asked.Order().ShouldBe(Enumerable.Range(epoch * 3, 3).Select(number => ((long)number, 2)));
            small.Asked.Order().ShouldBe(Enumerable.Range(epoch * 3, 3).Select(number => ((long)number, 4)));
            (large.Asked, small.Asked) = ([], []);
        }
        (await data.GetBatchAsync(7, 1, seed: 1)).Dispose();
        (await data.GetBatchAsync(7, 50, seed: 1)).Dispose();
        large.Asked.Concat(small.Asked).Distinct().Count().ShouldBe(1, "a batch is a function of its number and the seed");
        Should.Throw<ArgumentException>(() => new BucketedData((new Bucket(1, 1, 1, 2), new Numbered(0, "none")))).Message.ShouldContain("No bucket");
    }

    [Fact]
    public async Task Prefetching_does_not_change_batches()
    {
        var before = TensorCount.Now;
        var numbers = new Numbers();
        var stage = Tiny.Stage(data: new Numbers());
        stage.Prefetch = 2;
        await using (var batches = new StageBatches(stage, first: 5))
        {
            for (var number = 5; number < 9; number++)
            {
                using var expected = await numbers.GetBatchAsync(number, stage.BatchSize, stage.Seed);
                using var batch = await batches.NextAsync(default);
                batch.Video.data<float>().ToArray().ShouldBe(expected.Video.data<float>().ToArray());
                batch.Text!.data<long>().ToArray().ShouldBe(expected.Text!.data<long>().ToArray());
            }
        }
        TensorCount.ShouldBe(before, "the batches that waited are gone as well");

        stage.Data = new Numbered(9, "broken") { Broken = 1 };
        await using var broken = new StageBatches(stage, first: 0);
        (await broken.NextAsync(default)).Dispose();
        (await Should.ThrowAsync<InvalidDataException>(() => broken.NextAsync(default).AsTask())).Message.ShouldBe("batch 1");
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(3)]
    public async Task No_more_batches_wait_than_were_asked_for(int prefetch)
    {
        var data = new Numbered(9, "few");
        var stage = Tiny.Stage(data: data);
        stage.Prefetch = prefetch;
        await using (var batches = new StageBatches(stage, first: 0))
        {
            using var first = await batches.NextAsync(default);
            for (var wait = 0; wait < 100 && data.Asked.Count < 1 + prefetch; wait++)
            {
                await Task.Delay(20);
            }

            await Task.Delay(50);
        }
        data.Asked.ConvertAll(asked => asked.Number).ShouldBe(Enumerable.Range(0, 1 + prefetch).Select(number => (long)number));
    }

    [Fact]
    public async Task Bad_clips_are_replaced_and_counted()
    {
        var reported = new List<(int Index, string Reason)>();
        var source = new Shaky(20, bad: [3, 7]);
        var clips = new ReplacingClips(source, new Listed(reported));
        for (var round = 0; round < 2; round++)
        {
            var seen = new string[20];
            for (var i = 0; i < seen.Length; i++)
            {
                using var clip = await clips.LoadAsync(i, new Random(0));
                seen[i] = clip.Captions[0];
            }

            seen.Index().Where(clip => clip.Index is not (3 or 7)).ShouldAllBe(clip => clip.Item.Equals($"{clip.Index}", StringComparison.Ordinal));
            seen.ShouldNotContain("3");
            seen.ShouldBe(round == 0 ? seen : source.FirstRound);
            source.FirstRound = seen;
        }
        reported.ShouldBe([(3, "clip 3 is broken"), (7, "clip 7 is broken")]);

        var hopeless = new ReplacingClips(new Shaky(20, bad: [.. Enumerable.Range(0, 20)]));
        (await Should.ThrowAsync<InvalidDataException>(() => hopeless.LoadAsync(0, new Random(0)).AsTask())).Message.ShouldContain(
            "of 20 clips could not be loaded"
        );
        new ReplacingClips(new Shaky(20, bad: [1])).Fingerprint.ShouldBe("shaky");
    }

    [Fact]
    public async Task A_folder_is_a_source_and_clips_vary_as_requested()
    {
        using var folder = new TemporaryFolder();
        Directory.CreateDirectory(folder["more"]);
        using (var scope = NewDisposeScope())
        {
            // 8 frames, each brighter than the last; from left to right as well.
            var ramp = linspace(-0.9, 0.3, 8).view(1, 8, 1, 1) + linspace(0, 0.5, 32).view(1, 1, 1, 32);
            await new VideoWriter().WriteAsync(VideoFrames.FromTensor(ramp.expand(3, 8, 16, 32), 8), folder["more/a-gray_ramp.mp4"]);
            await new VideoWriter().WriteAsync(VideoFrames.FromTensor(ramp.expand(3, 8, 16, 32), 8), folder["other.mp4"]);
        }
        await File.WriteAllTextAsync(folder["other.txt"], "one caption\n\nanother\n");
        await File.WriteAllTextAsync(folder["notes.md"], "no clip");

        var clip = new ClipOptions
        {
            Width = 16,
            Height = 16,
            Frames = 3,
            FrameInterval = 2,
        };
        var plain = VideoTable.FromFolder(folder.Path, new VideoReader(), clip);
        plain.Paths.Select(path => Path.GetRelativePath(folder.Path, path)).ShouldBe(["more/a-gray_ramp.mp4", "other.mp4"]);
        (await plain.SizesAsync()).ShouldBe([(4, 16, 32), (4, 16, 32)]);
        await File.WriteAllTextAsync(folder["zzz.mp4"], "no video");
        var reported = new List<(int Index, string Reason)>();
        (await VideoTable.FromFolder(folder.Path, new VideoReader(), clip).SizesAsync(new Listed(reported))).ShouldBe([
            (4, 16, 32),
            (4, 16, 32),
            (0, 0, 0),
        ]);
        reported.ShouldHaveSingleItem().Index.ShouldBe(2);
        (
            await Should.ThrowAsync<MediaException>(() => VideoTable.FromFolder(folder.Path, new VideoReader(), clip).SizesAsync())
        ).Message.ShouldContain("zzz.mp4");
        File.Delete(folder["zzz.mp4"]);
        var before = TensorCount.Now;
        using (var whole = await plain.LoadAsync(0, new Random(0)))
        {
            whole.Captions.ShouldBe(["a gray ramp"]);
        }

        using (var captions = await plain.Select([1]).LoadAsync(0, new Random(0)))
        {
            captions.Captions.ShouldBe(["one caption", "another"]);
        }

        plain.Select([1]).Fingerprint.ShouldNotBe(plain.Fingerprint);

        var varied = plain.Vary(start: true, crop: true, mirror: 0.5);
        varied.Fingerprint.ShouldNotBe(plain.Fingerprint);
        var (starts, lefts, slopes) = (new HashSet<double>(), new HashSet<double>(), new HashSet<int>());
        for (var i = 0; i < 8; i++)
        {
            using var clipped = await varied.LoadAsync(0, new Random(i));
            using var again = await varied.LoadAsync(0, new Random(i));
            using var scope = NewDisposeScope();
            var video = clipped.Video;
            video.shape.ShouldBe([3, 3, 16, 16]);
            again.Video.data<float>().ToArray().ShouldBe(video.data<float>().ToArray());
            starts.Add(Math.Round(video.mean().item<float>(), 2));
            lefts.Add(Math.Round(Math.Min(video[0, 0, 0, 0].item<float>(), video[0, 0, 0, 15].item<float>()), 2));
            slopes.Add(Math.Sign(video[0, 0, 0, 15].item<float>() - video[0, 0, 0, 0].item<float>()));
        }
        starts.Count.ShouldBeGreaterThan(3);
        lefts.Count.ShouldBeGreaterThan(3);
        slopes.ShouldBe([1, -1], ignoreOrder: true);
        TensorCount.ShouldBe(before);

        Should
            .Throw<InvalidOperationException>(() => VideoTable.FromFolder(folder.Path, new VideoReader(), new ClipOptions()).Vary(crop: true))
            .Message.ShouldContain("Width");
        Should.Throw<ArgumentOutOfRangeException>(() => plain.Vary(mirror: double.NaN));
        Should
            .Throw<InvalidDataException>(() => VideoTable.FromFolder(Directory.CreateDirectory(folder["empty"]).FullName, new VideoReader(), clip))
            .Message.ShouldContain("no videos");
    }

    /// <summary>Records which batches were requested.</summary>
    private sealed class Numbered(long count, string name) : ITrainingData
    {
        public long Count => count;

        public string Fingerprint => name;

        public long Broken { get; init; } = -1;

        public List<(long Number, int Size)> Asked { get; set; } = [];

        public ValueTask<TrainingBatch> GetBatchAsync(long number, int size, int seed, CancellationToken cancellationToken = default)
        {
            if (number == Broken)
            {
                throw new InvalidDataException($"batch {number}");
            }

            Asked.Add((number, size));
            return ValueTask.FromResult(new TrainingBatch(zeros([size, 1, 1, 1, 1])));
        }
    }

    private sealed class Shaky(int count, int[] bad) : IClipSource
    {
        public int Count => count;

        public string Fingerprint => "shaky";

        public string[] FirstRound { get; set; } = [];

        public async ValueTask<CaptionedClip> LoadAsync(int index, Random random, CancellationToken cancellationToken = default)
        {
            await Task.Yield();
            return bad.Contains(index) ? throw new MediaException($"clip {index} is broken") : new CaptionedClip(zeros([3, 1, 2, 2]), [$"{index}"]);
        }
    }

    private sealed class Listed(List<(int Index, string Reason)> reported) : IProgress<(int Index, string Reason)>
    {
        public void Report((int Index, string Reason) value) => reported.Add(value);
    }
}
