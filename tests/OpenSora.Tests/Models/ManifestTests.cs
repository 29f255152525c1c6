using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Models;

/// <summary>Compares full-size architectures with the names and shapes of the published checkpoints, without allocating them.</summary>
public class ManifestTests
{
    [Theory]
    [InlineData("opensora_v1.0_stdit_xl2_16x256x256", 16, 32)]
    [InlineData("opensora_v1.0_stdit_xl2_16x512x512", 16, 64)]
    [InlineData("opensora_v1.0_stdit_xl2_64x512x512", 64, 64)]
    public void StdiT(string manifest, int frames, int size) =>
        Manifest.ShouldFit(manifest, () => new StdiT(StdiTConfig.Preset("STDiT-XL/2") with { InputSize = [frames, size, size] }, initialize: false));

    [Fact]
    public void StdiT2()
    {
        Manifest.ShouldFit("opensora_v1.1_stdit2_xl2", Make);
        Count(Make).ShouldBe(767_452_100);
        static StdiT2 Make() => new(StdiT2Config.Preset("STDiT2-XL/2"), initialize: false);
    }

    [Fact]
    public void StdiT3()
    {
        Manifest.ShouldFit("opensora_v1.2_stdit3_xl2", Make);
        Count(Make).ShouldBe(1_207_643_972);
        static StdiT3 Make() => new(StdiT3Config.Preset("STDiT3-XL/2"), initialize: false);
    }

    private static long Count<TModel>(Func<TModel> make)
        where TModel : nn.Module
    {
        using (Manifest.Unallocated(make, out var model))
        {
            return model.parameters().Sum(parameter => parameter.numel());
        }
    }

    [Theory]
    [InlineData("opensora_v1.0_dit_xl2_16x256x256_text", 16, "text")]
    [InlineData("opensora_v1.0_dit_xl2_1x256x256_class", 1, "label_1000")]
    public void DiT(string manifest, int frames, string condition) =>
        Manifest.ShouldFit(manifest, () =>
            new DiT(DiTConfig.Preset("DiT-XL/2") with { InputSize = [frames, 32, 32], Condition = condition }, initialize: false)
        );

    [Theory]
    [InlineData("opensora_v1.0_latte_xl2_16x256x256_text", "text")]
    [InlineData("opensora_v1.0_latte_xl2_16x256x256_class", "label_101")]
    public void Latte(string manifest, string condition) =>
        Manifest.ShouldFit(manifest, () => new DiT(DiTConfig.Preset("Latte-XL/2") with { Condition = condition }, initialize: false));

    [Fact]
    public void PixArt() =>
        Manifest.ShouldFit("opensora_v1.0_pixart_xl2_1x512x512", () => new StdiT(StdiTConfig.Preset("PixArt-XL/2"), initialize: false));

    [Fact]
    public void PixArt_for_multiple_sizes() =>
        Manifest.ShouldFit("opensora_v1.0_pixartms_xl2", () =>
            new StdiT(StdiTConfig.Preset("PixArtMS-XL/2") with { InputSize = [1, 240, 64] }, initialize: false)
        );

    [Theory]
    [InlineData("sd_vae_ft_mse_diffusers")]
    [InlineData("sd_vae_ft_mse_diffusers_deprecated_names")]
    public void Autoencoder(string manifest) =>
        Manifest.ShouldFit(manifest, () => new AutoencoderKL(new AutoencoderKLConfig(), initialize: false), KeyMaps.StableDiffusionVae());

    [Fact]
    public void T5() =>
        Manifest.ShouldFit("t5_v1_1_xxl_encoder", () => new T5TextEncoder(new T5Config(), initialize: false), KeyMaps.T5(["shared.weight"]));

    [Fact]
    public void Differences_are_found()
    {
        const string stdit = "opensora_v1.0_stdit_xl2_16x256x256";
        static StdiT Model(int depth = 28, int tokens = 120) => new(new StdiTConfig { Depth = depth, ModelMaxLength = tokens }, initialize: false);
        Manifest.ShouldFit(stdit, () => Model());
        Should.Throw<ShouldAssertException>(() => Manifest.ShouldFit(stdit, () => Model(depth: 27))).Message.ShouldContain("blocks.27.");
        Should.Throw<ShouldAssertException>(() => Manifest.ShouldFit(stdit, () => Model(depth: 29))).Message.ShouldContain("has no blocks.28.");
        Should.Throw<ShouldAssertException>(() => Manifest.ShouldFit(stdit, () => Model(tokens: 121))).Message.ShouldContain("120x4096");
        Should
            .Throw<ShouldAssertException>(() => Manifest.ShouldFit(stdit, () => Model(), _ => "x_embedder.proj.bias"))
            .Message.ShouldContain("the second one");
    }

    [Fact]
    public void Models_without_memory_end_with_their_scope()
    {
        using (Parameters.ShapesOnly())
        {
            using (Parameters.ShapesOnly())
            {
                Device().ShouldBe(DeviceType.META);
            }

            Device().ShouldBe(DeviceType.META);
        }
        Device().ShouldBe(DeviceType.CPU);

        static DeviceType Device()
        {
            using var parameter = Parameters.Create(2, 3);
            return parameter.device_type;
        }
    }
}
