using System.Globalization;
using OpenSora.Models.Layers;
using OpenSora.Weights;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Sizes and choices of a <see cref="TinyAutoencoder"/>.</summary>
public sealed record TinyAutoencoderConfig
{
    /// <summary>Channels of the pictures that go in.</summary>
    public int InChannels { get; init; } = 3;

    /// <summary>Channels of the pictures that come out.</summary>
    public int OutChannels { get; init; } = 3;

    /// <summary>Channels of every layer between.</summary>
    public int Channels { get; init; } = 64;

    /// <summary>Residual blocks of each level of the encoder; every level but the first halves height and width before them.</summary>
    public IReadOnlyList<int> NumEncoderBlocks { get; init; } = [1, 3, 3, 3];

    /// <summary>Residual blocks of each level of the decoder; every level but the last doubles height and width after them.</summary>
    public IReadOnlyList<int> NumDecoderBlocks { get; init; } = [3, 3, 3, 1];

    /// <summary>Channels of a latent.</summary>
    public int LatentChannels { get; init; } = 4;

    /// <summary>Whether the blocks of the smallest level have a branch with group normalisation, through which places far apart see each
    /// other.</summary>
    public bool MiddleNorm { get; init; }

    /// <summary>What latents are multiplied with. 1: these networks were trained on latents as diffusion sees them.</summary>
    public double ScalingFactor { get; init; } = 1;

    /// <summary>The most frames that pass through the network at a time.</summary>
    public int MicroBatchSize { get; init; } = 4;

    /// <summary>Names that <see cref="Preset"/> knows.</summary>
    public static IReadOnlyList<string> Presets { get; } = ["TAESD", "TAESDXL", "TAESD3", "TAEF1", "TAEF2"];

    /// <summary>The sizes of a published model.</summary>
    /// <param name="name">One of <see cref="Presets"/>: for the latents of Stable Diffusion 1 and 2, XL, 3, FLUX.1 and FLUX.2.</param>
    /// <exception cref="ArgumentException">The name is not known.</exception>
    public static TinyAutoencoderConfig Preset(string name) =>
        name switch
        {
            "TAESD" or "TAESDXL" => new(),
            "TAESD3" or "TAEF1" => new() { LatentChannels = 16 },
            "TAEF2" => new() { LatentChannels = 32, MiddleNorm = true },
            _ => throw new ArgumentException($"There is no tiny autoencoder '{name}'. Known are {string.Join(", ", Presets)}.", nameof(name)),
        };

    /// <summary>Checks that a model can be made of these sizes.</summary>
    /// <exception cref="ArgumentException">A size is wrong; the message says which and what it must be.</exception>
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
                $"{name} is [{string.Join(", ", blocks ?? [])}]; it must name the blocks of each level, at most 100."
            );
        }

        Check(
            NumEncoderBlocks.Count == NumDecoderBlocks.Count,
            nameof(NumDecoderBlocks),
            $"NumEncoderBlocks has {NumEncoderBlocks.Count} levels, NumDecoderBlocks {NumDecoderBlocks.Count}; both must have as many."
        );
        Check(ScalingFactor is > 0 and < double.PositiveInfinity, nameof(ScalingFactor), $"ScalingFactor is {ScalingFactor}; it must be positive.");
    }

    private static void Check(bool right, string name, string message)
    {
        if (!right)
        {
            throw new ArgumentException($"The tiny autoencoder's configuration is wrong: {message}", name);
        }
    }
}

/// <summary>A small, fast stand-in for a large autoencoder with the same latents: convolutions and ReLU, no attention, no sampling.</summary>
/// <remarks>
/// Source: TAESD and its relatives (Ollin Boer Bohan, "Tiny AutoEncoder for Stable Diffusion", 2023), distilled from the autoencoders whose latents
/// they share.
/// Names of parameters are diffusers'; <see cref="LoadPair"/> reads the two files of the original as well. <see cref="Encode"/> and
/// <see cref="Decode"/> keep no
/// gradients; training uses <see cref="EncodeImages"/> and <see cref="DecodeImages"/>.
/// </remarks>
public sealed class TinyAutoencoder : nn.Module<Tensor, Tensor>, IVideoAutoencoder
{
    private const double Magnitude = 3; // beyond which latents are squeezed

    private readonly TinyStack encoder;
    private readonly TinyStack decoder;

    /// <summary>Makes the model and gives its parameters their starting values.</summary>
    /// <param name="config">Sizes and choices.</param>
    /// <param name="initialize">False leaves the parameters unset, for weights that are loaded next.</param>
    /// <exception cref="ArgumentException">The configuration is wrong.</exception>
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

    /// <summary>The sizes and choices that the model was made with.</summary>
    public TinyAutoencoderConfig Config { get; }

    /// <inheritdoc/>
    public int LatentChannels => Config.LatentChannels;

    /// <inheritdoc/>
    public int SpatialFactor => 1 << (Config.NumEncoderBlocks.Count - 1);

    /// <inheritdoc/>
    public int TemporalFactor => 1;

    /// <inheritdoc/>
    public double ScalingFactor => Config.ScalingFactor;

    /// <summary>Gives every parameter its starting value: PyTorch's choice for convolutions, gain 1 and shift 0 for norms.</summary>
    /// <param name="generator">Source of the values; null: PyTorch's global generator.</param>
    public void Initialize(Generator? generator = null) => Parameters.InitializeConvolutions(this, generator);

    /// <summary>Loads the original's two files, strictly.</summary>
    /// <param name="encoderPath">The encoder's weights, whose names are the numbers of its layers.</param>
    /// <param name="decoderPath">The decoder's weights; its layer 0 squeezes the latents and has none.</param>
    /// <exception cref="FileNotFoundException">A file does not exist.</exception>
    /// <exception cref="InvalidWeightsException">A file is damaged or does not fit. A file that does not fit changes nothing.</exception>
    public void LoadPair(string encoderPath, string decoderPath)
    {
        encoder.LoadWeights(encoderPath, new LoadOptions { KeyMap = name => $"layers.{name}" });
        decoder.LoadWeights(decoderPath, new LoadOptions { KeyMap = DecoderName });
    }

    /// <summary>Encodes pictures and decodes them again, with gradients.</summary>
    /// <param name="images">Pixels in [-1, 1], <c>[n, channels, height, width]</c>, sizes multiples of <see cref="SpatialFactor"/>.</param>
    /// <returns>The pictures that come out, same range and shape, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The shape does not fit.</exception>
    public override Tensor forward(Tensor images)
    {
        using var latents = EncodeImages(images);
        return DecodeImages(latents);
    }

    /// <summary>The latents of pictures, not scaled, with gradients.</summary>
    /// <param name="images">Pixels in [-1, 1], <c>[n, channels, height, width]</c>, sizes multiples of <see cref="SpatialFactor"/>.</param>
    /// <returns><c>[n, LatentChannels, height / factor, width / factor]</c>, float32, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The shape does not fit.</exception>
    public Tensor EncodeImages(Tensor images)
    {
        FrameBatches.CheckShape(images, 4, Config.InChannels, SpatialFactor, nameof(images));
        using var scope = NewDisposeScope();
        return encoder.call(FrameBatches.ChannelsLast(images.add(1).div(2))).In(ScalarType.Float32).MoveToOuterDisposeScope();
    }

    /// <summary>Pictures of latents that are not scaled, with gradients.</summary>
    /// <param name="latents"><c>[n, LatentChannels, height, width]</c></param>
    /// <returns>Pixels about in [-1, 1], <c>[n, channels, height * factor, width * factor]</c>, float32, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The shape does not fit.</exception>
    public Tensor DecodeImages(Tensor latents)
    {
        FrameBatches.CheckShape(latents, 4, Config.LatentChannels, 1, nameof(latents));
        using var scope = NewDisposeScope();
        var squeezed = latents.div(Magnitude).tanh().mul(Magnitude);
        return decoder.call(FrameBatches.ChannelsLast(squeezed)).In(ScalarType.Float32).mul(2).sub(1).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    /// <remarks>There is no posterior to sample from: <paramref name="generator"/> changes nothing.</remarks>
    /// <exception cref="ArgumentException">The shape does not fit.</exception>
    public Tensor Encode(Tensor video, Generator? generator = null)
    {
        FrameBatches.CheckShape(video, 5, Config.InChannels, SpatialFactor, nameof(video));
        return FrameBatches.OneByOne(video, Config.MicroBatchSize, (frames, _) => EncodeImages(frames) * Config.ScalingFactor);
    }

    /// <inheritdoc/>
    /// <exception cref="ArgumentException">The shape does not fit.</exception>
    public Tensor Decode(Tensor latents)
    {
        FrameBatches.CheckShape(latents, 5, Config.LatentChannels, 1, nameof(latents));
        return FrameBatches.OneByOne(latents, Config.MicroBatchSize, (frames, _) => DecodeImages(frames / Config.ScalingFactor));
    }

    // The original counts the squeezing of the latents as the decoder's layer 0.
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

/// <summary>One half of the model: a row of layers.</summary>
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

/// <summary>Three convolutions beside a shortcut. Parameters <c>conv.0</c>, <c>conv.2</c>, <c>conv.4</c>, with the normalised branch before them
/// <c>pool.0</c>, <c>pool.1</c>, <c>pool.3</c>.</summary>
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

/// <summary>Doubles height and width: nearest neighbours.</summary>
internal sealed class Doubling : nn.Module<Tensor, Tensor>
{
    public Doubling()
        : base(nameof(Doubling)) => RegisterComponents();

    public override Tensor forward(Tensor x) => nn.functional.interpolate(x, scale_factor: [2, 2], mode: InterpolationMode.Nearest);
}
