using System.Text.Json.Serialization;

namespace OpenSora.Models;

/// <summary>The configuration of a <see cref="TinyAutoencoder"/>.</summary>
internal sealed record TinyAutoencoderConfig
{
    /// <summary>The number of channels of the input images.</summary>
    public int InChannels { get; init; } = 3;

    /// <summary>The number of channels of the output images.</summary>
    public int OutChannels { get; init; } = 3;

    /// <summary>The number of channels of all hidden layers.</summary>
    public int Channels { get; init; } = 64;

    /// <summary>The number of residual blocks at each encoder level; every level except the first halves height and width before its
    /// blocks.</summary>
    public IReadOnlyList<int> NumEncoderBlocks { get; init; } = [1, 3, 3, 3];

    /// <summary>The number of residual blocks at each decoder level; every level except the last doubles height and width after its blocks.</summary>
    public IReadOnlyList<int> NumDecoderBlocks { get; init; } = [3, 3, 3, 1];

    /// <summary>The number of latent channels.</summary>
    public int LatentChannels { get; init; } = 4;

    /// <summary>Indicates whether the blocks at the lowest resolution have an additional branch with group normalization, which connects distant
    /// positions.</summary>
    public bool MiddleNorm { get; init; }

    /// <summary>The factor that latents are multiplied by. The default is 1 because these networks were trained on scaled latents.</summary>
    public double ScalingFactor { get; init; } = 1;

    /// <summary>The maximum number of frames processed by the network at a time.</summary>
    public int MicroBatchSize { get; init; } = 4;

    /// <summary>The names accepted by <see cref="Preset"/>.</summary>
    public static IReadOnlyList<string> Presets { get; } = ["TAESD", "TAESDXL", "TAESD3", "TAEF1", "TAEF2"];

    /// <summary>Gets the configuration of a published model.</summary>
    /// <param name="name">One of <see cref="Presets"/>, which match the latents of Stable Diffusion 1 and 2, XL, 3, FLUX.1 and FLUX.2
    /// respectively.</param>
    /// <exception cref="ArgumentException">The name is unknown.</exception>
    public static TinyAutoencoderConfig Preset(string name) =>
        name switch
        {
            "TAESD" or "TAESDXL" => new(),
            "TAESD3" or "TAEF1" => new() { LatentChannels = 16 },
            "TAEF2" => new() { LatentChannels = 32, MiddleNorm = true },
            _ => throw new ArgumentException($"There is no tiny autoencoder '{name}'. Known are {string.Join(", ", Presets)}.", nameof(name)),
        };

    /// <summary>Validates the configuration.</summary>
    /// <exception cref="ArgumentException">A value is invalid; the message names it and states the expected value.</exception>
    public void Validate()
    {
        foreach (
            var (size, name) in new[]
            {
                (InChannels, nameof(InChannels)),
                (OutChannels, nameof(OutChannels)),
                (Channels, nameof(Channels)),
                (LatentChannels, nameof(LatentChannels)),
                (MicroBatchSize, nameof(MicroBatchSize)),
            }
        )
        {
            Check(size > 0, name, $"{name} is {size}; it must be positive.");
        }

        foreach (var (blocks, name) in new[] { (NumEncoderBlocks, nameof(NumEncoderBlocks)), (NumDecoderBlocks, nameof(NumDecoderBlocks)) })
        {
            Check(
                blocks is { Count: > 0 } && blocks.All(count => count is >= 0 and <= 100),
                name,
                $"{name} is [{string.Join(", ", blocks ?? [])}]; it must list 0 to 100 blocks for each level."
            );
        }

        Check(
            NumEncoderBlocks.Count == NumDecoderBlocks.Count,
            nameof(NumDecoderBlocks),
            $"NumEncoderBlocks has {NumEncoderBlocks.Count} levels and NumDecoderBlocks has {NumDecoderBlocks.Count}; the numbers must be equal."
        );
        Check(ScalingFactor is > 0 and < double.PositiveInfinity, nameof(ScalingFactor), $"ScalingFactor is {ScalingFactor}; it must be positive.");
    }

    private static void Check(bool right, string name, string message)
    {
        if (!right)
        {
            throw new ArgumentException($"The tiny autoencoder configuration is invalid: {message}", name);
        }
    }
}

/// <summary>Generated code that reads and writes the configuration.</summary>
[JsonSerializable(typeof(TinyAutoencoderConfig))]
internal sealed partial class TinyAutoencoderJson : JsonSerializerContext;
