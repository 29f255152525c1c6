using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Training.Distributed;

namespace OpenSora.Training.Planning;

/// <summary>The memory used by a training step of an <see cref="StdiT"/>, in bytes. Only tensors are counted, not the program and its libraries.
/// Parameters, gradients, the two moments of AdamW and the moving average are float32, as in this library.</summary>
/// <param name="Parameters">The parameters and buffers of the model.</param>
/// <param name="Gradients">The gradients of the parameters. With gradient checkpointing, the gradients of the weight matrices in blocks are held
/// twice until the end of the backward pass.</param>
/// <param name="Optimizer">The two moments of AdamW.</param>
/// <param name="Average">The moving average.</param>
/// <param name="Activations">The tensors that the forward pass keeps for the backward pass, including copies of the weights in the compute
/// type.</param>
/// <param name="Working">The maximum additional memory of the backward pass. With gradient checkpointing, this includes the block that is
/// recomputed.</param>
/// <param name="Encoders">The parameters of the frozen encoders, if their output is not cached.</param>
internal sealed record MemoryEstimate(
    double Parameters,
    double Gradients,
    double Optimizer,
    double Average,
    double Activations,
    double Working,
    double Encoders = 0
)
{
    /// <summary>Gets the maximum memory in use at any time. Activations are released as gradients are computed, so the larger of the two
    /// counts.</summary>
    public double Peak => Parameters + Optimizer + Average + Encoders + Working + Math.Max(Activations, Gradients);

    /// <summary>Gets the memory by purpose.</summary>
    public IReadOnlyDictionary<string, double> Parts =>
        new Dictionary<string, double>(StringComparer.Ordinal)
        {
            ["parameters"] = Parameters,
            ["gradients"] = Gradients,
            ["optimizer"] = Optimizer,
            ["average"] = Average,
            ["activations"] = Activations,
            ["working"] = Working,
            ["encoders"] = Encoders,
        };

    /// <summary>Estimates the memory of a training step.</summary>
    /// <param name="model">The configuration of the model.</param>
    /// <param name="batch">The number of samples that the model processes at a time.</param>
    /// <param name="frames">The number of latent frames.</param>
    /// <param name="height">The number of latent rows.</param>
    /// <param name="width">The number of latent columns.</param>
    /// <param name="bytes">The bytes per value of the compute type: 4 for float32, 2 for bfloat16.</param>
    /// <param name="checkpointing">true if blocks keep only their input (see <see cref="ModelExtensions.UseGradientCheckpointing"/>).</param>
    /// <param name="average">true if a moving average is kept.</param>
    /// <param name="textTokens">The number of tokens of the captions; null for the maximum.</param>
    public static MemoryEstimate Of(
        StdiTConfig model,
        int batch,
        int frames,
        int height,
        int width,
        int bytes,
        bool checkpointing,
        bool average = true,
        int? textTokens = null
    )
    {
        ArgumentNullException.ThrowIfNull(model);
        var (patch, r) = (model.PatchSize, model.MlpRatio);
        double b = batch,
            c = model.HiddenSize,
            t = frames / patch[0],
            s = (double)(height / patch[1]) * (width / patch[2]),
            m = textTokens ?? model.ModelMaxLength;
        var n = b * t * s; // tokens of the batch
        var row = n * c * bytes; // one value per channel and token
        var mixed = bytes < 4;
        var second = HasSecondAttention(model);
        // The number of rows that the branches of a block keep; fused attention keeps no logits. Spatial: input, normalized, modulated,
        // query-key-value, result and projection. Temporal: as spatial, but without the modulation, and without the normalization if the model has
        // none. Cross: input, query, result. MLP: input, normalized, modulated, r before and r after GELU, projection.
        double spatialRows = 8,
            temporalRows = !HasSecondAttention(model) ? 0
            : model.TemporalNorm ? 7
            : 6,
            crossRows = 3,
            mlpRows = 4 + 2 * r;
        var block = row * (spatialRows + temporalRows + crossRows + mlpRows) + 2 * b * m * c * bytes;
        var working = (2 + r) * row; // gradients within the MLP, the largest branch

        var parameters = ParameterCount(model);
        var copies = mixed ? bytes * BlockMatrices(model) : 0; // of a block's matrices
        var blocks = model.Depth * (checkpointing ? row : block + copies);
        // Outside the blocks: text encoder states and their projection, final normalization and modulation in float32, latents and the terms of the
        // loss.
        var values = b * frames * height * width * model.InChannels;
        var ends = b * m * (model.CaptionChannels * 4 + 3 * c * bytes) + n * c * 4 * (mixed ? 3 : 2) + row + LossTerms * values * 4;
        return new MemoryEstimate(
            4 * (parameters + (double)model.ModelMaxLength * model.CaptionChannels),
            4 * parameters + (checkpointing ? 4 * model.Depth * BlockMatrices(model) : 0),
            8 * parameters,
            average ? 4 * parameters : 0,
            blocks + ends,
            checkpointing ? working + block + copies : working
        );
    }

    /// <summary>Computes the memory of one of several devices that share state. Buckets in flight are not counted, and the second copy of gradients
    /// that gradient checkpointing holds is not divided.</summary>
    public MemoryEstimate Divided(StdiTConfig model, Sharding sharding, int devices) =>
        this with
        {
            Optimizer = sharding == Sharding.None ? Optimizer : Optimizer / devices,
            Average = sharding == Sharding.None ? Average : Average / devices,
            Gradients = sharding == Sharding.Gradients ? Gradients - 4 * ParameterCount(model) * (1 - 1.0 / devices) : Gradients,
        };

    // The number of tensors of the size of the latents that the loss holds when the backward pass begins.
    private const double LossTerms = 30;

    /// <summary>Counts the parameters of an <see cref="StdiT"/>.</summary>
    internal static double ParameterCount(StdiTConfig model)
    {
        double c = model.HiddenSize,
            values = model.PatchSize[0] * model.PatchSize[1] * model.PatchSize[2] * model.InChannels,
            outputs = values * (model.PredSigma ? 2 : 1);
        var attentions = HasSecondAttention(model) ? 3 : 2; // including cross-attention
        var biases = (4 * attentions + model.MlpRatio + 1) * c;
        var block = BlockMatrices(model) + biases + 6 * c + (model.QkNorm ? (attentions - 1) * 4 * c / model.NumHeads : 0);
        var size = c / 3;
        return model.Depth * block
            + (values + 1) * c
            + (256 + 1) * c
            + (c + 1) * c
            + (c + 1) * 6 * c
            + (model.CaptionChannels + 1) * c
            + (c + 1) * c
            + 2 * c
            + (c + 1) * outputs
            + (model.SizeConditioning ? 2 * ((256 + 1) * size + (size + 1) * size) : 0);
    }

    private static bool HasSecondAttention(StdiTConfig model) => model.AttentionOrder is AttentionOrder.Serial or AttentionOrder.Parallel;

    private static double BlockMatrices(StdiTConfig model) =>
        (4 + 4 + (HasSecondAttention(model) ? 4 : 0) + 2 * model.MlpRatio) * model.HiddenSize * (double)model.HiddenSize;
}
