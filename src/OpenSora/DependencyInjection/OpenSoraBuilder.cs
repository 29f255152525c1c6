using System.Diagnostics.CodeAnalysis;
using Microsoft.Extensions.DependencyInjection;
using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.Models;
using OpenSora.Runtime;

namespace OpenSora.DependencyInjection;

/// <summary>Configures the services that <c>AddOpenSora</c> registered.</summary>
public sealed class OpenSoraBuilder
{
    private readonly PartFactories _parts;

    internal OpenSoraBuilder(IServiceCollection services, PartFactories parts) => (Services, _parts) = (services, parts);

    /// <summary>Gets the service collection that OpenSora was added to.</summary>
    public IServiceCollection Services { get; }

    /// <summary>Replaces the model's autoencoder. The constructor can have a <see cref="PartContext"/> and registered services as
    /// parameters.</summary>
    /// <typeparam name="T">The type of the autoencoder.</typeparam>
    public OpenSoraBuilder UseVae<[DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicConstructors)] T>()
        where T : class, IVideoAutoencoder => UseVae(context => ActivatorUtilities.CreateInstance<T>(context));

    /// <summary>Replaces the model's autoencoder with the one that a function creates. The generator disposes it.</summary>
    /// <param name="factory">Creates the autoencoder.</param>
    public OpenSoraBuilder UseVae(Func<PartContext, IVideoAutoencoder> factory)
    {
        _parts.Vae = factory;
        return this;
    }

    /// <summary>Replaces the model's text encoder. The constructor can have a <see cref="PartContext"/> and registered services as
    /// parameters.</summary>
    /// <typeparam name="T">The type of the text encoder.</typeparam>
    public OpenSoraBuilder UseTextEncoder<[DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicConstructors)] T>()
        where T : class, ITextEncoder => UseTextEncoder(context => ActivatorUtilities.CreateInstance<T>(context));

    /// <summary>Replaces the model's text encoder with the one that a function creates. The generator disposes it.</summary>
    /// <param name="factory">Creates the text encoder.</param>
    public OpenSoraBuilder UseTextEncoder(Func<PartContext, ITextEncoder> factory)
    {
        _parts.TextEncoder = factory;
        return this;
    }

    /// <summary>Uses a custom sampler.</summary>
    /// <param name="factory">Creates the sampler for a given number of denoising steps.</param>
    public OpenSoraBuilder UseSampler(Func<int, ISampler> factory)
    {
        _parts.Sampler = factory;
        return this;
    }

    /// <summary>Registers a transformer architecture that <c>model.json</c> can specify.</summary>
    /// <param name="transformer">The architecture.</param>
    /// <exception cref="ArgumentException">An architecture with this name is already registered.</exception>
    public OpenSoraBuilder AddArchitecture(Architecture<IVideoTransformer> transformer)
    {
        _parts.Architectures = _parts.Architectures.Add(transformer);
        return this;
    }

    /// <summary>Registers an autoencoder architecture that <c>model.json</c> can specify.</summary>
    /// <param name="autoencoder">The architecture.</param>
    /// <exception cref="ArgumentException">An architecture with this name is already registered.</exception>
    public OpenSoraBuilder AddArchitecture(Architecture<IVideoAutoencoder> autoencoder)
    {
        _parts.Architectures = _parts.Architectures.Add(autoencoder);
        return this;
    }

    /// <summary>Adds a backend, replacing any backend with the same name.</summary>
    /// <param name="backend">The backend.</param>
    public OpenSoraBuilder AddBackend(IComputeBackend backend)
    {
        ArgumentNullException.ThrowIfNull(backend);
        Services.AddSingleton(backend);
        return this;
    }

    /// <summary>Adds a backend that the service provider creates, replacing any backend with the same name.</summary>
    /// <typeparam name="T">The type of the backend.</typeparam>
    public OpenSoraBuilder AddBackend<[DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicConstructors)] T>()
        where T : class, IComputeBackend
    {
        Services.AddSingleton<IComputeBackend, T>();
        return this;
    }
}
