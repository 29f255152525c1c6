namespace OpenSora.Models;

/// <summary>Sizes and choices of an <see cref="StdiT"/>.</summary>
public record StdiTConfig : TransformerConfig
{
    /// <summary>Latent size <c>[frames, height, width]</c> that the position tables are made for. Other sizes run too, with tables made on the
    /// way.</summary>
    public IReadOnlyList<int> InputSize { get; init; } = [16, 32, 32];

    /// <summary>The most tokens of a caption; rows of the null caption.</summary>
    public int ModelMaxLength { get; init; } = 120;

    /// <summary>Whether the output has a second half, the interpolation weights of the learned variance (Nichol and Dhariwal, 2021).</summary>
    public bool PredSigma { get; init; } = true;

    /// <summary>Divides spatial coordinates: 0.5 for 256x256 pixels, 1 for 512x512, where the published weights were trained.</summary>
    public double SpaceScale { get; init; } = 1;

    /// <summary>Divides frame numbers: 1 for 16 frames, 2/3 for 64, where the published weights were trained.</summary>
    public double TimeScale { get; init; } = 1;

    /// <summary>Leaves the temporal positions out.</summary>
    public bool NoTemporalPosEmb { get; init; }

    /// <summary>Normalises what the second attention of every block, along time, sees, and tells it the frames' positions in every block. The
    /// published model does neither, and
    /// its weights need this off. Its tokens grow from block to block, and with them logits and gradients: in a model of one's own that shall learn
    /// motions, training can run
    /// away (recipes/stickers/TRAINING.md has a measured case). Adds no parameters; of no effect where blocks have no second attention.</summary>
    public bool TemporalNorm { get; init; }

    /// <summary>Normalises queries and keys of the self attentions.</summary>
    public bool QkNorm { get; init; }

    /// <summary>Starts the temporal attention's output at zero, so that a model begins as its image model (Open-Sora 1.0 report).</summary>
    public bool ZeroInitTemporal { get; init; } = true;

    /// <summary>How blocks attend within frames and along time.</summary>
    public AttentionOrder AttentionOrder { get; init; } = AttentionOrder.Serial;

    /// <summary>Stretches spatial positions to the square with as many tokens as <see cref="InputSize"/> has, as PixArt-alpha does. It has no effect
    /// on latents
    /// of that size if they are square.</summary>
    public bool StretchPositions { get; init; }

    /// <summary>Tells the model height, width and their ratio beside the time, as PixArt-alpha's models of many sizes do. Needs a multiple of 3
    /// channels.</summary>
    public bool SizeConditioning { get; init; }

    /// <summary>Names that <see cref="Preset"/> knows: the sizes of DiT (Peebles and Xie, 2023, table 1) with patches of 1x2x2.</summary>
    public static IReadOnlyList<string> Presets { get; } = ["STDiT-S/2", "STDiT-B/2", "STDiT-L/2", "STDiT-XL/2"];

    /// <summary>The sizes of a named model.</summary>
    /// <param name="name">One of <see cref="Presets"/>; <c>STDiT-XL/2</c> is the published one.</param>
    /// <exception cref="ArgumentException">The name is not known.</exception>
    public static StdiTConfig Preset(string name) => Named(new StdiTConfig(), name, Presets);

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        CheckInputSize(InputSize);
        CheckOrder(AttentionOrder);
        Positive((ModelMaxLength, nameof(ModelMaxLength)));
        Check(SpaceScale > 0, nameof(SpaceScale), $"SpaceScale is {SpaceScale}; it must be positive.");
        Check(TimeScale > 0, nameof(TimeScale), $"TimeScale is {TimeScale}; it must be positive.");
        Check(
            !SizeConditioning || HiddenSize % 3 == 0,
            nameof(HiddenSize),
            $"HiddenSize {HiddenSize} is not a multiple of 3, which SizeConditioning needs."
        );
    }
}
