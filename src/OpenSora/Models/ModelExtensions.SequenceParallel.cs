using OpenSora.Distributed;

namespace OpenSora.Models;

public static partial class ModelExtensions
{
    /// <summary>Divides the tokens of each call of a transformer among the processes of a group, so that a long video needs less time and memory in
    /// each process ("DSP: Dynamic Sequence Parallelism for Multi-Dimensional Transformers", Zhao et al., 2024).</summary>
    /// <remarks>
    /// <para>Every process has a copy of the model and calls it with the same inputs at the same time. Each process computes some of the frames; for
    /// attention along time, the processes exchange tokens. Every process receives the whole output. The gradients of a parameter must be summed over
    /// the group; the sum is the gradient that a single process computes. A video with fewer frames of tokens than processes, such as an image, is
    /// computed as a whole by every process.</para>
    /// <para>Calls must not overlap: use the model in one thread at a time. If a process does not make a call, the others fail with a
    /// <see cref="CollectiveException"/> after the timeout of the group. A cancellation token must therefore not be canceled during a call.
    /// <c>VideoPipeline</c> and <c>VideoGenerator</c> agree on cancellation between steps.</para>
    /// </remarks>
    /// <param name="model">A transformer of this library that attends within frames and along time separately.</param>
    /// <param name="group">The group, which the caller disposes of after the model was used; null to compute in this process only.</param>
    /// <returns>The same model.</returns>
    /// <exception cref="ArgumentException">The model cannot be divided; the message says why.</exception>
    public static TModel UseSequenceParallel<TModel>(this TModel model, ICollectives? group)
        where TModel : IVideoTransformer
    {
        ArgumentNullException.ThrowIfNull(model);
        var divisible = model as IDivisible;
        if (group is not null && divisible is null or { TemporalAttentions: 0 })
        {
            throw new ArgumentException(
                $"{model.GetType().Name} cannot be divided among processes: "
                    + (
                        divisible is null
                            ? "it is not a transformer of this library. Use StdiT, StdiT2, StdiT3 or DiT."
                            : "each of its tokens attends to the tokens of all frames (AttentionOrder.Full). Use a model with another order of "
                                + "attention, or one process."
                    ),
                nameof(model)
            );
        }

        divisible?.Group = group;
        return model;
    }
}

/// <summary>A transformer with tokens that can be divided among processes by frames.</summary>
internal interface IDivisible
{
    /// <summary>The number of attentions along time in a forward pass; 0 if the tokens cannot be divided.</summary>
    int TemporalAttentions { get; }

    /// <summary>The configuration.</summary>
    TransformerConfig Config { get; }

    /// <summary>The processes that divide the tokens; null for this process only.</summary>
    ICollectives? Group { get; set; }
}
