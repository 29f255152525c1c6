using OpenSora.Models.Layers;
using OpenSora.Weights;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Builds an <see cref="StdiT"/> or a related model, starting from the published STDiT-XL/2 for 16 frames of 256x256 pixels.</summary>
/// <remarks><see cref="Build"/> validates the sizes. A builder can build several models; each has its own parameters.</remarks>
/// <example><code>
/// using var model = new StdiTBuilder().Preset("STDiT-S/2").Latents(frames: 16, height: 16, width: 16).Text(width: 256, tokens: 32).Seed(1).Build();
/// // Starts from PixArt-alpha, frame by frame.
/// using var fromImages = new StdiTBuilder().Latents(16, 64, 64).LoadImageWeights("PixArt-XL-2-512x512.pth").Build();
/// </code></example>
public sealed class StdiTBuilder
{
    private StdiTConfig _config = new();
    private long? _seed;
    private string? _imageWeights;

    /// <summary>Starts from a configuration, such as that of a model folder.</summary>
    /// <param name="config">The configuration, which is not modified.</param>
    public StdiTBuilder From(StdiTConfig config)
    {
        ArgumentNullException.ThrowIfNull(config);
        _config = config;
        return this;
    }

    /// <summary>Sets the channels, depth and heads to those of a named model and keeps all other settings.</summary>
    /// <param name="name">One of <see cref="StdiTConfig.Presets"/>.</param>
    /// <exception cref="ArgumentException">The name is unknown.</exception>
    public StdiTBuilder Preset(string name)
    {
        var preset = StdiTConfig.Preset(name);
        return Transformer(preset.HiddenSize, preset.Depth, preset.NumHeads, preset.MlpRatio);
    }

    /// <summary>Sets the size of the latents that the model denoises.</summary>
    /// <param name="frames">The number of latent frames.</param>
    /// <param name="height">The number of latent rows, which is the height in pixels divided by the autoencoder's downsampling factor.</param>
    /// <param name="width">The number of latent columns.</param>
    /// <param name="channels">The number of latent channels.</param>
    public StdiTBuilder Latents(int frames, int height, int width, int channels = 4) =>
        With(_config with { InputSize = [frames, height, width], InChannels = channels });

    /// <summary>Sets the size of the patch of latents that a token covers.</summary>
    /// <param name="frames">The number of latent frames.</param>
    /// <param name="height">The number of latent rows.</param>
    /// <param name="width">The number of latent columns.</param>
    public StdiTBuilder Patch(int frames, int height, int width) => With(_config with { PatchSize = [frames, height, width] });

    /// <summary>Sets the size of the transformer.</summary>
    /// <param name="channels">The number of channels of a token.</param>
    /// <param name="depth">The number of blocks.</param>
    /// <param name="heads">The number of heads of each attention.</param>
    /// <param name="mlpRatio">The number of hidden channels of a block's MLP, as a multiple of <paramref name="channels"/>.</param>
    public StdiTBuilder Transformer(int channels, int depth, int heads, double mlpRatio = 4) =>
        With(_config with { HiddenSize = channels, Depth = depth, NumHeads = heads, MlpRatio = mlpRatio });

    /// <summary>Sets the size of the text states that condition the model.</summary>
    /// <param name="width">The number of channels of a text state (4096 for T5-v1.1-XXL).</param>
    /// <param name="tokens">The maximum number of tokens in a prompt.</param>
    /// <param name="dropout">The fraction of captions that training drops for classifier-free guidance; null keeps the current value.</param>
    public StdiTBuilder Text(int width, int tokens, double? dropout = null) =>
        With(_config with { CaptionChannels = width, ModelMaxLength = tokens, ClassDropoutProb = dropout ?? _config.ClassDropoutProb });

    /// <summary>Sets the scale of the positions.</summary>
    /// <param name="spaceScale">The divisor of spatial coordinates: 1 at the resolution of the image model, less at lower resolutions (0.5 for
    /// 256x256 with a 512x512 model).</param>
    /// <param name="timeScale">The divisor of frame numbers: 1 at the length with which the temporal positions were learned, less for longer videos
    /// (as published, 2/3 for 64 frames after training with 16).</param>
    /// <param name="stretch">Whether to stretch the positions of sides of unequal length to a square, as PixArt-alpha does.</param>
    public StdiTBuilder Positions(double spaceScale, double timeScale = 1, bool stretch = false) =>
        With(_config with { SpaceScale = spaceScale, TimeScale = timeScale, StretchPositions = stretch });

    /// <summary>Sets whether the model is conditioned on height, width and their ratio, as PixArt-alpha's models for many sizes are.</summary>
    /// <param name="on">Whether to enable this option.</param>
    public StdiTBuilder SizeConditioning(bool on = true) => With(_config with { SizeConditioning = on });

    /// <summary>Sets the order in which blocks attend within frames and along time.</summary>
    /// <param name="order">The order; <see cref="AttentionOrder.Serial"/> is the published one.</param>
    public StdiTBuilder Attention(AttentionOrder order) => With(_config with { AttentionOrder = order });

    /// <summary>Configures the attention along time.</summary>
    /// <param name="startAtZero">Whether the output of the attention along time starts at zero, so that a model with the weights of an image model
    /// initially behaves like that image model.</param>
    /// <param name="positions">Whether the attention along time uses the positions of the frames.</param>
    /// <param name="norm">Whether the input of the attention along time is normalized and every block receives the positions
    /// (<see cref="StdiTConfig.TemporalNorm"/>).</param>
    public StdiTBuilder TemporalAttention(bool startAtZero, bool positions = true, bool norm = false) =>
        With(_config with { ZeroInitTemporal = startAtZero, NoTemporalPosEmb = !positions, TemporalNorm = norm });

    /// <summary>Sets whether to normalize the queries and keys of self-attention, which stabilizes training at high learning rates.</summary>
    /// <param name="on">Whether to enable this option.</param>
    public StdiTBuilder QueryKeyNorm(bool on = true) => With(_config with { QkNorm = on });

    /// <summary>Sets whether the model predicts the variance of the reverse process in addition to the noise.</summary>
    /// <param name="on">Whether to enable this option.</param>
    public StdiTBuilder LearnedVariance(bool on) => With(_config with { PredSigma = on });

    /// <summary>Sets the seed that makes the initial values of the parameters reproducible.</summary>
    /// <param name="seed">The seed.</param>
    public StdiTBuilder Seed(long seed)
    {
        _seed = seed;
        return this;
    }

    /// <summary>Sets the weights of PixArt-alpha, or another image model of this architecture, to start from. Patch projections get a time axis,
    /// positions are computed for the size of the latents, the null caption is truncated or extended, and the attention along time still starts at
    /// zero. In <see cref="AttentionOrder.Serial"/> and <see cref="AttentionOrder.Parallel"/> order, the model therefore computes for
    /// each frame what the image model computes.</summary>
    /// <param name="path">The path of the checkpoint, which is read when a model is built. See <see cref="StdiT.LoadImageWeights"/>.</param>
    public StdiTBuilder LoadImageWeights(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        _imageWeights = path;
        return this;
    }

    /// <summary>The current configuration.</summary>
    public StdiTConfig Config => _config;

    /// <summary>The report of the image weights that were loaded into the most recently built model; null if image weights were not set.</summary>
    public LoadReport? ImageWeights { get; private set; }

    /// <summary>Counts the parameters of the model that <see cref="Build"/> would create, without creating it.</summary>
    /// <exception cref="ArgumentException">A size is invalid; the message says which one and what is expected.</exception>
    public IReadOnlyDictionary<string, long> CountParameters() => StdiT.Architecture.CountParameters(_config);

    /// <summary>Builds the model with initial values or with the weights of the image model.</summary>
    /// <returns>A model in training mode, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A size is invalid; the message says which one and what is expected.</exception>
    /// <exception cref="InvalidOperationException">Image weights were set, but the order is <see cref="AttentionOrder.Interleaved"/>.</exception>
    /// <exception cref="FileNotFoundException">The file of image weights does not exist.</exception>
    /// <exception cref="InvalidWeightsException">The image weights are damaged or do not match the model.</exception>
    public StdiT Build()
    {
        var model = new StdiT(_config, initialize: false);
        try
        {
            using var generator = _seed is { } seed ? new Generator((ulong)seed) : null;
            model.Initialize(generator);
            ImageWeights = _imageWeights is { } path ? model.LoadImageWeights(path) : null;
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
