using OpenSora.Models.Layers;
using OpenSora.Runtime;
using TorchSharp;
using TorchSharp.Modules;
using static OpenSora.Models.VaeActivations;
using static OpenSora.Runtime.Scopes;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>The autoencoder of Stable Video Diffusion. Frames are encoded separately and decoded together, which avoids flicker.</summary>
/// <remarks>
/// Source: "Stable Video Diffusion" (Blattmann et al., 2023). The decoder adds temporal layers to the decoder of Stable Diffusion, as in "Align your
/// Latents" (Blattmann et al., 2023, section 3). The latents are those of Stable Diffusion's <see cref="AutoencoderKL"/>, so this decoder can also
/// decode latents that were made for that autoencoder. Parameter names match diffusers. Shapes in comments: B batch, T frames, C channels.
/// <see cref="Encode"/> and <see cref="Decode"/> do not record gradients; <see cref="forward"/> does.
/// </remarks>
internal sealed class AutoencoderKLTemporalDecoder : nn.Module<Tensor, Tensor>, IVideoAutoencoder, ICosted
{
    private readonly VaeEncoder encoder;
    private readonly TemporalDecoder decoder;
    private readonly Conv2d quant_conv;

    /// <summary>Creates the model and initializes its parameters.</summary>
    /// <param name="config">The model configuration; <see cref="AutoencoderKLConfig.MicroBatchSize"/> applies to encoding.</param>
    /// <param name="initialize">If false, the parameters are left uninitialized because weights are loaded afterwards.</param>
    /// <exception cref="ArgumentException">The configuration is invalid.</exception>
    public AutoencoderKLTemporalDecoder(AutoencoderKLConfig config, bool initialize = true)
        : base(nameof(AutoencoderKLTemporalDecoder))
    {
        ArgumentNullException.ThrowIfNull(config);
        config.Validate();
        Config = config;
        DecodeChunkSize = config.DecodeChunkSize;
        encoder = new VaeEncoder(config);
        decoder = new TemporalDecoder(config);
        quant_conv = new Conv2d(2L * config.LatentChannels, 2L * config.LatentChannels, 1);
        RegisterComponents();
        if (initialize)
        {
            Initialize();
        }
    }

    /// <summary>The descriptor of the architecture, as registered in <see cref="Architectures.BuiltIn"/>.</summary>
    public static Architecture<IVideoAutoencoder> Architecture { get; } =
        Architecture<IVideoAutoencoder>.Of(
            "autoencoder_kl_temporal_decoder",
            config => new AutoencoderKLTemporalDecoder(config, initialize: false),
            new AutoencoderKLConfig(),
            json: AutoencoderKLJson.Default.AutoencoderKLConfig
        ) with
        {
            HubNames = ["AutoencoderKLTemporalDecoder"],
            Loading = (config, _) => AutoencoderKL.PublishedOptions((AutoencoderKLConfig)config),
            HubReader = (config, _) => AutoencoderKL.OfHub(config),
            Recognizer = file =>
                AutoencoderKL.Sizes(file) is var (shapes, config) && shapes.Has("decoder.time_conv_out.weight")
                    ? [new(config, "Stable Video Diffusion autoencoder with temporal decoder", AutoencoderKL.Words(config))]
                    : [],
        };

    /// <summary>The configuration that the model was created with.</summary>
    public AutoencoderKLConfig Config { get; }

    /// <summary>The maximum number of frames that are decoded together by the temporal layers.</summary>
    public int DecodeChunkSize
    {
        get;
        set
        {
            ArgumentOutOfRangeException.ThrowIfLessThan(value, 1);
            field = value;
        }
    }

    /// <inheritdoc/>
    public int LatentChannels => Config.LatentChannels;

    /// <inheritdoc/>
    public int SpatialFactor => 1 << (Config.BlockOutChannels.Count - 1);

    /// <inheritdoc/>
    public int TemporalFactor => 1;

    /// <inheritdoc/>
    /// <remarks>Equals <see cref="DecodeChunkSize"/>.</remarks>
    public int FramesAtOnce => DecodeChunkSize;

    /// <summary>Gets true, because the decoder has temporal layers.</summary>
    public bool MixesFrames => true;

    /// <inheritdoc/>
    public double ScalingFactor => Config.ScalingFactor;

    /// <summary>Initializes every parameter: PyTorch's default initialization for convolutions and linear layers, weight 1 and bias 0 for
    /// normalization layers, and a temporal mixing weight of 0.5.</summary>
    /// <param name="generator">The random generator; null uses PyTorch's global generator.</param>
    public void Initialize(Generator? generator = null)
    {
        Parameters.InitializeConvolutions(this, generator);
        using var noGradients = no_grad();
        foreach (var mix in modules().OfType<TemporalMix>())
        {
            Parameters.Constant(mix.mix_factor, 0);
        }
    }

    /// <summary>Decodes the unscaled latents of all frames together, with gradients.</summary>
    /// <param name="latents">Unscaled latents, <c>[B, LatentChannels, T, height, width]</c>.</param>
    /// <returns>Pixels approximately in [-1, 1], <c>[B, channels, T, height * factor, width * factor]</c>, float32, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The shape is invalid.</exception>
    public override Tensor forward(Tensor latents)
    {
        FrameBatches.CheckShape(latents, 5, Config.LatentChannels, 1, nameof(latents));
        using var scope = NewDisposeScope();
        var (b, t) = (latents.shape[0], latents.shape[2]);
        var frames = FrameBatches.ChannelsLast(latents.transpose(1, 2).flatten(0, 1)); // [B T, C, H, W]
        return decoder.call(frames, b).In(ScalarType.Float32).unflatten(0, b, t).transpose(1, 2).contiguous().MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    /// <exception cref="ArgumentException">The shape is invalid.</exception>
    public Tensor Encode(Tensor video, Generator? generator = null)
    {
        FrameBatches.CheckShape(video, 5, Config.InChannels, SpatialFactor, nameof(video));
        return FrameBatches.OneByOne(video, Config.MicroBatchSize ?? int.MaxValue, (frames, _) =>
        {
            var (mean, logVariance) = AutoencoderKL.Posterior(quant_conv.call(encoder.call(FrameBatches.ChannelsLast(frames))));
            return (generator is null ? mean : AutoencoderKL.Sample(mean, logVariance, generator)).Times(Config.ScalingFactor);
        });
    }

    // The temporal convolutions, over three frames, are added to those of the spatial decoder.
    NetworkCost ICosted.Cost(CallSize size) =>
        new(
            FlopEstimate.OfDecoding(Config, (int)(size.Batch * size.Frames), (int)size.Height, (int)size.Width) is var spatial
                ? spatial with
                {
                    Linear = 4.0 / 3 * spatial.Linear,
                }
                : spatial,
            WorkingMemory.OfDecoding(Config, size with { Frames = Math.Min(size.Frames, DecodeChunkSize) }, NetworkCost.BytesOf(this), temporal: true)
        );

    /// <inheritdoc/>
    /// <remarks>Frames are decoded in chunks of <see cref="DecodeChunkSize"/>.</remarks>
    /// <exception cref="ArgumentException">The shape is invalid.</exception>
    public Tensor Decode(Tensor latents)
    {
        FrameBatches.CheckShape(latents, 5, Config.LatentChannels, 1, nameof(latents));
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var chunks = new List<Tensor>();
        for (var from = 0L; from < latents.shape[2]; from += DecodeChunkSize)
        {
            using var part = NewDisposeScope();
            var chunk = latents.narrow(2, from, Math.Min(DecodeChunkSize, latents.shape[2] - from));
            chunks.Add(call(chunk.Over(Config.ScalingFactor)).MoveToOuterDisposeScope());
        }
        return cat(chunks, 2).MoveToOuterDisposeScope();
    }
}

/// <summary>Maps latents to video: the structure of <see cref="VaeDecoder"/>, with a temporal residual block after each spatial one.</summary>
internal sealed class TemporalDecoder : nn.Module<Tensor, long, Tensor>
{
    public readonly Conv2d conv_in;
    public readonly TemporalMiddle mid_block;
    public readonly BlockList<TemporalLevel> up_blocks;
    public readonly GroupNorm conv_norm_out;
    public readonly Conv2d conv_out;
    public readonly TemporalConv time_conv_out;

    public TemporalDecoder(AutoencoderKLConfig config)
        : base(nameof(TemporalDecoder))
    {
        var (channels, groups) = (config.BlockOutChannels.Reverse().ToArray(), config.NormNumGroups);
        conv_in = new Conv2d(config.LatentChannels, channels[0], 3, padding: 1);
        mid_block = new TemporalMiddle(channels[0], groups);
        up_blocks = new BlockList<TemporalLevel>(
            channels
                .Select(
                    (outputs, i) =>
                        new TemporalLevel(channels[Math.Max(0, i - 1)], outputs, config.LayersPerBlock + 1, groups, i < channels.Length - 1)
                )
                .ToArray()
        );
        conv_norm_out = new GroupNorm(channels[^1], groups);
        conv_out = new Conv2d(channels[^1], config.OutChannels, 3, padding: 1);
        time_conv_out = new TemporalConv(config.OutChannels, config.OutChannels);
        RegisterComponents();
    }

    /// <summary>Decodes the frames of a batch of videos.</summary>
    /// <param name="x">Latent frames, <c>[B T, C, H, W]</c>.</param>
    /// <param name="batch">The batch size B.</param>
    public override Tensor forward(Tensor x, long batch)
    {
        using var scope = NewDisposeScope();
        x = mid_block.call(conv_in.call(x), batch);
        foreach (var block in up_blocks)
        {
            var next = block.call(x, batch);
            x.Dispose();
            x = next;
        }
        x = conv_out.call(Activate(conv_norm_out.call(x)));
        return TimeLayout.Of(time_conv_out.call(TimeLayout.To(x, batch)), x.shape).MoveToOuterDisposeScope();
    }
}

/// <summary>Residual blocks at one resolution, optionally followed by upsampling by a factor of 2.</summary>
internal sealed class TemporalLevel : nn.Module<Tensor, long, Tensor>
{
    public readonly ModuleList<SpatioTemporalResidual> resnets;
    public readonly ModuleList<VaeUpsample>? upsamplers;

    public TemporalLevel(int inputs, int outputs, int layers, int groups, bool up)
        : base(nameof(TemporalLevel))
    {
        resnets = nn.ModuleList(
            Enumerable.Range(0, layers).Select(i => new SpatioTemporalResidual(i == 0 ? inputs : outputs, outputs, groups)).ToArray()
        );
        upsamplers = up ? nn.ModuleList(new VaeUpsample(outputs)) : null;
        RegisterComponents();
    }

    public override Tensor forward(Tensor x, long batch)
    {
        using var scope = NewDisposeScope();
        var input = x;
        foreach (var resnet in resnets)
        {
            var next = resnet.call(x, batch);
            if (!ReferenceEquals(x, input))
            {
                x.Dispose();
            }

            x = next;
        }

        return (upsamplers?[0].call(x) ?? x).MoveToOuterDisposeScope();
    }
}

/// <summary>The block at the lowest resolution: a residual block, attention over the positions of each frame, and another residual block.</summary>
internal sealed class TemporalMiddle : nn.Module<Tensor, long, Tensor>
{
    public readonly ModuleList<VaeAttention> attentions;
    public readonly ModuleList<SpatioTemporalResidual> resnets;

    public TemporalMiddle(int channels, int groups)
        : base(nameof(TemporalMiddle))
    {
        attentions = nn.ModuleList(new VaeAttention(channels, groups));
        resnets = nn.ModuleList(new SpatioTemporalResidual(channels, channels, groups), new SpatioTemporalResidual(channels, channels, groups));
        RegisterComponents();
    }

    public override Tensor forward(Tensor x, long batch) => Scoped(() => resnets[1].call(attentions[0].call(resnets[0].call(x, batch)), batch));
}

/// <summary>A spatial residual block and a temporal one, combined by a learned mixing weight.</summary>
internal sealed class SpatioTemporalResidual : nn.Module<Tensor, long, Tensor>
{
    public readonly VaeResidual spatial_res_block;
    public readonly TemporalResidual temporal_res_block;
    public readonly TemporalMix time_mixer;

    public SpatioTemporalResidual(int inputs, int outputs, int groups)
        : base(nameof(SpatioTemporalResidual))
    {
        spatial_res_block = new VaeResidual(inputs, outputs, groups);
        temporal_res_block = new TemporalResidual(outputs, groups);
        time_mixer = new TemporalMix();
        RegisterComponents();
    }

    public override Tensor forward(Tensor x, long batch)
    {
        using var scope = NewDisposeScope();
        x = spatial_res_block.call(x);
        var change = TimeLayout.Of(temporal_res_block.call(TimeLayout.To(x, batch)), x.shape);
        return time_mixer.call(x, change).MoveToOuterDisposeScope();
    }
}

/// <summary>The residual branch of a temporal block, without its shortcut: group normalization over all frames, SiLU and temporal convolution,
/// applied twice.</summary>
internal sealed class TemporalResidual : nn.Module<Tensor, Tensor>
{
    public readonly GroupNorm norm1;
    public readonly TemporalConv conv1;
    public readonly GroupNorm norm2;
    public readonly TemporalConv conv2;

    public TemporalResidual(int channels, int groups)
        : base(nameof(TemporalResidual))
    {
        norm1 = new GroupNorm(channels, groups, 1e-5);
        conv1 = new TemporalConv(channels, channels);
        norm2 = new GroupNorm(channels, groups, 1e-5);
        conv2 = new TemporalConv(channels, channels);
        RegisterComponents();
    }

    /// <summary>Computes the residual that is added to the input <c>[B, C, T, H W]</c>.</summary>
    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        var h = ActivatedConvolution(norm1.call(x), conv1);
        var normed = norm2.call(h);
        h.Dispose();
        return ActivatedConvolution(normed, conv2).MoveToOuterDisposeScope();
    }
}

/// <summary>Mixes the input and the output of a temporal block with the weights 1 - s and s, where s is the sigmoid of the parameter
/// <c>mix_factor [1]</c>.</summary>
internal sealed class TemporalMix : nn.Module<Tensor, Tensor, Tensor>
{
    public readonly Parameter mix_factor;

    public TemporalMix()
        : base(nameof(TemporalMix))
    {
        mix_factor = Parameters.Create(1);
        RegisterComponents();
    }

    /// <summary>Computes <c>(1 - s) x + s (x + change)</c>.</summary>
    public override Tensor forward(Tensor x, Tensor change) => Scoped(() => x.PlusProduct(change.In(x.dtype), mix_factor.sigmoid().In(x.dtype)));
}

/// <summary>Converts between the spatial and the temporal layout of a video. With channels-last memory, neither direction copies.</summary>
internal static class TimeLayout
{
    /// <summary>Converts <c>[B T, C, H, W]</c> to <c>[B, C, T, H W]</c>.</summary>
    public static Tensor To(Tensor x, long batch) =>
        Scoped(() => x.permute(0, 2, 3, 1).reshape(batch, x.shape[0] / batch, x.shape[2] * x.shape[3], x.shape[1]).permute(0, 3, 1, 2));

    /// <summary>Converts <c>[B, C, T, H W]</c> to the specified shape <c>[B T, C, H, W]</c>.</summary>
    public static Tensor Of(Tensor x, long[] shape) =>
        Scoped(() => x.permute(0, 2, 3, 1).reshape(shape[0], shape[2], shape[3], x.shape[1]).permute(0, 3, 1, 2));
}
