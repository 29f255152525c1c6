using System.Text.Json.Serialization;
using OpenSora.Models.Layers;
using OpenSora.Runtime;
using OpenSora.Weights;
using TorchSharp;
using TorchSharp.Modules;
using static OpenSora.Models.Layers.Functional;
using static OpenSora.Runtime.Scopes;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Configuration of a <see cref="StdiT2"/>.</summary>
public sealed record StdiT2Config : TransformerConfig
{
    /// <summary>Initializes the published configuration.</summary>
    public StdiT2Config() => (ModelMaxLength, QkNorm) = (200, true);

    /// <summary>The side length, in pixels, of the square images on which the positions of the image model are based. Positions for other sizes are
    /// scaled relative to it.</summary>
    public int InputSqSize { get; init; } = 512;

    /// <summary>Whether queries and keys along time are rotated before they are normalized, as in Open-Sora 1.1 and its weights. Open-Sora 1.2
    /// normalizes first.</summary>
    public bool QkNormLegacy { get; init; } = true;

    /// <summary>The names that <see cref="Preset"/> accepts.</summary>
    public static IReadOnlyList<string> Presets { get; } = ["STDiT2-XL/2"];

    /// <summary>Gets the configuration of a named model with patches of 1x2x2.</summary>
    /// <param name="name">One of <see cref="Presets"/>.</param>
    /// <exception cref="ArgumentException">The name is unknown.</exception>
    public static StdiT2Config Preset(string name) =>
        name switch
        {
            "STDiT2-XL/2" => new(),
            _ => throw new ArgumentException($"There is no STDiT2 preset '{name}'. Known presets: {string.Join(", ", Presets)}.", nameof(name)),
        };

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        CheckRotaryPositions();
        Positive((InputSqSize, nameof(InputSqSize)));
        Check(
            HiddenSize % 3 == 0,
            nameof(HiddenSize),
            $"HiddenSize {HiddenSize} is not a multiple of 3; height, width and aspect ratio get a third of the channels each."
        );
    }
}

/// <summary>Generated code that reads and writes the configuration.</summary>
[JsonSerializable(typeof(StdiT2Config))]
internal sealed partial class StdiT2Json : JsonSerializerContext;

/// <summary>
/// STDiT2, the transformer of Open-Sora 1.1, for videos of any resolution, aspect ratio and length. Its blocks are those of <see cref="StdiT"/>,
/// conditioned also on the size, aspect ratio, number of frames, frame rate and conditioning frames.
/// </summary>
/// <remarks>
/// Source: Open-Sora 1.1 report; size and aspect ratio as in PixArt-alpha (Chen et al., 2023), rotary positions along time after Su et al. (2021),
/// normalized queries and keys after Henry et al. (2020). The names of parameters and buffers are those of the original. The model can be called from
/// several threads at the same time, as long as it is not being trained or loaded. In comments, B is the batch size, T the number of token frames, S
/// the number of tokens per frame, C the number of channels and M the number of text tokens.
/// </remarks>
public sealed class StdiT2 : VideoTransformer<StdiT2Config>
{
    private readonly PatchEmbedder x_embedder;
    private readonly TimestepEmbedder t_embedder;
    private readonly Sequential t_block;
    private readonly Sequential t_block_temp;
    private readonly CaptionEmbedder y_embedder;
    private readonly Rope rope;
    private readonly BlockList<StdiT2Block> blocks;
    private readonly FinalLayer final_layer;
    private readonly SizeEmbedder csize_embedder;
    private readonly SizeEmbedder ar_embedder;
    private readonly SizeEmbedder fl_embedder;
    private readonly SizeEmbedder fps_embedder;

    /// <summary>Creates the model and initializes its parameters.</summary>
    /// <param name="config">The configuration of the model.</param>
    /// <param name="initialize">Whether to initialize the parameters. Pass false if weights are loaded next: the parameters then stay uninitialized
    /// and their memory is not touched.</param>
    /// <exception cref="ArgumentException">The configuration is invalid.</exception>
    public StdiT2(StdiT2Config config, bool initialize = true)
        : base(nameof(StdiT2), config)
    {
        var c = config.HiddenSize;
        var (t, h, w) = (config.PatchSize[0], config.PatchSize[1], config.PatchSize[2]);

        x_embedder = new PatchEmbedder(config.InChannels, c, (t, h, w));
        t_embedder = new TimestepEmbedder(c);
        t_block = nn.Sequential(nn.SiLU(), new Linear(c, 6L * c) { Exact = true });
        t_block_temp = nn.Sequential(nn.SiLU(), new Linear(c, 3L * c) { Exact = true });
        y_embedder = new CaptionEmbedder(config.CaptionChannels, c, config.ModelMaxLength);
        rope = new Rope(c / config.NumHeads);
        blocks = new BlockList<StdiT2Block>([.. Enumerable.Range(0, config.Depth).Select(_ => new StdiT2Block(config, rope))]);
        final_layer = new FinalLayer(c, t * h * w * config.OutChannels);
        (csize_embedder, ar_embedder) = (new SizeEmbedder(c / 3), new SizeEmbedder(c / 3));
        (fl_embedder, fps_embedder) = (new SizeEmbedder(c), new SizeEmbedder(c));
        RegisterComponents();
        if (initialize)
        {
            Initialize();
        }
    }

    /// <summary>The descriptor of the architecture, as registered in <see cref="Architectures.BuiltIn"/>.</summary>
    public static Architecture<IVideoTransformer> Architecture { get; } =
        Architecture<IVideoTransformer>.Of(
            "stdit2",
            config => new StdiT2(config, initialize: false),
            new StdiT2Config(),
            json: StdiT2Json.Default.StdiT2Config
        ) with
        {
            HubNames = ["STDiT2"],
            Recognizer = Recognize,
        };

    /// <inheritdoc/>
    public override bool IsTemporal(string parameter) => parameter.Contains(".attn_temp.", StringComparison.Ordinal);

    /// <summary>Null, because the model has no fixed size.</summary>
    public override IReadOnlyList<int>? LatentSize => null;

    /// <summary>The value 1 for each axis, because latents are padded to whole patches.</summary>
    public override IReadOnlyList<int> LatentMultiple { get; } = [1, 1, 1];

    /// <summary>Initializes all parameters.</summary>
    /// <remarks>The initialization is that of <see cref="StdiT.Initialize"/>. The attention along time initially outputs zero, so that a new model is
    /// an image model.</remarks>
    /// <param name="generator">The random generator of the values; null uses PyTorch's global generator.</param>
    public override void Initialize(Generator? generator = null)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        InitializeLayers(generator, t_embedder, t_block, t_block_temp, csize_embedder, ar_embedder, fl_embedder, fps_embedder);
        InitializeCaptions(y_embedder, generator);
        InitializeTable(final_layer.scale_shift_table, generator);
        Parameters.Constant(final_layer.linear.weight, 0);
        rope.Initialize();
        foreach (var block in blocks)
        {
            InitializeTable(block.scale_shift_table, generator);
            InitializeTable(block.scale_shift_table_temporal, generator);
            Parameters.Constant(block.cross_attn.proj.weight, 0);
            Parameters.Constant(block.attn_temp.proj.weight, 0);
        }
    }

    /// <summary>Predicts the noise and, if the variance is learned, its interpolation weights.</summary>
    /// <remarks>In training mode, captions are dropped at random with probability <see cref="TransformerConfig.ClassDropoutProb"/>, unless the
    /// conditions specify which captions to drop.</remarks>
    /// <param name="x">Noisy latents <c>[B, channels, frames, height, width]</c>.</param>
    /// <param name="timestep">Timesteps of the diffusion process, <c>[B]</c>; they may be fractional.</param>
    /// <param name="conditions">The text, size, length, frame rate and conditioning frames.</param>
    /// <returns>The prediction, <c>[B, channels or 2 * channels, frames, height, width]</c>, float32, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A tensor has the wrong shape; the message says which one.</exception>
    public override Tensor forward(Tensor x, Tensor timestep, DenoiserConditions conditions)
    {
        MultiResolution.CheckInputs(Config, x, timestep, conditions);
        using var scope = NewDisposeScope();
        var (b, c, noisy) = (x.shape[0], Config.HiddenSize, conditions.NoisyFrames);
        using var call = Divide(ref x, ref noisy);
        var (t, h, w) = MultiResolution.Grid(Config, x);
        Tensor Row(params double[] values) => MultiResolution.Row(x.device, values);

        var (height, width) = (conditions.Height, conditions.Width);
        var size = cat([csize_embedder.call(Row(height, width)), ar_embedder.call(Row((double)height / width))], 1); // [1, C]
        var length = fl_embedder.call(Row(conditions.Frames)).Plus(fps_embedder.call(MultiResolution.Rates(conditions, x))); // [1 or B, C]
        var time = t_embedder.call(timestep); // [B, C]
        var clean = noisy is null ? null : t_embedder.call(zeros(1, device: x.device)); // [1, C], conditioning frames are at time 0
        Tensor Modulation(Sequential shared, Tensor condition, int parts) => // [B, 1 or T, parts, C]
            MultiResolution.Modulation(shared.call(time.Plus(condition)), clean is null ? null : shared.call(clean.Plus(condition)), noisy, parts);
        var (inFrames, alongTime) = (Modulation(t_block, size, 6), Modulation(t_block_temp, length, 3));
        var drop = conditions.DroppedText ?? Drop(conditions.Text);
        var captions = y_embedder.call(conditions.Text.unsqueeze(1), drop).squeeze(1); // [B, M, C]
        var (text, textBias) = CrossAttention.Keys(captions, conditions.TextMask, Config.NumHeads);

        var tokens = x_embedder.call(x).view(b, t, h * w, c); // [B, T, S, C]
        tokens = tokens.Plus(MultiResolution.Places(Config, Config.InputSqSize, h, w, conditions, x.device).unsqueeze(1).In(tokens.dtype));
        foreach (var block in blocks)
        {
            conditions.CancellationToken.ThrowIfCancellationRequested();
            var next = block.call(tokens, inFrames, alongTime, text, textBias);
            tokens.Dispose();
            tokens = next;
        }
        // As published, the last layer receives the size embedding only for conditioning frames.
        var afterBlocks = clean?.Plus(size);
        var video = MultiResolution.Video(Config, x_embedder, final_layer, tokens, time, afterBlocks, noisy, x);
        return (call?.Gather(video) ?? video).MoveToOuterDisposeScope();
    }

    private protected override int TemporalAttentions => Config.Depth;

    private protected override NetworkCost Cost(CallSize size, int bytes) =>
        new(
            FlopEstimate.Of(Config, (int)size.Frames, (int)size.Height, (int)size.Width, (int)size.Tokens).Times(size.Batch),
            WorkingMemory.Of(Config, size, bytes)
        );

    /// <inheritdoc/>
    public override Tensor NullCaption(long batch = 1) => Scoped(() => y_embedder.y_embedding.unsqueeze(0).repeat(batch, 1, 1));

    private static IEnumerable<Candidate> Recognize(WeightsFile file)
    {
        if (TransformerShapes.In(file) is { } shapes && shapes.Has("blocks.0.scale_shift_table_temporal"))
        {
            var config = TransformerShapes.Sizes(shapes, new StdiT2Config(), StdiT2Config.Presets, StdiT2Config.Preset);
            var preset = TransformerShapes.Preset(config, StdiT2Config.Presets, StdiT2Config.Preset);
            yield return new(config, preset ?? "STDiT2", TransformerShapes.Words(shapes, config));
        }
    }
}

/// <summary>A block: attention within frames, attention along time, cross attention to the text and an MLP. The attention along time has its own norm
/// and modulation.</summary>
internal sealed class StdiT2Block : nn.Module<Tensor, Tensor, Tensor, Tensor, Tensor?, Tensor>
{
    public readonly Parameter scale_shift_table;
    public readonly Parameter scale_shift_table_temporal;
    public readonly SelfAttention attn;
    public readonly CrossAttention cross_attn;
    public readonly Mlp mlp;
    public readonly SelfAttention attn_temp;
    private readonly Func<Tensor, Tensor> _attendAlongTime;

    public StdiT2Block(StdiT2Config config, Rope rope)
        : base(nameof(StdiT2Block))
    {
        var (c, heads) = (config.HiddenSize, config.NumHeads);
        scale_shift_table = Parameters.Create(6, c);
        scale_shift_table_temporal = Parameters.Create(3, c);
        attn = new SelfAttention(c, heads, config.QkNorm, rms: true);
        cross_attn = new CrossAttention(c, heads);
        mlp = new Mlp(c, (long)(c * config.MlpRatio), c);
        attn_temp = new SelfAttention(c, heads, config.QkNorm, rms: true);
        _attendAlongTime = x => attn_temp.AttendAlong(SelfAttention.Time, x, rope, config.QkNormLegacy);
        RegisterComponents();
    }

    /// <summary>Runs the block.</summary>
    /// <param name="x">Tokens <c>[B, T, S, C]</c>.</param>
    /// <param name="inFrames">The modulation that all blocks share, computed from timestep and size: <c>[B, 1 or T, 6, C]</c>.</param>
    /// <param name="alongTime">The modulation along time that all blocks share, computed from timestep, length and frame rate:
    /// <c>[B, 1 or T, 3, C]</c>.</param>
    /// <param name="text">Text states, <c>[B, M, C]</c>.</param>
    /// <param name="textBias">The text mask as an attention bias; see <see cref="CrossAttention.KeyBias"/>.</param>
    public override Tensor forward(Tensor x, Tensor inFrames, Tensor alongTime, Tensor text, Tensor? textBias) =>
        this.Checkpoint(i => Compute(i[0]!, i[1]!, i[2]!, i[3]!, i[4]), x, inFrames, alongTime, text, textBias);

    private Tensor Compute(Tensor x, Tensor inFrames, Tensor alongTime, Tensor text, Tensor? textBias)
    {
        using var scope = NewDisposeScope();
        var m = MultiResolution.Parts(scale_shift_table, inFrames, x.dtype); // 6 of [B, 1 or T, 1, C]
        var (shiftAttention, scaleAttention, gateAttention) = (m[0], m[1], m[2]);
        var (shiftMlp, scaleMlp, gateMlp) = (m[3], m[4], m[5]);
        m = MultiResolution.Parts(scale_shift_table_temporal, alongTime, x.dtype); // 3 of [B, 1 or T, 1, C]
        var (shiftTemporal, scaleTemporal, gateTemporal) = (m[0], m[1], m[2]);

        x = AddGated(x, gateAttention, attn.AttendAlong(SelfAttention.Space, NormModulate(x, shiftAttention, scaleAttention)));
        x = AddGated(x, gateTemporal, _attendAlongTime(NormModulate(x, shiftTemporal, scaleTemporal)));
        x = x.Plus(cross_attn.call(x.flatten(1, 2), text, textBias).view(x.shape));
        return AddGated(x, gateMlp, mlp.call(NormModulate(x, shiftMlp, scaleMlp))).MoveToOuterDisposeScope();
    }
}
