using OpenSora.Models;
using OpenSora.Models.Layers;

namespace OpenSora.Training.Planning;

/// <summary>What a training step of an <see cref="StdiT"/> holds, in bytes: tensors only, without the program and its libraries. Parameters,
/// gradients,
/// AdamW's two moments and the moving average are float32, as this library trains.</summary>
/// <param name="Parameters">The model's parameters and buffers.</param>
/// <param name="Gradients">Their gradients. With gradient checkpointing those of the blocks' matrices are held twice, until the backward pass has
/// ended.</param>
/// <param name="Optimizer">AdamW's two moments.</param>
/// <param name="Average">The moving average.</param>
/// <param name="Activations">What the forward pass keeps for the backward pass, copies of the weights in the compute type included.</param>
/// <param name="Working">What the backward pass needs besides, where it needs most; with gradient checkpointing the block that is computed again,
/// too.</param>
/// <param name="Encoders">The frozen encoders' parameters, where their output is not cached.</param>
public sealed record MemoryEstimate(
    double Parameters,
    double Gradients,
    double Optimizer,
    double Average,
    double Activations,
    double Working,
    double Encoders = 0
)
{
    /// <summary>The most that is held at any moment. Activations go as gradients come, so that the larger of the two counts.</summary>
    public double Peak => Parameters + Optimizer + Average + Encoders + Working + Math.Max(Activations, Gradients);

    /// <summary>Estimates a step's.</summary>
    /// <param name="model">The model's sizes.</param>
    /// <param name="batch">Samples that go through the model at a time.</param>
    /// <param name="frames">Latent frames.</param>
    /// <param name="height">Latent rows.</param>
    /// <param name="width">Latent columns.</param>
    /// <param name="bytes">Bytes of a number of the compute type: 4 for float32, 2 for bfloat16.</param>
    /// <param name="checkpointing">Whether blocks keep their input only (<see cref="GradientCheckpointing"/>).</param>
    /// <param name="average">Whether a moving average is kept.</param>
    /// <param name="textTokens">Tokens of the captions; null: the most there may be.</param>
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
        var row = n * c * bytes; // one value a channel of every token
        var mixed = bytes < 4;
        var second = HasSecondAttention(model);
        // Rows that the branches of a block keep; the fused attention keeps no logits. Spatial: input, normalized, modulated, query-key-value, result
        // and
        // projection. Temporal: the same without the modulation, and without the norm where there is none. Cross: input, query, result. MLP: input,
        // normalized,
        // modulated, r before and r after GELU, projection.
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
        // The ends: text states and their projection, last norm and modulation in float32, latents and the terms of the loss.
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

    // Tensors of the latents' size that the loss holds when the backward pass begins.
    private const double LossTerms = 30;

    /// <summary>Parameters of an <see cref="StdiT"/>.</summary>
    internal static double ParameterCount(StdiTConfig model)
    {
        double c = model.HiddenSize,
            values = model.PatchSize[0] * model.PatchSize[1] * model.PatchSize[2] * model.InChannels,
            outputs = values * (model.PredSigma ? 2 : 1);
        var attentions = HasSecondAttention(model) ? 3 : 2; // with the one to the text
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
