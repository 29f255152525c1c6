namespace OpenSora.Models;

/// <summary>Sizes and choices that <see cref="Stdit2"/> and <see cref="Stdit3"/> share: models of any resolution, aspect ratio and length. JSON spells the names in snake
/// case, as the original's configuration does.</summary>
public abstract record MultiResolutionConfig
{
    private protected MultiResolutionConfig()
    {
    }

    /// <summary>Height and width in pixels of the squares that the image model's positions are of: those of other sizes are stretched to them.</summary>
    public int InputSqSize { get; init; } = 512;

    /// <summary>Channels of the latents.</summary>
    public int InChannels { get; init; } = 4;

    /// <summary>Latent positions that one token covers, <c>[frames, height, width]</c>. Latents that are no multiple are padded.</summary>
    public IReadOnlyList<int> PatchSize { get; init; } = [1, 2, 2];

    /// <summary>Channels of a token; a multiple of 4 and, twice, of <see cref="NumHeads"/>.</summary>
    public int HiddenSize { get; init; } = 1152;

    /// <summary>Blocks; of <see cref="Stdit3"/>, pairs of blocks.</summary>
    public int Depth { get; init; } = 28;

    /// <summary>Heads of every attention.</summary>
    public int NumHeads { get; init; } = 16;

    /// <summary>Hidden channels of a block's MLP, as a multiple of <see cref="HiddenSize"/>.</summary>
    public double MlpRatio { get; init; } = 4;

    /// <summary>Channels of the text encoder's states (T5-v1.1-XXL: 4096).</summary>
    public int CaptionChannels { get; init; } = 4096;

    /// <summary>The most tokens of a caption; rows of the null caption.</summary>
    public int ModelMaxLength { get; init; } = 300;

    /// <summary>The share of captions that training replaces by the null caption, for classifier-free guidance.</summary>
    public double ClassDropoutProb { get; init; } = 0.1;

    /// <summary>Whether the output has a second half, the interpolation weights of the learned variance; a rectified flow leaves it unused.</summary>
    public bool PredSigma { get; init; } = true;

    /// <summary>Normalises queries and keys of the self attentions.</summary>
    public bool QkNorm { get; init; } = true;

    internal int OutChannels => PredSigma ? 2 * InChannels : InChannels;

    /// <summary>Checks that a model can be made of these sizes.</summary>
    /// <exception cref="ArgumentException">A size is wrong; the message says which and what it must be.</exception>
    public virtual void Validate()
    {
        Check(PatchSize is { Count: 3 } && PatchSize.All(size => size > 0), nameof(PatchSize),
            $"{nameof(PatchSize)} is [{string.Join(", ", PatchSize ?? [])}]; it must be three positive numbers: frames, height, width.");
        foreach (var (size, name) in new[]
        {
            (InputSqSize, nameof(InputSqSize)), (InChannels, nameof(InChannels)), (HiddenSize, nameof(HiddenSize)), (Depth, nameof(Depth)), (NumHeads, nameof(NumHeads)),
            (CaptionChannels, nameof(CaptionChannels)), (ModelMaxLength, nameof(ModelMaxLength)),
        })
            Check(size > 0, name, $"{name} is {size}; it must be positive.");
        Check(HiddenSize % (2 * NumHeads) == 0, nameof(HiddenSize), $"HiddenSize {HiddenSize} is not an even multiple of NumHeads {NumHeads}, which the rotary positions need.");
        Check(HiddenSize % 4 == 0, nameof(HiddenSize), $"HiddenSize {HiddenSize} is not a multiple of 4, which the sine-cosine positions need.");
        Check(MlpRatio > 0, nameof(MlpRatio), $"MlpRatio is {MlpRatio}; it must be positive.");
        Check(ClassDropoutProb is >= 0 and <= 1, nameof(ClassDropoutProb), $"ClassDropoutProb is {ClassDropoutProb}; it must be between 0 and 1.");
    }

    private protected void Check(bool right, string name, string message)
    {
        if (!right)
            throw new ArgumentException($"The configuration {GetType().Name} is wrong: {message}", name);
    }
}
