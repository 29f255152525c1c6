using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Training.Distributed;

namespace OpenSora.Training.Planning;

/// <summary>The memory used by a training step of an <see cref="StdiT"/> on one device, in bytes. Only tensors are counted, not the program and its
/// libraries. Parameters, gradients, the two moments of AdamW and the moving average are float32, as in this library.</summary>
/// <param name="Parameters">The parameters and buffers of the model.</param>
/// <param name="Gradients">The gradients of the parameters. With gradient checkpointing, those of the block that is recomputed are held
/// twice.</param>
/// <param name="Optimizer">The two moments of AdamW.</param>
/// <param name="Average">The moving average.</param>
/// <param name="Activations">The tensors that the blocks keep from the forward pass for the backward pass, including copies of the weights in the
/// compute type.</param>
/// <param name="Ends">The tensors that the text, the last layer and the loss keep for the backward pass.</param>
/// <param name="Working">The maximum additional memory of the backward pass of the blocks. With gradient checkpointing, this includes the block that
/// is recomputed.</param>
/// <param name="Encoders">The parameters of the frozen encoders, if their output is not cached.</param>
/// <param name="Buckets">The buffers of communication between devices.</param>
/// <param name="Host">What is in host memory instead.</param>
internal sealed record MemoryEstimate(
    double Parameters,
    double Gradients,
    double Optimizer,
    double Average,
    double Activations,
    double Ends,
    double Working,
    double Encoders = 0,
    double Buckets = 0,
    double Host = 0
)
{
    /// <summary>Gets the maximum memory in use at any time. Activations are released as gradients are computed, so the larger of the two counts. If
    /// only inputs of a few blocks are kept, what the last layer keeps is released before the blocks need most.</summary>
    public double Peak =>
        Parameters
        + Optimizer
        + Average
        + Encoders
        + Buckets
        + (
            IsPhased
                ? Math.Max(Math.Max(Activations + Ends + EndsWorking, Activations + Working), Working + Gradients)
                : Working + Math.Max(Activations + Ends, Gradients)
        );

    /// <summary>Whether the backward pass of the last layer and that of the blocks are counted separately.</summary>
    private bool IsPhased { get; init; }

    private double EndsWorking { get; init; }

    /// <summary>Gets the memory by purpose.</summary>
    public IReadOnlyDictionary<string, double> Parts =>
        new Dictionary<string, double>(StringComparer.Ordinal)
        {
            ["parameters"] = Parameters,
            ["gradients"] = Gradients,
            ["optimizer"] = Optimizer,
            ["average"] = Average,
            ["activations"] = Activations + Ends,
            ["working"] = Working,
            ["encoders"] = Encoders,
            ["buckets"] = Buckets,
        };

    // The buffers of the gradients that are sent while the next ones are computed.
    private const double BucketBytes = 2 * 25e6;

    /// <summary>Estimates the memory of a training step.</summary>
    /// <param name="model">The configuration of the model.</param>
    /// <param name="stage">The number of samples that the model processes at a time, and how.</param>
    /// <param name="height">The number of latent rows.</param>
    /// <param name="width">The number of latent columns.</param>
    /// <param name="bytes">The bytes per value of the compute type: 4 for float32, 2 for bfloat16.</param>
    /// <param name="average">true if a moving average is kept.</param>
    /// <param name="devices">The number of devices.</param>
    /// <param name="textTokens">The number of tokens of the captions; null for the maximum.</param>
    public static MemoryEstimate Of(
        StdiTConfig model,
        PlannedStage stage,
        int height,
        int width,
        int bytes,
        bool average = true,
        int devices = 1,
        int? textTokens = null
    )
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(stage);
        var (patch, r) = (model.PatchSize, model.MlpRatio);
        var (checkpointing, offload) = (stage.GradientCheckpointing, stage.Offload ?? new());
        double b = stage.BatchSize,
            c = model.HiddenSize,
            t = stage.Frames / patch[0],
            s = (double)(height / patch[1]) * (width / patch[2]),
            m = textTokens ?? model.ModelMaxLength,
            k = stage.SequenceParallel,
            slices = checkpointing ? stage.CheckpointSlices : 1;
        var n = b * t * s / k; // tokens of the batch on one device
        var row = n * c * bytes; // one value per channel and token
        var mixed = bytes < 4;
        // The number of rows that the branches of a block keep; fused attention keeps no logits. Spatial: input, normalized, modulated,
        // query-key-value, result and projection. Temporal: as spatial, but without the modulation, and without the normalization if the model has
        // none. Cross: input, query, result. MLP: input, normalized, modulated, r before and r after GELU, projection.
        double spatialRows = 8,
            temporalRows = !HasSecondAttention(model) ? 0
            : model.TemporalNorm ? 7
            : 6,
            crossRows = 3,
            mlpRows = 4 + 2 * r,
            gradientRows = 2 + r; // gradients within the MLP, the largest branch
        // With slices, a block that is recomputed holds the inputs of its branches, its result and its gradient, two gradients of a branch, and one
        // slice of one branch.
        var held = slices > 1 ? (HasSecondAttention(model) ? 8 : 7) + (mlpRows + gradientRows) / slices : gradientRows;
        var block = (slices > 1 ? 0 : row * (spatialRows + temporalRows + crossRows + mlpRows)) + 2 * b * m * c * bytes;
        var working = (held + (k > 1 ? 2 : 0)) * row; // all-to-all sends one row and receives one

        var (parameters, matrices) = (ParameterCount(model), model.Depth * BlockMatrices(model));
        var copies = mixed ? bytes * BlockMatrices(model) : 0; // of a block's matrices
        // Of the inputs in host memory, the one in use and the next are on the device.
        var inputs = model.Depth * row;
        var blocks =
            !checkpointing ? model.Depth * (block + copies)
            : offload.Activations ? Math.Min(inputs, 2 * row)
            : inputs;
        // Outside the blocks: text encoder states and their projection, final normalization and modulation in float32, latents and the terms of the
        // loss.
        var values = b * stage.Frames * height * width * model.InChannels / k;
        var ends = b * m * (model.CaptionChannels * 4 + 3 * c * bytes) + n * c * 4 * (mixed ? 3 : 2) + row + LossTerms * values * 4;
        double shard = stage.Sharding != Sharding.None ? devices : 1,
            optimizer = 8 * parameters / shard,
            averages = average ? 4 * parameters / shard : 0,
            buffers = 4 * (double)model.ModelMaxLength * model.CaptionChannels;
        // The temporary tensors of the update of the largest matrix, and the pages of its state.
        var update = 4 * 4 * Math.Max(r, 3) * c * c;
        return new MemoryEstimate(
            4 * parameters + buffers - (offload.Parameters ? 4 * (matrices - BlockMatrices(model)) : 0),
            (stage.Sharding == Sharding.Gradients ? 4 * parameters / devices : 4 * parameters) + (checkpointing ? 4 * BlockMatrices(model) : 0),
            offload.Optimizer ? update : optimizer,
            offload.Optimizer ? 0 : averages,
            blocks,
            ends,
            checkpointing ? working + block + copies : working,
            Buckets: devices > 1 ? BucketBytes : 0,
            Host: (offload.Optimizer ? optimizer + averages + 4 * parameters / shard : 0)
                + (offload.Activations ? inputs : 0)
                + (offload.Parameters ? 4 * matrices : 0)
        )
        {
            IsPhased = slices > 1 || offload.Activations,
            EndsWorking = 2 * n * c * 4,
        };
    }

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
