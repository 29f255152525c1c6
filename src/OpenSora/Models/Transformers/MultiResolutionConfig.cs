namespace OpenSora.Models;

/// <summary>Configuration that <see cref="StdiT2"/> and <see cref="StdiT3"/> have in common, as models for any resolution, aspect ratio and length.
/// Latents that are not a multiple of <see cref="TransformerConfig.PatchSize"/> are padded.</summary>
public abstract record MultiResolutionConfig : TransformerConfig
{
    private protected MultiResolutionConfig() { }

    /// <summary>The side length, in pixels, of the square images on which the positions of the image model are based. Positions for other sizes are
    /// scaled relative to it.</summary>
    public int InputSqSize { get; init; } = 512;

    /// <summary>The maximum number of tokens in a caption, which is also the number of rows of the null caption.</summary>
    public int ModelMaxLength { get; init; } = 300;

    /// <summary>Whether the output has a second half with the interpolation weights of the learned variance. A rectified flow does not use
    /// it.</summary>
    public bool PredSigma { get; init; } = true;

    /// <summary>Whether to normalize the queries and keys of self-attention.</summary>
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
            $"HiddenSize {HiddenSize} is not an even multiple of NumHeads {NumHeads}, which the rotary positions require."
        );
    }
}
