using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Generation;

/// <summary>Tests model folders with other autoencoders and text encoders than AutoencoderKL and T5.</summary>
[Collection(nameof(LiveTensorCount))]
public class OtherPartsTests
{
    private static readonly DiTConfig DiT = new()
    {
        InputSize = [4, 8, 8],
        HiddenSize = 32,
        Depth = 2,
        NumHeads = 2,
        CaptionChannels = 16,
    };

    private static readonly ClipTextConfig Clip = new()
    {
        VocabSize = 654,
        HiddenSize = 16,
        IntermediateSize = 32,
        NumHiddenLayers = 1,
        NumAttentionHeads = 2,
        MaxPositionEmbeddings = 12,
        EosTokenId = 653,
    };

    private static TinyModel Folder(string autoencoder)
    {
        var model = new TinyModel();
        void Save(nn.Module module, string file)
        {
            using var seed = new Generator(7);
            using var noGradients = no_grad();
            foreach (var parameter in module.parameters())
            {
                parameter.normal_(0, 0.2, seed);
            }

            module.SaveWeights(model[file]);
            module.Dispose();
        }

        var tiny = new TinyAutoencoderConfig
        {
            Channels = 8,
            NumEncoderBlocks = [1, 1, 1],
            NumDecoderBlocks = [1, 1, 1],
        };
        var temporal = new AutoencoderKLConfig
        {
            BlockOutChannels = [8, 8, 8],
            LayersPerBlock = 1,
            NormNumGroups = 4,
        };
        Save(new DiT(DiT), "dit.safetensors");
        Save(new ClipTextModel(Clip), "clip.safetensors");
        Save(autoencoder is "autoencoder_tiny" ? new TinyAutoencoder(tiny) : new AutoencoderKLTemporalDecoder(temporal), "vae.safetensors");
        foreach (var name in new[] { "vocab.json", "merges.txt" })
        {
            File.Copy(TestFiles.Data("clip", name), model[name]);
        }

        ModelFolder.Save(
            model.Path,
            ModelFolder.Open(model.Path).Description with
            {
                Denoiser = new ModelPart
                {
                    Architecture = "dit",
                    Config = ModelFolder.WriteConfig(DiT),
                    Weights = "dit.safetensors",
                },
                Vae = new ModelPart
                {
                    Architecture = autoencoder,
                    Config = autoencoder is "autoencoder_tiny" ? ModelFolder.WriteConfig(tiny) : ModelFolder.WriteConfig(temporal),
                    Weights = "vae.safetensors",
                },
                TextEncoder = new ModelPart
                {
                    Architecture = "clip",
                    Config = ModelFolder.WriteConfig(Clip),
                    Weights = "clip.safetensors",
                    Tokenizer = "vocab.json",
                },
            }
        );
        return model;
    }

    [Theory]
    [InlineData("autoencoder_tiny")]
    [InlineData("autoencoder_kl_temporal_decoder")]
    public async Task A_prompt_becomes_a_video(string autoencoder)
    {
        using var model = Folder(autoencoder);
        var before = TensorCount.Now;
        using (var generator = model.Whole())
        {
            var goat = await generator.Request("a goat").Seed(1).GenerateAsync();
            goat.Frames.Pixels.ToArray().Distinct().Count().ShouldBeGreaterThan(10);
            (await generator.Request("A Goat").Seed(1).GenerateAsync()).Frames.Pixels.ToArray().ShouldBe(goat.Frames.Pixels.ToArray());
            (await generator.Request("a cat on the beach").Seed(1).GenerateAsync()).Frames.Pixels.ToArray().ShouldNotBe(goat.Frames.Pixels.ToArray());
        }
        TensorCount.ShouldBe(before);
    }

    [Fact]
    public async Task A_decoder_that_mixes_frames_receives_them_together()
    {
        // What the latents decode to in one call of the autoencoder is what the generator shows: no seam after every fourth frame.
        using var scope = NewDisposeScope();
        using var model = Folder("autoencoder_kl_temporal_decoder");
        using var vae = new AutoencoderKLTemporalDecoder(
            new AutoencoderKLConfig
            {
                BlockOutChannels = [8, 8, 8],
                LayersPerBlock = 1,
                NormNumGroups = 4,
            }
        );
        vae.LoadWeights(model["vae.safetensors"]);
        vae.eval();
        Tensor? latents = null;
        using var generator = VideoGenerator
            .Create()
            .UseModel(model.Path)
            .UseBackend("cpu")
            .UseVae(_ => new Overheard(vae, seen => latents = seen))
            .Build();
        var video = await generator.Request("a goat").Seed(1).Frames(8).GenerateAsync();
        VideoFrames.FromTensor(vae.Decode(latents!), 6).Pixels.ToArray().ShouldBe(video.Frames.Pixels.ToArray());
        vae.DecodeChunkSize = 4;
        VideoFrames.FromTensor(vae.Decode(latents!), 6).Pixels.ToArray().ShouldNotBe(video.Frames.Pixels.ToArray());
    }

    private sealed class Overheard(IVideoAutoencoder inner, Action<Tensor> hear) : IVideoAutoencoder
    {
        public int LatentChannels => inner.LatentChannels;

        public int SpatialFactor => inner.SpatialFactor;

        public int TemporalFactor => inner.TemporalFactor;

        public int FramesAtOnce => inner.FramesAtOnce;

        public Tensor Encode(Tensor video, Generator? generator = null) => inner.Encode(video, generator);

        public Tensor Decode(Tensor latents)
        {
            hear(latents.clone().DetachFromDisposeScope());
            return inner.Decode(latents);
        }

        public void Dispose() { }
    }

    [Fact]
    public async Task Overflowing_pixels_are_reported()
    {
        using var model = new TinyModel();
        using var generator = model.Builder().UseVae(_ => new Broken()).Build();
        (await Should.ThrowAsync<InvalidOperationException>(generator.Request("a goat").Seed(1).GenerateAsync())).Message.ShouldContain(
            "The pixels of \"a goat\" are not finite"
        );
    }

    private sealed class Broken : IVideoAutoencoder
    {
        public int LatentChannels => 4;

        public int SpatialFactor => 4;

        public int TemporalFactor => 1;

        public Tensor Encode(Tensor video, Generator? generator = null) => throw new NotSupportedException();

        public Tensor Decode(Tensor latents) => full([latents.shape[0], 3, latents.shape[2], 4 * latents.shape[3], 4 * latents.shape[4]], float.NaN);

        public void Dispose() { }
    }

    [Theory]
    [InlineData("hidden_size", 46)]
    [InlineData("depth", 2_000_000_000)]
    public async Task Sizes_for_which_no_network_exists_are_errors_of_the_folder(string name, int value)
    {
        using var model = new TinyModel(d =>
        {
            var config = System.Text.Json.Nodes.JsonNode.Parse(d.Denoiser.Config.GetRawText())!.AsObject();
            config[name] = value;
            return d with { Denoiser = d.Denoiser with { Config = System.Text.Json.JsonSerializer.SerializeToElement(config) } };
        });
        using var generator = model.Generator();
        (await Should.ThrowAsync<InvalidModelException>(generator.LoadAsync())).Message.ShouldContain("the config of its stdit");
    }
}
