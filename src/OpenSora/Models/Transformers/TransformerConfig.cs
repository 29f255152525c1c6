namespace OpenSora.Models;

/// <summary>Sizes and choices that all diffusion transformers of this library have. JSON spells the names in snake case, as the original's
/// configuration does.</summary>
public abstract record TransformerConfig
{
    private protected TransformerConfig() { }

    /// <summary>Channels of the latents.</summary>
    public int InChannels { get; init; } = 4;

    /// <summary>Latent positions that one token covers, <c>[frames, height, width]</c>.</summary>
    public IReadOnlyList<int> PatchSize { get; init; } = [1, 2, 2];

    /// <summary>Channels of a token; a multiple of 4 and of <see cref="NumHeads"/>.</summary>
    public int HiddenSize { get; init; } = 1152;

    /// <summary>Blocks; of <see cref="StdiT3"/>, pairs of blocks.</summary>
    public int Depth { get; init; } = 28;

    /// <summary>Heads of every attention.</summary>
    public int NumHeads { get; init; } = 16;

    /// <summary>Hidden channels of a block's MLP, as a multiple of <see cref="HiddenSize"/>.</summary>
    public double MlpRatio { get; init; } = 4;

    /// <summary>Channels of the text encoder's states (T5-v1.1-XXL: 4096).</summary>
    public int CaptionChannels { get; init; } = 4096;

    /// <summary>The share of conditions that training drops, for classifier-free guidance.</summary>
    public double ClassDropoutProb { get; init; } = 0.1;

    /// <summary>Checks that a model can be made of these sizes.</summary>
    /// <exception cref="ArgumentException">A size is wrong; the message says which and what it must be.</exception>
    public virtual void Validate()
    {
        Triple(PatchSize, nameof(PatchSize));
        Positive(
            (InChannels, nameof(InChannels)),
            (HiddenSize, nameof(HiddenSize)),
            (Depth, nameof(Depth)),
            (NumHeads, nameof(NumHeads)),
            (CaptionChannels, nameof(CaptionChannels))
        );
        Check(Depth <= 1000, nameof(Depth), $"Depth is {Depth}; more than 1000 blocks are no model of this family.");
        Check(HiddenSize % NumHeads == 0, nameof(HiddenSize), $"HiddenSize {HiddenSize} is not a multiple of NumHeads {NumHeads}.");
        Check(HiddenSize % 4 == 0, nameof(HiddenSize), $"HiddenSize {HiddenSize} is not a multiple of 4, which the sine-cosine positions need.");
        Check(MlpRatio > 0, nameof(MlpRatio), $"MlpRatio is {MlpRatio}; it must be positive.");
        Check(ClassDropoutProb is >= 0 and <= 1, nameof(ClassDropoutProb), $"ClassDropoutProb is {ClassDropoutProb}; it must be between 0 and 1.");
    }

    /// <summary>Channels, blocks and heads by letter: those of DiT (Peebles and Xie, 2023, table 1), which all of the family have. Patches are of 2x2
    /// places, of one frame
    /// (<c>/2</c>) or two (<c>/2x2</c>).</summary>
    /// <param name="config">A configuration whose sizes are replaced.</param>
    /// <param name="name">A name such as <c>DiT-XL/2</c>.</param>
    /// <param name="known">The names that there are.</param>
    /// <exception cref="ArgumentException">The name is not known.</exception>
    private protected static TConfig Named<TConfig>(TConfig config, string name, IReadOnlyList<string> known)
        where TConfig : TransformerConfig
    {
        if (!known.Contains(name, StringComparer.Ordinal))
        {
            throw new ArgumentException($"There is no preset '{name}'. Known are {string.Join(", ", known)}.", nameof(name));
        }

        var (hiddenSize, depth, heads) = name[(name.IndexOf('-', StringComparison.Ordinal) + 1)..name.IndexOf('/', StringComparison.Ordinal)] switch
        {
            "S" => (384, 12, 6),
            "B" => (768, 12, 12),
            "L" => (1024, 24, 16),
            _ => (1152, 28, 16),
        };
        var frames = name.EndsWith("/2x2", StringComparison.Ordinal) ? 2 : 1;
        return (TConfig)((TransformerConfig)config with { HiddenSize = hiddenSize, Depth = depth, NumHeads = heads, PatchSize = [frames, 2, 2] });
    }

    /// <summary>Checks a size of frames, height and width, and that patches fill it.</summary>
    private protected void CheckInputSize(IReadOnlyList<int> size)
    {
        Triple(size, "InputSize");
        Check(
            Enumerable.Range(0, 3).All(i => size[i] % PatchSize[i] == 0),
            "InputSize",
            $"InputSize [{string.Join(", ", size)}] is not a multiple of PatchSize [{string.Join(", ", PatchSize)}]."
        );
    }

    private protected void CheckOrder(AttentionOrder order) =>
        Check(
            Enum.IsDefined(order),
            nameof(AttentionOrder),
            $"AttentionOrder is {order}; known are {string.Join(", ", Enum.GetNames<AttentionOrder>())}."
        );

    private protected void Positive(params (int Size, string Name)[] sizes)
    {
        foreach (var (size, name) in sizes)
        {
            Check(size > 0, name, $"{name} is {size}; it must be positive.");
        }
    }

    private protected void Check(bool right, string name, string message)
    {
        if (!right)
        {
            throw new ArgumentException($"The configuration {GetType().Name} is wrong: {message}", name);
        }
    }

    private void Triple(IReadOnlyList<int> sizes, string name) =>
        Check(
            sizes is { Count: 3 } && sizes.All(size => size > 0),
            name,
            $"{name} is [{string.Join(", ", sizes ?? [])}]; it must be three positive numbers: frames, height, width."
        );
}
