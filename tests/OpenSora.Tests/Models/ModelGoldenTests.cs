using OpenSora.Goldens;
using OpenSora.Weights;

namespace OpenSora.Tests.Models;

/// <summary>Compares the models with recorded calls of the original ones.</summary>
public class ModelGoldenTests
{
    [Theory]
    [InlineData("stdit_mask")]
    [InlineData("stdit_nomask_scales")]
    [InlineData("stdit_patch2_cfgmask")]
    [InlineData("stdit_v12_xmask")]
    [InlineData("stdit2_plain")]
    [InlineData("stdit2_v12_qknorm")]
    [InlineData("stdit2_xmask_nonsquare_pad")]
    [InlineData("stdit3_plain")]
    [InlineData("stdit3_xmask_pad")]
    [InlineData("dit_label_image")]
    [InlineData("dit_text_video")]
    [InlineData("orig_dit")]
    [InlineData("latte_text")]
    [InlineData("orig_latte")]
    [InlineData("pixart_image")]
    [InlineData("pixartms_nonsquare")]
    [InlineData("orig_pixart")]
    [InlineData("layers")]
    [InlineData("pos_embed")]
    [InlineData("vae_tiny")]
    [InlineData("vae_4level")]
    [InlineData("vae_video_wrapper")]
    [InlineData("clip_quick_gelu")]
    [InlineData("clip_gelu")]
    [InlineData("svd_frames")]
    [InlineData("taesd_plain")]
    [InlineData("taesd_middle_norm")]
    [InlineData("t5_gated_gelu")]
    [InlineData("t5_relu")]
    [InlineData("t5_long")]
    public void The_result_equals_the_original(string name)
    {
        var before = TensorCount.Now;
        var comparisons = GoldenCase.Check(TestFiles.Data("goldens", name + ".safetensors"));
        comparisons.ShouldNotBeNull().ShouldNotBeEmpty();
        foreach (var comparison in comparisons)
        {
            comparison.Ok.ShouldBeTrue($"{comparison}");
        }

        TensorCount.ShouldBe(before);
    }

    [Fact]
    public void Cases_of_unknown_kinds_are_not_supported_yet() =>
        Should.Throw<NotSupportedException>(() => GoldenCase.Check(TestFiles.Data("goldens", "unheard_of.safetensors")));

    [Fact]
    public void Cases_with_unknown_options_are_not_supported_yet()
    {
        using var folder = new TemporaryFolder();
        var path = Path.Combine(folder.Path, "stdit_rotated.safetensors");
        SafetensorsWriter.Write(path, [], new Dictionary<string, string> { ["config"] = """{"depth": 2, "rotary": true}""" });

        Should.Throw<NotSupportedException>(() => GoldenCase.Check(path)).Message.ShouldContain("rotary");
    }

    [Fact]
    public void A_difference_is_detected()
    {
        using var file = new GoldenFile(TestFiles.Data("goldens", "stdit_mask.safetensors"));
        using var same = file["output.x"].clone();
        file.Compare("output.x", same).Error.ShouldBe(0);
        using var wrong = file["output.x"] + 1e-3f;
        file.Compare("output.x", wrong).Ok.ShouldBeFalse();
        using var reshaped = file["output.x"].flatten();
        file.Compare("output.x", reshaped).Ok.ShouldBeFalse();
        using var broken = file["output.x"] * float.NaN;
        file.Compare("output.x", broken).Ok.ShouldBeFalse();
    }
}
