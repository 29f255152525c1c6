using OpenSora.Models.Layers;
using OpenSora.Runtime;
using OpenSora.Weights;
using TorchSharp;
using TorchSharp.Modules;
using static OpenSora.Runtime.Scopes;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>The autoencoder of Stable Diffusion: a convolutional network with a Gaussian bottleneck, applied to each video frame
/// separately.</summary>
/// <remarks>
/// Sources: "High-Resolution Image Synthesis with Latent Diffusion Models" (Rombach et al., 2022); "Auto-Encoding Variational Bayes" (Kingma and
/// Welling, 2014). Parameter names match diffusers. <see cref="Encode(Tensor, Generator?)"/> and <see cref="Decode"/> do not record gradients; for
/// training, use <see cref="forward(Tensor)"/>, or <see cref="EncodeImages"/> and <see cref="DecodeImages"/>.
/// </remarks>
public sealed class AutoencoderKL : nn.Module<Tensor, (Tensor Reconstruction, Tensor Mean, Tensor LogVariance)>, IVideoAutoencoder, ICosted
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

    /// <summary>The descriptor of the architecture, as registered in <see cref="Architectures.BuiltIn"/>.</summary>
    public static Architecture<IVideoAutoencoder> Architecture { get; } =
        Architecture<IVideoAutoencoder>.Of(
            "autoencoder_kl",
            config => new AutoencoderKL(config, initialize: false),
            new AutoencoderKLConfig(),
            json: AutoencoderKLJson.Default.AutoencoderKLConfig
        ) with
        {
            HubNames = ["AutoencoderKL"],
            Loading = (config, _) => PublishedOptions((AutoencoderKLConfig)config),
            HubReader = (config, _) => OfHub(config),
            Recognizer = file =>
                Sizes(file) is not var (shapes, config) || shapes.Has("decoder.time_conv_out.weight")
                    ? []
                    :
                    [
                        new(
                            config,
                            config.BlockOutChannels is [128, 256, 512, 512] && config.LatentChannels == 4
                                ? "Stable Diffusion autoencoder"
                                : "Stable Diffusion-style autoencoder",
                            Words(config)
                        ),
                    ],
        };

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

    /// <summary>Loads a published checkpoint, strictly. The tensors may have the names of diffusers, of diffusers before 2023 (query, key, value,
    /// proj_attn) or of the original code (ldm), either alone or under <c>first_stage_model.</c> in a full Stable Diffusion checkpoint, in which case
    /// the other parts are ignored.</summary>
    /// <param name="path">The path of the checkpoint.</param>
    /// <exception cref="FileNotFoundException">The file does not exist.</exception>
    /// <exception cref="InvalidWeightsException">The file is damaged or does not match the model; the model is unchanged.</exception>
    public LoadReport LoadPublishedWeights(string path) => this.LoadWeights(path, PublishedOptions(Config));

    /// <summary>Encodes and reconstructs images, with gradients. Decodes a sample of the posterior in training mode and its mean in evaluation
    /// mode.</summary>
    /// <param name="images">Pixels in [-1, 1], <c>[n, channels, height, width]</c>; height and width must be multiples of
    /// <see cref="SpatialFactor"/>.</param>
    /// <returns>The reconstruction, and the mean and log variance of the posterior, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The shape is invalid.</exception>
    public override (Tensor Reconstruction, Tensor Mean, Tensor LogVariance) forward(Tensor images)
    {
        using var scope = NewDisposeScope();
        var (mean, logVariance) = EncodeImages(images);
        var output = DecodeImages(training ? Sample(mean, logVariance, NoiseGenerator) : mean);
        return (output.MoveToOuterDisposeScope(), mean.MoveToOuterDisposeScope(), logVariance.MoveToOuterDisposeScope());
    }

    /// <summary>Computes the posterior of the unscaled latents of images, a normal distribution for each value, with gradients.</summary>
    /// <param name="images">Pixels in [-1, 1], <c>[n, channels, height, width]</c>; height and width must be multiples of
    /// <see cref="SpatialFactor"/>.</param>
    /// <returns>The mean and the logarithm of the variance, limited to [-30, 20], each <c>[n, LatentChannels, height / factor, width / factor]</c>,
    /// float32, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The shape is invalid.</exception>
    public (Tensor Mean, Tensor LogVariance) EncodeImages(Tensor images)
    {
        FrameBatches.CheckShape(images, 4, Config.InChannels, SpatialFactor, nameof(images));
        using var scope = NewDisposeScope();
        var (mean, logVariance) = Posterior(quant_conv.call(encoder.call(FrameBatches.ChannelsLast(images))));
        return (mean.MoveToOuterDisposeScope(), logVariance.MoveToOuterDisposeScope());
    }

    /// <summary>Draws latents from a posterior, with gradients: the mean plus standard normal noise times the standard deviation.</summary>
    /// <param name="mean">The mean of the posterior.</param>
    /// <param name="logVariance">The logarithm of the variance of the posterior.</param>
    /// <param name="generator">The random generator of the noise, on the device of the mean; null uses PyTorch's global generator.</param>
    /// <returns>Unscaled latents in the shape of the mean, owned by the caller.</returns>
    public static Tensor Sample(Tensor mean, Tensor logVariance, Generator? generator = null) =>
        Scoped(() => Sample(mean, logVariance, randn(mean.shape, dtype: mean.dtype, device: mean.device, generator: generator)));

    /// <summary>Computes the latents that correspond to the specified standard normal noise, with gradients.</summary>
    /// <param name="mean">The mean of the posterior.</param>
    /// <param name="logVariance">The logarithm of the variance of the posterior.</param>
    /// <param name="noise">Standard normal noise in the shape of the mean.</param>
    /// <returns>Unscaled latents in the shape of the mean, owned by the caller.</returns>
    public static Tensor Sample(Tensor mean, Tensor logVariance, Tensor noise) => Scoped(() => mean.Plus(exp(logVariance.Times(0.5)) * noise));

    /// <summary>Splits the output of an encoder, <c>[n, 2 * LatentChannels, height, width]</c>, into the mean and the log variance of the
    /// posterior, owned by the caller.</summary>
    internal static (Tensor Mean, Tensor LogVariance) Posterior(Tensor moments)
    {
        using var scope = NewDisposeScope();
        var parts = moments.In(ScalarType.Float32).chunk(2, 1);
        return (parts[0].MoveToOuterDisposeScope(), parts[1].Clamp(-30, 20).MoveToOuterDisposeScope());
    }

    /// <summary>Decodes unscaled latents to images, with gradients.</summary>
    /// <param name="latents">Unscaled latents, <c>[n, LatentChannels, height, width]</c>.</param>
    /// <returns>Pixels approximately in [-1, 1], <c>[n, channels, height * factor, width * factor]</c>, float32, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The shape is invalid.</exception>
    public Tensor DecodeImages(Tensor latents)
    {
        FrameBatches.CheckShape(latents, 4, Config.LatentChannels, 1, nameof(latents));
        return Scoped(() => decoder.call(post_quant_conv.call(FrameBatches.ChannelsLast(latents))).In(ScalarType.Float32));
    }

    /// <inheritdoc/>
    /// <exception cref="ArgumentException">The shape is invalid.</exception>
    public Tensor Encode(Tensor video, Generator? generator = null) =>
        Encode(video, (mean, logVariance, _) => generator is null ? mean : Sample(mean, logVariance, generator));

    /// <summary>Encodes a video in micro batches. <paramref name="choose"/> maps the mean and log variance of each micro batch to latents; its last
    /// argument is the index of the micro batch's first frame among all frames.</summary>
    internal Tensor Encode(Tensor video, Func<Tensor, Tensor, long, Tensor> choose)
    {
        FrameBatches.CheckShape(video, 5, Config.InChannels, SpatialFactor, nameof(video));
        return FrameBatches.OneByOne(video, Config.MicroBatchSize ?? int.MaxValue, (frames, first) =>
        {
            var (mean, logVariance) = EncodeImages(frames);
            return choose(mean, logVariance, first).Times(Config.ScalingFactor);
        });
    }

    /// <inheritdoc/>
    /// <exception cref="ArgumentException">The shape is invalid.</exception>
    public Tensor Decode(Tensor latents)
    {
        FrameBatches.CheckShape(latents, 5, Config.LatentChannels, 1, nameof(latents));
        return FrameBatches.OneByOne(latents, Config.MicroBatchSize ?? int.MaxValue, (frames, _) => DecodeImages(frames.Over(Config.ScalingFactor)));
    }

    NetworkCost ICosted.Cost(CallSize size) =>
        new(
            FlopEstimate.OfDecoding(Config, (int)(size.Batch * size.Frames), (int)size.Height, (int)size.Width),
            WorkingMemory.OfDecoding(Config, size, NetworkCost.BytesOf(this))
        );

    internal static LoadOptions PublishedOptions(AutoencoderKLConfig config) =>
        new() { KeyMap = KeyMaps.StableDiffusionVae(config.BlockOutChannels.Count), AllowReshape = true };

    /// <summary>Reads the configuration of an autoencoder of the Stable Diffusion family from a hub.</summary>
    internal static AutoencoderKLConfig OfHub(HubConfig config)
    {
        config.Expect("block_out_channels", "layers_per_block");
        config.Allow("act_fn", "silu");
        config.Allow("down_block_types", "DownEncoderBlock2D");
        foreach (var setting in new[] { "use_quant_conv", "use_post_quant_conv", "mid_block_add_attention" })
        {
            config.Allow(setting, "True");
        }

        foreach (var setting in new[] { "shift_factor", "latents_mean", "latents_std" })
        {
            config.Allow(setting, "0", "0.0");
        }

        return config.As(new AutoencoderKLConfig());
    }

    /// <summary>Infers the sizes of an autoencoder of the Stable Diffusion family; null if the file contains none.</summary>
    internal static (TensorShapes Shapes, AutoencoderKLConfig Config)? Sizes(WeightsFile file)
    {
        const string first = "encoder.down_blocks.0.resnets.0.conv1.weight";
        if (TensorShapes.Beside(file, first, KeyMaps.StableDiffusionVae()) is not { } shapes)
        {
            return null;
        }

        int[] channels =
        [
            .. Enumerable
                .Range(0, shapes.Count("encoder.down_blocks"))
                .Select(level => shapes[$"encoder.down_blocks.{level}.resnets.0.conv1.weight", 0]),
        ];
        return (
            shapes,
            new AutoencoderKLConfig
            {
                InChannels = shapes["encoder.conv_in.weight", 1],
                OutChannels = shapes["decoder.conv_out.weight", 0],
                BlockOutChannels = channels,
                LayersPerBlock = shapes.Count("encoder.down_blocks.0.resnets"),
                LatentChannels = shapes["decoder.conv_in.weight", 1],
                NormNumGroups = new[] { 32, 16, 8, 4, 2 }.FirstOrDefault(groups => Array.TrueForAll(channels, width => width % groups == 0), 1),
            }
        );
    }

    internal static string Words(AutoencoderKLConfig config) =>
        $"channels {string.Join(", ", config.BlockOutChannels)}, {config.LatentChannels} latent channels";
}
