namespace OpenSora.Models;

/// <summary>The maximum memory of the tensors that exist while a network runs without gradients, in addition to its weights, in bytes.</summary>
/// <remarks>The formulas follow the code of the networks: a tensor exists until the dispose scope that it was created in ends. Fused attention keeps
/// no logits. docs/lab/performance.md compares them with measurements.</remarks>
internal static class WorkingMemory
{
    /// <summary>The tokens of a transformer, from which all its large tensors are made.</summary>
    /// <param name="Count">The number of tokens of the batch.</param>
    /// <param name="Values">The number of latent values in the batch.</param>
    /// <param name="Text">The number of values of the text states in the batch.</param>
    /// <param name="Bytes">The number of bytes of a value in the blocks.</param>
    private readonly record struct Tokens(double Count, double Values, double Text, int Bytes);

    /// <summary>Computes the memory of an <see cref="StdiT"/>.</summary>
    public static double Of(StdiTConfig model, CallSize size, int bytes)
    {
        var temporal = model.AttentionOrder is AttentionOrder.Serial or AttentionOrder.Parallel;
        // Each row has the size of the tokens. Embedded patches, tokens; modulated input, projection and result of the attention in frames; positions
        // and, if the model has it, normalization. Then the second attention.
        var attention =
            temporal ? 6 + (model.TemporalNorm ? 1 : 0) + TimeAttention + QkNorm(model, bytes)
            : model.AttentionOrder == AttentionOrder.Interleaved ? 4 + TimeAttention + QkNorm(model, bytes)
            : 4 + SpaceAttention + QkNorm(model, bytes);
        var mlp = 6 + model.MlpRatio; // patches, tokens, result of attention, cross attention, modulated input, the two layers of the MLP
        return Blocks(model, Count(model, size, bytes), Math.Max(attention, mlp));
    }

    /// <summary>Computes the memory of a <see cref="DiT"/>.</summary>
    public static double Of(DiTConfig model, CallSize size, int bytes)
    {
        var attention =
            model.AttentionOrder is AttentionOrder.Serial or AttentionOrder.Parallel ? 6 + TimeAttention + QkNorm(model, bytes)
            : model.AttentionOrder == AttentionOrder.Interleaved ? 4 + TimeAttention + QkNorm(model, bytes)
            : 4 + SpaceAttention + QkNorm(model, bytes);
        return Blocks(model, Count(model, size, bytes), Math.Max(attention, 5 + model.MlpRatio));
    }

    /// <summary>Computes the memory of a <see cref="StdiT2"/>.</summary>
    public static double Of(StdiT2Config model, CallSize size, int bytes)
    {
        // Patches, tokens, and the modulated inputs and results of both attentions.
        var attention = 6 + TimeAttention + QkNorm(model, bytes) + RopeRows;
        var mlp = 12 + model.MlpRatio;
        return Blocks(model, Count(model, size, bytes), Math.Max(attention, mlp));
    }

    /// <summary>Computes the memory of a <see cref="StdiT3"/>.</summary>
    public static double Of(StdiT3Config model, CallSize size, int bytes)
    {
        var attention = 3 + TimeAttention + QkNorm(model, bytes) + RopeRows;
        var mlp = 9 + model.MlpRatio;
        return Blocks(model, Count(model, size, bytes), Math.Max(attention, mlp));
    }

    // Queries, keys and values (3), the attended values and the projection; along time also the stacked results of the samples.
    private const double SpaceAttention = 5,
        TimeAttention = 6,
        RopeRows = 2; // rotated queries and keys

    // Normalized queries and keys in float32 and, if it is another type, in that of the blocks.
    private static double QkNorm(TransformerConfig model, int bytes) =>
        !model.QkNorm ? 0
        : bytes == 4 ? 2
        : 2 * (2 + 1);

    private static Tokens Count(TransformerConfig model, CallSize size, int bytes)
    {
        double Patches(long length, int axis) => (length + model.PatchSize[axis] - 1) / model.PatchSize[axis];
        return new(
            size.Batch * Patches(size.Frames, 0) * Patches(size.Height, 1) * Patches(size.Width, 2),
            (double)size.Batch * model.InChannels * size.Frames * size.Height * size.Width,
            (double)size.Batch * size.Tokens * model.CaptionChannels,
            bytes
        );
    }

    private static double Blocks(TransformerConfig model, Tokens tokens, double rows)
    {
        double c = model.HiddenSize,
            row = tokens.Count * c * tokens.Bytes;
        // The last layer: patches and tokens, tokens in float32, normalized and modulated.
        var last = 2 * row + (tokens.Bytes < 4 ? 3 : 2) * tokens.Count * c * 4 + 2 * OutValues(model, tokens) * 4;
        var copies = tokens.Bytes < 4 ? model.MlpRatio * c * c * tokens.Bytes : 0; // of the largest matrix in the type of the blocks
        return Math.Max(rows * row + copies, last) + TextTerms * tokens.Text * 4 + SamplerTerms * tokens.Values * 4;
    }

    private static double OutValues(TransformerConfig model, Tokens tokens) => tokens.Values * (model.PredSigma ? 2 : 1);

    // The states of the prompt and of the null caption, and both together; tensors of the sampler and of guidance with the size of the latents.
    private const double TextTerms = 3,
        SamplerTerms = 6;

    /// <summary>Computes the memory of decoding with an <see cref="AutoencoderKL"/>.</summary>
    public static double OfDecoding(AutoencoderKLConfig model, CallSize size, int bytes, bool temporal = false)
    {
        var all = (double)size.Batch * size.Frames;
        var images = temporal ? all : Math.Min(all, model.MicroBatchSize ?? all);
        var channels = model.BlockOutChannels;
        double pixels = (double)size.Height * size.Width,
            input = channels[^1],
            peak = 0;
        // The middle block: input, normalized, queries, keys, values, attended, projected, sum.
        Reach(8 * input);
        for (var level = channels.Count - 1; level >= 0; level--)
        {
            double c = channels[level],
                first = input; // the input of the level, which exists until the level ends
            for (var block = 0; block <= model.LayersPerBlock; block++)
            {
                // The input, then normalized input and convolution, or two tensors of the second half.
                var held = (block == 0 ? 0 : first) + input;
                Reach(held + Math.Max(input + c, input == c ? 2 * c : 3 * c));
                if (temporal)
                {
                    Reach(held + 4 * c);
                }

                input = c;
            }

            if (level > 0)
            {
                Reach(first + c + 4 * 2 * c); // enlarged and convolved
                pixels *= 4;
            }
            else
            {
                Reach(c + Math.Max(first, c) + model.OutChannels);
            }
        }

        // Results in float32: those of the microbatches, all frames, and in the order of videos.
        return images * peak * bytes + 3 * all * pixels * model.OutChannels * 4;

        void Reach(double values) => peak = Math.Max(peak, values * pixels);
    }

    /// <summary>Computes the memory of decoding with a <see cref="TinyAutoencoder"/>.</summary>
    public static double OfDecoding(TinyAutoencoderConfig model, CallSize size, int bytes)
    {
        var all = (double)size.Batch * size.Frames;
        var images = Math.Min(all, model.MicroBatchSize);
        var pixels = (double)size.Height * size.Width * Math.Pow(4, model.NumDecoderBlocks.Count - 1);
        return images * 3 * model.Channels * pixels * bytes + 3 * all * pixels * model.OutChannels * 4;
    }

    /// <summary>Computes the memory of encoding with a <see cref="T5TextEncoder"/>.</summary>
    public static double OfEncoding(T5Config model, CallSize size, int bytes)
    {
        double tokens = size.Batch * size.Tokens,
            inner = model.NumHeads * model.DKv,
            bias = size.Batch * model.NumHeads * (double)size.Tokens * size.Tokens;
        var copies = bytes < 4 ? (double)model.DFf * model.DModel * bytes : 0;
        return 4 * (tokens * (6 * model.DModel + Math.Max(4 * model.DFf, 8 * inner)) + 2 * bias) + copies;
    }
}
