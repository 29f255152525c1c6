namespace OpenSora.Models;

/// <summary>Sizes and choices that <see cref="StdiT2"/> and <see cref="StdiT3"/> share: models of any resolution, aspect ratio and length. Latents
/// that are no multiple of
/// <see cref="TransformerConfig.PatchSize"/> are padded.</summary>
public abstract record MultiResolutionConfig : TransformerConfig
{
    private protected MultiResolutionConfig() { }

    /// <summary>Height and width in pixels of the squares that the image model's positions are of: those of other sizes are stretched to
    /// them.</summary>
    public int InputSqSize { get; init; } = 512;

    /// <summary>The most tokens of a caption; rows of the null caption.</summary>
    public int ModelMaxLength { get; init; } = 300;

    /// <summary>Whether the output has a second half, the interpolation weights of the learned variance; a rectified flow leaves it unused.</summary>
    public bool PredSigma { get; init; } = true;

    /// <summary>Normalises queries and keys of the self attentions.</summary>
    public bool QkNorm { get; init; } = true;

    internal int OutChannels => PredSigma ? 2 * InChannels : InChannels;

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        Positive((InputSqSize, nameof(InputSqSize)), (ModelMaxLength, nameof(ModelMaxLength)));
        Check(
            HiddenSize % (2 * NumHeads) == 0,
            nameof(HiddenSize),
            $"HiddenSize {HiddenSize} is not an even multiple of NumHeads {NumHeads}, which the rotary positions need."
        );
    }
}
