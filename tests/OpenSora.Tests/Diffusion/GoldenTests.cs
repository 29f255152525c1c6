using OpenSora.Goldens;

namespace OpenSora.Tests.Diffusion;

/// <summary>Schedules, samplers and losses give the numbers of the original code, step by step and with its recorded noise.</summary>
public sealed class GoldenTests
{
    [Theory]
    [InlineData("iddpm_tables_f64.json")]
    [InlineData("iddpm_tables.safetensors")]
    [InlineData("iddpm_psample_10.safetensors")]
    [InlineData("iddpm_psample_20_clip.safetensors")]
    [InlineData("iddpm_ddim_10.safetensors")]
    [InlineData("iddpm_ddim_20_eta.safetensors")]
    [InlineData("iddpm_cfg_sample_10.safetensors")]
    [InlineData("iddpm_losses.safetensors")]
    [InlineData("iddpm_losses_respaced.safetensors")]
    [InlineData("iddpm_v11_cfg.safetensors")]
    [InlineData("iddpm_v11_mask.safetensors")]
    [InlineData("mask_strategy.safetensors")]
    [InlineData("dpm_schedule.safetensors")]
    [InlineData("dpm_10.safetensors")]
    [InlineData("dpm_20.safetensors")]
    [InlineData("rflow_loss.safetensors")]
    [InlineData("rflow_loss_mask.safetensors")]
    [InlineData("rflow_timesteps.safetensors")]
    [InlineData("rflow_sample.safetensors")]
    [InlineData("rflow_sample_mask_transform.safetensors")]
    [InlineData("e2e_stdit_iddpm_10.safetensors")]
    [InlineData("e2e_stdit_dpm_10.safetensors")]
    [InlineData("e2e_stdit3_rflow.safetensors")]
    public void The_results_equal_the_original(string file)
    {
        var comparisons = GoldenCase.Check(TestFiles.Data("goldens", file));
        comparisons.ShouldNotBeEmpty();
        comparisons.Where(comparison => !comparison.Ok).ShouldBeEmpty();
    }
}
