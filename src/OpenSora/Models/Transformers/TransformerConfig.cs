namespace OpenSora.Models;

/// <summary>Configuration that all diffusion transformers of this library have in common. Property names are written in snake case in JSON, as in the
/// original configuration files.</summary>
public abstract record TransformerConfig
{
    private protected TransformerConfig() { }

    /// <summary>The number of channels of the latents.</summary>
    public int InChannels { get; init; } = 4;

    /// <summary>The size of the patch of latents that a token covers, <c>[frames, height, width]</c>.</summary>
    public IReadOnlyList<int> PatchSize { get; init; } = [1, 2, 2];

    /// <summary>The number of channels of a token, which must be a multiple of 4 and of <see cref="NumHeads"/>.</summary>
    public int HiddenSize { get; init; } = 1152;

    /// <summary>The number of blocks, or of pairs of blocks for <see cref="StdiT3"/>.</summary>
    public int Depth { get; init; } = 28;

    /// <summary>The number of heads of each attention.</summary>
    public int NumHeads { get; init; } = 16;

    /// <summary>The number of hidden channels of a block's MLP, as a multiple of <see cref="HiddenSize"/>.</summary>
    public double MlpRatio { get; init; } = 4;

    /// <summary>The number of channels of the text encoder's states (4096 for T5-v1.1-XXL).</summary>
    public int CaptionChannels { get; init; } = 4096;

    /// <summary>The maximum number of tokens in a caption, which is also the number of rows of the null caption.</summary>
    public int ModelMaxLength { get; init; } = 120;

    /// <summary>Whether the output has a second half with the interpolation weights of the learned variance (Nichol and Dhariwal, 2021). A rectified
    /// flow does not use it.</summary>
    public bool PredSigma { get; init; } = true;

    /// <summary>Whether to normalize the queries and keys of self-attention.</summary>
    public bool QkNorm { get; init; }

    /// <summary>The fraction of conditions that training drops for classifier-free guidance.</summary>
    public double ClassDropoutProb { get; init; } = 0.1;

    internal int OutChannels => PredSigma ? 2 * InChannels : InChannels;

    /// <summary>Validates that a model can be created from this configuration.</summary>
    /// <exception cref="ArgumentException">A size is invalid; the message says which one and what is expected.</exception>
    public virtual void Validate()
    {
        Triple(PatchSize, nameof(PatchSize));
        Positive(
            (InChannels, nameof(InChannels)),
            (HiddenSize, nameof(HiddenSize)),
            (Depth, nameof(Depth)),
            (NumHeads, nameof(NumHeads)),
            (CaptionChannels, nameof(CaptionChannels)),
            (ModelMaxLength, nameof(ModelMaxLength))
        );
        Check(Depth <= 1000, nameof(Depth), $"Depth is {Depth}; it must be at most 1000.");
        Check(HiddenSize % NumHeads == 0, nameof(HiddenSize), $"HiddenSize {HiddenSize} is not a multiple of NumHeads {NumHeads}.");
        Check(HiddenSize % 4 == 0, nameof(HiddenSize), $"HiddenSize {HiddenSize} is not a multiple of 4, which the sine-cosine positions require.");
        Check(MlpRatio > 0, nameof(MlpRatio), $"MlpRatio is {MlpRatio}; it must be positive.");
        Check(ClassDropoutProb is >= 0 and <= 1, nameof(ClassDropoutProb), $"ClassDropoutProb is {ClassDropoutProb}; it must be between 0 and 1.");
    }

    /// <summary>Applies the sizes that a letter in the name denotes: those of DiT (Peebles and Xie, 2023, table 1), which all models of the family
    /// use. Patches are 2x2 latents in space and one frame (<c>/2</c>) or two frames (<c>/2x2</c>) in time.</summary>
    /// <param name="config">The configuration in which the sizes are replaced.</param>
    /// <param name="name">A name such as <c>DiT-XL/2</c>.</param>
    /// <param name="known">The known names.</param>
    /// <exception cref="ArgumentException">The name is unknown.</exception>
    private protected static TConfig Named<TConfig>(TConfig config, string name, IReadOnlyList<string> known)
        where TConfig : TransformerConfig
    {
        if (!known.Contains(name, StringComparer.Ordinal))
        {
            throw new ArgumentException($"There is no preset '{name}'. Known presets: {string.Join(", ", known)}.", nameof(name));
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

    /// <summary>Validates that the heads have an even number of channels.</summary>
    private protected void CheckRotaryPositions() =>
        Check(
            HiddenSize % (2 * NumHeads) == 0,
            nameof(HiddenSize),
            $"HiddenSize {HiddenSize} is not an even multiple of NumHeads {NumHeads}, which the rotary positions require."
        );

    /// <summary>Validates that a size consists of frames, height and width that are multiples of the patch size.</summary>
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
            $"AttentionOrder is {order}; the known orders are {string.Join(", ", Enum.GetNames<AttentionOrder>())}."
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
            throw new ArgumentException($"The configuration {GetType().Name} is invalid: {message}", name);
        }
    }

    private void Triple(IReadOnlyList<int> sizes, string name) =>
        Check(
            sizes is { Count: 3 } && sizes.All(size => size > 0),
            name,
            $"{name} is [{string.Join(", ", sizes ?? [])}]; it must be three positive numbers: frames, height, width."
        );
}
