using System.Diagnostics.CodeAnalysis;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.DependencyInjection.Extensions;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Options;
using OpenSora.Diffusion;
using OpenSora.Distributed;
using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Runtime;

namespace OpenSora.Generation;

/// <summary>Sets up a <see cref="VideoGenerator"/>, in an application's service collection (<c>AddOpenSora</c>) and without one
/// (<see cref="VideoGenerator.Create"/>).</summary>
public sealed class VideoGeneratorBuilder
{
    private readonly PartFactories _parts;

    private VideoGeneratorBuilder(IServiceCollection services, PartFactories parts) => (Services, _parts) = (services, parts);

    /// <summary>Gets the services of the generator: the application's, or a collection that belongs to this builder.</summary>
    public IServiceCollection Services { get; }

    /// <summary>Configures the options of the generator.</summary>
    /// <param name="configure">Sets the options.</param>
    public VideoGeneratorBuilder Configure(Action<OpenSoraOptions> configure)
    {
        ArgumentNullException.ThrowIfNull(configure);
        Services.Configure(configure);
        return this;
    }

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
        AddBackend(backend);
        return UseBackend(backend.Name);
    }

    /// <summary>Adds a backend that can be selected by name; one with the same name is replaced.</summary>
    /// <param name="backend">The backend.</param>
    public VideoGeneratorBuilder AddBackend(IComputeBackend backend)
    {
        ArgumentNullException.ThrowIfNull(backend);
        Services.AddSingleton(backend);
        return this;
    }

    /// <summary>Adds a backend that the service provider creates, replacing any backend with the same name.</summary>
    /// <typeparam name="T">The type of the backend.</typeparam>
    public VideoGeneratorBuilder AddBackend<[DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicConstructors)] T>()
        where T : class, IComputeBackend
    {
        Services.AddSingleton<IComputeBackend, T>();
        return this;
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

    /// <summary>Replaces the model's autoencoder with one that the service provider creates. Parameters of its constructor can be of type
    /// <see cref="ModelFolder"/> (the folder of the model), <see cref="TorchSharp.torch.Device"/> (the device of the model) or any registered
    /// service.</summary>
    /// <typeparam name="T">The type of the autoencoder.</typeparam>
    public VideoGeneratorBuilder UseVae<[DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicConstructors)] T>()
        where T : class, IVideoAutoencoder => UseVae(services => ActivatorUtilities.CreateInstance<T>(services));

    /// <summary>Replaces the model's autoencoder with the one that a function creates. The generator disposes it.</summary>
    /// <param name="factory">Creates the autoencoder. The service provider has the registered services, the <see cref="ModelFolder"/> and the
    /// <see cref="TorchSharp.torch.Device"/> of the model.</param>
    public VideoGeneratorBuilder UseVae(Func<IServiceProvider, IVideoAutoencoder> factory)
    {
        _parts.Vae = factory;
        return this;
    }

    /// <summary>Replaces the model's text encoder with one that the service provider creates. Parameters of its constructor can be of type
    /// <see cref="ModelFolder"/> (the folder of the model), <see cref="TorchSharp.torch.Device"/> (the device of the model) or any registered
    /// service.</summary>
    /// <typeparam name="T">The type of the text encoder.</typeparam>
    public VideoGeneratorBuilder UseTextEncoder<[DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicConstructors)] T>()
        where T : class, ITextEncoder => UseTextEncoder(services => ActivatorUtilities.CreateInstance<T>(services));

    /// <summary>Replaces the model's text encoder with the one that a function creates. The generator disposes it.</summary>
    /// <param name="factory">Creates the text encoder. The service provider has the registered services, the <see cref="ModelFolder"/> and the
    /// <see cref="TorchSharp.torch.Device"/> of the model.</param>
    public VideoGeneratorBuilder UseTextEncoder(Func<IServiceProvider, ITextEncoder> factory)
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

    /// <summary>Registers a text encoder architecture that <c>model.json</c> can specify.</summary>
    /// <param name="textEncoder">The architecture.</param>
    /// <exception cref="ArgumentException">An architecture with this name is already registered.</exception>
    public VideoGeneratorBuilder AddArchitecture(Architecture<ITextEncoder> textEncoder)
    {
        _parts.Architectures = _parts.Architectures.Add(textEncoder);
        return this;
    }

    /// <summary>Generates each video with several processes: each computes some of the frames of the transformer
    /// (<see cref="ModelExtensions.UseSequenceParallel"/>) and, if the autoencoder decodes every frame separately, decodes some of them.</summary>
    /// <remarks>Every process has its own generator of the same model, and makes the same requests in the same order; all receive the whole video. A
    /// request without a seed gets that of the first process. Requests run one at a time. A request is canceled in all processes when the token of
    /// one of them is canceled. Loading fails with an <see cref="ArgumentException"/> if the tokens of the transformer cannot be divided by
    /// frames.</remarks>
    /// <param name="group">The group of processes, which the caller disposes of after the generator; null for this process only.</param>
    public VideoGeneratorBuilder UseCollectives(ICollectives? group)
    {
        _parts.Collectives = group;
        return this;
    }

    /// <summary>Sets the logger of the generator; by default, the one that the services provide.</summary>
    /// <param name="value">The logger.</param>
    public VideoGeneratorBuilder UseLogger(ILogger value)
    {
        _parts.Logger = value;
        return this;
    }

    /// <summary>Validates the options and creates the generator, with a service provider of its own. The model is loaded when it is first needed.
    /// With <c>AddOpenSora</c>, get <see cref="VideoGenerator"/> from the application's service provider instead.</summary>
    /// <exception cref="OptionsValidationException">An option is not valid, or the backend is not available on this machine; the message lists all
    /// problems.</exception>
    public VideoGenerator Build()
    {
        var provider = Services.BuildServiceProvider();
        try
        {
            var generator = provider.GetRequiredService<VideoGenerator>();
            generator.Own(provider);
            return generator;
        }
        catch
        {
            provider.Dispose();
            throw;
        }
    }

    /// <summary>Registers a singleton generator and the services it depends on, and returns their builder. Further calls configure the same
    /// generator.</summary>
    /// <param name="services">The service collection.</param>
    /// <param name="bind">Sets options before the code of the application does; used by the first call only.</param>
    internal static VideoGeneratorBuilder In(IServiceCollection services, Action<IServiceProvider, OpenSoraOptions>? bind = null)
    {
        if (services.FirstOrDefault(s => s.ServiceType == typeof(PartFactories))?.ImplementationInstance is PartFactories known)
        {
            return new VideoGeneratorBuilder(services, known);
        }

        if (bind is not null)
        {
            services.AddSingleton<IConfigureOptions<OpenSoraOptions>>(provider => new ConfigureOptions<OpenSoraOptions>(o => bind(provider, o)));
        }

        services.AddOptions<OpenSoraOptions>().ValidateOnStart();
        services.TryAddEnumerable(ServiceDescriptor.Singleton<IValidateOptions<OpenSoraOptions>, OpenSoraOptionsValidator>());

        // The last backend with a given name is used, so backends that the application adds later take precedence.
        services.AddSingleton<IComputeBackend, CpuBackend>();
        foreach (var backend in BackendSelector.Discovered.Value)
        {
            services.AddSingleton(backend);
        }

        services.TryAddSingleton<BackendSelector>();
        services.TryAddSingleton(p => new VideoReader(Options(p).FFmpegFolder));
        services.TryAddSingleton(p => new VideoWriter(Options(p).FFmpegFolder));

        var parts = new PartFactories();
        services.AddSingleton(parts);
        services.TryAddSingleton(p => new VideoGenerator(
            Options(p),
            parts.Clone(),
            p.GetRequiredService<BackendSelector>(),
            p.GetRequiredService<VideoWriter>(),
            p,
            parts.Logger ?? p.GetService<ILogger<VideoGenerator>>()
        ));
        services.TryAddSingleton<IVideoGenerator>(p => p.GetRequiredService<VideoGenerator>());
        return new VideoGeneratorBuilder(services, parts);
    }

    private static OpenSoraOptions Options(IServiceProvider provider) => provider.GetRequiredService<IOptions<OpenSoraOptions>>().Value;
}
