using System.Diagnostics.CodeAnalysis;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Options;
using OpenSora.Diffusion;
using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Runtime;

namespace OpenSora.Generation;

/// <summary>Builds a <see cref="VideoGenerator"/> without dependency injection.</summary>
public sealed class VideoGeneratorBuilder
{
    private readonly OpenSoraOptions _options = new();
    private readonly PartFactories _parts = new();
    private readonly List<IComputeBackend> _backends = [new CpuBackend(), .. BackendSelector.Discovered.Value];
    private ILogger? _logger;

    internal VideoGeneratorBuilder() { }

    /// <summary>Sets the model: a model name or the path of a model folder; see <see cref="OpenSoraOptions.Model"/>.</summary>
    /// <param name="nameOrPath">The name or path.</param>
    public VideoGeneratorBuilder UseModel(string nameOrPath) => Configure(o => o.Model = nameOrPath);

    /// <summary>Selects a backend by name; see <see cref="OpenSoraOptions.Backend"/>.</summary>
    /// <param name="name">The name; null for the best available backend.</param>
    public VideoGeneratorBuilder UseBackend(string? name) => Configure(o => o.Backend = name);

    /// <summary>Adds a backend and selects it.</summary>
    /// <param name="backend">The backend.</param>
    public VideoGeneratorBuilder UseBackend(IComputeBackend backend)
    {
        ArgumentNullException.ThrowIfNull(backend);
        _backends.Add(backend);
        return UseBackend(backend.Name);
    }

    /// <summary>Uses one of the built-in samplers instead of the model's default.</summary>
    /// <param name="sampler">The kind of sampler.</param>
    public VideoGeneratorBuilder UseSampler(SamplerKind sampler) => Configure(o => o.Sampler = sampler);

    /// <summary>Uses a custom sampler.</summary>
    /// <param name="factory">Creates the sampler for a given number of denoising steps.</param>
    public VideoGeneratorBuilder UseSampler(Func<int, ISampler> factory)
    {
        _parts.Sampler = factory;
        return this;
    }

    /// <summary>Replaces the model's autoencoder. The constructor can have a <see cref="PartContext"/> parameter.</summary>
    /// <typeparam name="T">The type of the autoencoder.</typeparam>
    public VideoGeneratorBuilder UseVae<[DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicConstructors)] T>()
        where T : class, IVideoAutoencoder => UseVae(context => ActivatorUtilities.CreateInstance<T>(context));

    /// <summary>Replaces the model's autoencoder with the one that a function creates. The generator disposes it.</summary>
    /// <param name="factory">Creates the autoencoder.</param>
    public VideoGeneratorBuilder UseVae(Func<PartContext, IVideoAutoencoder> factory)
    {
        _parts.Vae = factory;
        return this;
    }

    /// <summary>Replaces the model's text encoder. The constructor can have a <see cref="PartContext"/> parameter.</summary>
    /// <typeparam name="T">The type of the text encoder.</typeparam>
    public VideoGeneratorBuilder UseTextEncoder<[DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicConstructors)] T>()
        where T : class, ITextEncoder => UseTextEncoder(context => ActivatorUtilities.CreateInstance<T>(context));

    /// <summary>Replaces the model's text encoder with the one that a function creates. The generator disposes it.</summary>
    /// <param name="factory">Creates the text encoder.</param>
    public VideoGeneratorBuilder UseTextEncoder(Func<PartContext, ITextEncoder> factory)
    {
        _parts.TextEncoder = factory;
        return this;
    }

    /// <summary>Registers a transformer architecture that <c>model.json</c> can specify.</summary>
    /// <param name="transformer">The architecture.</param>
    /// <exception cref="ArgumentException">An architecture with this name is already registered.</exception>
    public VideoGeneratorBuilder AddArchitecture(Architecture<IVideoTransformer> transformer)
    {
        _parts.Architectures = _parts.Architectures.Add(transformer);
        return this;
    }

    /// <summary>Registers an autoencoder architecture that <c>model.json</c> can specify.</summary>
    /// <param name="autoencoder">The architecture.</param>
    /// <exception cref="ArgumentException">An architecture with this name is already registered.</exception>
    public VideoGeneratorBuilder AddArchitecture(Architecture<IVideoAutoencoder> autoencoder)
    {
        _parts.Architectures = _parts.Architectures.Add(autoencoder);
        return this;
    }

    /// <summary>Configures the options of the generator.</summary>
    /// <param name="configure">Sets the options.</param>
    public VideoGeneratorBuilder Configure(Action<OpenSoraOptions> configure)
    {
        ArgumentNullException.ThrowIfNull(configure);
        configure(_options);
        return this;
    }

    /// <summary>Sets the logger of the generator.</summary>
    /// <param name="value">The logger.</param>
    public VideoGeneratorBuilder UseLogger(ILogger value)
    {
        _logger = value;
        return this;
    }

    /// <summary>Validates the options and creates the generator. The model is loaded when it is first needed.</summary>
    /// <exception cref="OptionsValidationException">An option is not valid; the message lists all problems.</exception>
    /// <exception cref="BackendUnavailableException">The backend is not available on this machine.</exception>
    public VideoGenerator Build()
    {
        if (_options.Problems().ToList() is { Count: > 0 } problems)
        {
            throw new OptionsValidationException(nameof(OpenSoraOptions), typeof(OpenSoraOptions), problems);
        }

        var selector = new BackendSelector(_backends);
        selector.Select(_options.Backend);
        return new VideoGenerator(
            _options,
            _parts.Clone(),
            selector,
            new VideoWriter(_options.FFmpegFolder),
            new ImageCodec(_options.FFmpegFolder),
            NoServices.Instance,
            _logger
        );
    }

    private sealed class NoServices : IServiceProvider
    {
        public static readonly NoServices Instance = new();

        public object? GetService(Type serviceType) => null;
    }
}
