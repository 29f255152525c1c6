using System.Text.Json.Serialization;

namespace OpenSora.Models;

/// <summary>The configuration of an <see cref="AutoencoderKL"/>. JSON uses the snake_case names of diffusers.</summary>
public sealed record AutoencoderKLConfig
{
    /// <summary>The number of channels of the input images.</summary>
    public int InChannels { get; init; } = 3;

    /// <summary>The number of channels of the output images.</summary>
    public int OutChannels { get; init; } = 3;

    /// <summary>The number of channels at each level; every level except the last halves height and width.</summary>
    public IReadOnlyList<int> BlockOutChannels { get; init; } = [128, 256, 512, 512];

    /// <summary>The number of residual blocks per encoder level; decoder levels have one more.</summary>
    public int LayersPerBlock { get; init; } = 2;

    /// <summary>The number of groups of every group normalization.</summary>
    public int NormNumGroups { get; init; } = 32;

    /// <summary>The number of latent channels.</summary>
    public int LatentChannels { get; init; } = 4;

    /// <summary>The factor that latents are multiplied by so that their variance is approximately 1 in the diffusion process (Rombach et al.,
    /// 2022).</summary>
    public double ScalingFactor { get; init; } = 0.18215;

    /// <summary>The maximum number of frames processed by the network at a time; null processes all frames at once.</summary>
    public int? MicroBatchSize { get; init; } = 4;

    /// <summary>The maximum number of frames that the temporal layers of Stable Video Diffusion's decoder decode together; memory use grows with it.
    /// The model was trained with 14. Other autoencoders ignore this setting.</summary>
    public int DecodeChunkSize { get; init; } = 14;

    /// <summary>Validates the configuration.</summary>
    /// <exception cref="ArgumentException">A value is invalid; the message names it and states the expected value.</exception>
    public void Validate()
    {
        Check(BlockOutChannels is { Count: > 0 }, nameof(BlockOutChannels), "BlockOutChannels is empty; list the channels of each level.");
        foreach (
            var (size, name) in new[]
            {
                (InChannels, nameof(InChannels)),
                (OutChannels, nameof(OutChannels)),
                (LayersPerBlock, nameof(LayersPerBlock)),
                (NormNumGroups, nameof(NormNumGroups)),
                (LatentChannels, nameof(LatentChannels)),
                (MicroBatchSize ?? 1, nameof(MicroBatchSize)),
                (DecodeChunkSize, nameof(DecodeChunkSize)),
            }
        )
        {
            Check(size > 0, name, $"{name} is {size}; it must be positive.");
        }

        Check(
            LayersPerBlock <= 100 && BlockOutChannels.Count <= 16,
            nameof(LayersPerBlock),
            $"there are {BlockOutChannels.Count} levels of {LayersPerBlock} layers; at most 16 levels of 100 layers are allowed."
        );
        foreach (var channels in BlockOutChannels)
        {
            Check(
                channels > 0 && channels % NormNumGroups == 0,
                nameof(BlockOutChannels),
                $"BlockOutChannels contains {channels}, which is not a positive multiple of NormNumGroups {NormNumGroups}."
            );
        }

        Check(ScalingFactor is > 0 and < double.PositiveInfinity, nameof(ScalingFactor), $"ScalingFactor is {ScalingFactor}; it must be positive.");
    }

    private static void Check(bool right, string name, string message)
    {
        if (!right)
        {
            throw new ArgumentException($"The autoencoder configuration is invalid: {message}", name);
        }
    }
}

/// <summary>Generated code that reads and writes the configuration.</summary>
[JsonSerializable(typeof(AutoencoderKLConfig))]
internal sealed partial class AutoencoderKLJson : JsonSerializerContext;
