using OpenSora.Models.Layers;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>
/// STDiT, the spatial-temporal diffusion transformer of Open-Sora 1.0: a PixArt-alpha transformer whose blocks attend within each frame, then along time at
/// each place, then to the text.
/// </summary>
/// <remarks>
/// Sources: Open-Sora 1.0 report; "PixArt-alpha" (Chen et al., 2023) for adaLN-single and cross attention; "Scalable Diffusion Models with Transformers"
/// (Peebles and Xie, 2023). Names of parameters and buffers are the original's. Safe to call from several threads at once while nobody trains or loads it.
/// Shapes in comments: B batch, T frames and S places of tokens, C channels, M text tokens.
/// </remarks>
public sealed class Stdit : nn.Module<Tensor, Tensor, Tensor, Tensor?, Tensor>, IVideoTransformer
{
    private readonly Tensor pos_embed;
    private readonly Tensor pos_embed_temporal;
    private readonly PatchEmbedder x_embedder;
    private readonly TimestepEmbedder t_embedder;
    private readonly Sequential t_block;
    private readonly CaptionEmbedder y_embedder;
    private readonly ModuleList<StditBlock> blocks;
    private readonly FinalLayer final_layer;

    /// <summary>Makes the model and gives its parameters their starting values.</summary>
    /// <param name="config">Sizes and choices.</param>
    /// <param name="initialize">False leaves the parameters unset and untouched in memory, for weights that are loaded next.</param>
    /// <exception cref="ArgumentException">The configuration is wrong.</exception>
    public Stdit(StditConfig config, bool initialize = true) : base(nameof(Stdit))
    {
        ArgumentNullException.ThrowIfNull(config);
        config.Validate();
        Config = config;
        var c = config.HiddenSize;
        var (t, h, w) = (config.PatchSize[0], config.PatchSize[1], config.PatchSize[2]);

        x_embedder = new PatchEmbedder(config.InChannels, c, (t, h, w));
        t_embedder = new TimestepEmbedder(c);
        t_block = nn.Sequential(nn.SiLU(), new Dense(c, 6L * c) { Exact = true });
        y_embedder = new CaptionEmbedder(config.CaptionChannels, c, config.ModelMaxLength);
        blocks = nn.ModuleList(Enumerable.Range(0, config.Depth).Select(_ => new StditBlock(config)).ToArray());
        final_layer = new FinalLayer(c, t * h * w * OutChannels);
        (pos_embed, pos_embed_temporal) = Grid(config.InputSize[0] / t, config.InputSize[1] / h, config.InputSize[2] / w);
        pos_embed.DetachFromDisposeScope();
        pos_embed_temporal.DetachFromDisposeScope();
        RegisterComponents();
        if (initialize)
            Initialize();
    }

    /// <summary>The sizes and choices that the model was made with.</summary>
    public StditConfig Config { get; }

    /// <summary>Channels of the output: twice those of the latents where the variance is learned.</summary>
    public int OutChannels => Config.PredSigma ? 2 * Config.InChannels : Config.InChannels;

    /// <inheritdoc/>
    public int LatentChannels => Config.InChannels;

    /// <inheritdoc/>
    public IReadOnlyList<int> LatentMultiple => Config.PatchSize;

    /// <inheritdoc/>
    public int TextWidth => Config.CaptionChannels;

    /// <inheritdoc/>
    public int TextTokens => Config.ModelMaxLength;

    /// <inheritdoc/>
    public bool SupportsNoisyFrames => true;

    /// <summary>Whether the temporal attention runs. Off, the model is its image model: what training on images saves time with, as long as the temporal
    /// attention's output is zero anyway.</summary>
    public bool TemporalAttention
    {
        get => blocks[0].TemporalAttention;
        set
        {
            foreach (var block in blocks)
                block.TemporalAttention = value;
        }
    }

    /// <summary>Where training draws which captions to drop; null: PyTorch's global generator.</summary>
    public Generator? DropoutGenerator { get; set; }

    /// <summary>Gives every parameter its starting value.</summary>
    /// <remarks>
    /// As DiT and PixArt-alpha do: Xavier-uniform matrices, small normal embeddings, and zeros wherever a new branch joins, so that cross attention, temporal
    /// attention and the output begin as nothing.
    /// </remarks>
    /// <param name="generator">Source of the values; null: PyTorch's global generator.</param>
    public void Initialize(Generator? generator = null)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        foreach (var dense in modules().OfType<Dense>())
        {
            Parameters.Xavier(dense.weight, generator);
            Parameters.Constant(dense.bias!, 0);
        }
        foreach (var norm in modules().OfType<Norm>())
        {
            Parameters.Constant(norm.weight, 1);
            Parameters.Constant(norm.bias, 0);
        }
        foreach (var embedding in new nn.Module[] { t_embedder, t_block }.SelectMany(m => m.modules().OfType<Dense>()))
            Parameters.Normal(embedding.weight, 0.02, generator);
        // 0.02 for T5-v1.1-XXL's 4096 channels; a narrow text encoder would be too faint with it for cross attention to learn from.
        foreach (var projection in y_embedder.modules().OfType<Dense>())
            Parameters.Normal(projection.weight, Math.Max(0.02, 1 / Math.Sqrt(Config.CaptionChannels)), generator);
        Parameters.Normal(y_embedder.y_embedding, 1 / Math.Sqrt(Config.CaptionChannels), generator);

        foreach (var block in blocks)
        {
            Parameters.Normal(block.scale_shift_table, 1 / Math.Sqrt(Config.HiddenSize), generator);
            Parameters.Constant(block.cross_attn.proj.weight, 0);
            if (Config.ZeroInitTemporal)
                Parameters.Constant(block.attn_temp.proj.weight, 0);
        }
        Parameters.Normal(final_layer.scale_shift_table, 1 / Math.Sqrt(Config.HiddenSize), generator);
        Parameters.Constant(final_layer.linear.weight, 0);
    }

    /// <summary>Predicts the noise, and the variance's interpolation weights where they are learned.</summary>
    /// <remarks>In training mode captions are dropped at random with <see cref="StditConfig.ClassDropoutProb"/>.</remarks>
    /// <param name="x">Noisy latents <c>[B, channels, frames, height, width]</c>.</param>
    /// <param name="timestep">The process's time steps, <c>[B]</c>, integers or fractions.</param>
    /// <param name="y">Text states <c>[B, M, width]</c> or <c>[B, 1, M, width]</c>.</param>
    /// <param name="mask">Which tokens are text: <c>[B, M]</c>, not 0 = real token; null = all. Fewer rows are repeated over the batch as a whole, so that under guidance
    /// the null caption is cut by the prompt's own mask.</param>
    /// <returns><c>[B, OutChannels, frames, height, width]</c>, float32, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A shape does not fit; the message says which.</exception>
    public override Tensor forward(Tensor x, Tensor timestep, Tensor y, Tensor? mask)
    {
        if (!training || Config.ClassDropoutProb <= 0)
            return forward(x, timestep, y, mask, null);
        using var scope = NewDisposeScope();
        var drop = rand(y.shape[0], device: y.device, generator: DropoutGenerator) < Config.ClassDropoutProb;
        return forward(x, timestep, y, mask, drop).MoveToOuterDisposeScope();
    }

    /// <summary>As <see cref="forward(Tensor, Tensor, Tensor, Tensor?)"/>, with the captions to drop given.</summary>
    /// <param name="x">Noisy latents <c>[B, channels, frames, height, width]</c>.</param>
    /// <param name="timestep">Time steps <c>[B]</c>.</param>
    /// <param name="y">Text states <c>[B, M, width]</c> or <c>[B, 1, M, width]</c>.</param>
    /// <param name="mask">Real tokens, as above.</param>
    /// <param name="drop"><c>[B]</c>, boolean, true = use the null caption; null = drop none.</param>
    /// <param name="noisyFrames"><c>[B, frames of tokens]</c>, boolean: false where a frame is given, which is modulated as one at time 0 (Open-Sora 1.1 and 1.2:
    /// from images to video); null = all are noisy.</param>
    /// <returns><c>[B, OutChannels, frames, height, width]</c>, float32, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A shape does not fit; the message says which.</exception>
    public Tensor forward(Tensor x, Tensor timestep, Tensor y, Tensor? mask, Tensor? drop, Tensor? noisyFrames = null)
    {
        if (y.dim() == 3)
            y = y.unsqueeze(1);
        CheckShapes(x, timestep, y, mask, noisyFrames);
        using var scope = NewDisposeScope();
        var (b, c) = (x.shape[0], Config.HiddenSize);
        var (t, h, w) = (x.shape[2] / Config.PatchSize[0], x.shape[3] / Config.PatchSize[1], x.shape[4] / Config.PatchSize[2]);
        var (places, frames) = PositionsFor(t, h, w, x.device);

        var tokens = x_embedder.call(x).view(b, t, h * w, c);                                   // [B, T, S, C]
        tokens = tokens + places.unsqueeze(1).In(tokens.dtype);
        var time = t_embedder.call(timestep);                                                   // [B, C]
        var modulation = t_block.call(time).view(b, 6, c);                                      // [B, 6, C]
        var clean = noisyFrames is null ? null : t_embedder.call(zeros_like(timestep));         // [B, C], given frames are at time 0
        var frameModulation = noisyFrames is null ? null                                        // [B, T, 6, C]
            : where(noisyFrames.view(b, t, 1, 1), modulation.unsqueeze(1), t_block.call(clean!).view(b, 1, 6, c));
        var (text, textBias) = Text(y_embedder.call(y, drop).squeeze(1), mask);                 // [B, M, C]

        for (var i = 0; i < blocks.Count; i++)
        {
            var next = blocks[i].call(tokens, modulation, frameModulation, text, textBias, i == 0 && !Config.NoTemporalPosEmb ? frames : null);
            tokens.Dispose();
            tokens = next;
        }
        tokens = tokens.view(b, -1, c).In(ScalarType.Float32);
        var output = noisyFrames is null ? final_layer.call(tokens, time)
            : final_layer.OfFrames(tokens, time, clean!, noisyFrames.view(b, t, 1).expand(b, t, h * w).reshape(b, -1, 1));
        return x_embedder.Unpatchify(output, t, h, w, OutChannels).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public Tensor Denoise(Tensor x, Tensor t, DenoiserConditions conditions)
    {
        ArgumentNullException.ThrowIfNull(conditions);
        return forward(x, t, conditions.Text, conditions.TextMask, null, conditions.NoisyFrames);
    }

    /// <inheritdoc/>
    public Tensor NullCaption(long batch = 1)
    {
        using var scope = NewDisposeScope();
        return y_embedder.y_embedding.unsqueeze(0).repeat(batch, 1, 1).MoveToOuterDisposeScope();
    }

    // Tokens after the last one that any row uses are cut; the rest is masked.
    private (Tensor Text, Tensor? Bias) Text(Tensor text, Tensor? mask)
    {
        if (mask is null)
            return (text, null);
        using var scope = NewDisposeScope();
        var real = mask.ne(0);
        if (!real.any(1).all().item<bool>())
            throw new ArgumentException("A row of the text mask has no token. Keep at least the closing token of every prompt.", nameof(mask));
        var used = real.any(0).nonzero().max().item<long>() + 1;
        if (mask.shape[0] != text.shape[0])
            real = real.repeat(text.shape[0] / mask.shape[0], 1);
        var bias = real.all().item<bool>() ? null : CrossAttention.KeyBias(real.narrow(1, 0, used), Config.NumHeads);
        return (text.narrow(1, 0, used).MoveToOuterDisposeScope(), bias?.MoveToOuterDisposeScope());
    }

    // The tables [1, S, C] and [1, T, C]: the buffers for the configured size, fresh ones for any other.
    private (Tensor Places, Tensor Frames) PositionsFor(long t, long h, long w, Device device)
    {
        var (size, patch) = (Config.InputSize, Config.PatchSize);
        if ((t, h, w) == (size[0] / patch[0], size[1] / patch[1], size[2] / patch[2]))
            return (pos_embed, pos_embed_temporal);
        var (places, frames) = Grid((int)t, (int)h, (int)w);
        return (places.to(device), frames.to(device));
    }

    private (Tensor Places, Tensor Frames) Grid(int t, int h, int w) =>
        (Positions.Grid(Config.HiddenSize, h, w, Config.SpaceScale), Positions.Line(Config.HiddenSize, t, Config.TimeScale));

    private void CheckShapes(Tensor x, Tensor timestep, Tensor y, Tensor? mask, Tensor? noisyFrames)
    {
        static string Shape(Tensor tensor) => $"[{string.Join(", ", tensor.shape)}]";
        static void Check(bool right, string message, string parameter)
        {
            if (!right)
                throw new ArgumentException(message, parameter);
        }

        Check(x.dim() == 5 && x.shape[1] == Config.InChannels && Enumerable.Range(0, 3).All(i => x.shape[2 + i] > 0 && x.shape[2 + i] % Config.PatchSize[i] == 0),
            $"The latents have shape {Shape(x)}; expected [batch, {Config.InChannels}, frames, height, width] with sizes that are multiples of the patch "
            + $"[{string.Join(", ", Config.PatchSize)}].", nameof(x));
        Check(timestep.dim() == 1 && timestep.shape[0] == x.shape[0],
            $"The time steps have shape {Shape(timestep)}; expected [{x.shape[0]}], one a sample.", nameof(timestep));
        Check(y.dim() == 4 && y.shape[0] == x.shape[0] && y.shape[1] == 1 && y.shape[2] > 0 && y.shape[2] <= Config.ModelMaxLength && y.shape[3] == Config.CaptionChannels,
            $"The text states have shape {Shape(y)}; expected [{x.shape[0]}, 1, tokens, {Config.CaptionChannels}] with at most {Config.ModelMaxLength} tokens.", nameof(y));
        Check(mask is null || (mask.dim() == 2 && mask.shape[1] == y.shape[2] && mask.shape[0] > 0 && x.shape[0] % mask.shape[0] == 0),
            $"The text mask has shape {(mask is null ? "" : Shape(mask))}; expected [rows, {y.shape[2]}], where the batch {x.shape[0]} is a multiple of the rows.", nameof(mask));
        Check(noisyFrames is null || (noisyFrames.dtype == ScalarType.Bool && noisyFrames.shape.AsSpan().SequenceEqual([x.shape[0], x.shape[2] / Config.PatchSize[0]])),
            $"The mask of noisy frames is {noisyFrames?.dtype} of shape {(noisyFrames is null ? "" : Shape(noisyFrames))}; expected booleans [{x.shape[0]}, {x.shape[2] / Config.PatchSize[0]}].", nameof(noisyFrames));
    }
}

/// <summary>A block: attention within frames, along time, to the text, then an MLP, modulated by one time embedding for all blocks (adaLN-single).</summary>
internal sealed class StditBlock : nn.Module<Tensor, Tensor, Tensor?, Tensor, Tensor?, Tensor?, Tensor>, ICheckpointedBlock
{
    public readonly Parameter scale_shift_table;
    public readonly SelfAttention attn;
    public readonly CrossAttention cross_attn;
    public readonly Mlp mlp;
    public readonly SelfAttention attn_temp;

    public StditBlock(StditConfig config) : base(nameof(StditBlock))
    {
        var (c, heads) = (config.HiddenSize, config.NumHeads);
        scale_shift_table = Parameters.Create(6, c);
        attn = new SelfAttention(c, heads, config.QkNorm);
        cross_attn = new CrossAttention(c, heads);
        mlp = new Mlp(c, (long)(c * config.MlpRatio), c);
        attn_temp = new SelfAttention(c, heads, config.QkNorm);
        RegisterComponents();
    }

    /// <summary>Whether the temporal attention runs.</summary>
    public bool TemporalAttention { get; set; } = true;

    public bool GradientCheckpointing { get; set; }

    /// <summary>Runs the block.</summary>
    /// <param name="x">Tokens <c>[B, T, S, C]</c>.</param>
    /// <param name="modulation">What all blocks share of the time: <c>[B, 6, C]</c>.</param>
    /// <param name="frameModulation">The same for every frame, <c>[B, T, 6, C]</c>, where frames differ.</param>
    /// <param name="text"><c>[B, M, C]</c></param>
    /// <param name="textBias">The text's mask, see <see cref="CrossAttention.KeyBias"/>.</param>
    /// <param name="frames">Positions along time <c>[1, T, C]</c>, in the first block.</param>
    public override Tensor forward(Tensor x, Tensor modulation, Tensor? frameModulation, Tensor text, Tensor? textBias, Tensor? frames) => GradientCheckpointing
        ? Checkpointed.Run(this, i => Compute(i[0]!, i[1]!, i[2], i[3]!, i[4], i[5]), x, modulation, frameModulation, text, textBias, frames)
        : Compute(x, modulation, frameModulation, text, textBias, frames);

    private Tensor Compute(Tensor x, Tensor modulation, Tensor? frameModulation, Tensor text, Tensor? textBias, Tensor? frames)
    {
        using var scope = NewDisposeScope();
        var (b, t, s, c) = (x.shape[0], x.shape[1], x.shape[2], x.shape[3]);
        Tensor[] Modulation(Tensor shared) => (scale_shift_table + shared).unsqueeze(3).In(x.dtype).unbind(2); // 6 of [B, 1 or T, 1, C]
        var ofTime = Modulation(modulation.unsqueeze(1));
        var m = frameModulation is null ? ofTime : Modulation(frameModulation);
        var (shiftAttention, scaleAttention, gateAttention, gateTemporal) = (m[0], m[1], m[2], ofTime[2]);
        var (shiftMlp, scaleMlp, gateMlp) = (m[3], m[4], m[5]);

        x = AdaLn.AddGated(x, gateAttention, attn.Along(SelfAttention.Space, AdaLn.NormModulate(x, shiftAttention, scaleAttention)));

        if (TemporalAttention)
        {
            var along = frames is null ? x : x + frames.unsqueeze(2).In(x.dtype);
            x = AdaLn.AddGated(x, gateTemporal, attn_temp.Along(SelfAttention.Time, along));
        }

        x = x + cross_attn.call(x.view(b, t * s, c), text, textBias).view(b, t, s, c);
        return AdaLn.AddGated(x, gateMlp, mlp.call(AdaLn.NormModulate(x, shiftMlp, scaleMlp))).MoveToOuterDisposeScope();
    }
}
