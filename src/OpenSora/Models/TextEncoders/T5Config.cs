using System.Text.Json.Serialization;

namespace OpenSora.Models;

/// <summary>The configuration of a <see cref="T5TextEncoder"/>. JSON uses the snake_case names of transformers.</summary>
public sealed record T5Config
{
    /// <summary>The vocabulary size: the number of rows of the token embedding.</summary>
    public int VocabSize { get; init; } = 32128;

    /// <summary>The width of the token states.</summary>
    public int DModel { get; init; } = 4096;

    /// <summary>The width of each attention head. The number of heads times this width can differ from <see cref="DModel"/>.</summary>
    public int DKv { get; init; } = 64;

    /// <summary>The hidden width of the feed-forward layers.</summary>
    public int DFf { get; init; } = 10240;

    /// <summary>The number of transformer blocks.</summary>
    public int NumLayers { get; init; } = 24;

    /// <summary>The number of heads of each attention layer.</summary>
    public int NumHeads { get; init; } = 64;

    /// <summary>The number of relative position buckets; half of them are for keys after the query.</summary>
    public int RelativeAttentionNumBuckets { get; init; } = 32;

    /// <summary>The distance beyond which all relative positions use the last bucket.</summary>
    public int RelativeAttentionMaxDistance { get; init; } = 128;

    /// <summary>The epsilon that the normalization layers add to the mean square.</summary>
    public double LayerNormEpsilon { get; init; } = 1e-6;

    /// <summary>The type of feed-forward layer: <c>relu</c> (T5 1.0) or <c>gated-gelu</c> (T5 1.1).</summary>
    public string FeedForwardProj { get; init; } = "gated-gelu";

    /// <summary>Validates the configuration.</summary>
    /// <exception cref="ArgumentException">A value is invalid; the message names it and states the expected value.</exception>
    public void Validate()
    {
        foreach (
            var (size, name) in new[]
            {
                (VocabSize, nameof(VocabSize)),
                (DModel, nameof(DModel)),
                (DKv, nameof(DKv)),
                (DFf, nameof(DFf)),
                (NumLayers, nameof(NumLayers)),
                (NumHeads, nameof(NumHeads)),
            }
        )
        {
            Check(size > 0, name, $"{name} is {size}; it must be positive.");
        }

        Check(NumLayers <= 1000, nameof(NumLayers), $"NumLayers is {NumLayers}; it must be at most 1000.");
        Check(
            RelativeAttentionNumBuckets >= 4 && RelativeAttentionNumBuckets % 4 == 0,
            nameof(RelativeAttentionNumBuckets),
            $"RelativeAttentionNumBuckets is {RelativeAttentionNumBuckets}; it must be a positive multiple of 4."
        );
        Check(
            RelativeAttentionMaxDistance > RelativeAttentionNumBuckets / 4,
            nameof(RelativeAttentionMaxDistance),
            $"RelativeAttentionMaxDistance is {RelativeAttentionMaxDistance}; it must be greater than a quarter of RelativeAttentionNumBuckets."
        );
        Check(LayerNormEpsilon > 0, nameof(LayerNormEpsilon), $"LayerNormEpsilon is {LayerNormEpsilon}; it must be positive.");
        Check(
            FeedForwardProj is "relu" or "gated-gelu",
            nameof(FeedForwardProj),
            $"FeedForwardProj is '{FeedForwardProj}'; known are 'relu' and 'gated-gelu'."
        );
    }

    private static void Check(bool right, string name, string message)
    {
        if (!right)
        {
            throw new ArgumentException($"The T5 configuration is invalid: {message}", name);
        }
    }
}

/// <summary>Generated code that reads and writes the configuration.</summary>
[JsonSerializable(typeof(T5Config))]
internal sealed partial class T5Json : JsonSerializerContext;
