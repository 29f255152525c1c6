using OpenSora.Generation;
using OpenSora.Models;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Generation;

/// <summary>Model folders whose autoencoder and text encoder are others than AutoencoderKL and T5.</summary>
[Collection(nameof(LiveTensorCount))]
public class OtherPartsTests
{
    private static readonly DitConfig Dit = new() { InputSize = [4, 8, 8], HiddenSize = 32, Depth = 2, NumHeads = 2, CaptionChannels = 16 };

    private static readonly ClipTextConfig Clip = new()
    {
        VocabSize = 654, HiddenSize = 16, IntermediateSize = 32, NumHiddenLayers = 1, NumAttentionHeads = 2, MaxPositionEmbeddings = 12, EosTokenId = 653,
    };

    private static TinyModel Folder(string autoencoder)
    {
        var model = new TinyModel();
        void Save(nn.Module module, string file)
        {
            using var seed = new Generator(7);
            using var noGradients = no_grad();
            foreach (var parameter in module.parameters())
                parameter.normal_(0, 0.2, seed);
            module.SaveWeights(model[file]);
            module.Dispose();
        }

        var tiny = new TinyAutoencoderConfig { Channels = 8, NumEncoderBlocks = [1, 1, 1], NumDecoderBlocks = [1, 1, 1] };
        var temporal = new AutoencoderKLConfig { BlockOutChannels = [8, 8, 8], LayersPerBlock = 1, NormNumGroups = 4 };
        Save(new Dit(Dit), "dit.safetensors");
        Save(new ClipTextModel(Clip), "clip.safetensors");
        Save(autoencoder is "autoencoder_tiny" ? new TinyAutoencoder(tiny) : new AutoencoderKLTemporalDecoder(temporal), "vae.safetensors");
        foreach (var name in new[] { "vocab.json", "merges.txt" })
            File.Copy(TestFiles.Data("clip", name), model[name]);
        ModelFolder.Save(model.Path, ModelFolder.Open(model.Path).Description with
        {
            Denoiser = new ModelPart { Architecture = "dit", Config = ModelFolder.WriteConfig(Dit), Weights = "dit.safetensors" },
            Vae = new ModelPart { Architecture = autoencoder, Config = autoencoder is "autoencoder_tiny" ? ModelFolder.WriteConfig(tiny) : ModelFolder.WriteConfig(temporal), Weights = "vae.safetensors" },
            TextEncoder = new TextEncoderPart { Architecture = "clip", Config = ModelFolder.WriteConfig(Clip), Weights = "clip.safetensors", Tokenizer = "vocab.json" },
        });
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
}
