using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Tests.Models;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Weights;

public sealed class KeyMapTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Every_name_of_the_original_autoencoder_becomes_a_published_one_of_the_same_shape()
    {
        var published = Manifest.Read("sd_vae_ft_mse_diffusers");
        var map = KeyMaps.StableDiffusionVae();
        foreach (var prefix in new[] { "", "first_stage_model." })
        {
            var mapped = Original([128, 256, 512, 512], 2).ToDictionary(pair => map(prefix + pair.Key)!, pair => pair.Value);
            mapped.Keys.ShouldBe(published.Keys, ignoreOrder: true);
            foreach (var (name, shape) in mapped)
            {
                (shape is [.., 1, 1] && published[name].Length == 2 ? shape[..2] : shape).ShouldBe(published[name], name);
            }
        }
    }

    [Theory]
    [InlineData("sd_vae_ft_mse_diffusers")]
    [InlineData("sd_vae_ft_mse_diffusers_deprecated_names")]
    public void Every_published_name_of_the_autoencoder_has_a_place(string manifest)
    {
        var map = KeyMaps.StableDiffusionVae();
        var names = Manifest.Read("sd_vae_ft_mse_diffusers");
        foreach (var (name, shape) in Manifest.Read(manifest))
        {
            names[map(name).ShouldNotBeNull()].ShouldBe(shape, name);
        }
    }

    [Theory]
    [InlineData("model.diffusion_model.input_blocks.0.0.weight")]
    [InlineData("cond_stage_model.transformer.text_model.final_layer_norm.weight")]
    [InlineData("model_ema.decay")]
    [InlineData("loss.discriminator.main.0.weight")]
    [InlineData("alphas_cumprod")]
    public void Other_parts_beside_an_autoencoder_are_ignored(string name) => KeyMaps.StableDiffusionVae()(name).ShouldBeNull();

    [Fact]
    public void An_unknown_name_stays_and_so_is_reported() => KeyMaps.StableDiffusionVae()("encoder.extra.weight").ShouldBe("encoder.extra.weight");

    [Theory]
    [InlineData("")]
    [InlineData("first_stage_model.")]
    public void Weights_under_the_original_names_give_the_same_autoencoder(string prefix)
    {
        using var scope = NewDisposeScope();
        var config = new AutoencoderKLConfig
        {
            BlockOutChannels = [8, 16, 16],
            LayersPerBlock = 2,
            NormNumGroups = 4,
        };
        using var source = TransformerFamily.Randomised(new AutoencoderKL(config));
        using var target = new AutoencoderKL(config, initialize: false);
        var (values, map) = (source.state_dict(), KeyMaps.StableDiffusionVae(levels: 3));
        var tensors = Original([8, 16, 16], 2).ToDictionary(pair => prefix + pair.Key, pair => values[map(pair.Key)!].detach().view(pair.Value));
        tensors["loss.logvar"] = zeros(1);
        SafetensorsWriter.Write(_folder["vae.safetensors"], tensors);

        var report = target.LoadWeights(_folder["vae.safetensors"], new LoadOptions { KeyMap = map, AllowReshape = true });
        report.Dropped.ShouldBe(["loss.logvar"]);
        report.Reshaped.Count.ShouldBe(8); // attention, 1x1 convolutions
        foreach (var (name, tensor) in target.state_dict())
        {
            tensor.eq(values[name]).all().item<bool>().ShouldBeTrue(name);
        }
    }

    [Fact]
    public void Every_published_name_of_the_text_encoder_has_a_place()
    {
        var published = Manifest.Read("t5_v1_1_xxl_encoder");
        var map = KeyMaps.T5(published.Keys);
        published.Keys.Where(name => map(name) is null).ShouldBe(["encoder.embed_tokens.weight"]);
        KeyMaps.T5(["encoder.embed_tokens.weight"])("encoder.embed_tokens.weight").ShouldBe("shared.weight");
        map("decoder.block.0.layer.0.SelfAttention.q.weight").ShouldBeNull();
        map("lm_head.weight").ShouldBeNull();
    }

    [Theory]
    [InlineData("shared.weight", "encoder.embed_tokens.weight")]
    [InlineData("shared.weight", null)]
    [InlineData("encoder.embed_tokens.weight", null)]
    public void A_text_encoder_in_shards_is_loaded_by_its_folder(string table, string? second)
    {
        using var scope = NewDisposeScope();
        var config = new T5Config
        {
            VocabSize = 50,
            DModel = 16,
            DKv = 4,
            DFf = 24,
            NumLayers = 2,
            NumHeads = 2,
        };
        using var source = new T5TextEncoder(config);
        using var target = new T5TextEncoder(config, initialize: false);
        var tensors = source.state_dict().ToDictionary(pair => pair.Key is "shared.weight" ? table : pair.Key, pair => pair.Value);
        if (second is not null)
        {
            tensors[second] = tensors[table];
        }

        tensors["decoder.final_layer_norm.weight"] = zeros(16);
        var shards = tensors.Keys.Order(StringComparer.Ordinal).Chunk((tensors.Count + 2) / 3).ToList();
        for (var i = 0; i < shards.Count; i++)
        {
            SafetensorsWriter.Write(_folder[$"model-{i}.safetensors"], shards[i].Select(name => KeyValuePair.Create(name, tensors[name])));
        }

        File.WriteAllText(
            _folder["model.safetensors.index.json"],
            System.Text.Json.JsonSerializer.Serialize(
                new
                {
                    weight_map = shards
                        .SelectMany((names, i) => names.Select(name => (name, i)))
                        .ToDictionary(pair => pair.name, pair => $"model-{pair.i}.safetensors"),
                }
            )
        );

        var report = target.LoadPublishedWeights(_folder.Path);
        report.Dropped.ShouldBe(
            second is null ? ["decoder.final_layer_norm.weight"] : ["decoder.final_layer_norm.weight", second],
            ignoreOrder: true
        );
        foreach (var (name, tensor) in target.state_dict())
        {
            tensor.eq(source.state_dict()[name]).all().item<bool>().ShouldBeTrue(name);
        }
    }

    /// <summary>Names and shapes of the autoencoder as Stable Diffusion's own code lays it out (Rombach et al., 2022).</summary>
    private static Dictionary<string, long[]> Original(long[] channels, int blocks)
    {
        const long latent = 4;
        var tensors = new Dictionary<string, long[]>();
        Conv2d("encoder.conv_in", 3, channels[0]);
        var width = channels[0];
        for (var level = 0; level < channels.Length; level++)
        {
            for (var block = 0; block < blocks; block++)
            {
                Residual($"encoder.down.{level}.block.{block}", ref width, channels[level]);
            }

            if (level < channels.Length - 1)
            {
                Conv2d($"encoder.down.{level}.downsample.conv", width, width);
            }
        }

        Middle("encoder", width);
        LayerNorm("encoder.norm_out", width);
        Conv2d("encoder.conv_out", width, 2 * latent);
        Conv2d("quant_conv", 2 * latent, 2 * latent, 1);
        Conv2d("post_quant_conv", latent, latent, 1);
        Conv2d("decoder.conv_in", latent, width);
        Middle("decoder", width);
        for (var level = channels.Length - 1; level >= 0; level--)
        {
            for (var block = 0; block <= blocks; block++)
            {
                Residual($"decoder.up.{level}.block.{block}", ref width, channels[level]);
            }

            if (level > 0)
            {
                Conv2d($"decoder.up.{level}.upsample.conv", width, width);
            }
        }

        LayerNorm("decoder.norm_out", width);
        Conv2d("decoder.conv_out", width, 3);
        return tensors;

        void Middle(string part, long size)
        {
            Residual($"{part}.mid.block_1", ref size, size);
            LayerNorm($"{part}.mid.attn_1.norm", size);
            foreach (var matrix in new[] { "q", "k", "v", "proj_out" })
            {
                Conv2d($"{part}.mid.attn_1.{matrix}", size, size, 1);
            }

            Residual($"{part}.mid.block_2", ref size, size);
        }

        void Residual(string name, ref long from, long to)
        {
            LayerNorm($"{name}.norm1", from);
            Conv2d($"{name}.conv1", from, to);
            LayerNorm($"{name}.norm2", to);
            Conv2d($"{name}.conv2", to, to);
            if (from != to)
            {
                Conv2d($"{name}.nin_shortcut", from, to, 1);
            }

            from = to;
        }

        void Conv2d(string name, long from, long to, long kernel = 3) =>
            (tensors[$"{name}.weight"], tensors[$"{name}.bias"]) = ([to, from, kernel, kernel], [to]);

        void LayerNorm(string name, long size) => (tensors[$"{name}.weight"], tensors[$"{name}.bias"]) = ([size], [size]);
    }
}
