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

/// <summary>Puts a <see cref="VideoGenerator"/> together without a container.</summary>
public sealed class VideoGeneratorBuilder
{
    private readonly OpenSoraOptions _options = new();
    private readonly PartFactories _parts = new();
    private readonly List<IComputeBackend> _backends = [new CpuBackend(), .. BackendSelector.Discovered.Value];
    private ILogger? _logger;

    internal VideoGeneratorBuilder() { }

    /// <summary>Takes another model than the one that ships with the library: its name, or the path of a model folder.</summary>
    public VideoGeneratorBuilder UseModel(string nameOrPath) => Configure(o => o.Model = nameOrPath);

    /// <summary>Takes a backend by name instead of the best one: see <see cref="OpenSoraOptions.Backend"/>.</summary>
    public VideoGeneratorBuilder UseBackend(string? name) => Configure(o => o.Backend = name);

    /// <summary>Offers a backend and takes it.</summary>
    public VideoGeneratorBuilder UseBackend(IComputeBackend backend)
    {
        ArgumentNullException.ThrowIfNull(backend);
        _backends.Add(backend);
        return UseBackend(backend.Name);
    }

    /// <summary>Samples with another sampler than the model's default.</summary>
    public VideoGeneratorBuilder UseSampler(SamplerKind sampler) => Configure(o => o.Sampler = sampler);

    /// <summary>Samples with what the function makes for a number of steps.</summary>
    public VideoGeneratorBuilder UseSampler(Func<int, ISampler> factory)
    {
        _parts.Sampler = factory;
        return this;
    }

    /// <summary>Decodes with another autoencoder than the model's. Its constructor may ask for a <see cref="PartContext"/>.</summary>
    public VideoGeneratorBuilder UseVae<[DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicConstructors)] T>()
        where T : class, IVideoAutoencoder => UseVae(context => ActivatorUtilities.CreateInstance<T>(context));

    /// <summary>Decodes with the autoencoder that the function makes; the generator disposes of it.</summary>
    public VideoGeneratorBuilder UseVae(Func<PartContext, IVideoAutoencoder> factory)
    {
        _parts.Vae = factory;
        return this;
    }

    /// <summary>Encodes prompts with another text encoder than the model's. Its constructor may ask for a <see cref="PartContext"/>.</summary>
    public VideoGeneratorBuilder UseTextEncoder<[DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicConstructors)] T>()
        where T : class, ITextEncoder => UseTextEncoder(context => ActivatorUtilities.CreateInstance<T>(context));

    /// <summary>Encodes prompts with the encoder that the function makes; the generator disposes of it.</summary>
    public VideoGeneratorBuilder UseTextEncoder(Func<PartContext, ITextEncoder> factory)
    {
        _parts.TextEncoder = factory;
        return this;
    }

    /// <summary>Adds a transformer that <c>model.json</c> may name.</summary>
    /// <exception cref="ArgumentException">There is an architecture of this name already.</exception>
    public VideoGeneratorBuilder AddArchitecture(Architecture<IVideoTransformer> transformer)
    {
        _parts.Architectures = _parts.Architectures.Add(transformer);
        return this;
    }

    /// <summary>Adds an autoencoder that <c>model.json</c> may name.</summary>
    /// <exception cref="ArgumentException">There is an architecture of this name already.</exception>
    public VideoGeneratorBuilder AddArchitecture(Architecture<IVideoAutoencoder> autoencoder)
    {
        _parts.Architectures = _parts.Architectures.Add(autoencoder);
        return this;
    }

    /// <summary>Sets options.</summary>
    public VideoGeneratorBuilder Configure(Action<OpenSoraOptions> configure)
    {
        ArgumentNullException.ThrowIfNull(configure);
        configure(_options);
        return this;
    }

    /// <summary>Logs to the given logger.</summary>
    public VideoGeneratorBuilder UseLogger(ILogger value)
    {
        _logger = value;
        return this;
    }

    /// <summary>Checks the options and makes the generator; the model is read when it is first needed.</summary>
    /// <exception cref="OptionsValidationException">An option is wrong; the message names all that are.</exception>
    /// <exception cref="BackendUnavailableException">The backend cannot be used here.</exception>
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
