using System.Globalization;
using OpenSora.Models.Layers;
using OpenSora.Runtime;
using OpenSora.Weights;
using TorchSharp;
using TorchSharp.Modules;
using static OpenSora.Runtime.Scopes;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>A small, fast replacement for a large autoencoder with the same latents. It uses convolutions and ReLU only, without attention or
/// sampling.</summary>
/// <remarks>
/// Source: TAESD and its variants (Ollin Boer Bohan, "Tiny AutoEncoder for Stable Diffusion", 2023), distilled from the autoencoders that define the
/// latents. Parameter names match diffusers.
/// <see cref="Encode"/> and <see cref="Decode"/> do not record gradients; for training, use <see cref="EncodeImages"/> and
/// <see cref="DecodeImages"/>.
/// </remarks>
internal sealed class TinyAutoencoder : nn.Module<Tensor, Tensor>, IVideoAutoencoder, ICosted
{
    private const double Magnitude = 3; // latents are limited to this magnitude by a tanh

    private readonly TinyStack encoder;
    private readonly TinyStack decoder;

    /// <summary>Creates the model and initializes its parameters.</summary>
    /// <param name="config">The model configuration.</param>
    /// <param name="initialize">If false, the parameters are left uninitialized because weights are loaded afterwards.</param>
    /// <exception cref="ArgumentException">The configuration is invalid.</exception>
    public TinyAutoencoder(TinyAutoencoderConfig config, bool initialize = true)
        : base(nameof(TinyAutoencoder))
    {
        ArgumentNullException.ThrowIfNull(config);
        config.Validate();
        Config = config;
        encoder = new TinyStack(EncoderLayers(config));
        decoder = new TinyStack(DecoderLayers(config));
        RegisterComponents();
        if (initialize)
        {
            Initialize();
        }
    }

    /// <summary>The descriptor of the architecture, as registered in <see cref="Architectures.BuiltIn"/>.</summary>
    public static Architecture<IVideoAutoencoder> Architecture { get; } =
        Architecture<IVideoAutoencoder>.Of(
            "autoencoder_tiny",
            config => new TinyAutoencoder(config, initialize: false),
            new TinyAutoencoderConfig(),
            json: TinyAutoencoderJson.Default.TinyAutoencoderConfig
        ) with
        {
            HubNames = ["AutoencoderTiny"],
            HubReader = (config, _) => OfHub(config),
            Recognizer = Recognize,
        };

    /// <summary>The configuration that the model was created with.</summary>
    public TinyAutoencoderConfig Config { get; }

    /// <inheritdoc/>
    public int LatentChannels => Config.LatentChannels;

    /// <inheritdoc/>
    public int SpatialFactor => 1 << (Config.NumEncoderBlocks.Count - 1);

    /// <inheritdoc/>
    public int TemporalFactor => 1;

    /// <inheritdoc/>
    public double ScalingFactor => Config.ScalingFactor;

    /// <summary>Initializes every parameter: PyTorch's default initialization for convolutions, weight 1 and bias 0 for normalization
    /// layers.</summary>
    /// <param name="generator">The random generator; null uses PyTorch's global generator.</param>
    public void Initialize(Generator? generator = null) => Parameters.InitializeConvolutions(this, generator);

    /// <summary>Encodes and reconstructs images, with gradients.</summary>
    /// <param name="images">Pixels in [-1, 1], <c>[n, channels, height, width]</c>; height and width must be multiples of
    /// <see cref="SpatialFactor"/>.</param>
    /// <returns>The reconstructed images, with the same range and shape, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The shape is invalid.</exception>
    public override Tensor forward(Tensor images)
    {
        using var latents = EncodeImages(images);
        return DecodeImages(latents);
    }

    /// <summary>Encodes images to unscaled latents, with gradients.</summary>
    /// <param name="images">Pixels in [-1, 1], <c>[n, channels, height, width]</c>; height and width must be multiples of
    /// <see cref="SpatialFactor"/>.</param>
    /// <returns>Unscaled latents <c>[n, LatentChannels, height / factor, width / factor]</c>, float32, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The shape is invalid.</exception>
    public Tensor EncodeImages(Tensor images)
    {
        FrameBatches.CheckShape(images, 4, Config.InChannels, SpatialFactor, nameof(images));
        return Scoped(() => encoder.call(FrameBatches.ChannelsLast(images.Plus(1).Over(2))).In(ScalarType.Float32));
    }

    /// <summary>Decodes unscaled latents to images, with gradients.</summary>
    /// <param name="latents">Unscaled latents, <c>[n, LatentChannels, height, width]</c>.</param>
    /// <returns>Pixels approximately in [-1, 1], <c>[n, channels, height * factor, width * factor]</c>, float32, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The shape is invalid.</exception>
    public Tensor DecodeImages(Tensor latents)
    {
        FrameBatches.CheckShape(latents, 4, Config.LatentChannels, 1, nameof(latents));
        using var scope = NewDisposeScope();
        var squeezed = latents.Over(Magnitude).tanh().Times(Magnitude);
        return decoder.call(FrameBatches.ChannelsLast(squeezed)).In(ScalarType.Float32).Times(2).Minus(1).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    /// <remarks>This autoencoder has no posterior to sample from, so <paramref name="generator"/> has no effect.</remarks>
    /// <exception cref="ArgumentException">The shape is invalid.</exception>
    public Tensor Encode(Tensor video, Generator? generator = null)
    {
        FrameBatches.CheckShape(video, 5, Config.InChannels, SpatialFactor, nameof(video));
        return FrameBatches.OneByOne(video, Config.MicroBatchSize, (frames, _) => EncodeImages(frames).Times(Config.ScalingFactor));
    }

    NetworkCost ICosted.Cost(CallSize size) =>
        new(
            FlopEstimate.OfDecoding(Config, (int)(size.Batch * size.Frames), (int)size.Height, (int)size.Width),
            WorkingMemory.OfDecoding(Config, size, NetworkCost.BytesOf(this))
        );

    /// <inheritdoc/>
    /// <exception cref="ArgumentException">The shape is invalid.</exception>
    public Tensor Decode(Tensor latents)
    {
        FrameBatches.CheckShape(latents, 5, Config.LatentChannels, 1, nameof(latents));
        return FrameBatches.OneByOne(latents, Config.MicroBatchSize, (frames, _) => DecodeImages(frames.Over(Config.ScalingFactor)));
    }

    // The original implementation counts the operation that limits the latents as layer 0 of the decoder.
    internal static string DecoderName(string name)
    {
        var dot = name.IndexOf('.', StringComparison.Ordinal);
        return dot > 0 && int.TryParse(name.AsSpan(0, dot), NumberStyles.None, CultureInfo.InvariantCulture, out var layer) && layer > 0
            ? string.Create(CultureInfo.InvariantCulture, $"layers.{layer - 1}{name.AsSpan(dot)}")
            : name;
    }

    private static TinyAutoencoderConfig OfHub(HubConfig config)
    {
        config.Expect("encoder_block_out_channels", "decoder_block_out_channels", "num_encoder_blocks", "num_decoder_blocks");
        config.Allow("act_fn", "relu");
        config.Allow("upsampling_scaling_factor", "2");
        config.Allow("latent_magnitude", "3", "3.0");
        config.Allow("shift_factor", "0", "0.0");
        var channels = config.Numbers("encoder_block_out_channels").Concat(config.Numbers("decoder_block_out_channels")).Distinct().ToList();
        return channels is [var one]
            ? config.As(new TinyAutoencoderConfig()) with
            {
                Channels = one,
            }
            : throw new FormatException($"has layers of {string.Join(", ", channels)} channels; all layers must have the same number.");
    }

    /// <summary>Returns candidates for the diffusers file with both halves, or for one of the two original files, in which names are layer
    /// numbers.</summary>
    private static IEnumerable<Candidate> Recognize(WeightsFile file)
    {
        (string First, string Half, LoadOptions Options)[] forms =
        [
            ("encoder.layers.0.weight", "", new LoadOptions()),
            (
                "0.weight",
                ", the encoder",
                new LoadOptions
                {
                    KeyMap = name => $"encoder.layers.{name}",
                    KeepInitial = name => name.StartsWith("decoder.", StringComparison.Ordinal),
                }
            ),
            (
                "1.weight",
                ", the decoder",
                new LoadOptions
                {
                    KeyMap = name => $"decoder.{DecoderName(name)}",
                    KeepInitial = name => name.StartsWith("encoder.", StringComparison.Ordinal),
                }
            ),
        ];
        foreach (var (first, half, options) in forms.Where(form => file.Tensors.ContainsKey(form.First)).Take(1))
        {
            foreach (var config in TinyAutoencoderConfig.Presets.Select(TinyAutoencoderConfig.Preset).Distinct())
            {
                var names = TinyAutoencoderConfig.Presets.Where(name => TinyAutoencoderConfig.Preset(name).LatentChannels == config.LatentChannels);
                yield return new(
                    config with
                    {
                        Channels = (int)Math.Min(file.Tensors[first].Shape.FirstOrDefault(), int.MaxValue),
                    },
                    $"{string.Join(" or ", names)}{half}",
                    $"{config.LatentChannels} latent channels",
                    options
                );
            }
        }
    }

    private static IEnumerable<nn.Module<Tensor, Tensor>> EncoderLayers(TinyAutoencoderConfig config)
    {
        var (c, levels) = (config.Channels, config.NumEncoderBlocks.Count);
        for (var level = 0; level < levels; level++)
        {
            yield return level == 0 ? new Conv2d(config.InChannels, c, 3, padding: 1) : new Conv2d(c, c, 3, stride: 2, padding: 1, hasBias: false);
            for (var i = 0; i < config.NumEncoderBlocks[level]; i++)
            {
                yield return new TinyBlock(c, config.MiddleNorm && level == levels - 1);
            }
        }
        yield return new Conv2d(c, config.LatentChannels, 3, padding: 1);
    }

    private static IEnumerable<nn.Module<Tensor, Tensor>> DecoderLayers(TinyAutoencoderConfig config)
    {
        var (c, levels) = (config.Channels, config.NumDecoderBlocks.Count);
        yield return new Conv2d(config.LatentChannels, c, 3, padding: 1);
        yield return nn.ReLU(inplace: true);
        for (var level = 0; level < levels; level++)
        {
            for (var i = 0; i < config.NumDecoderBlocks[level]; i++)
            {
                yield return new TinyBlock(c, config.MiddleNorm && level == 0);
            }

            if (level < levels - 1)
            {
                yield return new Doubling();
                yield return new Conv2d(c, c, 3, padding: 1, hasBias: false);
            }
        }
        yield return new Conv2d(c, config.OutChannels, 3, padding: 1);
    }
}

/// <summary>The encoder or the decoder: a sequence of layers.</summary>
internal sealed class TinyStack : nn.Module<Tensor, Tensor>
{
    public readonly Sequential layers;

    public TinyStack(IEnumerable<nn.Module<Tensor, Tensor>> modules)
        : base(nameof(TinyStack))
    {
        layers = nn.Sequential(modules.ToArray());
        RegisterComponents();
    }

    public override Tensor forward(Tensor x) => layers.call(x);
}

/// <summary>Three convolutions with a shortcut connection. Their parameters are <c>conv.0</c>, <c>conv.2</c> and <c>conv.4</c>; those of the optional
/// normalized branch before them are <c>pool.0</c>, <c>pool.1</c> and <c>pool.3</c>.</summary>
internal sealed class TinyBlock : nn.Module<Tensor, Tensor>
{
    private const int Wider = 4,
        Groups = 4;
    public readonly Sequential conv;
    public readonly Sequential? pool;

    public TinyBlock(int channels, bool norm)
        : base(nameof(TinyBlock))
    {
        var c = channels;
        conv = nn.Sequential(
            new Conv2d(c, c, 3, padding: 1),
            nn.ReLU(inplace: true),
            new Conv2d(c, c, 3, padding: 1),
            nn.ReLU(inplace: true),
            new Conv2d(c, c, 3, padding: 1)
        );
        pool = norm
            ? nn.Sequential(
                new Conv2d(c, Wider * c, 1, hasBias: false),
                new GroupNorm(Wider * c, Groups, 1e-5),
                nn.ReLU(inplace: true),
                new Conv2d(Wider * c, c, 1, hasBias: false)
            )
            : null;
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        if (pool is not null)
        {
            x = x.Plus(pool.call(x));
        }

        return conv.call(x).AddInPlace(x).relu_().MoveToOuterDisposeScope();
    }
}

/// <summary>Doubles height and width by nearest-neighbor interpolation.</summary>
internal sealed class Doubling : nn.Module<Tensor, Tensor>
{
    public Doubling()
        : base(nameof(Doubling)) => RegisterComponents();

    public override Tensor forward(Tensor x) => nn.functional.interpolate(x, scale_factor: [2, 2], mode: InterpolationMode.Nearest);
}
