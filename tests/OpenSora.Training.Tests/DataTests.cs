using OpenSora.Media;
using OpenSora.Models;
using OpenSora.Text;
using OpenSora.Training.Data;
using OpenSora.Training.Objectives;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

public class DataTests
{
    [Fact]
    public void Every_epoch_contains_every_sample_once_in_its_own_order()
    {
        var order = new SampleOrder(10);
        var samples = Enumerable.Range(0, 10).SelectMany(i => order.Batch(i, 3, seed: 5)).ToArray();
        for (var epoch = 0; epoch < 3; epoch++)
        {
            samples.Skip(epoch * 10).Take(10).Order().ShouldBe(Enumerable.Range(0, 10));
        }

        samples.Take(10).ShouldNotBe(samples.Skip(10).Take(10));
        new SampleOrder(10).Batch(7, 3, seed: 5).ShouldBe(samples.Skip(21).Take(3));
        new SampleOrder(10).Batch(7, 3, seed: 6).ShouldNotBe(samples.Skip(21).Take(3));
        TrainingData.ShuffledBatch(10, 7, 3, seed: 5).ShouldBe(samples.Skip(21).Take(3));
        TrainingData.ShuffledBatch(11, 0, 11, seed: 5).Order().ShouldBe(Enumerable.Range(0, 11));
    }

    [Fact]
    public void Random_numbers_are_the_same_everywhere()
    {
        Randomness.Mix(42, 1, 2).ShouldBe(Randomness.Mix(42, 1, 2));
        Randomness.Mix(42, 1, 2).ShouldNotBe(Randomness.Mix(42, 2, 1));
        Randomness.Mix(42).ShouldNotBe(Randomness.Mix(43));
    }

    [Fact]
    public async Task Sources_take_turns_and_each_continues_where_it_stopped()
    {
        var (clips, images) = (new Numbers(2), new Numbers(1));
        var mixed = new MixedData((clips, 1), (images, 2.5), (clips, 1));
        for (var i = 0; i < 6; i++)
        {
            using var batch = await mixed.GetBatchAsync(i, 2, seed: 1);
            batch.Video.shape[0].ShouldBe(i % 3 == 1 ? 5 : 2);
        }
        clips.Asked.ShouldBe([0, 1, 2, 3]);
        images.Asked.ShouldBe([0, 1]);
        mixed.Count.ShouldBe(200);
        Should.Throw<ArgumentException>(() => new MixedData());
    }

    [Fact]
    public void The_learning_rate_rises_and_falls()
    {
        var stage = new TrainingStage
        {
            Steps = 110,
            WarmUpSteps = 10,
            LearningRate = 2,
            FinalLearningRate = 1,
            TimeLimit = TimeSpan.FromSeconds(100),
        };
        stage.LearningRateAt(0, TimeSpan.Zero).ShouldBe(0.2, 1e-9);
        stage.LearningRateAt(10, TimeSpan.Zero).ShouldBe(2, 1e-9);
        stage.LearningRateAt(60, TimeSpan.Zero).ShouldBe(1.5, 1e-9);
        stage.LearningRateAt(110, TimeSpan.Zero).ShouldBe(1, 1e-9);
        stage.LearningRateAt(20, TimeSpan.FromSeconds(50)).ShouldBe(1.5, 1e-9); // time runs ahead of the steps
        stage.FinalLearningRate = null;
        stage.LearningRateAt(100, TimeSpan.FromSeconds(90)).ShouldBe(2);
    }

    [Fact]
    public async Task Latents_are_encoded_once_and_again_when_clips_or_weights_change()
    {
        using var folder = new TemporaryFolder();
        var path = folder["latents.safetensors"];
        using var vae = Vae(1);
        var source = new Colors(5);
        var reported = new List<int>();
        var size = new Bytes(path);
        using (var clip = await source.LoadAsync(3, new Random(0)))
        using (
            var cache = await LatentCache.OpenOrCreateAsync(
                path,
                LatentCache.KeyOf(source, vae),
                source,
                vae,
                progress: new Counted(reported),
                size: size
            )
        )
        {
            size.Received.ShouldBe(5L * 2 * 3 * 4 * 4 * 2);
            cache.Latents.shape.ShouldBe([5, 2, 3, 4, 4]);
            cache.Captions[4].ShouldBe(["color 4", "nothing else"]);
            reported[^1].ShouldBe(5);
            (5L * 2 * 3 * 4 * 4 * 2).ShouldBe(LatentCache.SizeOf(5, 3, 8, 8, vae));
            using var scope = NewDisposeScope();
            var expected = vae.Encode(clip.Video.unsqueeze(0));
            (cache.Latents[3] - expected[0]).abs().max().item<float>().ShouldBeLessThan(0.02f);
        }

        reported.Clear();
        (await LatentCache.OpenOrCreateAsync(path, LatentCache.KeyOf(source, vae), source, vae, progress: new Counted(reported))).Dispose();
        reported.ShouldBeEmpty();
        var more = new Colors(6);
        (await LatentCache.OpenOrCreateAsync(path, LatentCache.KeyOf(more, vae), more, vae, progress: new Counted(reported))).Dispose();
        reported[^1].ShouldBe(6);
        using var other = Vae(2);
        LatentCache.KeyOf(source, other).ShouldNotBe(LatentCache.KeyOf(source, vae));
        using var scaled = new AutoencoderKL(vae.Config with { ScalingFactor = 2 * vae.ScalingFactor }, initialize: false);
        scaled.load_state_dict(vae.state_dict());
        LatentCache.KeyOf(source, scaled).ShouldNotBe(LatentCache.KeyOf(source, vae)); // its latents are twice as large
        reported.Clear();
        foreach (var expected in new[] { 6, 0 })
        {
            (await LatentCache.OpenOrCreateAsync(path, LatentCache.KeyOf(more, vae), more, vae, seed: 2, progress: new Counted(reported))).Dispose();
            reported.LastOrDefault().ShouldBe(expected); // another seed is another cache, which is then there
            reported.Clear();
        }

        using var stop = new CancellationTokenSource();
        stop.Cancel();
        await Should.ThrowAsync<OperationCanceledException>(() =>
            LatentCache.OpenOrCreateAsync(folder["no"], "key", source, vae, cancellationToken: stop.Token)
        );
        File.Exists(folder["no"]).ShouldBeFalse();
    }

    [Fact]
    public async Task Batches_hold_a_window_of_the_latents_with_ids_or_states()
    {
        using var folder = new TemporaryFolder();
        using var vae = Vae(1);
        var source = new Colors(5);
        var before = 0L;
        using (var cache = await LatentCache.OpenOrCreateAsync(folder["latents"], "key", source, vae))
        {
            var ids = new LatentData(cache, new Letters(), 6) { Frames = 2 };
            before = TensorCount.Now;
            using (var batch = await ids.GetBatchAsync(3, 4, seed: 1))
            using (var again = await ids.GetBatchAsync(3, 4, seed: 1))
            {
                batch.Video.shape.ShouldBe([4, 2, 2, 4, 4]);
                batch.Text.ShouldNotBeNull().shape.ShouldBe([4, 6]);
                using (NewDisposeScope())
                {
                    batch.Text.ne(0).eq(batch.Mask!).all().item<bool>().ShouldBeTrue();
                }

                again.Text!.data<long>().ToArray().ShouldBe(batch.Text.data<long>().ToArray());
                again.Video.data<float>().ToArray().ShouldBe(batch.Video.data<float>().ToArray());
            }
            TensorCount.ShouldBe(before);

            var encoder = new Widths();
            var states = new LatentData(cache, encoder);
            for (var i = 0; i < 8; i++)
            {
                using var batch = await states.GetBatchAsync(i, 4, seed: 1);
                batch.Text.ShouldNotBeNull().shape.ShouldBe([4, 6, 3]);
            }
            encoder.Calls.ShouldBeLessThanOrEqualTo(6); // five colors and "nothing else", each encoded once
        }
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Captions_get_the_same_token_ids_as_prompts(bool clean)
    {
        using var folder = new TemporaryFolder();
        using var vae = Vae(1);
        var source = new Colors(1) { Caption = " A RED Balloon <b>&amp;</b> more " };
        using var cache = await LatentCache.OpenOrCreateAsync(folder["latents"], "key", source, vae);
        var data = new LatentData(cache, new Letters(), 40, cleanCaptions: clean);
        using var encoder = new T5TextEncoder(
            new T5Config
            {
                VocabSize = 60,
                DModel = 8,
                DKv = 4,
                DFf = 16,
                NumLayers = 1,
                NumHeads = 2,
            },
            new Letters(),
            40,
            clean
        );
        using var batch = await data.GetBatchAsync(0, 1, seed: 1);
        using var expected = encoder.Encode([source.Caption]);
        using var states = encoder.forward(batch.Text!, batch.Mask);
        (states - expected.States).abs().max().item<float>().ShouldBeLessThan(2e-6f); // batches of other sizes are rounded differently
    }

    [Fact]
    public async Task Every_nth_frame_is_taken_from_any_start()
    {
        using var folder = new TemporaryFolder();
        using var vae = Vae(1);
        using var cache = await LatentCache.OpenOrCreateAsync(folder["latents"], "key", new Colors(3) { Frames = 8 }, vae);
        var sparse = new LatentData(cache, new Letters(), 6) { Frames = 3, FrameInterval = 2 };
        var whole = new LatentData(cache, new Letters(), 6) { FrameInterval = 3 };
        sparse.Fingerprint.ShouldContain("every 2");
        using (var batch = await whole.GetBatchAsync(0, 3, seed: 1))
        {
            batch.Video.shape[2].ShouldBe(3); // 0, 3 and 6, or 1, 4 and 7
        }

        List<TrainingBatch> batches = [];
        for (var number = 0; number < 8; number++)
        {
            batches.Add(await sparse.GetBatchAsync(number, 3, seed: 1));
        }

        using var scope = NewDisposeScope();
        var starts = batches
            .SelectMany(batch => batch.Video.unbind(0))
            .Select(clip =>
                Enumerable
                    .Range(0, 4)
                    .Single(start =>
                        Enumerable
                            .Range(0, 3)
                            .Any(i =>
                                (cache.Latents[i].slice(1, start, start + 5, 2).to_type(ScalarType.Float32) - clip).abs().max().item<float>() == 0
                            )
                    )
            )
            .ToHashSet();
        starts.ShouldBe([0, 1, 2, 3], ignoreOrder: true);
        batches.ForEach(batch => batch.Dispose());
    }

    [Fact]
    public async Task Windows_start_with_the_requested_frame()
    {
        using var folder = new TemporaryFolder();
        using var vae = Vae(1);
        using var cache = await LatentCache.OpenOrCreateAsync(folder["latents"], "key", new Colors(1) { Frames = 8 }, vae);
        var data = new LatentData(cache, new Letters(), 6)
        {
            Frames = 3,
            FrameInterval = 2,
            FirstFrame = 1,
        };
        var late = new LatentData(cache, new Letters(), 6)
        {
            Frames = 3,
            FrameInterval = 2,
            FirstFrame = 6,
        }; // only 3 leaves room
        data.Fingerprint.ShouldContain("every 2 from 1, tokens 6");
        for (var number = 0; number < 8; number++)
        {
            (await DifferenceAsync(data, number, 1)).ShouldBe(0);
            (await DifferenceAsync(late, number, 3)).ShouldBe(0);
        }
        (await DifferenceAsync(data, 0, 2)).ShouldBeGreaterThan(0);
        Should.Throw<ArgumentOutOfRangeException>(() => data.FirstFrame = -1);

        async Task<float> DifferenceAsync(LatentData windows, int number, int first)
        {
            using var batch = await windows.GetBatchAsync(number, 1, seed: 1);
            using var scope = NewDisposeScope();
            return (batch.Video[0] - cache.Latents[0].slice(1, first, first + 5, 2).to_type(ScalarType.Float32)).abs().max().item<float>();
        }
    }

    [Fact]
    public async Task A_different_selection_from_a_cache_is_different_data()
    {
        using var folder = new TemporaryFolder();
        using var vae = Vae(1);
        using var cache = await LatentCache.OpenOrCreateAsync(folder["latents"], "key", new Colors(4), vae);
        string Of(params int[] clips)
        {
            var data = new LatentData(cache, new Letters(), 6, clips);
            return data.Fingerprint;
        }
        Of(0, 1).ShouldBe(Of(0, 1));
        Of(0, 1).ShouldNotBe(Of(1, 2));
    }

    [Fact]
    public async Task A_cache_accepts_clips_of_one_size_only()
    {
        using var folder = new TemporaryFolder();
        using var vae = Vae(1);
        (
            await Should.ThrowAsync<InvalidDataException>(() =>
                LatentCache.OpenOrCreateAsync(folder["latents"], "key", new Colors(3) { Growing = true }, vae)
            )
        ).Message.ShouldContain("the same size");
        Directory.GetFileSystemEntries(folder.Path).ShouldBeEmpty();
    }

    [Fact]
    public async Task Pixels_are_cropped_at_random()
    {
        var data = new PixelData(new Colors(5)) { Crop = 4 };
        using var batch = await data.GetBatchAsync(0, 3, seed: 1);
        batch.Video.shape.ShouldBe([3, 3, 3, 4, 4]);
        data.Crop = 99;
        (await Should.ThrowAsync<InvalidDataException>(() => data.GetBatchAsync(0, 3, seed: 1).AsTask())).Message.ShouldContain("too small");
    }

    [Fact]
    public async Task An_autoencoder_learns_to_reconstruct_its_images()
    {
        using var vae = Vae(1);
        var psnr = new List<double>();
        using var trainer = new StagedTrainer(new VaeTraining(vae)).AddStage(
            new TrainingStage
            {
                Name = "vae",
                Data = new PixelData(new Colors(5)),
                Steps = 150,
                BatchSize = 5,
                LearningRate = 3e-3,
                EmaDecay = null,
            }
        );
        await trainer.RunAsync(new ActionProgress(p => psnr.Add(p.Parts["psnr"])));
        psnr.TakeLast(5).Average().ShouldBeGreaterThan(psnr.Take(5).Average() + 2);
    }

    [Fact]
    public async Task A_table_lists_videos_with_captions()
    {
        using var folder = new TemporaryFolder();
        using (var scope = NewDisposeScope())
        {
            var frames = VideoFrames.FromTensor(zeros([3L, 4L, 16L, 16L]), 8);
            await new VideoWriter().WriteAsync(frames, folder["clip.mp4"]);
        }
        await File.WriteAllTextAsync(
            folder["list.csv"],
            "caption,path,more\r\n\"a \"\"gray\"\" square,\nstill\",clip.mp4,1\nanother name,clip.mp4,2\n\n"
        );
        var before = TensorCount.Now;
        var table = new VideoTable(
            folder["list.csv"],
            new VideoReader(),
            new ClipOptions
            {
                Width = 8,
                Height = 8,
                Frames = 6,
            }
        );
        table.Count.ShouldBe(1);
        await Should.ThrowAsync<InvalidDataException>(() => table.LoadAsync(0, new Random(0)).AsTask());
        using (var clip = await table.PadShortClips().LoadAsync(0, new Random(0)))
        {
            clip.Video.shape.ShouldBe([3, 6, 8, 8]); // the last frame repeated
            clip.Captions.ShouldBe(["a \"gray\" square,\nstill", "another name"]);
        }
        TensorCount.ShouldBe(before);

        Broken("path\nclip.mp4\n").Message.ShouldContain("caption");
        Broken("path,caption\nclip.mp4\n").Message.ShouldContain("fields");
        Broken("path,caption\n").Message.ShouldContain("no files");
        Broken("path,caption\nclip.mp4,\"open\n").Message.ShouldContain("quotation mark");
        Broken("").Message.ShouldContain("columns");
        File.WriteAllText(folder["list.csv"], "path,caption\nmissing.mp4,x\n");
        Should
            .Throw<FileNotFoundException>(() => new VideoTable(folder["list.csv"], new VideoReader(), new ClipOptions()))
            .Message.ShouldContain("missing.mp4");

        InvalidDataException Broken(string text)
        {
            File.WriteAllText(folder["list.csv"], text);
            return Should.Throw<InvalidDataException>(() => new VideoTable(folder["list.csv"], new VideoReader(), new ClipOptions()));
        }
    }

    private static AutoencoderKL Vae(int seed)
    {
        manual_seed(seed);
        return new AutoencoderKL(
            new AutoencoderKLConfig
            {
                BlockOutChannels = [4, 8],
                LayersPerBlock = 1,
                NormNumGroups = 2,
                LatentChannels = 2,
                ScalingFactor = 1,
            }
        );
    }

    /// <summary>Clips of one color each, with the last frames slightly lighter than the first.</summary>
    private sealed class Colors(int count) : IClipSource
    {
        public int Count => count;

        public string Fingerprint => $"{count} colors";

        public bool Growing { get; init; }

        public string? Caption { get; init; }

        public long Frames { get; init; } = 3;

        public ValueTask<CaptionedClip> LoadAsync(int index, Random random, CancellationToken cancellationToken = default)
        {
            var size = Growing ? 8 + 2 * index : 8;
            using var scope = NewDisposeScope();
            var video = full([3L, Frames, size, size], index / 4.0f - 0.5f) + arange(0, Frames, ScalarType.Float32).view(1, Frames, 1, 1) / 50;
            return ValueTask.FromResult(
                new CaptionedClip(video.MoveToOuterDisposeScope(), Caption is null ? [$"color {index}", "nothing else"] : [Caption])
            );
        }
    }

    private sealed class Letters : ITokenizer
    {
        public int PadId => 0;

        public IReadOnlyList<int> Encode(string text, int maxTokens) => [.. text.Take(maxTokens - 1).Select(letter => letter % 50 + 2), 1];
    }

    private sealed class Widths : ITextEncoder
    {
        public int Calls { get; private set; }

        public int Width => 3;

        public int MaxTokens => 6;

        public TextStates Encode(IReadOnlyList<string> prompts)
        {
            Calls++;
            var mask = zeros([prompts.Count, 6L], ScalarType.Bool);
            mask.narrow(1, 0, 4).fill_(true);
            return new TextStates(ones([prompts.Count, 6L, 3L]), mask);
        }

        public void Dispose() { }
    }

    /// <summary>Records the size of a cache, which is reported before a file exists.</summary>
    private sealed class Bytes(string path) : IProgress<long>
    {
        public long Received { get; private set; }

        public void Report(long value)
        {
            File.Exists(path).ShouldBeFalse();
            Received = value;
        }
    }

    private sealed class Counted(List<int> reported) : IProgress<int>
    {
        public void Report(int value) => reported.Add(value);
    }
}
