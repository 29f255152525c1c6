using OpenSora.Distributed;
using OpenSora.Models.Layers;
using OpenSora.Runtime;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>The common part of the transformers of this library: the properties that follow from the configuration.</summary>
/// <typeparam name="TConfig">The type of the configuration.</typeparam>
public abstract class VideoTransformer<TConfig> : nn.Module<Tensor, Tensor, DenoiserConditions, Tensor>, IVideoTransformer, ICosted, IDivisible
    where TConfig : TransformerConfig
{
    private protected VideoTransformer(string name, TConfig config)
        : base(name)
    {
        ArgumentNullException.ThrowIfNull(config);
        config.Validate();
        Config = config;
    }

    /// <summary>The configuration that the model was created with.</summary>
    public TConfig Config { get; }

    /// <summary>The number of channels of the output: twice that of the latents if the variance is learned.</summary>
    public int OutChannels => Config.OutChannels;

    /// <inheritdoc/>
    public int LatentChannels => Config.InChannels;

    /// <inheritdoc/>
    public bool LearnsVariance => Config.PredSigma;

    /// <inheritdoc/>
    public abstract IReadOnlyList<int>? LatentSize { get; }

    /// <inheritdoc/>
    public abstract IReadOnlyList<int> LatentMultiple { get; }

    /// <inheritdoc/>
    public virtual int TextWidth => Config.CaptionChannels;

    /// <inheritdoc/>
    public int TextTokens => Config.ModelMaxLength;

    /// <inheritdoc/>
    public virtual bool SupportsNoisyFrames => Config.PatchSize[0] == 1;

    /// <inheritdoc/>
    public double CaptionDropout => Config.ClassDropoutProb;

    /// <summary>The random generator that selects which captions are dropped during training; null uses PyTorch's global generator.</summary>
    public Generator? DropoutGenerator { get; set; }

    ICollectives? IDivisible.Group { get; set; }

    TransformerConfig IDivisible.Config => Config;

    int IDivisible.TemporalAttentions => TemporalAttentions;

    /// <summary>The number of attentions along time in a forward pass; 0 if tokens attend to all frames.</summary>
    private protected abstract int TemporalAttentions { get; }

    /// <inheritdoc/>
    public abstract bool IsTemporal(string parameter);

    /// <inheritdoc/>
    /// <remarks>Blocks are named <c>blocks.N.*</c>, or in STDiT3 <c>spatial_blocks.N.*</c> and <c>temporal_blocks.N.*</c>.</remarks>
    public string ParameterGroup(string parameter)
    {
        ArgumentNullException.ThrowIfNull(parameter);
        return parameter.Split('.') switch
        {
            ["x_embedder", ..] => "patch embedding",
            ["y_embedder", ..] => "condition",
            ["t_embedder" or "t_block" or "t_block_temp" or "csize_embedder" or "ar_embedder" or "fl_embedder" or "fps_embedder", ..] =>
                "time embedding",
            ["final_layer", ..] => "final layer",
            ["temporal_blocks", ..] or [_, _, "attn_temp", ..] => "temporal attention",
            [_, _, "attn", ..] => "attention",
            [_, _, "cross_attn", ..] => "cross attention",
            [_, _, "mlp", ..] => "MLP",
            [_, _, "scale_shift_table" or "scale_shift_table_temporal" or "adaLN_modulation", ..] => "modulation",
            var parts => parts[0],
        };
    }

    /// <summary>Initializes all parameters.</summary>
    /// <param name="generator">The random generator of the values; null uses PyTorch's global generator.</param>
    public abstract void Initialize(Generator? generator = null);

    /// <inheritdoc/>
    public Tensor Denoise(Tensor x, Tensor t, DenoiserConditions conditions) => call(x, t, conditions);

    /// <inheritdoc/>
    public abstract Tensor NullCaption(long batch = 1);

    NetworkCost ICosted.Cost(CallSize size) =>
        Cost(SequenceParallel.Share(((IDivisible)this).Group, Config.PatchSize, size), NetworkCost.BytesOf(this));

    /// <summary>Computes the cost of a forward pass.</summary>
    /// <param name="size">The size of the latents and of the text.</param>
    /// <param name="bytes">The number of bytes of a value in the blocks.</param>
    private protected abstract NetworkCost Cost(CallSize size, int bytes);

    /// <summary>Begins a call and replaces its inputs by the share of this process, if the tokens are divided among processes.</summary>
    private protected SequenceParallel? Divide(ref Tensor x, ref Tensor? noisyFrames) =>
        SequenceParallel.Begin(((IDivisible)this).Group, Config.PatchSize, ref x, ref noisyFrames);

    /// <summary>Selects the captions to drop in training, <c>[B]</c>; null drops none.</summary>
    private protected Tensor? Drop(Tensor text) =>
        training && Config.ClassDropoutProb > 0
            ? SequenceParallel
                .Same(((IDivisible)this).Group, rand(text.shape[0], device: text.device, generator: DropoutGenerator))
                .LessThan(Config.ClassDropoutProb)
            : null;

    /// <summary>Initializes the layers that all these models have: Xavier-uniform matrices, gains of 1, small normal embeddings.</summary>
    /// <param name="generator">The random generator of the values.</param>
    /// <param name="embeddings">The embeddings of time and size.</param>
    private protected void InitializeLayers(Generator? generator, params nn.Module?[] embeddings)
    {
        foreach (var dense in modules().OfType<Linear>())
        {
            Parameters.Xavier(dense.weight, generator);
            Parameters.Constant(dense.bias!, 0);
        }
        foreach (var norm in modules().OfType<LayerNorm>())
        {
            Parameters.Constant(norm.weight, 1);
            Parameters.Constant(norm.bias, 0);
        }
        foreach (var norm in modules().OfType<RMSNorm>())
        {
            Parameters.Constant(norm.weight, 1);
        }
        foreach (var dense in embeddings.OfType<nn.Module>().SelectMany(embedding => embedding.modules().OfType<Linear>()))
        {
            Parameters.Normal(dense.weight, 0.02, generator);
        }
    }

    /// <summary>Initializes the projection of the captions and the null caption.</summary>
    private protected void InitializeCaptions(CaptionEmbedder captions, Generator? generator)
    {
        // 0.02 suits the 4096 channels of T5-v1.1-XXL; with a narrower text encoder, the signal would be too weak for cross attention to learn.
        var std = 1 / Math.Sqrt(Config.CaptionChannels);
        foreach (var projection in captions.modules().OfType<Linear>())
        {
            Parameters.Normal(projection.weight, Math.Max(0.02, std), generator);
        }

        Parameters.Normal(captions.y_embedding, std, generator);
    }

    /// <summary>Initializes a modulation table that all blocks add to the shared modulation, or that of the last layer.</summary>
    private protected void InitializeTable(Parameter table, Generator? generator) =>
        Parameters.Normal(table, 1 / Math.Sqrt(Config.HiddenSize), generator);
}
