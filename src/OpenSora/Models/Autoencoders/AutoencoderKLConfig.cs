namespace OpenSora.Models;

/// <summary>Sizes and choices of an <see cref="AutoencoderKL"/>. JSON spells the names in snake case, as diffusers does.</summary>
public sealed record AutoencoderKLConfig
{
    /// <summary>Channels of the pictures that go in.</summary>
    public int InChannels { get; init; } = 3;

    /// <summary>Channels of the pictures that come out.</summary>
    public int OutChannels { get; init; } = 3;

    /// <summary>Channels of each level; every level but the last halves height and width.</summary>
    public IReadOnlyList<int> BlockOutChannels { get; init; } = [128, 256, 512, 512];

    /// <summary>Residual blocks of an encoder level; a decoder level has one more.</summary>
    public int LayersPerBlock { get; init; } = 2;

    /// <summary>Groups of every group normalisation.</summary>
    public int NormNumGroups { get; init; } = 32;

    /// <summary>Channels of a latent.</summary>
    public int LatentChannels { get; init; } = 4;

    /// <summary>What latents are multiplied with so that diffusion sees about unit variance (Rombach et al., 2022).</summary>
    public double ScalingFactor { get; init; } = 0.18215;

    /// <summary>The most frames that pass through the network at a time; null: all of them.</summary>
    public int? MicroBatchSize { get; init; } = 4;

    /// <summary>Checks that a model can be made of these sizes.</summary>
    /// <exception cref="ArgumentException">A size is wrong; the message says which and what it must be.</exception>
    public void Validate()
    {
        Check(BlockOutChannels is { Count: > 0 }, nameof(BlockOutChannels), "BlockOutChannels is empty; it needs the channels of each level.");
        foreach (
            var (size, name) in new[]
            {
                (InChannels, nameof(InChannels)),
                (OutChannels, nameof(OutChannels)),
                (LayersPerBlock, nameof(LayersPerBlock)),
                (NormNumGroups, nameof(NormNumGroups)),
                (LatentChannels, nameof(LatentChannels)),
                (MicroBatchSize ?? 1, nameof(MicroBatchSize)),
            }
        )
        {
            Check(size > 0, name, $"{name} is {size}; it must be positive.");
        }

        Check(
            LayersPerBlock <= 100 && BlockOutChannels.Count <= 16,
            nameof(LayersPerBlock),
            $"there are {BlockOutChannels.Count} levels of {LayersPerBlock} layers; it must be at most 16 of 100."
        );
        foreach (var channels in BlockOutChannels)
        {
            Check(
                channels > 0 && channels % NormNumGroups == 0,
                nameof(BlockOutChannels),
                $"{channels} of BlockOutChannels is not a positive multiple of NormNumGroups {NormNumGroups}."
            );
        }

        Check(ScalingFactor is > 0 and < double.PositiveInfinity, nameof(ScalingFactor), $"ScalingFactor is {ScalingFactor}; it must be positive.");
    }

    private static void Check(bool right, string name, string message)
    {
        if (!right)
        {
            throw new ArgumentException($"The autoencoder's configuration is wrong: {message}", name);
        }
    }
}
