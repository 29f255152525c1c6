using System.Globalization;
using OpenSora.Models.Layers;
using OpenSora.Weights;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>The configuration of a <see cref="TinyAutoencoder"/>.</summary>
public sealed record TinyAutoencoderConfig
{
    /// <summary>The number of channels of the input images.</summary>
    public int InChannels { get; init; } = 3;

    /// <summary>The number of channels of the output images.</summary>
    public int OutChannels { get; init; } = 3;

    /// <summary>The number of channels of all hidden layers.</summary>
    public int Channels { get; init; } = 64;

    /// <summary>The number of residual blocks at each encoder level; every level except the first halves height and width before its
    /// blocks.</summary>
    public IReadOnlyList<int> NumEncoderBlocks { get; init; } = [1, 3, 3, 3];

    /// <summary>The number of residual blocks at each decoder level; every level except the last doubles height and width after its blocks.</summary>
    public IReadOnlyList<int> NumDecoderBlocks { get; init; } = [3, 3, 3, 1];

    /// <summary>The number of latent channels.</summary>
    public int LatentChannels { get; init; } = 4;

    /// <summary>Indicates whether the blocks at the lowest resolution have an additional branch with group normalization, which connects distant
    /// positions.</summary>
    public bool MiddleNorm { get; init; }

    /// <summary>The factor that latents are multiplied by. The default is 1 because these networks were trained on scaled latents.</summary>
    public double ScalingFactor { get; init; } = 1;

    /// <summary>The maximum number of frames processed by the network at a time.</summary>
    public int MicroBatchSize { get; init; } = 4;

    /// <summary>The names accepted by <see cref="Preset"/>.</summary>
    public static IReadOnlyList<string> Presets { get; } = ["TAESD", "TAESDXL", "TAESD3", "TAEF1", "TAEF2"];

    /// <summary>Gets the configuration of a published model.</summary>
    /// <param name="name">One of <see cref="Presets"/>, which match the latents of Stable Diffusion 1 and 2, XL, 3, FLUX.1 and FLUX.2
    /// respectively.</param>
    /// <exception cref="ArgumentException">The name is unknown.</exception>
    public static TinyAutoencoderConfig Preset(string name) =>
        name switch
        {
            "TAESD" or "TAESDXL" => new(),
            "TAESD3" or "TAEF1" => new() { LatentChannels = 16 },
            "TAEF2" => new() { LatentChannels = 32, MiddleNorm = true },
            _ => throw new ArgumentException($"There is no tiny autoencoder '{name}'. Known are {string.Join(", ", Presets)}.", nameof(name)),
        };

    /// <summary>Validates the configuration.</summary>
    /// <exception cref="ArgumentException">A value is invalid; the message names it and states the expected value.</exception>
    public void Validate()
    {
        foreach (
            var (size, name) in new[]
            {
                (InChannels, nameof(InChannels)),
                (OutChannels, nameof(OutChannels)),
                (Channels, nameof(Channels)),
                (LatentChannels, nameof(LatentChannels)),
                (MicroBatchSize, nameof(MicroBatchSize)),
            }
        )
        {
            Check(size > 0, name, $"{name} is {size}; it must be positive.");
        }

        foreach (var (blocks, name) in new[] { (NumEncoderBlocks, nameof(NumEncoderBlocks)), (NumDecoderBlocks, nameof(NumDecoderBlocks)) })
        {
            Check(
                blocks is { Count: > 0 } && blocks.All(count => count is >= 0 and <= 100),
                name,
                $"{name} is [{string.Join(", ", blocks ?? [])}]; it must list 0 to 100 blocks for each level."
            );
        }

        Check(
            NumEncoderBlocks.Count == NumDecoderBlocks.Count,
            nameof(NumDecoderBlocks),
            $"NumEncoderBlocks has {NumEncoderBlocks.Count} levels and NumDecoderBlocks has {NumDecoderBlocks.Count}; the numbers must be equal."
        );
        Check(ScalingFactor is > 0 and < double.PositiveInfinity, nameof(ScalingFactor), $"ScalingFactor is {ScalingFactor}; it must be positive.");
    }

    private static void Check(bool right, string name, string message)
    {
        if (!right)
        {
            throw new ArgumentException($"The tiny autoencoder configuration is invalid: {message}", name);
        }
    }
}

/// <summary>A small, fast replacement for a large autoencoder with the same latents. It uses convolutions and ReLU only, without attention or
/// sampling.</summary>
/// <remarks>
/// Source: TAESD and its variants (Ollin Boer Bohan, "Tiny AutoEncoder for Stable Diffusion", 2023), distilled from the autoencoders that define the
/// latents. Parameter names match diffusers; <see cref="LoadPair"/> also reads the two weight files of the original implementation.
/// <see cref="Encode"/> and <see cref="Decode"/> do not record gradients; for training, use <see cref="EncodeImages"/> and
/// <see cref="DecodeImages"/>.
/// </remarks>
public sealed class TinyAutoencoder : nn.Module<Tensor, Tensor>, IVideoAutoencoder
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

    /// <summary>Loads the two weight files of the original implementation, strictly.</summary>
    /// <param name="encoderPath">The encoder's weights; parameter names begin with layer numbers.</param>
    /// <param name="decoderPath">The decoder's weights; layer 0 limits the latents and has no weights.</param>
    /// <exception cref="FileNotFoundException">A file does not exist.</exception>
    /// <exception cref="InvalidWeightsException">A file is damaged or does not match the model. A file that does not match leaves its half of the
    /// model unchanged.</exception>
    public void LoadPair(string encoderPath, string decoderPath)
    {
        encoder.LoadWeights(encoderPath, new LoadOptions { KeyMap = name => $"layers.{name}" });
        decoder.LoadWeights(decoderPath, new LoadOptions { KeyMap = DecoderName });
    }

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
        using var scope = NewDisposeScope();
        return encoder.call(FrameBatches.ChannelsLast(images.add(1).div(2))).In(ScalarType.Float32).MoveToOuterDisposeScope();
    }

    /// <summary>Decodes unscaled latents to images, with gradients.</summary>
    /// <param name="latents">Unscaled latents, <c>[n, LatentChannels, height, width]</c>.</param>
    /// <returns>Pixels approximately in [-1, 1], <c>[n, channels, height * factor, width * factor]</c>, float32, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The shape is invalid.</exception>
    public Tensor DecodeImages(Tensor latents)
    {
        FrameBatches.CheckShape(latents, 4, Config.LatentChannels, 1, nameof(latents));
        using var scope = NewDisposeScope();
        var squeezed = latents.div(Magnitude).tanh().mul(Magnitude);
        return decoder.call(FrameBatches.ChannelsLast(squeezed)).In(ScalarType.Float32).mul(2).sub(1).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    /// <remarks>This autoencoder has no posterior to sample from, so <paramref name="generator"/> has no effect.</remarks>
    /// <exception cref="ArgumentException">The shape is invalid.</exception>
    public Tensor Encode(Tensor video, Generator? generator = null)
    {
        FrameBatches.CheckShape(video, 5, Config.InChannels, SpatialFactor, nameof(video));
        return FrameBatches.OneByOne(video, Config.MicroBatchSize, (frames, _) => EncodeImages(frames) * Config.ScalingFactor);
    }

    /// <inheritdoc/>
    /// <exception cref="ArgumentException">The shape is invalid.</exception>
    public Tensor Decode(Tensor latents)
    {
        FrameBatches.CheckShape(latents, 5, Config.LatentChannels, 1, nameof(latents));
        return FrameBatches.OneByOne(latents, Config.MicroBatchSize, (frames, _) => DecodeImages(frames / Config.ScalingFactor));
    }

    // The original implementation counts the operation that limits the latents as layer 0 of the decoder.
    internal static string DecoderName(string name)
    {
        var dot = name.IndexOf('.', StringComparison.Ordinal);
        return dot > 0 && int.TryParse(name.AsSpan(0, dot), NumberStyles.None, CultureInfo.InvariantCulture, out var layer) && layer > 0
            ? string.Create(CultureInfo.InvariantCulture, $"layers.{layer - 1}{name.AsSpan(dot)}")
            : name;
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
            x = x + pool.call(x);
        }

        return conv.call(x).add_(x).relu_().MoveToOuterDisposeScope();
    }
}

/// <summary>Doubles height and width by nearest-neighbor interpolation.</summary>
internal sealed class Doubling : nn.Module<Tensor, Tensor>
{
    public Doubling()
        : base(nameof(Doubling)) => RegisterComponents();

    public override Tensor forward(Tensor x) => nn.functional.interpolate(x, scale_factor: [2, 2], mode: InterpolationMode.Nearest);
}
