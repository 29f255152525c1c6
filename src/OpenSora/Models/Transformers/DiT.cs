using System.Globalization;
using OpenSora.Models.Layers;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Configuration of a <see cref="DiT"/>.</summary>
public record DiTConfig : TransformerConfig
{
    /// <summary>Initializes the published configuration: a prompt is a single vector with the 512 channels of CLIP ViT-B/32.</summary>
    public DiTConfig() => CaptionChannels = 512;

    /// <summary>The size of the latents, <c>[frames, height, width]</c>, for which the position tables are precomputed. Other sizes also work; their
    /// tables are computed on each call.</summary>
    public IReadOnlyList<int> InputSize { get; init; } = [16, 32, 32];

    /// <summary>The condition of the model: <c>text</c>, one vector per prompt, or <c>label_N</c>, one of N classes.</summary>
    public string Condition { get; init; } = "text";

    /// <summary>Whether the output has a second half with the interpolation weights of the learned variance (Nichol and Dhariwal, 2021).</summary>
    public bool LearnSigma { get; init; } = true;

    /// <summary>Whether to omit the temporal positions. If null, they are omitted only if <see cref="InputSize"/> is a single frame of tokens,
    /// because the image models of DiT have none.</summary>
    public bool? NoTemporalPosEmb { get; init; }

    /// <summary>The order in which blocks attend within frames and along time.</summary>
    public AttentionOrder AttentionOrder { get; init; } = AttentionOrder.Full;

    /// <summary>Whether the output of a block's second attention, along time, starts at zero, so that a new model behaves like its image
    /// model.</summary>
    public bool ZeroInitTemporal { get; init; } = true;

    /// <summary>The names that <see cref="Preset"/> accepts (Peebles and Xie, 2023, table 1), with patches of 1x2x2, or of 2x2x2 as Open-Sora also
    /// has.</summary>
    public static IReadOnlyList<string> Presets { get; } = ["DiT-S/2", "DiT-B/2", "DiT-L/2", "DiT-XL/2", "DiT-XL/2x2"];

    /// <summary>Gets the configuration of a named model.</summary>
    /// <param name="name">One of <see cref="Presets"/>.</param>
    /// <exception cref="ArgumentException">The name is unknown.</exception>
    public static DiTConfig Preset(string name) => Named(new DiTConfig(), name, Presets);

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        CheckInputSize(InputSize);
        CheckOrder(AttentionOrder);
        Check(
            string.Equals(Condition, "text", StringComparison.Ordinal) || Classes > 0,
            nameof(Condition),
            $"Condition is '{Condition}'; it must be 'text', or 'label_' followed by the number of classes."
        );
    }

    internal bool HasFramePositions => !(NoTemporalPosEmb ?? InputSize[0] == PatchSize[0]);

    /// <summary>The number of classes; 0 if the condition is not a label.</summary>
    internal int Classes =>
        Condition?.StartsWith("label_", StringComparison.Ordinal) == true
        && int.TryParse(Condition.AsSpan(6), NumberStyles.None, CultureInfo.InvariantCulture, out var classes)
            ? classes
            : 0;
}

/// <summary>
/// DiT over video: every token attends to all tokens of all frames. Open-Sora 1.0 includes it as a comparison with <see cref="StdiT"/>: it gives
/// better results for the same number of training steps, but the cost of its attention grows with the square of the number of frames. With other
/// orders of attention, the same blocks form other video models (<see cref="DiTConfig.AttentionOrder"/>, <see cref="Latte"/>).
/// </summary>
/// <remarks>
/// Source: "Scalable Diffusion Models with Transformers" (Peebles and Xie, 2023), adaLN-Zero blocks. The condition, a class or a single text vector,
/// is added to the time embedding; there is no cross attention. The names of parameters and buffers are those of Open-Sora. In comments, B is the
/// batch size, T the number of token frames, S the number of tokens per frame and C the number of channels.
/// </remarks>
public class DiT : nn.Module<Tensor, Tensor, Tensor, Tensor>, IVideoTransformer
{
    private protected readonly Tensor pos_embed_spatial;
    private protected readonly Tensor pos_embed_temporal;
    private protected readonly PatchEmbedder x_embedder;
    private protected readonly TimestepEmbedder t_embedder;
    private protected readonly nn.Module<Tensor, Tensor?, Tensor> y_embedder;
    private protected readonly ModuleList<DiTBlock> blocks;
    private protected readonly DiTFinalLayer final_layer;

    /// <summary>Creates the model and initializes its parameters.</summary>
    /// <param name="config">The configuration of the model.</param>
    /// <param name="initialize">Whether to initialize the parameters. Pass false if weights are loaded next: the parameters then stay uninitialized
    /// and their memory is not touched.</param>
    /// <exception cref="ArgumentException">The configuration is invalid.</exception>
    public DiT(DiTConfig config, bool initialize = true)
        : this(nameof(DiT), config, initialize) { }

    private protected DiT(string name, DiTConfig config, bool initialize)
        : base(name)
    {
        ArgumentNullException.ThrowIfNull(config);
        config.Validate();
        Config = config;
        var c = config.HiddenSize;
        var (t, h, w) = (config.PatchSize[0], config.PatchSize[1], config.PatchSize[2]);

        x_embedder = new PatchEmbedder(config.InChannels, c, (t, h, w));
        t_embedder = new TimestepEmbedder(c);
        y_embedder = config.Classes > 0 ? new LabelEmbedder(config.Classes, c) : new CaptionEmbedder(config.CaptionChannels, c, tokens: 1);
        blocks = nn.ModuleList(Enumerable.Range(0, config.Depth).Select(number => new DiTBlock(config, number)).ToArray());
        final_layer = new DiTFinalLayer(c, t * h * w * OutChannels);
        (pos_embed_spatial, pos_embed_temporal) = Grid(config.InputSize[0] / t, config.InputSize[1] / h, config.InputSize[2] / w);
        pos_embed_spatial.DetachFromDisposeScope();
        pos_embed_temporal.DetachFromDisposeScope();
        RegisterComponents();
        if (initialize)
        {
            Initialize();
        }
    }

    /// <inheritdoc/>
    protected sealed override void RegisterComponents() => base.RegisterComponents();

    /// <summary>The configuration that the model was created with.</summary>
    public DiTConfig Config { get; }

    /// <summary>The number of channels of the output: twice that of the latents if the variance is learned.</summary>
    public int OutChannels => Config.LearnSigma ? 2 * Config.InChannels : Config.InChannels;

    /// <inheritdoc/>
    public int LatentChannels => Config.InChannels;

    /// <inheritdoc/>
    public bool LearnsVariance => Config.LearnSigma;

    /// <inheritdoc/>
    public bool IsTemporal(string parameter) => SpaceTimeAttention.IsTemporal(Config.AttentionOrder, parameter);

    /// <inheritdoc/>
    public IReadOnlyList<int>? LatentSize => Config.InputSize;

    /// <inheritdoc/>
    public IReadOnlyList<int> LatentMultiple => Config.PatchSize;

    /// <inheritdoc/>
    public int TextWidth => Config.Classes > 0 ? 1 : Config.CaptionChannels;

    /// <inheritdoc/>
    public int TextTokens => 1;

    /// <inheritdoc/>
    public bool SupportsNoisyFrames => false;

    /// <inheritdoc/>
    public double CaptionDropout => Config.ClassDropoutProb;

    /// <summary>The random generator that selects which conditions are dropped during training; null uses PyTorch's global generator.</summary>
    public Generator? DropoutGenerator { get; set; }

    /// <summary>Initializes all parameters: Xavier-uniform matrices, small normal embeddings, and zeros for the modulation, so that every block
    /// starts as the identity (adaLN-Zero).</summary>
    /// <param name="generator">The random generator of the values; null uses PyTorch's global generator.</param>
    public void Initialize(Generator? generator = null)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        foreach (var dense in modules().OfType<Linear>())
        {
            Parameters.Xavier(dense.weight, generator);
            Parameters.Constant(dense.bias!, 0);
        }
        foreach (var dense in t_embedder.modules().OfType<Linear>())
        {
            Parameters.Normal(dense.weight, 0.02, generator);
        }

        if (y_embedder is LabelEmbedder labels)
        {
            Parameters.Normal(labels.embedding_table.weight, 0.02, generator);
        }

        if (y_embedder is CaptionEmbedder captions)
        {
            Parameters.Normal(captions.y_embedding, 1 / Math.Sqrt(Config.CaptionChannels), generator);
        }

        foreach (var temporal in blocks.Select(block => Config.ZeroInitTemporal ? block.attn_temp : null).OfType<SelfAttention>())
        {
            Parameters.Constant(temporal.proj.weight, 0);
        }

        foreach (var modulation in blocks.Select(block => block.adaLN_modulation).Append(final_layer.adaLN_modulation))
        {
            Parameters.Constant(modulation.modules().OfType<Linear>().Single().weight, 0);
        }

        Parameters.Constant(final_layer.linear.weight, 0);
    }

    /// <summary>Predicts the noise and, if the variance is learned, its interpolation weights.</summary>
    /// <remarks>In training mode, conditions are dropped at random with probability <see cref="TransformerConfig.ClassDropoutProb"/>.</remarks>
    /// <param name="x">Noisy latents <c>[B, channels, frames, height, width]</c>.</param>
    /// <param name="timestep">Timesteps of the diffusion process, <c>[B]</c>; they may be fractional.</param>
    /// <param name="y">Text vectors <c>[B, 1, 1, CaptionChannels]</c>, or class labels <c>[B]</c>, int64, for which the number of classes stands for
    /// no class.</param>
    /// <returns>The prediction, <c>[B, OutChannels, frames, height, width]</c>, float32, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A tensor has the wrong shape; the message says which one.</exception>
    public override Tensor forward(Tensor x, Tensor timestep, Tensor y) => forward(x, timestep, y, null);

    private Tensor forward(Tensor x, Tensor timestep, Tensor y, Tensor? drop)
    {
        CheckShapes(x, timestep, y);
        using var scope = NewDisposeScope();
        var (b, c) = (x.shape[0], Config.HiddenSize);
        var (t, h, w) = (x.shape[2] / Config.PatchSize[0], x.shape[3] / Config.PatchSize[1], x.shape[4] / Config.PatchSize[2]);
        var (places, frames) = PositionsFor(t, h, w, x.device);

        var tokens = x_embedder.call(x).view(b, t, h * w, c); // [B, T, S, C]
        tokens = tokens + places.unsqueeze(1).In(tokens.dtype);
        drop ??= training && Config.ClassDropoutProb > 0 ? rand(b, device: y.device, generator: DropoutGenerator) < Config.ClassDropoutProb : null;
        var condition = t_embedder.call(timestep) + y_embedder.call(y, drop).view(b, c); // [B, C]

        foreach (var block in blocks)
        {
            var next = block.call(tokens, condition, block.TakesFramePositions && Config.HasFramePositions ? frames : null);
            tokens.Dispose();
            tokens = next;
        }
        tokens = tokens.view(b, -1, c).In(ScalarType.Float32);
        return x_embedder.Unpatchify(final_layer.call(tokens, condition), t, h, w, OutChannels).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public Tensor Denoise(Tensor x, Tensor t, DenoiserConditions conditions)
    {
        ArgumentNullException.ThrowIfNull(conditions);
        using var scope = NewDisposeScope();
        var text = conditions.Text;
        var y =
            Config.Classes > 0 && text.dim() == 3 && text.shape[1] == 1 && text.shape[2] == 1
                ? text.view(-1).to(ScalarType.Int64)
                : text.unsqueeze(1);
        return forward(x, t, y, conditions.DroppedText).MoveToOuterDisposeScope();
    }

    /// <summary>Gets the condition for no text or no class, which guidance uses as the unconditional prompt.</summary>
    /// <param name="batch">The number of copies.</param>
    /// <returns>The condition, <c>[batch, 1, TextWidth]</c>, owned by the caller: a learned vector, or the number of classes, which stands for no
    /// class.</returns>
    public Tensor NullCaption(long batch = 1)
    {
        using var scope = NewDisposeScope();
        var nothing = y_embedder is CaptionEmbedder captions
            ? captions.y_embedding
            : full([1, 1], Config.Classes, ScalarType.Float32, pos_embed_spatial.device);
        return nothing.unsqueeze(0).repeat(batch, 1, 1).MoveToOuterDisposeScope();
    }

    // The tables [1, S, C] and [1, T, C]: the buffers for the configured size, new tables for any other size.
    private (Tensor Places, Tensor Frames) PositionsFor(long t, long h, long w, Device device)
    {
        var (size, patch) = (Config.InputSize, Config.PatchSize);
        if ((t, h, w) == (size[0] / patch[0], size[1] / patch[1], size[2] / patch[2]))
        {
            return (pos_embed_spatial, pos_embed_temporal);
        }

        var (places, frames) = Grid((int)t, (int)h, (int)w);
        return (places.to(device), frames.to(device));
    }

    private (Tensor Places, Tensor Frames) Grid(int t, int h, int w) =>
        (Positions.Grid(Config.HiddenSize, h, w, scale: 1), Positions.Line(Config.HiddenSize, t, scale: 1));

    private void CheckShapes(Tensor x, Tensor timestep, Tensor y)
    {
        ShapeCheck.Latents(x, Config.InChannels, Config.PatchSize, nameof(x));
        ShapeCheck.Timesteps(timestep, x.shape[0], nameof(timestep));
        long[] expected = Config.Classes > 0 ? [x.shape[0]] : [x.shape[0], 1, 1, Config.CaptionChannels];
        ShapeCheck.Require(
            y.shape.AsSpan().SequenceEqual(expected),
            $"The condition has shape {ShapeCheck.Text(y)}; expected [{string.Join(", ", expected)}].",
            nameof(y)
        );
    }
}

/// <summary>A block of DiT and Latte: attention, then an MLP, modulated and gated by the condition through each block's own parameters
/// (adaLN-Zero).</summary>
internal sealed class DiTBlock : nn.Module<Tensor, Tensor, Tensor?, Tensor>, ICheckpointedBlock
{
    public readonly SelfAttention attn;
    public readonly Mlp mlp;
    public readonly Sequential adaLN_modulation;
    public readonly SelfAttention? attn_temp;
    private readonly SpaceTimeAttention _attention;

    public DiTBlock(DiTConfig config, int number)
        : base(nameof(DiTBlock))
    {
        var c = config.HiddenSize;
        _attention = new SpaceTimeAttention(config.AttentionOrder, number);
        attn = new SelfAttention(c, config.NumHeads);
        mlp = new Mlp(c, (long)(c * config.MlpRatio), c);
        adaLN_modulation = nn.Sequential(nn.SiLU(), new Linear(c, 6L * c) { Exact = true });
        attn_temp = _attention.HasTemporal ? new SelfAttention(c, config.NumHeads) : null;
        RegisterComponents();
    }

    /// <inheritdoc cref="SpaceTimeAttention.TakesFramePositions"/>
    public bool TakesFramePositions => _attention.TakesFramePositions;

    public bool GradientCheckpointing { get; set; }

    /// <summary>Runs the block.</summary>
    /// <param name="x">Tokens <c>[B, T, S, C]</c>.</param>
    /// <param name="condition">The embedding of time and text or class, <c>[B, C]</c>.</param>
    /// <param name="frames">Positions along time, <c>[1, T, C]</c>, for a block that adds them; otherwise null.</param>
    public override Tensor forward(Tensor x, Tensor condition, Tensor? frames) =>
        GradientCheckpointing
            ? Checkpointed.Run(this, inputs => Compute(inputs[0]!, inputs[1]!, inputs[2]), x, condition, frames)
            : Compute(x, condition, frames);

    private Tensor Compute(Tensor x, Tensor condition, Tensor? frames)
    {
        using var scope = NewDisposeScope();
        var m = adaLN_modulation.call(condition).view(x.shape[0], 1, 6, -1).unsqueeze(3).In(x.dtype).unbind(2); // 6 of [B, 1, 1, C]
        var (shiftAttention, scaleAttention, gateAttention) = (m[0], m[1], m[2]);
        var (shiftMlp, scaleMlp, gateMlp) = (m[3], m[4], m[5]);
        x = _attention.Run(x, attn, attn_temp, shiftAttention, scaleAttention, gateAttention, gateAttention, frames);
        return AdaLn.AddGatedTo(x, gateMlp, mlp.call(AdaLn.NormModulate(x, shiftMlp, scaleMlp))).MoveToOuterDisposeScope();
    }
}

/// <summary>The last layer of DiT and Latte: adaLN, then a projection to patches. Parameters: <c>adaLN_modulation.1</c>, <c>linear</c>.</summary>
internal sealed class DiTFinalLayer : nn.Module<Tensor, Tensor, Tensor>
{
    public readonly Sequential adaLN_modulation;
    public readonly Linear linear;

    public DiTFinalLayer(long channels, long outputs)
        : base(nameof(DiTFinalLayer))
    {
        adaLN_modulation = nn.Sequential(nn.SiLU(), new Linear(channels, 2 * channels) { Exact = true });
        linear = new Linear(channels, outputs) { Exact = true };
        RegisterComponents();
    }

    /// <summary>Modulates the tokens by the condition and projects them.</summary>
    /// <param name="x">Tokens, <c>[batch, tokens, channels]</c>.</param>
    /// <param name="c">The condition, <c>[batch, channels]</c>.</param>
    public override Tensor forward(Tensor x, Tensor c)
    {
        using var scope = NewDisposeScope();
        var modulation = adaLN_modulation.call(c).unsqueeze(1).chunk(2, 2);
        return linear.call(AdaLn.NormModulate(x, modulation[0], modulation[1])).MoveToOuterDisposeScope();
    }
}
