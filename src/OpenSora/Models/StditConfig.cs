namespace OpenSora.Models;

/// <summary>Sizes and choices of an <see cref="Stdit"/>. JSON spells the names in snake case, as the original's configuration does.</summary>
public record StditConfig
{
    /// <summary>Latent size <c>[frames, height, width]</c> that the position tables are made for. Other sizes run too, with tables made on the way.</summary>
    public IReadOnlyList<int> InputSize { get; init; } = [16, 32, 32];

    /// <summary>Channels of the latents.</summary>
    public int InChannels { get; init; } = 4;

    /// <summary>Latent positions that one token covers, <c>[frames, height, width]</c>.</summary>
    public IReadOnlyList<int> PatchSize { get; init; } = [1, 2, 2];

    /// <summary>Channels of a token; a multiple of 4 and of <see cref="NumHeads"/>.</summary>
    public int HiddenSize { get; init; } = 1152;

    /// <summary>Blocks.</summary>
    public int Depth { get; init; } = 28;

    /// <summary>Heads of every attention.</summary>
    public int NumHeads { get; init; } = 16;

    /// <summary>Hidden channels of a block's MLP, as a multiple of <see cref="HiddenSize"/>.</summary>
    public double MlpRatio { get; init; } = 4;

    /// <summary>Channels of the text encoder's states (T5-v1.1-XXL: 4096).</summary>
    public int CaptionChannels { get; init; } = 4096;

    /// <summary>The most tokens of a caption; rows of the null caption.</summary>
    public int ModelMaxLength { get; init; } = 120;

    /// <summary>The share of captions that training replaces by the null caption, for classifier-free guidance.</summary>
    public double ClassDropoutProb { get; init; } = 0.1;

    /// <summary>Whether the output has a second half, the interpolation weights of the learned variance (Nichol and Dhariwal, 2021).</summary>
    public bool PredSigma { get; init; } = true;

    /// <summary>Divides spatial coordinates: 0.5 for 256x256 pixels, 1 for 512x512, where the published weights were trained.</summary>
    public double SpaceScale { get; init; } = 1;

    /// <summary>Divides frame numbers: 1 for 16 frames, 2/3 for 64, where the published weights were trained.</summary>
    public double TimeScale { get; init; } = 1;

    /// <summary>Leaves the temporal positions out.</summary>
    public bool NoTemporalPosEmb { get; init; }

    /// <summary>Normalises queries and keys of the self attentions.</summary>
    public bool QkNorm { get; init; }

    /// <summary>Starts the temporal attention's output at zero, so that a model begins as its image model (Open-Sora 1.0 report).</summary>
    public bool ZeroInitTemporal { get; init; } = true;

    /// <summary>How blocks attend within frames and along time.</summary>
    public AttentionOrder AttentionOrder { get; init; } = AttentionOrder.Serial;

    /// <summary>Stretches spatial positions to a square of as many tokens, as PixArt-alpha does: of no effect on square latents.</summary>
    public bool StretchPositions { get; init; }

    /// <summary>Tells the model height, width and their ratio beside the time, as PixArt-alpha's models of many sizes do. Needs a multiple of 3 channels.</summary>
    public bool SizeConditioning { get; init; }

    /// <summary>Names that <see cref="Preset"/> knows: the sizes of DiT (Peebles and Xie, 2023, table 1) with patches of 1x2x2.</summary>
    public static IReadOnlyList<string> Presets { get; } = ["STDiT-S/2", "STDiT-B/2", "STDiT-L/2", "STDiT-XL/2"];

    /// <summary>The sizes of a named model.</summary>
    /// <param name="name">One of <see cref="Presets"/>; <c>STDiT-XL/2</c> is the published one.</param>
    /// <exception cref="ArgumentException">The name is not known.</exception>
    public static StditConfig Preset(string name) => name switch
    {
        "STDiT-S/2" => new() { Depth = 12, HiddenSize = 384, NumHeads = 6 },
        "STDiT-B/2" => new() { Depth = 12, HiddenSize = 768, NumHeads = 12 },
        "STDiT-L/2" => new() { Depth = 24, HiddenSize = 1024, NumHeads = 16 },
        "STDiT-XL/2" => new(),
        _ => throw new ArgumentException($"There is no STDiT preset '{name}'. Known are {string.Join(", ", Presets)}.", nameof(name)),
    };

    /// <summary>Checks that a model can be made of these sizes.</summary>
    /// <exception cref="ArgumentException">A size is wrong; the message says which and what it must be.</exception>
    public void Validate()
    {
        Triple(InputSize, nameof(InputSize));
        Triple(PatchSize, nameof(PatchSize));
        foreach (var (size, name) in new[]
        {
            (InChannels, nameof(InChannels)), (HiddenSize, nameof(HiddenSize)), (Depth, nameof(Depth)), (NumHeads, nameof(NumHeads)),
            (CaptionChannels, nameof(CaptionChannels)), (ModelMaxLength, nameof(ModelMaxLength)),
        })
            Check(size > 0, name, $"{name} is {size}; it must be positive.");
        for (var i = 0; i < 3; i++)
            Check(InputSize[i] % PatchSize[i] == 0, nameof(InputSize), $"InputSize [{string.Join(", ", InputSize)}] is not a multiple of PatchSize [{string.Join(", ", PatchSize)}].");
        Check(HiddenSize % NumHeads == 0, nameof(HiddenSize), $"HiddenSize {HiddenSize} is not a multiple of NumHeads {NumHeads}.");
        Check(HiddenSize % 4 == 0, nameof(HiddenSize), $"HiddenSize {HiddenSize} is not a multiple of 4, which the sine-cosine positions need.");
        Check(!SizeConditioning || HiddenSize % 3 == 0, nameof(HiddenSize), $"HiddenSize {HiddenSize} is not a multiple of 3, which SizeConditioning needs.");
        Check(Enum.IsDefined(AttentionOrder), nameof(AttentionOrder), $"AttentionOrder is {AttentionOrder}; known are {string.Join(", ", Enum.GetNames<AttentionOrder>())}.");
        Check(MlpRatio > 0, nameof(MlpRatio), $"MlpRatio is {MlpRatio}; it must be positive.");
        Check(SpaceScale > 0, nameof(SpaceScale), $"SpaceScale is {SpaceScale}; it must be positive.");
        Check(TimeScale > 0, nameof(TimeScale), $"TimeScale is {TimeScale}; it must be positive.");
        Check(ClassDropoutProb is >= 0 and <= 1, nameof(ClassDropoutProb), $"ClassDropoutProb is {ClassDropoutProb}; it must be between 0 and 1.");
    }

    /// <summary>What messages call the architecture.</summary>
    private protected virtual string Architecture => "STDiT";

    private void Triple(IReadOnlyList<int> sizes, string name) => Check(sizes is { Count: 3 } && sizes.All(size => size > 0), name,
        $"{name} is [{string.Join(", ", sizes ?? [])}]; it must be three positive numbers: frames, height, width.");

    private void Check(bool right, string name, string message)
    {
        if (!right)
            throw new ArgumentException($"The {Architecture} configuration is wrong: {message}", name);
    }
}
