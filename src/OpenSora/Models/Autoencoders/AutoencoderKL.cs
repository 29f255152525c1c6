using OpenSora.Models.Layers;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>The autoencoder of Stable Diffusion: a convolutional network with a Gaussian bottleneck, applied to each video frame
/// separately.</summary>
/// <remarks>
/// Sources: "High-Resolution Image Synthesis with Latent Diffusion Models" (Rombach et al., 2022); "Auto-Encoding Variational Bayes" (Kingma and
/// Welling, 2014). Parameter names match diffusers. <see cref="Encode(Tensor, Generator?)"/> and <see cref="Decode"/> do not record gradients; for
/// training, use <see cref="forward(Tensor)"/>, or <see cref="EncodeImages"/> and <see cref="DecodeImages"/>.
/// </remarks>
public sealed class AutoencoderKL : nn.Module<Tensor, AutoencoderOutput>, IVideoAutoencoder
{
    private readonly VaeEncoder encoder;
    private readonly VaeDecoder decoder;
    private readonly Conv2d quant_conv;
    private readonly Conv2d post_quant_conv;

    /// <summary>Creates the model and initializes its parameters.</summary>
    /// <param name="config">The model configuration.</param>
    /// <param name="initialize">If false, the parameters are left uninitialized because weights are loaded afterwards.</param>
    /// <exception cref="ArgumentException">The configuration is invalid.</exception>
    public AutoencoderKL(AutoencoderKLConfig config, bool initialize = true)
        : base(nameof(AutoencoderKL))
    {
        ArgumentNullException.ThrowIfNull(config);
        config.Validate();
        Config = config;
        encoder = new VaeEncoder(config);
        decoder = new VaeDecoder(config);
        quant_conv = new Conv2d(2L * config.LatentChannels, 2L * config.LatentChannels, 1);
        post_quant_conv = new Conv2d(config.LatentChannels, config.LatentChannels, 1);
        RegisterComponents();
        if (initialize)
        {
            Initialize();
        }
    }

    /// <summary>The configuration that the model was created with.</summary>
    public AutoencoderKLConfig Config { get; }

    /// <inheritdoc/>
    public int LatentChannels => Config.LatentChannels;

    /// <inheritdoc/>
    public int SpatialFactor => 1 << (Config.BlockOutChannels.Count - 1);

    /// <inheritdoc/>
    public int TemporalFactor => 1;

    /// <inheritdoc/>
    public double ScalingFactor => Config.ScalingFactor;

    /// <summary>The random generator for the posterior's noise during training; null uses PyTorch's global generator.</summary>
    public Generator? NoiseGenerator { get; set; }

    /// <summary>Initializes every parameter: PyTorch's default initialization for convolutions and linear layers, weight 1 and bias 0 for
    /// normalization layers.</summary>
    /// <param name="generator">The random generator; null uses PyTorch's global generator.</param>
    public void Initialize(Generator? generator = null) => Parameters.InitializeConvolutions(this, generator);

    /// <summary>Encodes and reconstructs images, with gradients. Decodes a sample of the posterior in training mode and its mean in evaluation
    /// mode.</summary>
    /// <param name="images">Pixels in [-1, 1], <c>[n, channels, height, width]</c>; height and width must be multiples of
    /// <see cref="SpatialFactor"/>.</param>
    /// <returns>The reconstruction and the posterior, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The shape is invalid.</exception>
    public override AutoencoderOutput forward(Tensor images)
    {
        using var scope = NewDisposeScope();
        var posterior = EncodeImages(images);
        var latents = training ? posterior.Sample(NoiseGenerator) : posterior.Mean;
        return new AutoencoderOutput(DecodeImages(latents).MoveToOuterDisposeScope(), posterior.MoveToOuterDisposeScope());
    }

    /// <summary>Computes the posterior of the unscaled latents of images, with gradients.</summary>
    /// <param name="images">Pixels in [-1, 1], <c>[n, channels, height, width]</c>; height and width must be multiples of
    /// <see cref="SpatialFactor"/>.</param>
    /// <returns>The posterior over <c>[n, LatentChannels, height / factor, width / factor]</c>, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The shape is invalid.</exception>
    public GaussianPosterior EncodeImages(Tensor images)
    {
        FrameBatches.CheckShape(images, 4, Config.InChannels, SpatialFactor, nameof(images));
        using var scope = NewDisposeScope();
        return GaussianPosterior.OfMoments(quant_conv.call(encoder.call(FrameBatches.ChannelsLast(images)))).MoveToOuterDisposeScope();
    }

    /// <summary>Decodes unscaled latents to images, with gradients.</summary>
    /// <param name="latents">Unscaled latents, <c>[n, LatentChannels, height, width]</c>.</param>
    /// <returns>Pixels approximately in [-1, 1], <c>[n, channels, height * factor, width * factor]</c>, float32, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The shape is invalid.</exception>
    public Tensor DecodeImages(Tensor latents)
    {
        FrameBatches.CheckShape(latents, 4, Config.LatentChannels, 1, nameof(latents));
        using var scope = NewDisposeScope();
        return decoder.call(post_quant_conv.call(FrameBatches.ChannelsLast(latents))).In(ScalarType.Float32).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    /// <exception cref="ArgumentException">The shape is invalid.</exception>
    public Tensor Encode(Tensor video, Generator? generator = null) =>
        Encode(video, (posterior, _) => generator is null ? posterior.Mean : posterior.Sample(generator));

    /// <summary>Encodes a video in micro batches. <paramref name="choose"/> maps each micro batch's posterior to latents; its second argument is the
    /// index of the micro batch's first frame among all frames.</summary>
    internal Tensor Encode(Tensor video, Func<GaussianPosterior, long, Tensor> choose)
    {
        FrameBatches.CheckShape(video, 5, Config.InChannels, SpatialFactor, nameof(video));
        return FrameBatches.OneByOne(video, Config.MicroBatchSize ?? int.MaxValue, (frames, first) =>
            choose(EncodeImages(frames), first) * Config.ScalingFactor
        );
    }

    /// <inheritdoc/>
    /// <exception cref="ArgumentException">The shape is invalid.</exception>
    public Tensor Decode(Tensor latents)
    {
        FrameBatches.CheckShape(latents, 5, Config.LatentChannels, 1, nameof(latents));
        return FrameBatches.OneByOne(latents, Config.MicroBatchSize ?? int.MaxValue, (frames, _) => DecodeImages(frames / Config.ScalingFactor));
    }
}

/// <summary>The output of <see cref="AutoencoderKL.forward(Tensor)"/>, from which a loss is computed.</summary>
/// <param name="Reconstruction">The reconstructed images, <c>[n, channels, height, width]</c>.</param>
/// <param name="Posterior">The posterior distribution of the images' latents.</param>
public sealed record AutoencoderOutput(Tensor Reconstruction, GaussianPosterior Posterior) : IDisposable
{
    /// <summary>Disposes all tensors.</summary>
    public void Dispose()
    {
        Reconstruction.Dispose();
        Posterior.Dispose();
    }
}

/// <summary>A Gaussian distribution with a diagonal covariance.</summary>
/// <param name="Mean">The mean, <c>[n, channels, height, width]</c>.</param>
/// <param name="LogVariance">The natural logarithm of the variance, in [-30, 20], with the shape of the mean.</param>
public sealed record GaussianPosterior(Tensor Mean, Tensor LogVariance) : IDisposable
{
    /// <summary>Creates a posterior from an encoder's output <c>[n, 2 channels, height, width]</c>: the mean, followed by the logarithm of the
    /// variance.</summary>
    internal static GaussianPosterior OfMoments(Tensor moments)
    {
        using var scope = NewDisposeScope();
        var parts = moments.In(ScalarType.Float32).chunk(2, 1);
        return new GaussianPosterior(parts[0], parts[1].clamp(-30, 20)).MoveToOuterDisposeScope();
    }

    /// <summary>Draws a sample: the mean plus noise times the standard deviation.</summary>
    /// <param name="generator">The random generator for the noise; null uses PyTorch's global generator.</param>
    /// <returns>A sample, owned by the caller.</returns>
    public Tensor Sample(Generator? generator = null)
    {
        using var scope = NewDisposeScope();
        return Sample(randn(Mean.shape, dtype: Mean.dtype, device: Mean.device, generator: generator)).MoveToOuterDisposeScope();
    }

    /// <summary>Computes the sample that corresponds to the specified standard normal noise.</summary>
    /// <param name="noise">Standard normal noise with the shape of the mean.</param>
    /// <returns>A sample, owned by the caller.</returns>
    public Tensor Sample(Tensor noise)
    {
        using var scope = NewDisposeScope();
        return (Mean + exp(LogVariance * 0.5) * noise).MoveToOuterDisposeScope();
    }

    /// <summary>Computes the Kullback-Leibler divergence from the standard normal distribution in nats, summed over the latents of each
    /// image.</summary>
    /// <returns>The divergence of each image, <c>[n]</c>, owned by the caller.</returns>
    public Tensor KullbackLeibler()
    {
        using var scope = NewDisposeScope();
        return (Mean.square() + exp(LogVariance) - 1 - LogVariance).sum([1, 2, 3]).mul(0.5).MoveToOuterDisposeScope();
    }

    /// <summary>Disposes both tensors.</summary>
    public void Dispose()
    {
        Mean.Dispose();
        LogVariance.Dispose();
    }

    internal GaussianPosterior MoveToOuterDisposeScope()
    {
        Mean.MoveToOuterDisposeScope();
        LogVariance.MoveToOuterDisposeScope();
        return this;
    }
}

/// <summary>Maps images to the mean and log variance of their latents. Each level of residual blocks except the last halves height and
/// width.</summary>
internal sealed class VaeEncoder : nn.Module<Tensor, Tensor>
{
    public readonly Conv2d conv_in;
    public readonly ModuleList<VaeLevel> down_blocks;
    public readonly VaeMiddle mid_block;
    public readonly GroupNorm conv_norm_out;
    public readonly Conv2d conv_out;

    public VaeEncoder(AutoencoderKLConfig config)
        : base(nameof(VaeEncoder))
    {
        var (channels, groups) = (config.BlockOutChannels, config.NormNumGroups);
        conv_in = new Conv2d(config.InChannels, channels[0], 3, padding: 1);
        down_blocks = nn.ModuleList(
            channels
                .Select(
                    (outputs, i) =>
                        new VaeLevel(
                            channels[Math.Max(0, i - 1)],
                            outputs,
                            config.LayersPerBlock,
                            groups,
                            i < channels.Count - 1 ? VaeResize.Down : VaeResize.None
                        )
                )
                .ToArray()
        );
        mid_block = new VaeMiddle(channels[^1], groups);
        conv_norm_out = new GroupNorm(channels[^1], groups);
        conv_out = new Conv2d(channels[^1], 2L * config.LatentChannels, 3, padding: 1);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        x = conv_in.call(x);
        foreach (var block in down_blocks)
        {
            x = block.call(x);
        }

        return conv_out.call(nn.functional.silu(conv_norm_out.call(mid_block.call(x)))).MoveToOuterDisposeScope();
    }
}

/// <summary>Maps latents to images. Each level of residual blocks except the last doubles height and width.</summary>
internal sealed class VaeDecoder : nn.Module<Tensor, Tensor>
{
    public readonly Conv2d conv_in;
    public readonly VaeMiddle mid_block;
    public readonly ModuleList<VaeLevel> up_blocks;
    public readonly GroupNorm conv_norm_out;
    public readonly Conv2d conv_out;

    public VaeDecoder(AutoencoderKLConfig config)
        : base(nameof(VaeDecoder))
    {
        var (channels, groups) = (config.BlockOutChannels.Reverse().ToArray(), config.NormNumGroups);
        conv_in = new Conv2d(config.LatentChannels, channels[0], 3, padding: 1);
        mid_block = new VaeMiddle(channels[0], groups);
        up_blocks = nn.ModuleList(
            channels
                .Select(
                    (outputs, i) =>
                        new VaeLevel(
                            channels[Math.Max(0, i - 1)],
                            outputs,
                            config.LayersPerBlock + 1,
                            groups,
                            i < channels.Length - 1 ? VaeResize.Up : VaeResize.None
                        )
                )
                .ToArray()
        );
        conv_norm_out = new GroupNorm(channels[^1], groups);
        conv_out = new Conv2d(channels[^1], config.OutChannels, 3, padding: 1);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        x = mid_block.call(conv_in.call(x));
        foreach (var block in up_blocks)
        {
            var next = block.call(x);
            x.Dispose();
            x = next;
        }
        return conv_out.call(nn.functional.silu(conv_norm_out.call(x))).MoveToOuterDisposeScope();
    }
}

internal enum VaeResize
{
    None,
    Down,
    Up,
}

/// <summary>Residual blocks at one resolution, optionally followed by downsampling or upsampling.</summary>
internal sealed class VaeLevel : nn.Module<Tensor, Tensor>
{
    public readonly ModuleList<VaeResidual> resnets;
    public readonly ModuleList<VaeDownsample>? downsamplers;
    public readonly ModuleList<VaeUpsample>? upsamplers;

    public VaeLevel(int inputs, int outputs, int layers, int groups, VaeResize resize)
        : base(nameof(VaeLevel))
    {
        resnets = nn.ModuleList(Enumerable.Range(0, layers).Select(i => new VaeResidual(i == 0 ? inputs : outputs, outputs, groups)).ToArray());
        downsamplers = resize == VaeResize.Down ? nn.ModuleList(new VaeDownsample(outputs)) : null;
        upsamplers = resize == VaeResize.Up ? nn.ModuleList(new VaeUpsample(outputs)) : null;
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        foreach (var resnet in resnets)
        {
            x = resnet.call(x);
        }

        return (downsamplers?[0].call(x) ?? upsamplers?[0].call(x) ?? x).MoveToOuterDisposeScope();
    }
}

/// <summary>The block at the lowest resolution: a residual block, single-head attention over all positions, and another residual block.</summary>
internal sealed class VaeMiddle : nn.Module<Tensor, Tensor>
{
    public readonly ModuleList<VaeAttention> attentions;
    public readonly ModuleList<VaeResidual> resnets;

    public VaeMiddle(int channels, int groups)
        : base(nameof(VaeMiddle))
    {
        attentions = nn.ModuleList(new VaeAttention(channels, groups));
        resnets = nn.ModuleList(new VaeResidual(channels, channels, groups), new VaeResidual(channels, channels, groups));
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        return resnets[1].call(attentions[0].call(resnets[0].call(x))).MoveToOuterDisposeScope();
    }
}

/// <summary>A residual block: group normalization, SiLU and convolution, applied twice, plus a shortcut connection.</summary>
internal sealed class VaeResidual : nn.Module<Tensor, Tensor>
{
    public readonly GroupNorm norm1;
    public readonly Conv2d conv1;
    public readonly GroupNorm norm2;
    public readonly Conv2d conv2;
    public readonly Conv2d? conv_shortcut;

    public VaeResidual(int inputs, int outputs, int groups)
        : base(nameof(VaeResidual))
    {
        norm1 = new GroupNorm(inputs, groups);
        conv1 = new Conv2d(inputs, outputs, 3, padding: 1);
        norm2 = new GroupNorm(outputs, groups);
        conv2 = new Conv2d(outputs, outputs, 3, padding: 1);
        conv_shortcut = inputs == outputs ? null : new Conv2d(inputs, outputs, 1);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        var h = conv1.call(nn.functional.silu(norm1.call(x)));
        h = conv2.call(nn.functional.silu(norm2.call(h)));
        return ((conv_shortcut?.call(x) ?? x).In(h.dtype) + h).MoveToOuterDisposeScope();
    }
}

internal sealed class VaeAttention : nn.Module<Tensor, Tensor>
{
    public readonly GroupNorm group_norm;
    public readonly Linear to_q;
    public readonly Linear to_k;
    public readonly Linear to_v;
    public readonly ModuleList<Linear> to_out;

    public VaeAttention(int channels, int groups)
        : base(nameof(VaeAttention))
    {
        group_norm = new GroupNorm(channels, groups);
        to_q = new Linear(channels, channels);
        to_k = new Linear(channels, channels);
        to_v = new Linear(channels, channels);
        to_out = nn.ModuleList(new Linear(channels, channels));
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        var tokens = group_norm.call(x).flatten(2).transpose(1, 2); // [n, positions, channels]
        var y = DotProduct.Attend(to_q.call(tokens), to_k.call(tokens), to_v.call(tokens), 1 / Math.Sqrt(x.shape[1]));
        return (x + to_out[0].call(y).transpose(1, 2).reshape(x.shape)).MoveToOuterDisposeScope();
    }
}

/// <summary>Halves height and width with a strided convolution that is padded on the right and bottom only.</summary>
internal sealed class VaeDownsample : nn.Module<Tensor, Tensor>
{
    public readonly Conv2d conv;

    public VaeDownsample(int channels)
        : base(nameof(VaeDownsample))
    {
        conv = new Conv2d(channels, channels, 3, stride: 2);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        return conv.call(nn.functional.pad(x, [0, 1, 0, 1], PaddingModes.Constant)).MoveToOuterDisposeScope();
    }
}

/// <summary>Doubles height and width by nearest-neighbor interpolation, followed by a convolution.</summary>
internal sealed class VaeUpsample : nn.Module<Tensor, Tensor>
{
    public readonly Conv2d conv;

    public VaeUpsample(int channels)
        : base(nameof(VaeUpsample))
    {
        conv = new Conv2d(channels, channels, 3, padding: 1);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        return conv.call(nn.functional.interpolate(x, scale_factor: [2, 2], mode: InterpolationMode.Nearest)).MoveToOuterDisposeScope();
    }
}
