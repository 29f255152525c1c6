using OpenSora.Models;
using OpenSora.Models.Layers;
using TorchSharp;
using static OpenSora.Models.Layers.Functional;
using static TorchSharp.torch;
using Linear = OpenSora.Models.Layers.Linear;

namespace OpenSora.Samples;

/// <summary>The configuration of a <see cref="TokenTransformer"/>, as stored in <c>model.json</c>.</summary>
public sealed record TokenTransformerConfig
{
    /// <summary>Gets the number of latent channels.</summary>
    public int InChannels { get; init; } = 3;

    /// <summary>Gets the number of frames, the height and the width of the latents.</summary>
    public IReadOnlyList<int> InputSize { get; init; } = [6, 8, 8];

    /// <summary>Gets the number of channels of each token.</summary>
    public int HiddenSize { get; init; } = 64;

    /// <summary>Gets the number of transformer blocks.</summary>
    public int Depth { get; init; } = 4;

    /// <summary>Gets the number of attention heads.</summary>
    public int NumHeads { get; init; } = 4;

    /// <summary>Gets the number of classes.</summary>
    public int Classes { get; init; } = 16;
}

/// <summary>A class-conditional video transformer. The class is an additional token, and every token attends to all tokens.</summary>
/// <remarks>The model is built from the layers of the library, so reduced precision (<c>UseComputeType</c>), gradient checkpointing and streaming of
/// blocks from the weights file work as in the library's own models.</remarks>
public sealed class TokenTransformer : nn.Module, IVideoTransformer
{
    private const int Patch = 2;
    private readonly PatchEmbedder x_embedder;
    private readonly TimestepEmbedder t_embedder;
    private readonly TorchSharp.Modules.Embedding class_embedder;
    private readonly BlockList<TokenBlock> blocks;
    private readonly Linear final;

    /// <summary>Initializes a transformer with random weights.</summary>
    /// <param name="config">The configuration.</param>
    public TokenTransformer(TokenTransformerConfig config)
        : base(nameof(TokenTransformer))
    {
        Config = config;
        x_embedder = new PatchEmbedder(config.InChannels, config.HiddenSize, (1, Patch, Patch));
        t_embedder = new TimestepEmbedder(config.HiddenSize);
        class_embedder = nn.Embedding(config.Classes + 1, config.HiddenSize); // the last row represents "no class"
        blocks = new BlockList<TokenBlock>([.. Enumerable.Range(0, config.Depth).Select(_ => new TokenBlock(config.HiddenSize, config.NumHeads))]);
        final = new Linear(config.HiddenSize, Patch * Patch * config.InChannels);
        RegisterComponents();

        using var noGradients = no_grad();
        foreach (var linear in modules().OfType<Linear>())
        {
            nn.init.xavier_uniform_(linear.weight.flatten(1));
            linear.bias!.zero_();
        }
        final.weight.zero_(); // the first prediction is zero
    }

    /// <summary>Gets the descriptor that registers the architecture: model folders can name it, and its checkpoints are recognized.</summary>
    public static Architecture<IVideoTransformer> Architecture { get; } =
        Architecture<IVideoTransformer>.Of<TokenTransformerConfig>(
            "token_transformer",
            config => new TokenTransformer(config),
            recognize: shapes => shapes.TryGetValue("class_embedder.weight", out var classes) ? SizesOf(shapes, classes) : null
        );

    /// <summary>Gets the configuration.</summary>
    public TokenTransformerConfig Config { get; }

    /// <inheritdoc/>
    public int LatentChannels => Config.InChannels;

    /// <inheritdoc/>
    public IReadOnlyList<int> LatentMultiple => [1, Patch, Patch];

    /// <inheritdoc/>
    public IReadOnlyList<int>? LatentSize => Config.InputSize;

    /// <inheritdoc/>
    public int TextWidth => 1; // the prompt is encoded as a class index

    /// <inheritdoc/>
    public int TextTokens => 1;

    /// <inheritdoc/>
    public bool SupportsNoisyFrames => false;

    /// <inheritdoc/>
    public double CaptionDropout => 0.1;

    /// <inheritdoc/>
    public Tensor NullCaption(long batch = 1) => full([batch, 1, 1], (float)Config.Classes, device: class_embedder.weight!.device);

    /// <inheritdoc/>
    public Tensor Denoise(Tensor x, Tensor t, DenoiserConditions conditions)
    {
        using var scope = NewDisposeScope();
        var (frames, rows, columns) = (x.shape[2], x.shape[3] / Patch, x.shape[4] / Patch);

        // 1. Embed the patches and add position embeddings: [B, T*S, C].
        var places = GridPositions(Config.HiddenSize, (int)rows, (int)columns).unsqueeze(1); // [1, 1, S, C]
        var times = LinePositions(Config.HiddenSize, (int)frames).unsqueeze(2); // [1, T, 1, C]
        var tokens = x_embedder.call(x) + (places + times).flatten(1, 2).to(x.device);

        // 2. Prepend one token for the class: [B, 1, C].
        var label = conditions.Text.view(-1).to(ScalarType.Int64);
        if (conditions.DroppedText is { } dropped)
        {
            label = label.masked_fill(dropped, Config.Classes);
        }
        tokens = cat([class_embedder.call(label).unsqueeze(1), tokens], 1);

        // 3. Apply the blocks, modulated by the timestep.
        var time = t_embedder.call(t); // [B, C]
        foreach (var block in blocks)
        {
            tokens = block.call(tokens, time);
        }

        // 4. Drop the class token and convert the tokens back to latents.
        return x_embedder
            .Unpatchify(final.call(tokens.narrow(1, 1, frames * rows * columns)), frames, rows, columns, Config.InChannels)
            .MoveToOuterDisposeScope();
    }

    // The shapes of the weights do not determine the number of heads and the size of the latents, which keep their defaults.
    private static TokenTransformerConfig SizesOf(IReadOnlyDictionary<string, IReadOnlyList<long>> shapes, IReadOnlyList<long> classes) =>
        new()
        {
            InChannels = (int)shapes["x_embedder.proj.weight"][1],
            HiddenSize = (int)classes[1],
            Depth = shapes.Keys.Count(name =>
                name.StartsWith("blocks.", StringComparison.Ordinal) && name.EndsWith(".attn.qkv.weight", StringComparison.Ordinal)
            ),
            Classes = (int)classes[0] - 1,
        };
}

/// <summary>A transformer block: attention and MLP with adaptive layer normalization (Peebles and Xie, 2023).</summary>
internal sealed class TokenBlock : nn.Module<Tensor, Tensor, Tensor>
{
    private readonly SelfAttention attn;
    private readonly Mlp mlp;
    private readonly Linear modulation;

    public TokenBlock(long channels, int heads)
        : base(nameof(TokenBlock))
    {
        attn = new SelfAttention((int)channels, heads);
        mlp = new Mlp(channels, 4 * channels, channels);
        modulation = new Linear(channels, 6 * channels);
        RegisterComponents();
    }

    // With gradient checkpointing, the block keeps only its inputs for the backward pass.
    public override Tensor forward(Tensor x, Tensor time) => this.Checkpoint(inputs => Compute(inputs[0]!, inputs[1]!), x, time);

    private Tensor Compute(Tensor x, Tensor time)
    {
        using var scope = NewDisposeScope();
        var m = modulation.call(nn.functional.silu(time)).unsqueeze(1).chunk(6, 2); // six tensors [B, 1, C]
        x = AddGated(x, m[2], attn.call(NormModulate(x, m[0], m[1])));
        return AddGated(x, m[5], mlp.call(NormModulate(x, m[3], m[4]))).MoveToOuterDisposeScope();
    }
}
