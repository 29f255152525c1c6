using System.Security.Cryptography;
using Microsoft.Extensions.Options;
using OpenSora.Generation;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Generation;

/// <summary>Residency policies of the parts of a model.</summary>
public sealed class ResidencyTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    public async Task All_policies_generate_the_same_videos(ScalarType dtype)
    {
        MakeModel(dtype);
        var before = TensorCount.Settled;
        using (var keeping = Generator(Residency.Keep))
        {
            var request = new VideoRequest
            {
                Prompt = "a goat",
                NegativePrompt = "rain",
                Seed = 3,
            };
            var image = (await keeping.GenerateAsync(request)).Frames;
            request.EditVideo(image, 0.5);
            var expected = Bytes(await keeping.GenerateAsync(request));
            foreach (var residency in new[] { Residency.Release, Residency.Stream })
            {
                using var generator = Generator(residency);
                Bytes(await generator.GenerateAsync(request)).ShouldBe(expected, $"{residency}");
                Bytes(await generator.GenerateAsync(request)).ShouldBe(expected, $"{residency}, loaded again");
            }
        }

        TensorCount.ShouldBe(before, settled: true);
    }

    [Theory]
    [InlineData(Residency.Release)]
    [InlineData(Residency.Stream)]
    public async Task Concurrent_requests_share_the_weights(Residency residency)
    {
        MakeModel(ScalarType.BFloat16);
        VideoRequest[] requests =
        [
            .. Enumerable
                .Range(0, 6)
                .Select(i => new VideoRequest
                {
                    Prompt = $"a goat {i}",
                    Seed = i,
                    Steps = 2 + i % 3,
                }),
        ];
        List<string> expected = [];
        using (var keeping = Generator(Residency.Keep))
        {
            foreach (var request in requests)
            {
                expected.Add(Bytes(await keeping.GenerateAsync(request)));
            }
        }

        using var generator = Generator(residency);
        using var canceled = new CancellationTokenSource();
        var stopped = generator.GenerateAsync(
            new VideoRequest
            {
                Prompt = "a cat",
                Seed = 9,
                Steps = 10,
            },
            new Listener(p =>
            {
                if (p is { Stage: GenerationStage.Denoising, Step: 1 })
                {
                    canceled.Cancel();
                }
            }),
            canceled.Token
        );
        var videos = await Task.WhenAll(requests.Select(request => generator.GenerateAsync(request)));
        await Should.ThrowAsync<OperationCanceledException>(stopped);
        videos.Select(Bytes).ShouldBe(expected);
        Bytes(await generator.GenerateAsync(requests[0])).ShouldBe(expected[0], "after all of them");
    }

    [Fact]
    public async Task A_part_without_blocks_is_refused_when_it_should_be_streamed()
    {
        MakeModel(ScalarType.Float32, tiny: true);
        var before = TensorCount.Settled;
        using (var generator = Generator(Residency.Stream))
        {
            (await Should.ThrowAsync<InvalidOperationException>(generator.LoadAsync())).Message.ShouldStartWith("TinyAutoencoder cannot be streamed");
        }

        TensorCount.ShouldBe(before, settled: true);
    }

    [Fact]
    public void Custom_parts_have_the_policies_that_are_possible()
    {
        using var model = new TinyModel();
        Should
            .Throw<OptionsValidationException>(() =>
                model.Builder().Configure(o => (o.TextEncoderResidency, o.AutoencoderResidency) = (Residency.Stream, Residency.Release)).Build()
            )
            .Failures.ShouldBe([
                "OpenSora:TextEncoderResidency is Stream, but the text encoder is a custom one (UseTextEncoder), which loads its weights "
                    + "itself; it can be Keep or Release.",
                "OpenSora:AutoencoderResidency is Release, but the autoencoder is a custom one (UseVae), which loads its weights itself; "
                    + "it can only be Keep.",
            ]);
        Should
            .Throw<OptionsValidationException>(() => model.Builder().Configure(o => o.TransformerResidency = (Residency)7).Build())
            .Failures.ShouldBe(["OpenSora:TransformerResidency is '7'; it must be one of Keep, Release, Stream."]);
    }

    private VideoGenerator Generator(Residency residency) =>
        VideoGenerator
            .Create()
            .UseModel(_folder.Path)
            .UseBackend("cpu")
            .Configure(o => (o.TextEncoderResidency, o.TransformerResidency, o.AutoencoderResidency) = (residency, residency, residency))
            .Build();

    private static string Bytes(GeneratedVideo video) => Convert.ToHexString(SHA256.HashData(video.Frames.Pixels.Span));

    // A model with matrices of at least 64 KiB; smaller ones stay in memory.
    private void MakeModel(ScalarType dtype, bool tiny = false)
    {
        var t5 = new T5Config
        {
            DModel = 128,
            DKv = 64,
            DFf = 256,
            NumLayers = 2,
            NumHeads = 4,
        };
        var stdit = new StdiTConfig
        {
            InputSize = [2, 8, 8],
            InChannels = 4,
            HiddenSize = 192,
            Depth = 2,
            NumHeads = 2,
            CaptionChannels = t5.DModel,
            ModelMaxLength = 6,
        };
        var vae = new AutoencoderKLConfig
        {
            BlockOutChannels = [64, 64],
            LayersPerBlock = 1,
            NormNumGroups = 8,
        };
        var small = new TinyAutoencoderConfig();
        Save(new StdiT(stdit), "stdit.safetensors");
        Save(tiny ? new TinyAutoencoder(small) : new AutoencoderKL(vae), "vae.safetensors");
        Save(new T5TextEncoder(t5), "t5.safetensors");
        File.Copy(TestFiles.Data("sentencepiece", "t5.model"), _folder["spiece.model"], overwrite: true);
        ModelFolder.Save(
            _folder.Path,
            new ModelDescription
            {
                Name = "lent",
                Denoiser = new ModelPart
                {
                    Architecture = "stdit",
                    Config = ModelFolder.WriteConfig(stdit),
                    Weights = "stdit.safetensors",
                },
                Vae = new ModelPart
                {
                    Architecture = tiny ? "autoencoder_tiny" : "autoencoder_kl",
                    Config = tiny ? ModelFolder.WriteConfig(small) : ModelFolder.WriteConfig(vae),
                    Weights = "vae.safetensors",
                },
                TextEncoder = new ModelPart
                {
                    Architecture = "t5",
                    Config = ModelFolder.WriteConfig(t5),
                    Weights = "t5.safetensors",
                    Tokenizer = "spiece.model",
                    MaxTokens = 6,
                },
                Sampling = new SamplingDefaults { Steps = 2, GuidanceScale = 3 },
                Video = new VideoDefaults
                {
                    Frames = 2,
                    Width = 16,
                    Height = 16,
                    Fps = 6,
                    FramesRange = new(1, 8),
                    WidthRange = new(8, 64, 4),
                    HeightRange = new(8, 64, 4),
                },
                License = "MIT",
            }
        );

        void Save(nn.Module network, string file)
        {
            using var noGradients = no_grad();
            using var generator = new Generator(5);
            foreach (var parameter in network.parameters().Where(one => one.dim() > 1))
            {
                parameter.normal_(0, 0.05, generator);
            }

            network.SaveWeights(_folder[file], dtype);
            network.Dispose();
        }
    }
}
