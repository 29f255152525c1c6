using OpenSora.Models.Layers;
using OpenSora.Runtime;
using OpenSora.Weights;
using TorchSharp;
using TorchSharp.Modules;
using static OpenSora.Models.Layers.Functional;
using static OpenSora.Runtime.Scopes;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>
/// STDiT, the spatial-temporal diffusion transformer of Open-Sora 1.0: a PixArt-alpha transformer with blocks that attend within each frame, then
/// along time at each spatial position, then to the text. With other orders of attention, the same blocks form related models
/// (<see cref="StdiTConfig.AttentionOrder"/>, <see cref="StdiTConfig.PixArt"/>).
/// </summary>
/// <remarks>
/// Sources: Open-Sora 1.0 report; "PixArt-alpha" (Chen et al., 2023) for adaLN-single and cross attention; "Scalable Diffusion Models with
/// Transformers" (Peebles and Xie, 2023). The names of parameters and buffers are those of the original. The model can be called from several threads
/// at the same time, as long as it is not being trained or loaded. In comments, B is the batch size, T the number of token frames, S the number of
/// tokens per frame, C the number of channels and M the number of text tokens.
/// </remarks>
public sealed partial class StdiT : VideoTransformer<StdiTConfig>
{
    private readonly Tensor pos_embed;
    private readonly Tensor pos_embed_temporal;
    private readonly PatchEmbedder x_embedder;
    private readonly TimestepEmbedder t_embedder;
    private readonly Sequential t_block;
    private readonly CaptionEmbedder y_embedder;
    private readonly BlockList<StdiTBlock> blocks;
    private readonly FinalLayer final_layer;
    private readonly SizeEmbedder? csize_embedder;
    private readonly SizeEmbedder? ar_embedder;

    /// <summary>Creates the model and initializes its parameters.</summary>
    /// <param name="config">The configuration of the model.</param>
    /// <param name="initialize">Whether to initialize the parameters. Pass false if weights are loaded next: the parameters then stay uninitialized
    /// and their memory is not touched.</param>
    /// <exception cref="ArgumentException">The configuration is invalid.</exception>
    public StdiT(StdiTConfig config, bool initialize = true)
        : base(nameof(StdiT), config)
    {
        var c = config.HiddenSize;
        var (t, h, w) = (config.PatchSize[0], config.PatchSize[1], config.PatchSize[2]);

        x_embedder = new PatchEmbedder(config.InChannels, c, (t, h, w));
        t_embedder = new TimestepEmbedder(c);
        t_block = nn.Sequential(nn.SiLU(), new Linear(c, 6L * c) { Exact = true });
        y_embedder = new CaptionEmbedder(config.CaptionChannels, c, config.ModelMaxLength);
        blocks = new BlockList<StdiTBlock>([.. Enumerable.Range(0, config.Depth).Select(number => new StdiTBlock(config, number))]);
        final_layer = new FinalLayer(c, t * h * w * OutChannels);
        csize_embedder = config.SizeConditioning ? new SizeEmbedder(c / 3) : null;
        ar_embedder = config.SizeConditioning ? new SizeEmbedder(c / 3) : null;
        (pos_embed, pos_embed_temporal) = Grid(config.InputSize[0] / t, config.InputSize[1] / h, config.InputSize[2] / w);
        pos_embed.DetachFromDisposeScope();
        pos_embed_temporal.DetachFromDisposeScope();
        RegisterComponents();
        if (initialize)
        {
            Initialize();
        }
    }

    /// <summary>The descriptor of the architecture, as registered in <see cref="Architectures.BuiltIn"/>.</summary>
    public static Architecture<IVideoTransformer> Architecture { get; } =
        Architecture<IVideoTransformer>.Of(
            "stdit",
            config => new StdiT(config, initialize: false),
            new StdiTConfig(),
            json: StdiTJson.Default.StdiTConfig
        ) with
        {
            Loading = (_, _) => PublishedWeights.Options(),
            Recognizer = file => IsIn(file) is { } shapes && shapes.Has("blocks.0.attn_temp.qkv.weight") ? [CandidateOf(shapes, new())] : [],
        };

    /// <inheritdoc/>
    public override bool IsTemporal(string parameter) => SpaceTimeAttention.IsTemporal(Config.AttentionOrder, parameter);

    /// <inheritdoc/>
    public override IReadOnlyList<int>? LatentSize => Config.InputSize;

    /// <inheritdoc/>
    public override IReadOnlyList<int> LatentMultiple => Config.PatchSize;

    /// <summary>Whether the second attention of the blocks, along time, runs. Without it, the model is equivalent to its image model; this saves time
    /// when training on images while the output of the temporal attention is still zero. This property has no effect if the blocks have no second
    /// attention (<see cref="AttentionOrder"/>).</summary>
    public bool TemporalAttention
    {
        get => blocks[0].TemporalAttention;
        set
        {
            foreach (var block in blocks)
            {
                block.TemporalAttention = value;
            }
        }
    }

    /// <summary>Initializes all parameters.</summary>
    /// <remarks>
    /// The initialization is that of DiT and PixArt-alpha: Xavier-uniform matrices, small normal embeddings, and zeros for the output of every new
    /// branch, so that cross attention, temporal attention and the last layer initially output zero.
    /// </remarks>
    /// <param name="generator">The random generator of the values; null uses PyTorch's global generator.</param>
    public override void Initialize(Generator? generator = null)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        InitializeLayers(generator, t_embedder, t_block, csize_embedder, ar_embedder);
        InitializeCaptions(y_embedder, generator);
        foreach (var block in blocks)
        {
            InitializeTable(block.scale_shift_table, generator);
            Parameters.Constant(block.cross_attn.proj.weight, 0);
            if (Config.ZeroInitTemporal && block.AlongTime is { } temporal)
            {
                Parameters.Constant(temporal.proj.weight, 0);
            }
        }
        InitializeTable(final_layer.scale_shift_table, generator);
        Parameters.Constant(final_layer.linear.weight, 0);
    }

    /// <summary>Loads a published checkpoint: that of Open-Sora 1.0 or of PixArt-alpha. The sizes must be those of the model, but the size of its
    /// latents and the length of its texts may differ.</summary>
    /// <remarks>The parameter names of these checkpoints match those of Open-Sora. Their patch projections have no time axis and get one of length 1.
    /// Their position tables fit only one size and are ignored, because the model computes its own. A null caption of a different length is truncated
    /// or extended by repeating its last row.</remarks>
    /// <param name="path">The path of the checkpoint.</param>
    /// <exception cref="FileNotFoundException">The file does not exist.</exception>
    /// <exception cref="InvalidWeightsException">The file is damaged or does not match the model; the model is unchanged.</exception>
    public LoadReport LoadPublishedWeights(string path) => PublishedWeights.Load(this, path);

    /// <summary>Loads the weights of PixArt-alpha into a video model. The attention along time keeps its initial values. If its output starts at zero
    /// (<see cref="StdiTConfig.ZeroInitTemporal"/>), the video model computes for each frame what the image model computes.</summary>
    /// <remarks>The order of attention must be <see cref="AttentionOrder.Serial"/> or <see cref="AttentionOrder.Parallel"/>. A model of order
    /// <see cref="AttentionOrder.Full"/> equals the image model for single frames if it has no temporal positions.</remarks>
    /// <param name="path">The path of the checkpoint of an image model with the sizes of this model.</param>
    /// <exception cref="FileNotFoundException">The file does not exist.</exception>
    /// <exception cref="InvalidWeightsException">The file is damaged or does not match the model; the model is unchanged.</exception>
    /// <exception cref="InvalidOperationException">The order of attention is <see cref="AttentionOrder.Interleaved"/>.</exception>
    public LoadReport LoadImageWeights(string path) => PublishedWeights.LoadImage(this, Config.AttentionOrder, path);

    /// <summary>Predicts the noise and, if the variance is learned, its interpolation weights.</summary>
    /// <remarks>In training mode, captions are dropped at random with probability <see cref="TransformerConfig.ClassDropoutProb"/>.</remarks>
    /// <param name="x">Noisy latents <c>[B, channels, frames, height, width]</c>.</param>
    /// <param name="timestep">Timesteps of the diffusion process, <c>[B]</c>; they may be fractional.</param>
    /// <param name="y">Text states, <c>[B, M, width]</c> or <c>[B, 1, M, width]</c>.</param>
    /// <param name="mask">The text mask, <c>[B, M]</c>, nonzero for real tokens; null if all tokens are real. A mask with fewer rows than the batch
    /// is repeated as a whole to fill the batch, so that under guidance the mask of the prompt also applies to the null caption.</param>
    /// <returns>The prediction, <c>[B, OutChannels, frames, height, width]</c>, float32, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A tensor has the wrong shape; the message says which one.</exception>
    public Tensor forward(Tensor x, Tensor timestep, Tensor y, Tensor? mask) => Scoped(() => forward(x, timestep, y, mask, Drop(y)));

    /// <summary>Predicts the noise and, if the variance is learned, its interpolation weights, with an explicit choice of the captions to drop and
    /// optional conditioning frames and size.</summary>
    /// <param name="x">Noisy latents <c>[B, channels, frames, height, width]</c>.</param>
    /// <param name="timestep">Timesteps of the diffusion process, <c>[B]</c>; they may be fractional.</param>
    /// <param name="y">Text states, <c>[B, M, width]</c> or <c>[B, 1, M, width]</c>.</param>
    /// <param name="mask">The text mask; see <see cref="forward(Tensor, Tensor, Tensor, Tensor?)"/>.</param>
    /// <param name="drop">A boolean mask, <c>[B]</c>, true for captions to replace by the null caption; null replaces none.</param>
    /// <param name="noisyFrames">A boolean mask, <c>[B, frames of tokens]</c>, false for conditioning frames, which are modulated as frames at time 0
    /// (image-to-video in Open-Sora 1.1 and 1.2); null if all frames are noisy.</param>
    /// <param name="size">The height and width in pixels, <c>[B, 2]</c>, for <see cref="StdiTConfig.SizeConditioning"/>. If null, a latent is assumed
    /// to cover 8x8 pixels, as with the autoencoder of Stable Diffusion.</param>
    /// <param name="aspectRatio">The height divided by the width, <c>[B]</c> or <c>[B, 1]</c>, if training rounded it to that of a bucket; null uses
    /// the aspect ratio of <paramref name="size"/>.</param>
    /// <returns>The prediction, <c>[B, OutChannels, frames, height, width]</c>, float32, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A tensor has the wrong shape; the message says which one.</exception>
    public Tensor forward(
        Tensor x,
        Tensor timestep,
        Tensor y,
        Tensor? mask,
        Tensor? drop,
        Tensor? noisyFrames = null,
        Tensor? size = null,
        Tensor? aspectRatio = null
    ) => forward(x, timestep, y, mask, drop, noisyFrames, size, aspectRatio, CancellationToken.None);

    private Tensor forward(
        Tensor x,
        Tensor timestep,
        Tensor y,
        Tensor? mask,
        Tensor? drop,
        Tensor? noisyFrames,
        Tensor? size,
        Tensor? aspectRatio,
        CancellationToken cancellationToken
    )
    {
        using var scope = NewDisposeScope();
        y = y.dim() == 3 ? y.unsqueeze(1) : y;
        CheckShapes(x, timestep, y, mask, noisyFrames, size);
        using var call = Divide(ref x, ref noisyFrames);
        var (b, c) = (x.shape[0], Config.HiddenSize);
        var (t, h, w) = (x.shape[2] / Config.PatchSize[0], x.shape[3] / Config.PatchSize[1], x.shape[4] / Config.PatchSize[2]);
        var (places, frames) = PositionsFor(t, h, w, x.device, call);

        var tokens = x_embedder.call(x).view(b, t, h * w, c); // [B, T, S, C]
        tokens = tokens.Plus(places.unsqueeze(1).In(tokens.dtype));
        var ofSize = SizeEmbedding(x, size, aspectRatio); // [B, C]
        Tensor Time(Tensor steps) => ofSize is null ? t_embedder.call(steps) : t_embedder.call(steps).Plus(ofSize);
        var time = Time(timestep); // [B, C]
        var modulation = t_block.call(time).view(b, 6, c); // [B, 6, C]
        var clean = noisyFrames is null ? null : Time(zeros_like(timestep)); // [B, C], conditioning frames are at time 0
        var frameModulation = noisyFrames is null
            ? null // [B, T, 6, C]
            : where(noisyFrames.view(b, t, 1, 1), modulation.unsqueeze(1), t_block.call(clean!).view(b, 1, 6, c));
        var (text, textBias) = CrossAttention.Keys(y_embedder.call(y, drop).squeeze(1), mask, Config.NumHeads); // [B, M, C]

        foreach (var block in blocks)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var next = block.call(
                tokens,
                modulation,
                frameModulation,
                text,
                textBias,
                block.TakesFramePositions && !Config.NoTemporalPosEmb ? frames : null
            );
            tokens.Dispose();
            tokens = next;
        }
        tokens = tokens.view(b, -1, c).In(ScalarType.Float32);
        var output = noisyFrames is null
            ? final_layer.call(tokens, time)
            : final_layer.OfFrames(tokens, time, clean!, noisyFrames.view(b, t, 1).expand(b, t, h * w).reshape(b, -1, 1));
        var video = x_embedder.Unpatchify(output, t, h, w, OutChannels);
        return (call?.Gather(video) ?? video).MoveToOuterDisposeScope();
    }

    /// <inheritdoc cref="IVideoTransformer.Denoise"/>
    public override Tensor forward(Tensor x, Tensor t, DenoiserConditions conditions)
    {
        ArgumentNullException.ThrowIfNull(conditions);
        using var scope = NewDisposeScope();
        var size =
            Config.SizeConditioning && conditions is { Height: > 0, Width: > 0 }
                ? tensor(new float[] { conditions.Height, conditions.Width }, device: x.device).expand(x.shape[0], 2)
                : null;
        var drop = conditions.DroppedText ?? Drop(conditions.Text);
        return forward(x, t, conditions.Text, conditions.TextMask, drop, conditions.NoisyFrames, size, null, conditions.CancellationToken)
            .MoveToOuterDisposeScope();
    }

    private protected override int TemporalAttentions => SpaceTimeAttention.CountTemporal(Config.AttentionOrder, Config.Depth);

    private protected override NetworkCost Cost(CallSize size, int bytes) =>
        new(
            FlopEstimate.Of(Config, (int)size.Frames, (int)size.Height, (int)size.Width, (int)size.Tokens).Times(size.Batch),
            WorkingMemory.Of(Config, size, bytes)
        );

    /// <inheritdoc/>
    public override Tensor NullCaption(long batch = 1) => Scoped(() => y_embedder.y_embedding.unsqueeze(0).repeat(batch, 1, 1));

    // PixArt-alpha for many sizes: two thirds of the channels encode height and width, one third their ratio.
    private Tensor? SizeEmbedding(Tensor x, Tensor? size, Tensor? aspectRatio)
    {
        if (csize_embedder is null || ar_embedder is null)
        {
            return null;
        }

        using var scope = NewDisposeScope();
        size ??= tensor(new float[] { 8 * x.shape[3], 8 * x.shape[4] }, device: x.device).expand(x.shape[0], 2);
        var ratio = aspectRatio?.view(-1, 1) ?? size.narrow(1, 0, 1) / size.narrow(1, 1, 1);
        return cat([csize_embedder.call(size), ar_embedder.call(ratio)], 1).MoveToOuterDisposeScope();
    }

    // The tables [1, S, C] and [1, T, C]: the buffers for the configured size, new tables for any other size.
    private (Tensor Places, Tensor Frames) PositionsFor(long t, long h, long w, Device device, SequenceParallel? call)
    {
        t = call?.Frames ?? t;
        var (size, patch) = (Config.InputSize, Config.PatchSize);
        if ((t, h, w) == (size[0] / patch[0], size[1] / patch[1], size[2] / patch[2]))
        {
            return (pos_embed, call?.Own(pos_embed_temporal) ?? pos_embed_temporal);
        }

        var (places, frames) = Grid((int)t, (int)h, (int)w);
        return (places.to(device), (call?.Own(frames) ?? frames).to(device));
    }

    // If positions are stretched, then to the square of the configured size, regardless of the size of the latents.
    private (Tensor Places, Tensor Frames) Grid(int t, int h, int w)
    {
        var places = Config.InputSize[1] / Config.PatchSize[1] * (Config.InputSize[2] / Config.PatchSize[2]);
        return (
            GridPositions(Config.HiddenSize, h, w, Config.SpaceScale, Config.StretchPositions ? (int)Math.Sqrt(places) : null),
            LinePositions(Config.HiddenSize, t, Config.TimeScale)
        );
    }

    private static TensorShapes? IsIn(WeightsFile file) =>
        TransformerShapes.In(file) is { } shapes
        && shapes.Count("spatial_blocks") == 0
        && !shapes.Has("blocks.0.scale_shift_table_temporal")
        && !shapes.Has("blocks.0.adaLN_modulation.1.weight")
            ? shapes
            : null;

    private static Candidate CandidateOf(TensorShapes shapes, StdiTConfig defaults)
    {
        var config = TransformerShapes.Sizes(shapes, defaults, StdiTConfig.Presets, StdiTConfig.Preset);
        config = config with { InputSize = config.PatchSize, SizeConditioning = shapes.Has("csize_embedder.mlp.0.weight") };
        var isImage = defaults.AttentionOrder == AttentionOrder.Full;
        var preset = TransformerShapes.Preset(config, StdiTConfig.Presets, StdiTConfig.Preset, known =>
            known.AttentionOrder == config.AttentionOrder && (!isImage || known.SizeConditioning == config.SizeConditioning)
        );
        return new(config, preset ?? (isImage ? "PixArt" : "STDiT"), TransformerShapes.Words(shapes, config));
    }

    private void CheckShapes(Tensor x, Tensor timestep, Tensor y, Tensor? mask, Tensor? noisyFrames, Tensor? size)
    {
        var batch = x.shape[0];
        ShapeCheck.Latents(x, Config.InChannels, Config.PatchSize, nameof(x));
        ShapeCheck.Timesteps(timestep, batch, nameof(timestep));
        ShapeCheck.TextStates(y, batch, Config.ModelMaxLength, Config.CaptionChannels, nameof(y));
        ShapeCheck.TextMask(mask, y.shape[2], batch, nameof(mask));
        ShapeCheck.NoisyFrames(noisyFrames, batch, x.shape[2] / Config.PatchSize[0], nameof(noisyFrames));
        ShapeCheck.Require(
            size is null || (Config.SizeConditioning && size.shape.AsSpan().SequenceEqual([batch, 2])),
            Config.SizeConditioning
                ? $"The sizes have shape {ShapeCheck.Text(size)}; expected [{batch}, 2], height and width of each sample in pixels."
                : "This model is not conditioned on the size (SizeConditioning is off); pass null.",
            nameof(size)
        );
    }
}

/// <summary>A block of STDiT and PixArt: attention, cross attention to the text and an MLP, modulated by a time embedding that all blocks share
/// (adaLN-single).</summary>
internal sealed class StdiTBlock : nn.Module<Tensor, Tensor, Tensor?, Tensor, Tensor?, Tensor?, Tensor>
{
    public readonly Parameter scale_shift_table;
    public readonly SelfAttention attn;
    public readonly CrossAttention cross_attn;
    public readonly Mlp mlp;
    public readonly SelfAttention? attn_temp;
    private readonly SpaceTimeAttention _attention;

    public StdiTBlock(StdiTConfig config, int number)
        : base(nameof(StdiTBlock))
    {
        var (c, heads) = (config.HiddenSize, config.NumHeads);
        _attention = new SpaceTimeAttention(config.AttentionOrder, number, config.TemporalNorm);
        scale_shift_table = Parameters.Create(6, c);
        attn = new SelfAttention(c, heads, config.QkNorm);
        cross_attn = new CrossAttention(c, heads);
        mlp = new Mlp(c, (long)(c * config.MlpRatio), c);
        attn_temp = _attention.HasTemporal ? new SelfAttention(c, heads, config.QkNorm) : null;
        RegisterComponents();
    }

    /// <summary>The attention along time, or null if the block has none.</summary>
    public SelfAttention? AlongTime => attn_temp ?? (_attention.Axis == SelfAttention.Time ? attn : null);

    /// <summary>Whether the second attention runs.</summary>
    public bool TemporalAttention { get; set; } = true;

    /// <inheritdoc cref="SpaceTimeAttention.TakesFramePositions"/>
    public bool TakesFramePositions => _attention.TakesFramePositions;

    /// <summary>Runs the block.</summary>
    /// <param name="x">Tokens <c>[B, T, S, C]</c>.</param>
    /// <param name="modulation">The modulation that all blocks share, computed from the timestep: <c>[B, 6, C]</c>.</param>
    /// <param name="frameModulation">The modulation for each frame, <c>[B, T, 6, C]</c>; null if it is the same for all frames.</param>
    /// <param name="text">Text states, <c>[B, M, C]</c>.</param>
    /// <param name="textBias">The text mask as an attention bias; see <see cref="CrossAttention.KeyBias"/>.</param>
    /// <param name="frames">Positions along time, <c>[1, T, C]</c>, for a block that adds them; otherwise null.</param>
    public override Tensor forward(Tensor x, Tensor modulation, Tensor? frameModulation, Tensor text, Tensor? textBias, Tensor? frames) =>
        this.Checkpoint(i => Compute(i[0]!, i[1]!, i[2], i[3]!, i[4], i[5]), x, modulation, frameModulation, text, textBias, frames);

    private Tensor Compute(Tensor x, Tensor modulation, Tensor? frameModulation, Tensor text, Tensor? textBias, Tensor? frames)
    {
        using var scope = NewDisposeScope();
        var (b, t, s, c) = (x.shape[0], x.shape[1], x.shape[2], x.shape[3]);
        Tensor[] Modulation(Tensor shared) => scale_shift_table.Plus(shared).unsqueeze(3).In(x.dtype).unbind(2); // 6 of [B, 1 or T, 1, C]
        var ofTime = Modulation(modulation.unsqueeze(1));
        var m = frameModulation is null ? ofTime : Modulation(frameModulation);
        var (shiftAttention, scaleAttention, gateAttention, gateTemporal) = (m[0], m[1], m[2], ofTime[2]);
        var (shiftMlp, scaleMlp, gateMlp) = (m[3], m[4], m[5]);

        x = _attention.Run(this, x, attn, TemporalAttention ? attn_temp : null, shiftAttention, scaleAttention, gateAttention, gateTemporal, frames);
        Tensor AttendToText(Tensor?[] i) => AddTo(i[0]!, cross_attn.call(i[0]!.reshape(b, -1, c), i[1]!, i[2]).view(i[0]!.shape));
        x = Checkpointed.Sliced(this, cross_attn, 1, AttendToText, x, text, textBias);
        Tensor AddMlp(Tensor?[] i) => AddGatedTo(i[0]!, i[3]!, mlp.call(NormModulate(i[0]!, i[1]!, i[2]!)));
        return Checkpointed.Sliced(this, mlp, 1, AddMlp, x, shiftMlp, scaleMlp, gateMlp).MoveToOuterDisposeScope();
    }
}
