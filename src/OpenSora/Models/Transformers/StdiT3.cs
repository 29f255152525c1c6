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

/// <summary>Configuration of a <see cref="StdiT3"/>.</summary>
public sealed record StdiT3Config : TransformerConfig
{
    /// <summary>Initializes the published configuration.</summary>
    public StdiT3Config() => (ModelMaxLength, QkNorm) = (300, true);

    /// <summary>The side length, in pixels, of the square images on which the positions of the image model are based. Positions for other sizes are
    /// scaled relative to it.</summary>
    public int InputSqSize { get; init; } = 512;

    /// <summary>The names that <see cref="Preset"/> accepts.</summary>
    public static IReadOnlyList<string> Presets { get; } = ["STDiT3-XL/2"];

    /// <summary>Gets the configuration of a named model with patches of 1x2x2.</summary>
    /// <param name="name">One of <see cref="Presets"/>.</param>
    /// <exception cref="ArgumentException">The name is unknown.</exception>
    public static StdiT3Config Preset(string name) =>
        name switch
        {
            "STDiT3-XL/2" => new(),
            _ => throw new ArgumentException($"There is no STDiT3 preset '{name}'. Known presets: {string.Join(", ", Presets)}.", nameof(name)),
        };

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        CheckRotaryPositions();
        Positive((InputSqSize, nameof(InputSqSize)));
    }
}

/// <summary>Generated code that reads and writes the configuration.</summary>
[JsonSerializable(typeof(StdiT3Config))]
internal sealed partial class StdiT3Json : JsonSerializerContext;

/// <summary>
/// STDiT3, the transformer of Open-Sora 1.2, for videos of any resolution, aspect ratio and length. Blocks that attend within frames alternate with
/// blocks that attend along time; each block also has cross attention to the text and an MLP. The model is conditioned on the frame rate and on
/// conditioning frames.
/// </summary>
/// <remarks>
/// Source: Open-Sora 1.2 report; rotary positions along time after Su et al. (2021), normalized queries and keys after Henry et al. (2020). Trained
/// as a rectified flow. The names of parameters and buffers are those of the original. The model can be called from several threads at the same time,
/// as long as it is not being trained or loaded. In comments, B is the batch size, T the number of token frames, S the number of tokens per frame, C
/// the number of channels and M the number of text tokens.
/// </remarks>
public sealed class StdiT3 : VideoTransformer<StdiT3Config>
{
    private readonly Rope rope;
    private readonly PatchEmbedder x_embedder;
    private readonly TimestepEmbedder t_embedder;
    private readonly SizeEmbedder fps_embedder;
    private readonly Sequential t_block;
    private readonly CaptionEmbedder y_embedder;
    private readonly BlockList<StdiT3Block> spatial_blocks;
    private readonly BlockList<StdiT3Block> temporal_blocks;
    private readonly FinalLayer final_layer;

    /// <summary>Creates the model and initializes its parameters.</summary>
    /// <param name="config">The configuration of the model.</param>
    /// <param name="initialize">Whether to initialize the parameters. Pass false if weights are loaded next: the parameters then stay uninitialized
    /// and their memory is not touched.</param>
    /// <exception cref="ArgumentException">The configuration is invalid.</exception>
    public StdiT3(StdiT3Config config, bool initialize = true)
        : base(nameof(StdiT3), config)
    {
        var c = config.HiddenSize;
        var (t, h, w) = (config.PatchSize[0], config.PatchSize[1], config.PatchSize[2]);

        rope = new Rope(c / config.NumHeads);
        x_embedder = new PatchEmbedder(config.InChannels, c, (t, h, w));
        t_embedder = new TimestepEmbedder(c);
        fps_embedder = new SizeEmbedder(c);
        t_block = nn.Sequential(nn.SiLU(), new Linear(c, 6L * c) { Exact = true });
        y_embedder = new CaptionEmbedder(config.CaptionChannels, c, config.ModelMaxLength);
        BlockList<StdiT3Block> Blocks(Rope? along) => new([.. Enumerable.Range(0, config.Depth).Select(_ => new StdiT3Block(config, along))]);
        (spatial_blocks, temporal_blocks) = (Blocks(null), Blocks(rope));
        final_layer = new FinalLayer(c, t * h * w * config.OutChannels);
        RegisterComponents();
        if (initialize)
        {
            Initialize();
        }
    }

    /// <summary>The descriptor of the architecture, as registered in <see cref="Architectures.BuiltIn"/>.</summary>
    public static Architecture<IVideoTransformer> Architecture { get; } =
        Architecture<IVideoTransformer>.Of(
            "stdit3",
            config => new StdiT3(config, initialize: false),
            new StdiT3Config(),
            json: StdiT3Json.Default.StdiT3Config
        ) with
        {
            HubNames = ["STDiT3"],
            Recognizer = Recognize,
        };

    /// <inheritdoc/>
    public override bool IsTemporal(string parameter) => parameter.StartsWith("temporal_blocks.", StringComparison.Ordinal);

    /// <summary>Null, because the model has no fixed size.</summary>
    public override IReadOnlyList<int>? LatentSize => null;

    /// <summary>The value 1 for each axis, because latents are padded to whole patches.</summary>
    public override IReadOnlyList<int> LatentMultiple { get; } = [1, 1, 1];

    /// <summary>Initializes all parameters.</summary>
    /// <remarks>The initialization is that of <see cref="StdiT.Initialize"/>. The attentions and MLPs of the blocks along time initially output zero,
    /// so that a new model is an image model.</remarks>
    /// <param name="generator">The random generator of the values; null uses PyTorch's global generator.</param>
    public override void Initialize(Generator? generator = null)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        InitializeLayers(generator, t_embedder, fps_embedder, t_block);
        InitializeCaptions(y_embedder, generator);
        InitializeTable(final_layer.scale_shift_table, generator);
        Parameters.Constant(final_layer.linear.weight, 0);
        rope.Initialize();
        foreach (var block in spatial_blocks.Concat(temporal_blocks))
        {
            InitializeTable(block.scale_shift_table, generator);
            Parameters.Constant(block.cross_attn.proj.weight, 0);
        }
        foreach (var block in temporal_blocks)
        {
            Parameters.Constant(block.attn.proj.weight, 0);
            Parameters.Constant(block.mlp.fc2.weight, 0);
        }
    }

    /// <summary>Predicts the velocity and a second half that a rectified flow does not use.</summary>
    /// <remarks>In training mode, captions are dropped at random with probability <see cref="TransformerConfig.ClassDropoutProb"/>, unless the
    /// conditions specify which captions to drop.</remarks>
    /// <param name="x">Noisy latents <c>[B, channels, frames, height, width]</c>.</param>
    /// <param name="timestep">Timesteps of the diffusion process, <c>[B]</c>; they may be fractional.</param>
    /// <param name="conditions">The text, size, frame rate and conditioning frames.</param>
    /// <returns>The prediction, <c>[B, channels or 2 * channels, frames, height, width]</c>, float32, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A tensor has the wrong shape; the message says which one.</exception>
    public override Tensor forward(Tensor x, Tensor timestep, DenoiserConditions conditions)
    {
        MultiResolution.CheckInputs(Config, x, timestep, conditions);
        using var scope = NewDisposeScope();
        var (b, c, noisy) = (x.shape[0], Config.HiddenSize, conditions.NoisyFrames);
        using var call = Divide(ref x, ref noisy);
        var (t, h, w) = MultiResolution.Grid(Config, x);

        var fps = fps_embedder.call(MultiResolution.Rates(conditions, x)); // [1 or B, C]
        var time = t_embedder.call(timestep).Plus(fps); // [B, C]
        var clean = noisy is null ? null : t_embedder.call(zeros(1, device: x.device)).Plus(fps); // [1 or B, C], conditioning frames are at time 0
        var modulation = MultiResolution.Modulation(t_block.call(time), clean is null ? null : t_block.call(clean), noisy, 6); // [B, 1 or T, 6, C]
        var drop = conditions.DroppedText ?? Drop(conditions.Text);
        var captions = y_embedder.call(conditions.Text.unsqueeze(1), drop).squeeze(1); // [B, M, C]
        var (text, textBias) = CrossAttention.Keys(captions, conditions.TextMask, Config.NumHeads);

        var tokens = x_embedder.call(x).view(b, t, h * w, c); // [B, T, S, C]
        tokens = tokens.Plus(MultiResolution.Places(Config, Config.InputSqSize, h, w, conditions, x.device).unsqueeze(1).In(tokens.dtype));
        foreach (var block in spatial_blocks.Zip(temporal_blocks, (spatial, temporal) => new[] { spatial, temporal }).SelectMany(pair => pair))
        {
            conditions.CancellationToken.ThrowIfCancellationRequested();
            var next = block.call(tokens, modulation, text, textBias);
            tokens.Dispose();
            tokens = next;
        }
        var video = MultiResolution.Video(Config, x_embedder, final_layer, tokens, time, clean, noisy, x);
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
        if (TransformerShapes.In(file) is { } shapes && shapes.Count("spatial_blocks") > 0)
        {
            var config = TransformerShapes.Sizes(shapes, new StdiT3Config(), StdiT3Config.Presets, StdiT3Config.Preset, "spatial_blocks");
            var preset = TransformerShapes.Preset(config, StdiT3Config.Presets, StdiT3Config.Preset);
            yield return new(config, preset ?? "STDiT3", TransformerShapes.Words(shapes, config));
        }
    }
}

/// <summary>A block: attention within frames or along time, cross attention to the text and an MLP, modulated by a time embedding that all blocks
/// share (adaLN-single).</summary>
internal sealed class StdiT3Block : nn.Module<Tensor, Tensor, Tensor, Tensor?, Tensor>
{
    public readonly Parameter scale_shift_table;
    public readonly SelfAttention attn;
    public readonly CrossAttention cross_attn;
    public readonly Mlp mlp;
    private readonly Func<Tensor, Tensor> _attend;

    /// <summary>Creates a block.</summary>
    /// <param name="config">The configuration of the model.</param>
    /// <param name="rope">The rotary positions of the model for a block that attends along time; null for a block that attends within frames.</param>
    public StdiT3Block(StdiT3Config config, Rope? rope)
        : base(nameof(StdiT3Block))
    {
        var (c, heads) = (config.HiddenSize, config.NumHeads);
        scale_shift_table = Parameters.Create(6, c);
        attn = new SelfAttention(c, heads, config.QkNorm, rms: true);
        cross_attn = new CrossAttention(c, heads);
        mlp = new Mlp(c, (long)(c * config.MlpRatio), c);
        _attend = x => attn.AttendAlong(rope is null ? SelfAttention.Space : SelfAttention.Time, x, rope);
        RegisterComponents();
    }

    /// <summary>Runs the block.</summary>
    /// <param name="x">Tokens <c>[B, T, S, C]</c>.</param>
    /// <param name="modulation">The modulation that all blocks share, computed from the timestep and frame rate: <c>[B, 1 or T, 6, C]</c>.</param>
    /// <param name="text">Text states, <c>[B, M, C]</c>.</param>
    /// <param name="textBias">The text mask as an attention bias; see <see cref="CrossAttention.KeyBias"/>.</param>
    public override Tensor forward(Tensor x, Tensor modulation, Tensor text, Tensor? textBias) =>
        this.Checkpoint(i => Compute(i[0]!, i[1]!, i[2]!, i[3]), x, modulation, text, textBias);

    private Tensor Compute(Tensor x, Tensor modulation, Tensor text, Tensor? textBias)
    {
        using var scope = NewDisposeScope();
        var m = MultiResolution.Parts(scale_shift_table, modulation, x.dtype); // 6 of [B, 1 or T, 1, C]
        var (shiftAttention, scaleAttention, gateAttention) = (m[0], m[1], m[2]);
        var (shiftMlp, scaleMlp, gateMlp) = (m[3], m[4], m[5]);
        x = AddGated(x, gateAttention, _attend(NormModulate(x, shiftAttention, scaleAttention)));
        x = x.Plus(cross_attn.call(x.flatten(1, 2), text, textBias).view(x.shape));
        return AddGated(x, gateMlp, mlp.call(NormModulate(x, shiftMlp, scaleMlp))).MoveToOuterDisposeScope();
    }
}
