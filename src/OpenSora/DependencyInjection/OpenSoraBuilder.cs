using System.Diagnostics.CodeAnalysis;
using Microsoft.Extensions.DependencyInjection;
using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.Models;
using OpenSora.Runtime;

namespace OpenSora.DependencyInjection;

/// <summary>Replaces parts of what AddOpenSora registered.</summary>
public sealed class OpenSoraBuilder
{
    private readonly PartFactories _parts;

    internal OpenSoraBuilder(IServiceCollection services, PartFactories parts) => (Services, this._parts) = (services, parts);

    /// <summary>The services to which OpenSora was added.</summary>
    public IServiceCollection Services { get; }

    /// <summary>Decodes with another autoencoder than the model's. Its constructor may ask for a <see cref="PartContext"/> and for
    /// services.</summary>
    public OpenSoraBuilder UseVae<[DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicConstructors)] T>()
        where T : class, IVideoAutoencoder => UseVae(context => ActivatorUtilities.CreateInstance<T>(context));

    /// <summary>Decodes with the autoencoder that the function makes; the generator disposes of it.</summary>
    public OpenSoraBuilder UseVae(Func<PartContext, IVideoAutoencoder> factory)
    {
        _parts.Vae = factory;
        return this;
    }

    /// <summary>Encodes prompts with another text encoder than the model's. Its constructor may ask for a <see cref="PartContext"/> and for
    /// services.</summary>
    public OpenSoraBuilder UseTextEncoder<[DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicConstructors)] T>()
        where T : class, ITextEncoder => UseTextEncoder(context => ActivatorUtilities.CreateInstance<T>(context));

    /// <summary>Encodes prompts with the encoder that the function makes; the generator disposes of it.</summary>
    public OpenSoraBuilder UseTextEncoder(Func<PartContext, ITextEncoder> factory)
    {
        _parts.TextEncoder = factory;
        return this;
    }

    /// <summary>Samples with what the function makes for a number of steps.</summary>
    public OpenSoraBuilder UseSampler(Func<int, ISampler> factory)
    {
        _parts.Sampler = factory;
        return this;
    }

    /// <summary>Adds a transformer that <c>model.json</c> may name.</summary>
    /// <exception cref="ArgumentException">There is an architecture of this name already.</exception>
    public OpenSoraBuilder AddArchitecture(Architecture<IVideoTransformer> transformer)
    {
        _parts.Architectures = _parts.Architectures.Add(transformer);
        return this;
    }

    /// <summary>Adds an autoencoder that <c>model.json</c> may name.</summary>
    /// <exception cref="ArgumentException">There is an architecture of this name already.</exception>
    public OpenSoraBuilder AddArchitecture(Architecture<IVideoAutoencoder> autoencoder)
    {
        _parts.Architectures = _parts.Architectures.Add(autoencoder);
        return this;
    }

    /// <summary>Offers a backend; one of the same name is replaced.</summary>
    public OpenSoraBuilder AddBackend(IComputeBackend backend)
    {
        ArgumentNullException.ThrowIfNull(backend);
        Services.AddSingleton(backend);
        return this;
    }

    /// <summary>Offers a backend that the container makes; one of the same name is replaced.</summary>
    public OpenSoraBuilder AddBackend<[DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicConstructors)] T>()
        where T : class, IComputeBackend
    {
        Services.AddSingleton<IComputeBackend, T>();
        return this;
    }
}
