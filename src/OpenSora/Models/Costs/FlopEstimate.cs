using OpenSora.Models.Layers;

namespace OpenSora.Models;

/// <summary>The number of floating-point operations of one forward pass of one sample. A multiply-add counts as two. Normalization, activations and
/// additions are not counted; they are a few thousandths of the total.</summary>
/// <param name="Linear">The operations of linear layers and convolutions.</param>
/// <param name="SpatialAttention">The operations of attention within frames: matrix multiplications of queries, keys and values. This includes
/// attention over space and time together and attention in encoders.</param>
/// <param name="TemporalAttention">The operations of attention along time.</param>
/// <param name="CrossAttention">The operations of cross-attention to text.</param>
public sealed record FlopEstimate(double Linear, double SpatialAttention, double TemporalAttention = 0, double CrossAttention = 0)
{
    /// <summary>Gets the operations of all attention layers, without their linear layers.</summary>
    public double Attention => SpatialAttention + TemporalAttention + CrossAttention;

    /// <summary>Gets the total number of operations.</summary>
    public double Total => Linear + Attention;

    /// <summary>Multiplies all counts by a number of calls.</summary>
    internal FlopEstimate Times(double calls) => new(calls * Linear, calls * SpatialAttention, calls * TemporalAttention, calls * CrossAttention);

    /// <summary>Counts the operations of an <see cref="StdiT"/>.</summary>
    /// <param name="model">The configuration of the model.</param>
    /// <param name="frames">The number of latent frames.</param>
    /// <param name="height">The number of latent rows.</param>
    /// <param name="width">The number of latent columns.</param>
    /// <param name="textTokens">The number of tokens of the caption; null for the maximum.</param>
    public static FlopEstimate Of(StdiTConfig model, int frames, int height, int width, int? textTokens = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        var (patch, c, depth) = (model.PatchSize, (double)model.HiddenSize, model.Depth);
        double t = frames / patch[0],
            s = (double)(height / patch[1]) * (width / patch[2]),
            m = textTokens ?? model.ModelMaxLength;
        var n = t * s;
        var values = (double)patch[0] * patch[1] * patch[2] * model.InChannels;
        var (matrices, spatial, temporal) = SelfAttention(model.AttentionOrder, depth, t, s, c);
        // The c x c matrices of a block: those of self-attention, 2 of cross-attention (query and output) and 2 r of the MLP. The keys and values of
        // cross-attention are computed from the text tokens.
        var linear =
            2 * c * c * depth * (n * (matrices + 2 + 2 * model.MlpRatio) + 2 * m)
            + 2 * n * c * values * (model.PredSigma ? 3 : 2)
            + TimeEmbedding(c)
            + 2 * 6 * c * c
            + 2 * m * c * (model.CaptionChannels + c)
            + (model.SizeConditioning ? 3 * TimeEmbedding(c / 3) : 0);
        return new FlopEstimate(linear, spatial, temporal, 4 * n * m * c * depth);
    }

    /// <summary>Counts the operations of a <see cref="DiT"/>.</summary>
    /// <param name="model">The configuration of the model.</param>
    /// <param name="frames">The number of latent frames.</param>
    /// <param name="height">The number of latent rows.</param>
    /// <param name="width">The number of latent columns.</param>
    public static FlopEstimate Of(DiTConfig model, int frames, int height, int width)
    {
        ArgumentNullException.ThrowIfNull(model);
        var (patch, c, depth) = (model.PatchSize, (double)model.HiddenSize, model.Depth);
        double t = frames / patch[0],
            s = (double)(height / patch[1]) * (width / patch[2]);
        var n = t * s;
        var values = (double)patch[0] * patch[1] * patch[2] * model.InChannels;
        var (matrices, spatial, temporal) = SelfAttention(model.AttentionOrder, depth, t, s, c);
        var linear =
            2 * c * c * depth * (n * (matrices + 2 * model.MlpRatio) + 6)
            + 2 * n * c * values * (model.PredSigma ? 3 : 2)
            + TimeEmbedding(c)
            + 2 * 2 * c * c
            + (string.Equals(model.Condition, "text", StringComparison.Ordinal) ? 2 * c * (model.CaptionChannels + c) : 0);
        return new FlopEstimate(linear, spatial, temporal);
    }

    /// <summary>Counts the operations of a <see cref="StdiT2"/>.</summary>
    /// <param name="model">The configuration of the model.</param>
    /// <param name="frames">The number of latent frames.</param>
    /// <param name="height">The number of latent rows.</param>
    /// <param name="width">The number of latent columns.</param>
    /// <param name="textTokens">The number of tokens of the caption; null for the maximum.</param>
    public static FlopEstimate Of(StdiT2Config model, int frames, int height, int width, int? textTokens = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        double c = model.HiddenSize;
        var blocks = MultiResolution(model, frames, height, width, textTokens, 8, AttentionOrder.Serial, model.Depth);
        // Embeddings of height, width and ratio, of the length and of the frame rate; modulation within frames and along time.
        return blocks with { Linear = blocks.Linear + 3 * TimeEmbedding(c / 3) + 2 * TimeEmbedding(c) + 2 * 9 * c * c };
    }

    /// <summary>Counts the operations of a <see cref="StdiT3"/>.</summary>
    /// <inheritdoc cref="Of(StdiT2Config, int, int, int, int?)"/>
    public static FlopEstimate Of(StdiT3Config model, int frames, int height, int width, int? textTokens = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        double c = model.HiddenSize;
        var blocks = MultiResolution(model, frames, height, width, textTokens, 4, AttentionOrder.Interleaved, 2 * model.Depth);
        return blocks with { Linear = blocks.Linear + TimeEmbedding(c) + 2 * 6 * c * c };
    }

    // The blocks, the patches, the text and the embedding of the timestep. Incomplete patches are padded.
    private static FlopEstimate MultiResolution(
        TransformerConfig model,
        int frames,
        int height,
        int width,
        int? textTokens,
        double attentionMatrices,
        AttentionOrder order,
        int blocks
    )
    {
        var (patch, c) = (model.PatchSize, (double)model.HiddenSize);
        double Patches(int length, int axis) => (length + patch[axis] - 1) / patch[axis];
        double t = Patches(frames, 0),
            s = Patches(height, 1) * Patches(width, 2),
            m = textTokens ?? model.ModelMaxLength,
            n = t * s,
            values = (double)patch[0] * patch[1] * patch[2] * model.InChannels;
        var (_, spatial, temporal) = SelfAttention(order, blocks, t, s, c);
        var linear =
            2 * c * c * blocks * (n * (attentionMatrices + 2 + 2 * model.MlpRatio) + 2 * m)
            + 2 * n * c * values * (model.PredSigma ? 3 : 2)
            + TimeEmbedding(c)
            + 2 * m * c * (model.CaptionChannels + c);
        return new FlopEstimate(linear, spatial, temporal, 4 * n * m * c * blocks);
    }

    // Returns the number of c x c matrices per block, 4 per attention, and the attention operations of all blocks.
    private static (double Matrices, double Spatial, double Temporal) SelfAttention(AttentionOrder order, int depth, double t, double s, double c)
    {
        double Products(double blocks, double length) => blocks * 4 * t * s * length * c;
        return order switch
        {
            AttentionOrder.Full => (4, Products(depth, t * s), 0),
            AttentionOrder.Interleaved => (4, Products((depth + 1) / 2, s), Products(depth / 2, t)),
            _ => (8, Products(depth, s), Products(depth, t)),
        };
    }

    /// <summary>Counts the operations of encoding frames with an <see cref="AutoencoderKL"/>.</summary>
    /// <param name="model">The configuration of the model.</param>
    /// <param name="frames">The number of frames.</param>
    /// <param name="height">The height in pixels.</param>
    /// <param name="width">The width in pixels.</param>
    public static FlopEstimate OfEncoding(AutoencoderKLConfig model, int frames, int height, int width)
    {
        ArgumentNullException.ThrowIfNull(model);
        var (channels, pixels) = (model.BlockOutChannels, (double)height * width);
        var linear = Convolution(3, model.InChannels, channels[0], pixels);
        for (var level = 0; level < channels.Count; level++)
        {
            for (var block = 0; block < model.LayersPerBlock; block++)
            {
                linear += Residual(channels[block == 0 && level > 0 ? level - 1 : level], channels[level], pixels);
            }

            if (level == channels.Count - 1)
            {
                continue;
            }

            pixels /= 4;
            linear += Convolution(3, channels[level], channels[level], pixels);
        }
        double c = channels[^1],
            moments = 2 * model.LatentChannels;
        linear += Middle(c, pixels) + Convolution(3, c, moments, pixels) + Convolution(1, moments, moments, pixels);
        return new FlopEstimate(frames * linear, frames * 4 * pixels * pixels * c);
    }

    /// <summary>Counts the operations of decoding frames with an <see cref="AutoencoderKL"/>.</summary>
    /// <param name="model">The configuration of the model.</param>
    /// <param name="frames">The number of latent frames.</param>
    /// <param name="height">The number of latent rows.</param>
    /// <param name="width">The number of latent columns.</param>
    public static FlopEstimate OfDecoding(AutoencoderKLConfig model, int frames, int height, int width)
    {
        ArgumentNullException.ThrowIfNull(model);
        var (channels, positions) = (model.BlockOutChannels, (double)height * width);
        double c = channels[^1],
            pixels = positions;
        var linear = Convolution(1, model.LatentChannels, model.LatentChannels, pixels) + Convolution(3, model.LatentChannels, c, pixels);
        linear += Middle(c, pixels);
        for (var level = channels.Count - 1; level >= 0; level--)
        {
            linear +=
                Residual(channels[Math.Min(level + 1, channels.Count - 1)], channels[level], pixels)
                + model.LayersPerBlock * Residual(channels[level], channels[level], pixels);
            if (level > 0)
            {
                pixels *= 4;
                linear += Convolution(3, channels[level], channels[level], pixels);
            }
        }
        linear += Convolution(3, channels[0], model.OutChannels, pixels);
        return new FlopEstimate(frames * linear, frames * 4 * positions * positions * c);
    }

    /// <summary>Counts the operations of decoding frames with a <see cref="TinyAutoencoder"/>.</summary>
    internal static FlopEstimate OfDecoding(TinyAutoencoderConfig model, int frames, int height, int width)
    {
        double c = model.Channels,
            pixels = (double)height * width;
        var linear = Convolution(3, model.LatentChannels, c, pixels);
        for (var level = 0; level < model.NumDecoderBlocks.Count; level++)
        {
            var branch = model.MiddleNorm && level == 0 ? 8 * Convolution(1, c, c, pixels) : 0;
            linear += model.NumDecoderBlocks[level] * (3 * Convolution(3, c, c, pixels) + branch);
            if (level < model.NumDecoderBlocks.Count - 1)
            {
                pixels *= 4;
                linear += Convolution(3, c, c, pixels);
            }
        }
        return new FlopEstimate(frames * (linear + Convolution(3, c, model.OutChannels, pixels)), 0);
    }

    private static double Convolution(double size, double from, double to, double at) => 2 * size * size * from * to * at;

    private static double Residual(double from, double to, double at) =>
        Convolution(3, from, to, at) + Convolution(3, to, to, at) + (from == to ? 0 : Convolution(1, from, to, at));

    private static double Middle(double channels, double at) => 2 * Residual(channels, channels, at) + 4 * Convolution(1, channels, channels, at);

    /// <summary>Counts the operations of encoding a caption with a <see cref="T5TextEncoder"/>.</summary>
    /// <param name="model">The configuration of the model.</param>
    /// <param name="tokens">The number of tokens, including padding.</param>
    public static FlopEstimate OfEncoding(T5Config model, int tokens)
    {
        ArgumentNullException.ThrowIfNull(model);
        double inner = model.NumHeads * model.DKv,
            feedForward = model.FeedForwardProj.StartsWith("gated", StringComparison.Ordinal) ? 3 : 2;
        return new FlopEstimate(
            2.0 * tokens * model.NumLayers * model.DModel * (4 * inner + feedForward * model.DFf),
            4.0 * tokens * tokens * inner * model.NumLayers
        );
    }

    private static double TimeEmbedding(double c) => 2 * c * (256 + c);
}
