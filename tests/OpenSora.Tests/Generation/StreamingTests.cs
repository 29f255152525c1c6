using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Generation;

/// <summary>Tests frames that arrive while the video is decoded, previews, and cancellation within a step.</summary>
[Collection(nameof(LiveTensorCount))]
public class StreamingTests
{
    [Fact]
    public async Task Frames_arrive_in_pieces_that_make_up_the_video()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        var request = new VideoRequest
        {
            Prompt = "a goat",
            Frames = 8,
            Seed = 1,
        };
        var whole = (await generator.GenerateAsync(request)).Frames;
        List<VideoFrames> pieces = [];
        var decoded = 0;
        await foreach (
            var piece in generator.GenerateStreamingAsync(request, new Listener(p => decoded += p.Stage == GenerationStage.Decoding ? 1 : 0))
        )
        {
            pieces.Add(piece);
        }

        pieces.Select(piece => piece.Count).ShouldBe([4, 4]);
        decoded.ShouldBe(3);
        pieces.SelectMany(piece => piece.Pixels.ToArray()).ShouldBe(whole.Pixels.ToArray());
    }

    [Fact]
    public async Task To_stop_enumerating_cancels_the_generation()
    {
        using var model = new TinyModel();
        var vae = new SlowVae();
        using var generator = model.Builder().UseVae(_ => vae).Build();
        await generator.LoadAsync();
        var before = TensorCount.Settled;
        var request = new VideoRequest
        {
            Prompt = "a goat",
            Frames = 48,
            WindowFrames = 8,
            Steps = 1,
        };
        await foreach (var _ in generator.GenerateStreamingAsync(request))
        {
            break;
        }

        vae.Decoded.ShouldBeLessThan(12);
        var rest = 0;
        await foreach (var piece in generator.GenerateStreamingAsync(request))
        {
            rest += piece.Count;
        }

        rest.ShouldBe(48);

        TensorCount.ShouldBe(before);
    }

    private sealed class SlowVae : IVideoAutoencoder
    {
        private readonly TinyVae _vae = new();

        public int Decoded { get; private set; }

        public int LatentChannels => _vae.LatentChannels;

        public int SpatialFactor => _vae.SpatialFactor;

        public int TemporalFactor => _vae.TemporalFactor;

        public Tensor Encode(Tensor video, Generator? generator = null) => _vae.Encode(video, generator);

        public Tensor Decode(Tensor latents)
        {
            Decoded++;
            Thread.Sleep(20);
            return _vae.Decode(latents);
        }

        public void Dispose() => _vae.Dispose();
    }

    [Fact]
    public async Task Errors_reach_the_reader()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        await Should.ThrowAsync<ArgumentException>(async () =>
        {
            await foreach (var _ in generator.GenerateStreamingAsync(new VideoRequest { Frames = 99 })) { }
        });
        using var canceled = new CancellationTokenSource();
        await Should.ThrowAsync<OperationCanceledException>(async () =>
        {
            var progress = new Listener(p =>
            {
                if (p.Stage == GenerationStage.Denoising)
                {
                    canceled.Cancel();
                }
            });
            await foreach (var _ in generator.GenerateStreamingAsync(new VideoRequest(), progress, canceled.Token)) { }
        });
    }

    [Theory]
    [InlineData("stdit")]
    [InlineData("stdit2")]
    [InlineData("stdit3")]
    public async Task Cancellation_stops_before_the_first_step(string architecture)
    {
        using var model = new TinyModel(architecture: architecture, change: d => architecture is "stdit3" ? Flow(d) : d);
        using var generator = model.Generator();
        await generator.LoadAsync();
        var before = TensorCount.Settled;
        using var source = new CancellationTokenSource();
        List<int> steps = [];
        await Should.ThrowAsync<OperationCanceledException>(() =>
            generator.GenerateAsync(
                new VideoRequest { Prompt = "a goat", GuidanceScale = 1 },
                new Listener(p =>
                {
                    if (p.Stage == GenerationStage.Denoising)
                    {
                        steps.Add(p.Step);
                        source.Cancel();
                    }
                }),
                source.Token
            )
        );
        steps.ShouldBe([0]);
        TensorCount.ShouldBe(before);
    }

    // Canceled from within the first block: neither the block after it nor the step is completed.
    [Fact]
    public void Blocks_check_the_token()
    {
        using var scope = NewDisposeScope();
        using var source = new CancellationTokenSource();
        using var model = new StdiT(
            new StdiTConfig
            {
                InputSize = [2, 4, 4],
                HiddenSize = 32,
                Depth = 3,
                NumHeads = 2,
                CaptionChannels = 8,
                ModelMaxLength = 4,
            }
        );
        List<int> blocks = [];
        foreach (var (i, block) in model.modules().OfType<StdiTBlock>().Index())
        {
            block.register_forward_hook(
                (_, _, _, _, _, _, _, output) =>
                {
                    blocks.Add(i);
                    source.Cancel();
                    return output;
                }
            );
        }

        var conditions = new DenoiserConditions(zeros([1, 4, 8])) { CancellationToken = source.Token };
        Should.Throw<OperationCanceledException>(() => model.Denoise(zeros([1, 4, 2, 4, 4]), zeros([1]), conditions));
        blocks.ShouldBe([0]);
        model.Denoise(zeros([1, 4, 2, 4, 4]), zeros([1]), new DenoiserConditions(zeros([1, 4, 8]))).shape[2].ShouldBe(2);
        blocks.ShouldBe([0, 0, 1, 2]);
    }

    [Fact]
    public async Task Previews_show_the_video_so_far()
    {
        using var generator = VideoGenerator.Create().UseModel("stickers").UseBackend("cpu").Build();
        var request = new VideoRequest
        {
            Prompt = "a goat",
            Frames = 4,
            Seed = 7,
            Steps = 6,
            PreviewEvery = 2,
        };
        List<(int Step, VideoFrames Preview)> previews = [];
        var video = (
            await generator.GenerateAsync(request, new Listener(p => previews.AddRange(p.Preview is { } preview ? [(p.Step, preview)] : [])))
        ).Frames;
        previews.Select(preview => preview.Step).ShouldBe([2, 4]);
        request.PreviewEvery = null;
        (await generator.GenerateAsync(request)).Frames.Pixels.ToArray().ShouldBe(video.Pixels.ToArray());

        var last = previews[^1].Preview;
        (last.Count, last.Width, last.Height, last.FramesPerSecond).ShouldBe((4, 16, 16, 8));
        Correlation(last, video).ShouldBeGreaterThan(0.8);
        var other = (await generator.Request("a red car").Frames(4).Seed(8).GenerateAsync()).Frames;
        Correlation(last, video).ShouldBeGreaterThan(Correlation(last, other) + 0.1);
    }

    [Fact]
    public void Pipelines_of_modules_show_previews_and_long_videos()
    {
        using var scope = NewDisposeScope();
        using var transformer = new StdiT(
            new StdiTConfig
            {
                InputSize = [4, 8, 8],
                HiddenSize = 32,
                Depth = 1,
                NumHeads = 2,
                CaptionChannels = HashTextEncoder.States,
                ModelMaxLength = HashTextEncoder.Tokens,
            }
        );
        using var text = new HashTextEncoder();
        using var vae = new TinyVae();
        var pipeline = new VideoPipeline(transformer, text, vae, new Ddim(4));
        List<VideoFrames> previews = [];
        var settings = new GenerationSettings
        {
            Frames = 12,
            WindowFrames = 4,
            PreviewEvery = 2,
            Seed = 1,
        };
        var video = pipeline.Generate(["a goat"], settings, new Listener(p => previews.AddRange(p.Preview is { } shown ? [shown] : [])))[0];
        (video.Count, video.Width).ShouldBe((12, 32));
        var preview = previews.ShouldHaveSingleItem();
        (preview.Count, preview.Width).ShouldBe((12, 8));
        settings.WindowOverlap = 9;
        Should.Throw<ArgumentException>(() => pipeline.Generate(["a goat"], settings)).Message.ShouldContain("WindowOverlap");
        settings.WindowOverlap = 2;
        Should.Throw<ArgumentException>(() => pipeline.Generate(["a goat", "a boat"], settings)).Message.ShouldContain("one prompt");
    }

    // The correlation of a preview with the means of the pixels that each of its pixels stands for.
    private static double Correlation(VideoFrames preview, VideoFrames video)
    {
        using var scope = NewDisposeScope();
        var means = nn.functional.avg_pool2d(video.ToTensor()[0], video.Height / preview.Height);
        return corrcoef(stack([preview.ToTensor()[0].flatten(), means.flatten()]))[0, 1].item<float>();
    }

    [Fact]
    public async Task A_preview_autoencoder_shows_previews_at_full_size()
    {
        using var model = new TinyModel(d => d with { Preview = d.Vae });
        var before = TensorCount.Now;
        using (var generator = model.Whole())
        {
            List<VideoFrames> previews = [];
            await generator.GenerateAsync(
                new VideoRequest { Prompt = "a goat", PreviewEvery = 1 },
                new Listener(p => previews.AddRange(p.Preview is { } preview ? [preview] : []))
            );
            previews.Count.ShouldBe(3);
            previews.ShouldAllBe(preview => preview.Width == 32 && preview.Count == 4);
        }

        TensorCount.ShouldBe(before);
    }

    private static ModelDescription Flow(ModelDescription d) =>
        d with
        {
            Diffusion = new() { Kind = DiffusionKind.RectifiedFlow },
            Sampling = d.Sampling with { Sampler = SamplerKind.RectifiedFlow, GuidedChannels = 4 },
        };
}
