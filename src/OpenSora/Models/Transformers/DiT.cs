using System.Globalization;
using System.Text.Json.Serialization;
using OpenSora.Models.Layers;
using OpenSora.Runtime;
using OpenSora.Weights;
using TorchSharp;
using TorchSharp.Modules;
using static OpenSora.Models.Layers.Functional;
using static OpenSora.Runtime.Scopes;
using static OpenSora.Runtime.TensorArithmetic;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Configuration of a <see cref="DiT"/>.</summary>
public sealed partial record DiTConfig : TransformerConfig
{
    /// <summary>Initializes the published configuration: a prompt is a single vector with the 512 channels of CLIP ViT-B/32.</summary>
    public DiTConfig() => (CaptionChannels, ModelMaxLength) = (512, 1);

    /// <summary>The size of the latents, <c>[frames, height, width]</c>, for which the position tables are precomputed. Other sizes also work; their
    /// tables are computed on each call.</summary>
    public IReadOnlyList<int> InputSize { get; init; } = [16, 32, 32];

    /// <summary>The condition of the model: <c>text</c>, one vector per prompt, or <c>label_N</c>, one of N classes.</summary>
    public string Condition { get; init; } = "text";

    /// <summary>Whether to omit the temporal positions. If null, they are omitted only if <see cref="InputSize"/> is a single frame of tokens,
    /// because the image models of DiT have none.</summary>
    public bool? NoTemporalPosEmb { get; init; }

    /// <summary>The order in which blocks attend within frames and along time.</summary>
    public AttentionOrder AttentionOrder { get; init; } = AttentionOrder.Full;

    /// <summary>Whether the output of a block's second attention, along time, starts at zero, so that a new model behaves like its image
    /// model.</summary>
    public bool ZeroInitTemporal { get; init; } = true;

    /// <summary>The names that <see cref="Preset"/> accepts: DiT with the sizes of Peebles and Xie (2023, table 1) and Latte with those of Ma et al.
    /// (2024, table 1), with patches of 1x2x2, or of 2x2x2 as Open-Sora also has.</summary>
    public static IReadOnlyList<string> Presets { get; } =
    [.. ((string[])["DiT", "Latte"]).SelectMany(name => new[] { "S/2", "B/2", "L/2", "XL/2", "XL/2x2" }, (name, size) => $"{name}-{size}")];

    /// <summary>Gets the configuration of a named model.</summary>
    /// <param name="name">One of <see cref="Presets"/>; <c>DiT-XL/2</c> and <c>Latte-XL/2</c> are published models.</param>
    /// <exception cref="ArgumentException">The name is unknown.</exception>
    public static DiTConfig Preset(string name) =>
        Named(name?.StartsWith("Latte", StringComparison.Ordinal) == true ? Latte : new DiTConfig(), name!, Presets);

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        CheckInputSize(InputSize);
        CheckOrder(AttentionOrder);
        Check(ModelMaxLength == 1, nameof(ModelMaxLength), $"ModelMaxLength is {ModelMaxLength}; it must be 1, because a prompt is a single vector.");
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

/// <summary>Generated code that reads and writes the configuration.</summary>
[JsonSerializable(typeof(DiTConfig))]
internal sealed partial class DiTJson : JsonSerializerContext;

/// <summary>
/// DiT over video: every token attends to all tokens of all frames. Open-Sora 1.0 includes it as a comparison with <see cref="StdiT"/>: it gives
/// better results for the same number of training steps, but the cost of its attention grows with the square of the number of frames. With other
/// orders of attention, the same blocks form other video models (<see cref="DiTConfig.AttentionOrder"/>, <see cref="DiTConfig.Latte"/>).
/// </summary>
/// <remarks>
/// Source: "Scalable Diffusion Models with Transformers" (Peebles and Xie, 2023), adaLN-Zero blocks. The condition, a class or a single text vector,
/// is added to the time embedding; there is no cross attention. The names of parameters and buffers are those of Open-Sora. In comments, B is the
/// batch size, T the number of token frames, S the number of tokens per frame and C the number of channels.
/// </remarks>
public sealed partial class DiT : VideoTransformer<DiTConfig>
{
    private readonly Tensor pos_embed_spatial;
    private readonly Tensor pos_embed_temporal;
    private readonly PatchEmbedder x_embedder;
    private readonly TimestepEmbedder t_embedder;
    private readonly nn.Module<Tensor, Tensor?, Tensor> y_embedder;
    private readonly BlockList<DiTBlock> blocks;
    private readonly DiTFinalLayer final_layer;

    /// <summary>Creates the model and initializes its parameters.</summary>
    /// <param name="config">The configuration of the model.</param>
    /// <param name="initialize">Whether to initialize the parameters. Pass false if weights are loaded next: the parameters then stay uninitialized
    /// and their memory is not touched.</param>
    /// <exception cref="ArgumentException">The configuration is invalid.</exception>
    public DiT(DiTConfig config, bool initialize = true)
        : base(nameof(DiT), config)
    {
        var c = config.HiddenSize;
        var (t, h, w) = (config.PatchSize[0], config.PatchSize[1], config.PatchSize[2]);

        x_embedder = new PatchEmbedder(config.InChannels, c, (t, h, w));
        t_embedder = new TimestepEmbedder(c);
        y_embedder = config.Classes > 0 ? new LabelEmbedder(config.Classes, c) : new CaptionEmbedder(config.CaptionChannels, c, tokens: 1);
        blocks = new BlockList<DiTBlock>([.. Enumerable.Range(0, config.Depth).Select(number => new DiTBlock(config, number))]);
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

    /// <summary>The descriptor of the architecture, as registered in <see cref="Architectures.BuiltIn"/>.</summary>
    public static Architecture<IVideoTransformer> Architecture { get; } =
        Architecture<IVideoTransformer>.Of("dit", config => new DiT(config, initialize: false), new DiTConfig(), json: DiTJson.Default.DiTConfig) with
        {
            Loading = (_, _) => PublishedWeights.Options(),
            // Latte has the same names and shapes, but for the table of temporal positions in its own checkpoints.
            Recognizer = file => IsIn(file) is { } shapes && !shapes.Has("temp_embed") ? [CandidateOf(shapes, new(), "DiT")] : [],
        };

    /// <inheritdoc/>
    public override bool IsTemporal(string parameter) => SpaceTimeAttention.IsTemporal(Config.AttentionOrder, parameter);

    /// <inheritdoc/>
    public override IReadOnlyList<int>? LatentSize => Config.InputSize;

    /// <inheritdoc/>
    public override IReadOnlyList<int> LatentMultiple => Config.PatchSize;

    /// <inheritdoc/>
    public override int TextWidth => Config.Classes > 0 ? 1 : Config.CaptionChannels;

    /// <inheritdoc/>
    public override bool SupportsNoisyFrames => false;

    /// <summary>Initializes all parameters: Xavier-uniform matrices, small normal embeddings, and zeros for the modulation, so that every block
    /// starts as the identity (adaLN-Zero).</summary>
    /// <param name="generator">The random generator of the values; null uses PyTorch's global generator.</param>
    public override void Initialize(Generator? generator = null)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        InitializeLayers(generator, t_embedder);
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

    /// <summary>Loads a published checkpoint: that of Open-Sora 1.0, or of the official DiT or Latte. The sizes must be those of the model, but the
    /// size of its latents and the length of its texts may differ.</summary>
    /// <remarks>The parameter names of these checkpoints match those of Open-Sora. Their patch projections have no time axis and get one of length 1.
    /// Their position tables fit only one size and are ignored, because the model computes its own. A null caption of a different length is truncated
    /// or extended by repeating its last row.</remarks>
    /// <param name="path">The path of the checkpoint.</param>
    /// <exception cref="FileNotFoundException">The file does not exist.</exception>
    /// <exception cref="InvalidWeightsException">The file is damaged or does not match the model; the model is unchanged.</exception>
    public LoadReport LoadPublishedWeights(string path) => PublishedWeights.Load(this, path);

    /// <summary>Loads the weights of the official DiT into a video model. The attention along time keeps its initial values. If its output starts at
    /// zero (<see cref="DiTConfig.ZeroInitTemporal"/>), the video model computes for each frame what the image model computes.</summary>
    /// <remarks>The order of attention must be <see cref="AttentionOrder.Serial"/> or <see cref="AttentionOrder.Parallel"/>. A model of order
    /// <see cref="AttentionOrder.Full"/> equals the image model for single frames if it has no temporal positions.</remarks>
    /// <param name="path">The path of the checkpoint of an image model with the sizes of this model.</param>
    /// <exception cref="FileNotFoundException">The file does not exist.</exception>
    /// <exception cref="InvalidWeightsException">The file is damaged or does not match the model; the model is unchanged.</exception>
    /// <exception cref="InvalidOperationException">The order of attention is <see cref="AttentionOrder.Interleaved"/>.</exception>
    public LoadReport LoadImageWeights(string path) => PublishedWeights.LoadImage(this, Config.AttentionOrder, path);

    /// <summary>Predicts the noise and, if the variance is learned, its interpolation weights.</summary>
    /// <remarks>In training mode, conditions are dropped at random with probability <see cref="TransformerConfig.ClassDropoutProb"/>.</remarks>
    /// <param name="x">Noisy latents <c>[B, channels, frames, height, width]</c>.</param>
    /// <param name="timestep">Timesteps of the diffusion process, <c>[B]</c>; they may be fractional.</param>
    /// <param name="y">Text vectors <c>[B, 1, 1, CaptionChannels]</c>, or class labels <c>[B]</c>, int64, for which the number of classes stands for
    /// no class.</param>
    /// <returns>The prediction, <c>[B, OutChannels, frames, height, width]</c>, float32, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A tensor has the wrong shape; the message says which one.</exception>
    public Tensor forward(Tensor x, Tensor timestep, Tensor y) => Scoped(() => forward(x, timestep, y, Drop(y), CancellationToken.None));

    private Tensor forward(Tensor x, Tensor timestep, Tensor y, Tensor? drop, CancellationToken cancellationToken)
    {
        CheckShapes(x, timestep, y);
        using var scope = NewDisposeScope();
        Tensor? noisyFrames = null;
        using var call = Divide(ref x, ref noisyFrames);
        var (b, c) = (x.shape[0], Config.HiddenSize);
        var (t, h, w) = (x.shape[2] / Config.PatchSize[0], x.shape[3] / Config.PatchSize[1], x.shape[4] / Config.PatchSize[2]);
        var (places, frames) = PositionsFor(t, h, w, x.device, call);

        var tokens = x_embedder.call(x).view(b, t, h * w, c); // [B, T, S, C]
        tokens = tokens.Plus(places.unsqueeze(1).In(tokens.dtype));
        var condition = t_embedder.call(timestep).Plus(y_embedder.call(y, drop).view(b, c)); // [B, C]

        foreach (var block in blocks)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var next = block.call(tokens, condition, block.TakesFramePositions && Config.HasFramePositions ? frames : null);
            tokens.Dispose();
            tokens = next;
        }
        tokens = tokens.view(b, -1, c).In(ScalarType.Float32);
        var video = x_embedder.Unpatchify(final_layer.call(tokens, condition), t, h, w, OutChannels);
        return (call?.Gather(video) ?? video).MoveToOuterDisposeScope();
    }

    /// <inheritdoc cref="IVideoTransformer.Denoise"/>
    public override Tensor forward(Tensor x, Tensor t, DenoiserConditions conditions)
    {
        ArgumentNullException.ThrowIfNull(conditions);
        using var scope = NewDisposeScope();
        var text = conditions.Text;
        var y =
            Config.Classes > 0 && text.dim() == 3 && text.shape[1] == 1 && text.shape[2] == 1
                ? text.view(-1).to(ScalarType.Int64)
                : text.unsqueeze(1);
        return forward(x, t, y, conditions.DroppedText ?? Drop(y), conditions.CancellationToken).MoveToOuterDisposeScope();
    }

    private protected override int TemporalAttentions => SpaceTimeAttention.CountTemporal(Config.AttentionOrder, Config.Depth);

    private protected override NetworkCost Cost(CallSize size, int bytes) =>
        new(FlopEstimate.Of(Config, (int)size.Frames, (int)size.Height, (int)size.Width).Times(size.Batch), WorkingMemory.Of(Config, size, bytes));

    /// <summary>Gets the condition for no text or no class, which guidance uses as the unconditional prompt.</summary>
    /// <param name="batch">The number of copies.</param>
    /// <returns>The condition, <c>[batch, 1, TextWidth]</c>, owned by the caller: a learned vector, or the number of classes, which stands for no
    /// class.</returns>
    public override Tensor NullCaption(long batch = 1)
    {
        using var scope = NewDisposeScope();
        var nothing = y_embedder is CaptionEmbedder captions
            ? captions.y_embedding
            : Full([1, 1], Config.Classes, ScalarType.Float32, pos_embed_spatial.device);
        return nothing.unsqueeze(0).repeat(batch, 1, 1).MoveToOuterDisposeScope();
    }

    // The tables [1, S, C] and [1, T, C]: the buffers for the configured size, new tables for any other size.
    private (Tensor Places, Tensor Frames) PositionsFor(long t, long h, long w, Device device, SequenceParallel? call)
    {
        t = call?.Frames ?? t;
        var (size, patch) = (Config.InputSize, Config.PatchSize);
        if ((t, h, w) == (size[0] / patch[0], size[1] / patch[1], size[2] / patch[2]))
        {
            return (pos_embed_spatial, call?.Own(pos_embed_temporal) ?? pos_embed_temporal);
        }

        var (places, frames) = Grid((int)t, (int)h, (int)w);
        return (places.to(device), (call?.Own(frames) ?? frames).to(device));
    }

    private (Tensor Places, Tensor Frames) Grid(int t, int h, int w) =>
        (GridPositions(Config.HiddenSize, h, w, scale: 1), LinePositions(Config.HiddenSize, t, scale: 1));

    private static TensorShapes? IsIn(WeightsFile file) =>
        TransformerShapes.In(file) is { } shapes && shapes.Has("blocks.0.adaLN_modulation.1.weight") ? shapes : null;

    private static Candidate CandidateOf(TensorShapes shapes, DiTConfig defaults, string title)
    {
        var classes = shapes["y_embedder.embedding_table.weight", 0] - 1;
        var config = TransformerShapes.Sizes(shapes, defaults, DiTConfig.Presets, DiTConfig.Preset);
        config = config with { InputSize = config.PatchSize, Condition = classes > 0 ? $"label_{classes}" : "text" };
        var preset = TransformerShapes.Preset(config, DiTConfig.Presets, DiTConfig.Preset, known => known.AttentionOrder == config.AttentionOrder);
        return new(
            config,
            preset ?? title,
            TransformerShapes.Words(shapes, config, classes > 0 ? $"{classes} classes" : $"text {config.CaptionChannels}")
        );
    }

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
internal sealed class DiTBlock : nn.Module<Tensor, Tensor, Tensor?, Tensor>
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
        attn = new SelfAttention(c, config.NumHeads, config.QkNorm);
        mlp = new Mlp(c, (long)(c * config.MlpRatio), c);
        adaLN_modulation = nn.Sequential(nn.SiLU(), new Linear(c, 6L * c) { Exact = true });
        attn_temp = _attention.HasTemporal ? new SelfAttention(c, config.NumHeads, config.QkNorm) : null;
        RegisterComponents();
    }

    /// <inheritdoc cref="SpaceTimeAttention.TakesFramePositions"/>
    public bool TakesFramePositions => _attention.TakesFramePositions;

    /// <summary>Runs the block.</summary>
    /// <param name="x">Tokens <c>[B, T, S, C]</c>.</param>
    /// <param name="condition">The embedding of time and text or class, <c>[B, C]</c>.</param>
    /// <param name="frames">Positions along time, <c>[1, T, C]</c>, for a block that adds them; otherwise null.</param>
    public override Tensor forward(Tensor x, Tensor condition, Tensor? frames) =>
        this.Checkpoint(inputs => Compute(inputs[0]!, inputs[1]!, inputs[2]), x, condition, frames);

    private Tensor Compute(Tensor x, Tensor condition, Tensor? frames)
    {
        using var scope = NewDisposeScope();
        var m = adaLN_modulation.call(condition).view(x.shape[0], 1, 6, -1).unsqueeze(3).In(x.dtype).unbind(2); // 6 of [B, 1, 1, C]
        var (shiftAttention, scaleAttention, gateAttention) = (m[0], m[1], m[2]);
        var (shiftMlp, scaleMlp, gateMlp) = (m[3], m[4], m[5]);
        x = _attention.Run(x, attn, attn_temp, shiftAttention, scaleAttention, gateAttention, gateAttention, frames);
        return AddGatedTo(x, gateMlp, mlp.call(NormModulate(x, shiftMlp, scaleMlp))).MoveToOuterDisposeScope();
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
        return linear.call(NormModulate(x, modulation[0], modulation[1])).MoveToOuterDisposeScope();
    }
}
