using System.Globalization;
using OpenSora.Models.Layers;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Sizes and choices of a <see cref="DiT"/>.</summary>
public record DiTConfig : TransformerConfig
{
    /// <summary>The published choices: a prompt is one vector, of CLIP ViT-B/32's 512 channels.</summary>
    public DiTConfig() => CaptionChannels = 512;

    /// <summary>Latent size <c>[frames, height, width]</c> that the position tables are made for. Other sizes run too, with tables made on the
    /// way.</summary>
    public IReadOnlyList<int> InputSize { get; init; } = [16, 32, 32];

    /// <summary>What the model is conditioned on: <c>text</c>, one vector a prompt, or <c>label_N</c>, one of N classes.</summary>
    public string Condition { get; init; } = "text";

    /// <summary>Whether the output has a second half, the interpolation weights of the learned variance (Nichol and Dhariwal, 2021).</summary>
    public bool LearnSigma { get; init; } = true;

    /// <summary>Leaves the temporal positions out. Null: only where <see cref="InputSize"/> is a single frame of tokens, since DiT's image models
    /// have none.</summary>
    public bool? NoTemporalPosEmb { get; init; }

    /// <summary>How blocks attend within frames and along time.</summary>
    public AttentionOrder AttentionOrder { get; init; } = AttentionOrder.Full;

    /// <summary>Starts the output of attention along time at zero where blocks have one of their own, so that a model begins as its image
    /// model.</summary>
    public bool ZeroInitTemporal { get; init; } = true;

    /// <summary>Names that <see cref="Preset"/> knows (Peebles and Xie, 2023, table 1) with patches of 1x2x2, or of 2x2x2 as Open-Sora has it
    /// too.</summary>
    public static IReadOnlyList<string> Presets { get; } = ["DiT-S/2", "DiT-B/2", "DiT-L/2", "DiT-XL/2", "DiT-XL/2x2"];

    /// <summary>The sizes of a named model.</summary>
    /// <param name="name">One of <see cref="Presets"/>.</param>
    /// <exception cref="ArgumentException">The name is not known.</exception>
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
            $"Condition is '{Condition}'; it must be 'text' or 'label_' and the number of classes."
        );
    }

    internal bool HasFramePositions => !(NoTemporalPosEmb ?? InputSize[0] == PatchSize[0]);

    /// <summary>The number of classes; 0 where the condition is no label.</summary>
    internal int Classes =>
        Condition?.StartsWith("label_", StringComparison.Ordinal) == true
        && int.TryParse(Condition.AsSpan(6), NumberStyles.None, CultureInfo.InvariantCulture, out var classes)
            ? classes
            : 0;
}

/// <summary>
/// DiT over video: every token attends to every other one of all frames. Open-Sora 1.0 has it to compare <see cref="StdiT"/> with: better a step, and
/// the
/// dearer the more frames there are. Other orders of attention make video models of the same blocks (<see cref="DiTConfig.AttentionOrder"/>,
/// <see cref="Latte"/>).
/// </summary>
/// <remarks>
/// Source: "Scalable Diffusion Models with Transformers" (Peebles and Xie, 2023), adaLN-Zero blocks. The condition, a class or one vector of text,
/// joins the
/// time; there is no cross attention. Names of parameters and buffers are Open-Sora's. Shapes in comments: B batch, T frames and S places of tokens,
/// C channels.
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

    /// <summary>Makes the model and gives its parameters their starting values.</summary>
    /// <param name="config">Sizes and choices.</param>
    /// <param name="initialize">False leaves the parameters unset and untouched in memory, for weights that are loaded next.</param>
    /// <exception cref="ArgumentException">The configuration is wrong.</exception>
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

    /// <summary>The sizes and choices that the model was made with.</summary>
    public DiTConfig Config { get; }

    /// <summary>Channels of the output: twice those of the latents where the variance is learned.</summary>
    public int OutChannels => Config.LearnSigma ? 2 * Config.InChannels : Config.InChannels;

    /// <inheritdoc/>
    public int LatentChannels => Config.InChannels;

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

    /// <summary>Where training draws which conditions to drop; null: PyTorch's global generator.</summary>
    public Generator? DropoutGenerator { get; set; }

    /// <summary>Gives every parameter its starting value: Xavier-uniform matrices, small normal embeddings, and zeros where modulation begins, so
    /// that
    /// every block starts as the identity (adaLN-Zero).</summary>
    /// <param name="generator">Source of the values; null: PyTorch's global generator.</param>
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

    /// <summary>Predicts the noise, and the variance's interpolation weights where they are learned.</summary>
    /// <remarks>In training mode conditions are dropped at random with <see cref="TransformerConfig.ClassDropoutProb"/>.</remarks>
    /// <param name="x">Noisy latents <c>[B, channels, frames, height, width]</c>.</param>
    /// <param name="timestep">The process's time steps, <c>[B]</c>, integers or fractions.</param>
    /// <param name="y">Vectors of text <c>[B, 1, 1, CaptionChannels]</c>, or classes <c>[B]</c>, int64, the last one plus one meaning none.</param>
    /// <returns><c>[B, OutChannels, frames, height, width]</c>, float32, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A shape does not fit; the message says which.</exception>
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

    /// <summary>The condition of no text, or of no class, what guidance takes for an unconditional prompt.</summary>
    /// <param name="batch">How many copies.</param>
    /// <returns><c>[batch, 1, TextWidth]</c>, owned by the caller: a learned vector, or the number of classes, which stands for none of
    /// them.</returns>
    public Tensor NullCaption(long batch = 1)
    {
        using var scope = NewDisposeScope();
        var nothing = y_embedder is CaptionEmbedder captions
            ? captions.y_embedding
            : full([1, 1], Config.Classes, ScalarType.Float32, pos_embed_spatial.device);
        return nothing.unsqueeze(0).repeat(batch, 1, 1).MoveToOuterDisposeScope();
    }

    // The tables [1, S, C] and [1, T, C]: the buffers for the configured size, fresh ones for any other.
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
        static string Shape(Tensor tensor) => $"[{string.Join(", ", tensor.shape)}]";
        static void Check(bool right, string message, string parameter)
        {
            if (!right)
            {
                throw new ArgumentException(message, parameter);
            }
        }

        Check(
            x.dim() == 5
                && x.shape[1] == Config.InChannels
                && Enumerable.Range(0, 3).All(i => x.shape[2 + i] > 0 && x.shape[2 + i] % Config.PatchSize[i] == 0),
            $"The latents have shape {Shape(x)}; expected [batch, {Config.InChannels}, frames, height, width] with sizes that are multiples of the patch "
                + $"[{string.Join(", ", Config.PatchSize)}].",
            nameof(x)
        );
        Check(
            timestep.dim() == 1 && timestep.shape[0] == x.shape[0],
            $"The time steps have shape {Shape(timestep)}; expected [{x.shape[0]}], one a sample.",
            nameof(timestep)
        );
        long[] expected = Config.Classes > 0 ? [x.shape[0]] : [x.shape[0], 1, 1, Config.CaptionChannels];
        Check(y.shape.AsSpan().SequenceEqual(expected), $"The condition has shape {Shape(y)}; expected [{string.Join(", ", expected)}].", nameof(y));
    }
}

/// <summary>A block of DiT and Latte: attention, then an MLP, modulated and gated by a condition through parameters of each block
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
    /// <param name="condition">Time and text or class, <c>[B, C]</c>.</param>
    /// <param name="frames">Positions along time <c>[1, T, C]</c>, in the block that brings them in.</param>
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

/// <summary>Last layer of DiT and Latte: adaLN, then patches. Parameters <c>adaLN_modulation.1</c>, <c>linear</c>.</summary>
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
    /// <param name="x"><c>[batch, tokens, channels]</c></param>
    /// <param name="c"><c>[batch, channels]</c></param>
    public override Tensor forward(Tensor x, Tensor c)
    {
        using var scope = NewDisposeScope();
        var modulation = adaLN_modulation.call(c).unsqueeze(1).chunk(2, 2);
        return linear.call(AdaLn.NormModulate(x, modulation[0], modulation[1])).MoveToOuterDisposeScope();
    }
}
