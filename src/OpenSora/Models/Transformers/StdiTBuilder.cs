using OpenSora.Models.Layers;
using OpenSora.Weights;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Puts an <see cref="StdiT"/> or a relative together, starting from the published STDiT-XL/2 for 16 frames of 256x256 pixels.</summary>
/// <remarks>Sizes are checked by <see cref="Build"/>. A builder may build several models; each gets parameters of its own.</remarks>
/// <example><code>
/// using var model = new StdiTBuilder().Preset("STDiT-S/2").Latents(frames: 16, height: 16, width: 16).Text(width: 256, tokens: 32).Seed(1).Build();
/// using var fromImages = new StdiTBuilder().Latents(16, 64, 64).LoadImageWeights("PixArt-XL-2-512x512.pth").Build(); // begins as PixArt-alpha,
/// frame by frame
/// </code></example>
public sealed class StdiTBuilder
{
    private StdiTConfig _config = new();
    private long? _seed;
    private string? _imageWeights;

    /// <summary>Starts from a configuration, such as a model folder's.</summary>
    /// <param name="config">The configuration; it is not changed.</param>
    public StdiTBuilder From(StdiTConfig config)
    {
        ArgumentNullException.ThrowIfNull(config);
        _config = config;
        return this;
    }

    /// <summary>Takes channels, depth and heads of a named model and leaves the rest.</summary>
    /// <param name="name">One of <see cref="StdiTConfig.Presets"/>.</param>
    /// <exception cref="ArgumentException">The name is not known.</exception>
    public StdiTBuilder Preset(string name)
    {
        var preset = StdiTConfig.Preset(name);
        return Transformer(preset.HiddenSize, preset.Depth, preset.NumHeads, preset.MlpRatio);
    }

    /// <summary>The latents that the model denoises.</summary>
    /// <param name="frames">Latent frames.</param>
    /// <param name="height">Latent rows: pixels divided by the autoencoder's factor.</param>
    /// <param name="width">Latent columns.</param>
    /// <param name="channels">Latent channels.</param>
    public StdiTBuilder Latents(int frames, int height, int width, int channels = 4) =>
        With(_config with { InputSize = [frames, height, width], InChannels = channels });

    /// <summary>How much of the latents one token covers.</summary>
    /// <param name="frames">Latent frames.</param>
    /// <param name="height">Latent rows.</param>
    /// <param name="width">Latent columns.</param>
    public StdiTBuilder Patch(int frames, int height, int width) => With(_config with { PatchSize = [frames, height, width] });

    /// <summary>The transformer's size.</summary>
    /// <param name="channels">Channels of a token.</param>
    /// <param name="depth">Blocks.</param>
    /// <param name="heads">Heads of every attention.</param>
    /// <param name="mlpRatio">Hidden channels of a block's MLP, as a multiple of <paramref name="channels"/>.</param>
    public StdiTBuilder Transformer(int channels, int depth, int heads, double mlpRatio = 4) =>
        With(_config with { HiddenSize = channels, Depth = depth, NumHeads = heads, MlpRatio = mlpRatio });

    /// <summary>The text states that condition the model.</summary>
    /// <param name="width">Channels of a state (T5-v1.1-XXL: 4096).</param>
    /// <param name="tokens">The most tokens of a prompt.</param>
    /// <param name="dropout">The share of captions that training drops for classifier-free guidance; null leaves it.</param>
    public StdiTBuilder Text(int width, int tokens, double? dropout = null) =>
        With(_config with { CaptionChannels = width, ModelMaxLength = tokens, ClassDropoutProb = dropout ?? _config.ClassDropoutProb });

    /// <summary>What coordinates are divided by.</summary>
    /// <param name="spaceScale">1 at the resolution of the image model, less below it (256x256 from a 512x512 model: 0.5).</param>
    /// <param name="timeScale">1 at the length that time was learned at, less above it (64 frames from 16: 2/3 as published).</param>
    /// <param name="stretch">Whether sides of unequal length are stretched to a square, as PixArt-alpha's are.</param>
    public StdiTBuilder Positions(double spaceScale, double timeScale = 1, bool stretch = false) =>
        With(_config with { SpaceScale = spaceScale, TimeScale = timeScale, StretchPositions = stretch });

    /// <summary>Tells the model height, width and their ratio, as PixArt-alpha's models of many sizes are.</summary>
    /// <param name="on">Whether to.</param>
    public StdiTBuilder SizeConditioning(bool on = true) => With(_config with { SizeConditioning = on });

    /// <summary>How blocks attend within frames and along time.</summary>
    /// <param name="order">The order; <see cref="AttentionOrder.Serial"/> is the published one.</param>
    public StdiTBuilder Attention(AttentionOrder order) => With(_config with { AttentionOrder = order });

    /// <summary>How attention along time begins.</summary>
    /// <param name="startAtZero">Whether its output starts at zero, so that a model with an image model's weights begins as that image model.</param>
    /// <param name="positions">Whether it knows the order of frames.</param>
    /// <param name="norm">Whether what it sees is normalised, and positions are told to every block (<see cref="StdiTConfig.TemporalNorm"/>).</param>
    public StdiTBuilder TemporalAttention(bool startAtZero, bool positions = true, bool norm = false) =>
        With(_config with { ZeroInitTemporal = startAtZero, NoTemporalPosEmb = !positions, TemporalNorm = norm });

    /// <summary>Normalises queries and keys of the self attentions, which steadies training at high learning rates.</summary>
    /// <param name="on">Whether to.</param>
    public StdiTBuilder QueryKeyNorm(bool on = true) => With(_config with { QkNorm = on });

    /// <summary>Whether the model predicts the reverse process's variance beside the noise.</summary>
    /// <param name="on">Whether to.</param>
    public StdiTBuilder LearnedVariance(bool on) => With(_config with { PredSigma = on });

    /// <summary>Makes the starting values of the parameters repeatable.</summary>
    /// <param name="seed">Any number.</param>
    public StdiTBuilder Seed(long seed)
    {
        _seed = seed;
        return this;
    }

    /// <summary>Begins with an image model's weights: PixArt-alpha's for <see cref="Build"/>, DiT's for <see cref="BuildForClasses"/>. Patch
    /// projections get an axis
    /// of time, positions are made for the latents' size, the null caption is cut or lengthened, and attention along time keeps its start at zero, so
    /// that
    /// the model makes of every frame what the image model makes of it (<see cref="AttentionOrder.Serial"/> and <see cref="AttentionOrder.Parallel"/>
    /// order).</summary>
    /// <param name="path">The checkpoint; it is read when a model is built. See <see cref="PublishedWeights"/>.</param>
    public StdiTBuilder LoadImageWeights(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        _imageWeights = path;
        return this;
    }

    /// <summary>The configuration so far.</summary>
    public StdiTConfig Config => _config;

    /// <summary>What was loaded into the last model that was built; null where no weights were given.</summary>
    public LoadReport? ImageWeights { get; private set; }

    /// <summary>Counts the parameters that <see cref="Build"/> would make, without making them.</summary>
    /// <exception cref="ArgumentException">A size is wrong; the message says which and what it must be.</exception>
    public ParameterCounts CountParameters()
    {
        using var shapes = Parameters.ShapesOnly();
        using var model = new StdiT(_config, initialize: false);
        return ParameterCounts.Of(model);
    }

    /// <summary>Makes the model, with its starting values or the image model's.</summary>
    /// <returns>A model in training mode, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A size is wrong; the message says which and what it must be.</exception>
    /// <exception cref="InvalidOperationException">Image weights were given, but the order is <see cref="AttentionOrder.Interleaved"/>.</exception>
    /// <exception cref="FileNotFoundException">There are no such image weights.</exception>
    /// <exception cref="InvalidWeightsException">The image weights are damaged or do not fit.</exception>
    public StdiT Build() =>
        Started(
            new StdiT(_config, initialize: false),
            static (model, generator) => model.Initialize(generator),
            static (model, path) => model.LoadImageWeights(path)
        );

    /// <summary>Makes the relative that is told a class instead of a text: a <see cref="DiT"/> of these sizes and this order of attention.</summary>
    /// <param name="classes">The number of classes (ImageNet: 1000).</param>
    /// <returns>A model in training mode, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A size is wrong, or a choice is none of DiT's; the message says which.</exception>
    /// <exception cref="InvalidOperationException">Image weights were given, but the order is <see cref="AttentionOrder.Interleaved"/>.</exception>
    /// <exception cref="FileNotFoundException">There are no such image weights.</exception>
    /// <exception cref="InvalidWeightsException">The image weights are damaged or do not fit.</exception>
    public DiT BuildForClasses(int classes)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(classes);
        if (_config is not { SpaceScale: 1, TimeScale: 1, StretchPositions: false, SizeConditioning: false, QkNorm: false, TemporalNorm: false })
        {
            throw new ArgumentException(
                "A model of classes is a DiT, which has no scaled or stretched positions, no size conditioning and no norm of queries and keys or of the temporal attention. Leave these out.",
                nameof(classes)
            );
        }

        var config = new DiTConfig
        {
            InputSize = _config.InputSize,
            InChannels = _config.InChannels,
            PatchSize = _config.PatchSize,
            HiddenSize = _config.HiddenSize,
            Depth = _config.Depth,
            NumHeads = _config.NumHeads,
            MlpRatio = _config.MlpRatio,
            Condition = $"label_{classes}",
            ClassDropoutProb = _config.ClassDropoutProb,
            LearnSigma = _config.PredSigma,
            NoTemporalPosEmb = _config.NoTemporalPosEmb,
            AttentionOrder = _config.AttentionOrder,
            ZeroInitTemporal = _config.ZeroInitTemporal,
        };
        return Started(
            new DiT(config, initialize: false),
            static (model, generator) => model.Initialize(generator),
            static (model, path) => model.LoadImageWeights(path)
        );
    }

    private TModel Started<TModel>(TModel model, Action<TModel, Generator?> initialize, Func<TModel, string, LoadReport> load)
        where TModel : nn.Module
    {
        try
        {
            using var generator = _seed is { } seed ? new Generator((ulong)seed) : null;
            initialize(model, generator);
            ImageWeights = _imageWeights is { } path ? load(model, path) : null;
            return model;
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    private StdiTBuilder With(StdiTConfig config)
    {
        _config = config;
        return this;
    }
}
