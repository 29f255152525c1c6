using OpenSora.Models.Layers;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>The autoencoder of Stable Diffusion, applied to video frame by frame: a convolutional network with a Gaussian bottleneck.</summary>
/// <remarks>
/// Sources: "High-Resolution Image Synthesis with Latent Diffusion Models" (Rombach et al., 2022); "Auto-Encoding Variational Bayes" (Kingma and
/// Welling,
/// 2014). Names of parameters are diffusers'. <see cref="Encode(Tensor, Generator?)"/> and <see cref="Decode"/> keep no gradients; training uses
/// <see cref="forward(Tensor)"/>, or <see cref="EncodeImages"/> and <see cref="DecodeImages"/>.
/// </remarks>
public sealed class AutoencoderKL : nn.Module<Tensor, AutoencoderOutput>, IVideoAutoencoder
{
    private readonly VaeEncoder encoder;
    private readonly VaeDecoder decoder;
    private readonly Conv2d quant_conv;
    private readonly Conv2d post_quant_conv;

    /// <summary>Makes the model and gives its parameters their starting values.</summary>
    /// <param name="config">Sizes and choices.</param>
    /// <param name="initialize">False leaves the parameters unset, for weights that are loaded next.</param>
    /// <exception cref="ArgumentException">The configuration is wrong.</exception>
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

    /// <summary>The sizes and choices that the model was made with.</summary>
    public AutoencoderKLConfig Config { get; }

    /// <inheritdoc/>
    public int LatentChannels => Config.LatentChannels;

    /// <inheritdoc/>
    public int SpatialFactor => 1 << (Config.BlockOutChannels.Count - 1);

    /// <inheritdoc/>
    public int TemporalFactor => 1;

    /// <inheritdoc/>
    public double ScalingFactor => Config.ScalingFactor;

    /// <summary>Where training draws the posterior's noise; null: PyTorch's global generator.</summary>
    public Generator? NoiseGenerator { get; set; }

    /// <summary>Gives every parameter its starting value: PyTorch's choice for convolutions and linear layers, gain 1 and shift 0 for
    /// norms.</summary>
    /// <param name="generator">Source of the values; null: PyTorch's global generator.</param>
    public void Initialize(Generator? generator = null) => Parameters.InitializeConvolutions(this, generator);

    /// <summary>Encodes pictures and decodes them again, with gradients: a sample of the posterior in training, else its mean.</summary>
    /// <param name="images">Pixels in [-1, 1], <c>[n, channels, height, width]</c>, sizes multiples of <see cref="SpatialFactor"/>.</param>
    /// <returns>What a loss needs, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The shape does not fit.</exception>
    public override AutoencoderOutput forward(Tensor images)
    {
        using var scope = NewDisposeScope();
        var posterior = EncodeImages(images);
        var latents = training ? posterior.Sample(NoiseGenerator) : posterior.Mean;
        return new AutoencoderOutput(DecodeImages(latents).MoveToOuterDisposeScope(), posterior.MoveToOuterDisposeScope());
    }

    /// <summary>The posterior of pictures' latents, not scaled, with gradients.</summary>
    /// <param name="images">Pixels in [-1, 1], <c>[n, channels, height, width]</c>, sizes multiples of <see cref="SpatialFactor"/>.</param>
    /// <returns>The posterior over <c>[n, LatentChannels, height / factor, width / factor]</c>, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The shape does not fit.</exception>
    public GaussianPosterior EncodeImages(Tensor images)
    {
        FrameBatches.CheckShape(images, 4, Config.InChannels, SpatialFactor, nameof(images));
        using var scope = NewDisposeScope();
        return GaussianPosterior.OfMoments(quant_conv.call(encoder.call(FrameBatches.ChannelsLast(images)))).MoveToOuterDisposeScope();
    }

    /// <summary>Pictures of latents that are not scaled, with gradients.</summary>
    /// <param name="latents"><c>[n, LatentChannels, height, width]</c></param>
    /// <returns>Pixels about in [-1, 1], <c>[n, channels, height * factor, width * factor]</c>, float32, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The shape does not fit.</exception>
    public Tensor DecodeImages(Tensor latents)
    {
        FrameBatches.CheckShape(latents, 4, Config.LatentChannels, 1, nameof(latents));
        using var scope = NewDisposeScope();
        return decoder.call(post_quant_conv.call(FrameBatches.ChannelsLast(latents))).In(ScalarType.Float32).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    /// <exception cref="ArgumentException">The shape does not fit.</exception>
    public Tensor Encode(Tensor video, Generator? generator = null) =>
        Encode(video, (posterior, _) => generator is null ? posterior.Mean : posterior.Sample(generator));

    /// <summary>Encodes with a given choice from each micro batch's posterior; its second argument is the first frame's index among all
    /// frames.</summary>
    internal Tensor Encode(Tensor video, Func<GaussianPosterior, long, Tensor> choose)
    {
        FrameBatches.CheckShape(video, 5, Config.InChannels, SpatialFactor, nameof(video));
        return FrameBatches.OneByOne(video, Config.MicroBatchSize ?? int.MaxValue, (frames, first) =>
            choose(EncodeImages(frames), first) * Config.ScalingFactor
        );
    }

    /// <inheritdoc/>
    /// <exception cref="ArgumentException">The shape does not fit.</exception>
    public Tensor Decode(Tensor latents)
    {
        FrameBatches.CheckShape(latents, 5, Config.LatentChannels, 1, nameof(latents));
        return FrameBatches.OneByOne(latents, Config.MicroBatchSize ?? int.MaxValue, (frames, _) => DecodeImages(frames / Config.ScalingFactor));
    }
}

/// <summary>What <see cref="AutoencoderKL.forward(Tensor)"/> gives to a loss.</summary>
/// <param name="Reconstruction">The pictures, decoded again.</param>
/// <param name="Posterior">Where their latents lie.</param>
public sealed record AutoencoderOutput(Tensor Reconstruction, GaussianPosterior Posterior) : IDisposable
{
    /// <summary>Disposes of all tensors.</summary>
    public void Dispose()
    {
        Reconstruction.Dispose();
        Posterior.Dispose();
    }
}

/// <summary>A Gaussian with independent components.</summary>
/// <param name="Mean"><c>[n, channels, height, width]</c></param>
/// <param name="LogVariance">Natural logarithm of the variance, in [-30, 20], same shape.</param>
public sealed record GaussianPosterior(Tensor Mean, Tensor LogVariance) : IDisposable
{
    /// <summary>The posterior of which an encoder says mean and logarithm of the variance, <c>[n, 2 channels, height, width]</c>.</summary>
    internal static GaussianPosterior OfMoments(Tensor moments)
    {
        using var scope = NewDisposeScope();
        var parts = moments.In(ScalarType.Float32).chunk(2, 1);
        return new GaussianPosterior(parts[0], parts[1].clamp(-30, 20)).MoveToOuterDisposeScope();
    }

    /// <summary>Mean plus noise times the standard deviation.</summary>
    /// <param name="generator">Source of the noise; null: PyTorch's global generator.</param>
    /// <returns>A sample, owned by the caller.</returns>
    public Tensor Sample(Generator? generator = null)
    {
        using var scope = NewDisposeScope();
        return Sample(randn(Mean.shape, dtype: Mean.dtype, device: Mean.device, generator: generator)).MoveToOuterDisposeScope();
    }

    /// <summary>The sample that given standard normal noise leads to.</summary>
    /// <param name="noise">Noise of the mean's shape.</param>
    /// <returns>A sample, owned by the caller.</returns>
    public Tensor Sample(Tensor noise)
    {
        using var scope = NewDisposeScope();
        return (Mean + exp(LogVariance * 0.5) * noise).MoveToOuterDisposeScope();
    }

    /// <summary>Divergence from the standard normal, in nats, summed over a picture's latents.</summary>
    /// <returns><c>[n]</c>, owned by the caller.</returns>
    public Tensor KullbackLeibler()
    {
        using var scope = NewDisposeScope();
        return (Mean.square() + exp(LogVariance) - 1 - LogVariance).sum([1, 2, 3]).mul(0.5).MoveToOuterDisposeScope();
    }

    /// <summary>Disposes of both tensors.</summary>
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

/// <summary>Pictures to moments: levels of residual blocks, each but the last halving the size.</summary>
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

/// <summary>Latents to pictures: levels of residual blocks, each but the last doubling the size.</summary>
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

/// <summary>Residual blocks of one size, then a change of size.</summary>
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

/// <summary>The smallest size: residual block, attention over all places with one head, residual block.</summary>
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

/// <summary>Norm, SiLU, convolution, twice, beside a shortcut.</summary>
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
        var tokens = group_norm.call(x).flatten(2).transpose(1, 2); // [n, places, channels]
        var y = DotProduct.Attend(to_q.call(tokens), to_k.call(tokens), to_v.call(tokens), 1 / Math.Sqrt(x.shape[1]));
        return (x + to_out[0].call(y).transpose(1, 2).reshape(x.shape)).MoveToOuterDisposeScope();
    }
}

/// <summary>Halves the size: a strided convolution, padded to the right and below only.</summary>
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

/// <summary>Doubles the size: nearest neighbours, then a convolution.</summary>
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
