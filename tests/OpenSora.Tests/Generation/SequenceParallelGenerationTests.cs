using OpenSora.Diffusion;
using OpenSora.Distributed;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Generation;

/// <summary>Several processes generate one video together.</summary>
public class SequenceParallelGenerationTests
{
    [Theory]
    [InlineData("stdit", 2, 5)]
    [InlineData("stdit2", 2, 8)]
    [InlineData("stdit3", 3, 7)]
    [InlineData("stdit3", 2, 1)] // an image, which every process computes
    public void The_video_is_that_of_one_process(string architecture, int size, int frames)
    {
        using var model = new TinyModel(architecture: architecture, spread: 0.2);
        var request = new VideoRequest
        {
            Prompt = "a red square",
            Frames = frames,
            NegativePrompt = "blue",
            Seed = 5,
        };
        var expected = Generate(model, null, request);
        foreach (var video in InProcessCollectives.Run(size, group => Generate(model, group, request)))
        {
            video.Seed.ShouldBe(5);
            Difference(video.Frames, expected.Frames).ShouldBeLessThanOrEqualTo(1);
        }

        // The video is not one color, in which differences could not be seen.
        expected.Frames.Pixels.ToArray().Distinct().Count().ShouldBeGreaterThan(20);
    }

    [Fact]
    public void Conditioning_frames_and_windows_can_be_used()
    {
        using var model = new TinyModel(
            d =>
                d with
                {
                    Video = d.Video with { GivenFrames = true },
                    Diffusion = new(),
                    Sampling = d.Sampling with { Sampler = SamplerKind.RectifiedFlow, GuidedChannels = 4 },
                },
            architecture: "stdit3",
            spread: 0.2
        );
        var given = Generate(model, null, new VideoRequest { Prompt = "a ball", Seed = 1 }).Frames;
        var request = new VideoRequest
        {
            Prompt = "a red square",
            Frames = 7,
            Seed = 5,
            References = [given.Slice(0, 2)],
            MaskStrategies = [new MaskStrategy { Length = 2 }],
        };
        var windows = new VideoRequest
        {
            Prompt = "a red square",
            Frames = 8,
            WindowFrames = 4,
            WindowOverlap = 2,
            Seed = 6,
        };
        foreach (var one in new[] { request, windows })
        {
            var expected = Generate(model, null, one);
            foreach (var video in InProcessCollectives.Run(2, group => Generate(model, group, one)))
            {
                Difference(video.Frames, expected.Frames).ShouldBeLessThanOrEqualTo(1);
            }
        }
    }

    [Fact]
    public void Latents_of_a_pipeline_are_those_of_one_process()
    {
        using var model = new TinyModel(architecture: "stdit3", spread: 0.2);
        using var text = new HashTextEncoder();
        var expected = Latents(null);
        foreach (var latents in InProcessCollectives.Run(2, Latents))
        {
            (latents.Length, expected.Length).ShouldBe((4 * 5 * 8 * 8, 4 * 5 * 8 * 8));
            latents.Zip(expected, (a, b) => Math.Abs(a - b) / Math.Max(1, Math.Abs(b))).Max().ShouldBeLessThan(1e-5f);
        }

        float[] Latents(ICollectives? group)
        {
            using var scope = NewDisposeScope();
            var config = new StdiT3Config
            {
                InputSqSize = 32,
                HiddenSize = 32,
                Depth = 2,
                NumHeads = 4,
                CaptionChannels = HashTextEncoder.States,
                ModelMaxLength = HashTextEncoder.Tokens,
            };
            using var network = new StdiT3(config, initialize: false);
            network.LoadWeights(model["stdit.safetensors"]);
            network.eval();
            using var vae = new KeepingVae();
            var pipeline = new VideoPipeline(network.UseSequenceParallel(group), text, vae, new RectifiedFlow(samplingSteps: 4));
            var settings = new GenerationSettings
            {
                Frames = 5,
                Height = 32,
                Width = 32,
                GuidanceScale = 3,
                Seed = 4,
            };
            pipeline.Generate(["a red square"], settings);
            return Gathered(vae.Latents!, group);
        }
    }

    [Fact]
    public void A_request_without_a_seed_gets_that_of_the_first_process()
    {
        using var model = new TinyModel(architecture: "stdit3", spread: 0.2);
        var videos = InProcessCollectives.Run(2, group => Generate(model, group, new VideoRequest { Prompt = "a red square" }));
        videos[1].Seed.ShouldBe(videos[0].Seed);
        videos[1].Frames.Pixels.Span.SequenceEqual(videos[0].Frames.Pixels.Span).ShouldBeTrue();
    }

    [Fact]
    public void Each_process_decodes_its_frames()
    {
        using var model = new TinyModel(architecture: "stdit3");
        var request = new VideoRequest
        {
            Prompt = "a red square",
            Frames = 7,
            Seed = 1,
        };
        var decoded = InProcessCollectives.Run(3, group =>
        {
            using var vae = new KeepingVae();
            using var generator = model.Builder().UseVae(_ => vae).UseCollectives(group).Build();
            Wait(generator.GenerateAsync(request)).Frames.Count.ShouldBe(7);
            return vae.Frames;
        });
        decoded.ShouldBe([3, 2, 2]);
    }

    [Fact]
    public void Processes_must_make_the_same_request()
    {
        using var model = new TinyModel(architecture: "stdit3");
        var errors = InProcessCollectives.Run(2, group =>
            Should
                .Throw<InvalidOperationException>(() =>
                    Generate(model, group, new VideoRequest { Prompt = group.Rank == 0 ? "a cat" : "a dog", Seed = 1 })
                )
                .Message
        );
        errors.ShouldAllBe(error => error.StartsWith("Process 1 of 2 makes another request than process 0.", StringComparison.Ordinal));
    }

    [Fact]
    public void All_processes_stop_if_one_cancels()
    {
        using var model = new TinyModel(architecture: "stdit3");
        InProcessCollectives.Run(3, group =>
        {
            using var source = new CancellationTokenSource();
            using var generator = model.Builder().UseCollectives(group).Build();
            var steps = 0;
            var progress = new Listener(step =>
            {
                if (step is { Stage: GenerationStage.Denoising, Step: 2 } && group.Rank == 1)
                {
                    source.Cancel();
                }

                steps = step.Stage == GenerationStage.Denoising ? step.Step : steps;
            });
            Should.Throw<OperationCanceledException>(() =>
                Wait(
                    generator.GenerateAsync(
                        new VideoRequest
                        {
                            Prompt = "a red square",
                            Seed = 1,
                            Steps = 4,
                        },
                        progress,
                        source.Token
                    )
                )
            );
            steps.ShouldBe(2);
            group.Calls.Clear();
            Wait(generator.GenerateAsync(new VideoRequest { Prompt = "a red square", Seed = 1 })).Frames.Count.ShouldBe(4); // it is still usable
        });
    }

    [Fact]
    public void All_processes_fail_if_one_cannot_decode()
    {
        using var model = new TinyModel(architecture: "stdit3");
        var errors = InProcessCollectives.Run(2, group =>
        {
            using var vae = new KeepingVae { Fails = group.Rank == 1 };
            using var generator = model.Builder().UseVae(_ => vae).UseCollectives(group).Build();
            return Should.Throw<Exception>(() => Wait(generator.GenerateAsync(new VideoRequest { Prompt = "a red square", Seed = 1 })));
        });
        errors[0].ShouldBeOfType<CollectiveException>().Message.ShouldBe("Process 1 of 2 could not decode its frames.");
        var failed = errors[1].ShouldBeOfType<DecodingException>();
        failed.Message.ShouldBe("The autoencoder failed: Broken.");
        using var latents = failed.Latents(CPU);
        latents.shape[2].ShouldBe(4); // of all frames, so that they can be decoded again
    }

    private static GeneratedVideo Generate(TinyModel model, ICollectives? group, VideoRequest request)
    {
        using var generator = model.Builder().UseCollectives(group).Build();
        return Wait(generator.GenerateAsync(request));
    }

    // Members of a group are threads, so they must wait.
    private static T Wait<T>(Task<T> task) => task.GetAwaiter().GetResult();

    private static float[] Gathered(float[] own, ICollectives? group)
    {
        if (group is null)
        {
            return own;
        }

        // 5 frames: 3 in process 0 and 2 in process 1, [4, frames, 8, 8].
        using var scope = NewDisposeScope();
        var sent = zeros(4, 3, 8, 8);
        var frames = own.Length / (4 * 8 * 8);
        sent.narrow(1, 0, frames).copy_(tensor(own).view(4, frames, 8, 8));
        var all = empty(8, 3, 8, 8);
        group.AllGather(all, sent).Wait();
        return cat([all.narrow(0, 0, 4), all.narrow(0, 4, 4).narrow(1, 0, 2)], 1).contiguous().data<float>().ToArray();
    }

    private static int Difference(VideoFrames a, VideoFrames b)
    {
        (a.Count, a.Height, a.Width).ShouldBe((b.Count, b.Height, b.Width));
        return a.Pixels.ToArray().Zip(b.Pixels.ToArray(), (x, y) => Math.Abs(x - y)).Max();
    }

    // Keeps the last latents, and counts frames.
    private sealed class KeepingVae : IVideoAutoencoder
    {
        private readonly TinyVae _vae = new();

        public bool Fails { get; init; }

        public long Frames { get; private set; }

        public float[]? Latents { get; private set; }

        public int LatentChannels => 4;

        public int SpatialFactor => 4;

        public int TemporalFactor => 1;

        public int FramesAtOnce => 8;

        public Tensor Encode(Tensor video, Generator? generator = null) => _vae.Encode(video, generator);

        public Tensor Decode(Tensor latents)
        {
            if (Fails)
            {
                throw new InvalidOperationException("Broken.");
            }

            Frames += latents.shape[2];
            Latents = latents.contiguous().data<float>().ToArray();
            return _vae.Decode(latents);
        }

        public void Dispose() => _vae.Dispose();
    }
}
