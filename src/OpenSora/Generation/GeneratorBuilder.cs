using System.Diagnostics.CodeAnalysis;
using Microsoft.Extensions.DependencyInjection;
using OpenSora.Diffusion;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Runtime;

namespace OpenSora.Generation;

/// <summary>The methods that set up a generator, with a container (<c>AddOpenSora</c>) and without one
/// (<see cref="VideoGenerator.Create"/>).</summary>
/// <typeparam name="TBuilder">The builder itself, which every method returns.</typeparam>
public abstract class GeneratorBuilder<TBuilder>
    where TBuilder : GeneratorBuilder<TBuilder>
{
    private protected GeneratorBuilder(PartFactories parts) => Parts = parts;

    private protected PartFactories Parts { get; }

    private TBuilder Self => (TBuilder)this;

    /// <summary>Configures the options of the generator.</summary>
    /// <param name="configure">Sets the options.</param>
    public abstract TBuilder Configure(Action<OpenSoraOptions> configure);

    /// <summary>Sets the model: a model name or the path of a model folder; see <see cref="OpenSoraOptions.Model"/>.</summary>
    /// <param name="nameOrPath">The name or path.</param>
    public TBuilder UseModel(string nameOrPath) => Configure(o => o.Model = nameOrPath);

    /// <summary>Selects a backend by name; see <see cref="OpenSoraOptions.Backend"/>.</summary>
    /// <param name="name">The name; null for the best available backend.</param>
    public TBuilder UseBackend(string? name) => Configure(o => o.Backend = name);

    /// <summary>Adds a backend and selects it.</summary>
    /// <param name="backend">The backend.</param>
    public TBuilder UseBackend(IComputeBackend backend)
    {
        AddBackend(backend);
        return UseBackend(backend.Name);
    }

    /// <summary>Adds a backend that can be selected by name; one with the same name is replaced.</summary>
    /// <param name="backend">The backend.</param>
    public abstract TBuilder AddBackend(IComputeBackend backend);

    /// <summary>Uses one of the built-in samplers instead of the model's default.</summary>
    /// <param name="sampler">The kind of sampler.</param>
    public TBuilder UseSampler(SamplerKind sampler) => Configure(o => o.Sampler = sampler);

    /// <summary>Uses a custom sampler.</summary>
    /// <param name="factory">Creates the sampler for a given number of denoising steps.</param>
    public TBuilder UseSampler(Func<int, ISampler> factory)
    {
        Parts.Sampler = factory;
        return Self;
    }

    /// <summary>Replaces the model's autoencoder. The constructor can have a <see cref="PartContext"/> parameter.</summary>
    /// <typeparam name="T">The type of the autoencoder.</typeparam>
    public TBuilder UseVae<[DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicConstructors)] T>()
        where T : class, IVideoAutoencoder => UseVae(context => ActivatorUtilities.CreateInstance<T>(context));

    /// <summary>Replaces the model's autoencoder with the one that a function creates. The generator disposes it.</summary>
    /// <param name="factory">Creates the autoencoder.</param>
    public TBuilder UseVae(Func<PartContext, IVideoAutoencoder> factory)
    {
        Parts.Vae = factory;
        return Self;
    }

    /// <summary>Replaces the model's text encoder. The constructor can have a <see cref="PartContext"/> parameter.</summary>
    /// <typeparam name="T">The type of the text encoder.</typeparam>
    public TBuilder UseTextEncoder<[DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicConstructors)] T>()
        where T : class, ITextEncoder => UseTextEncoder(context => ActivatorUtilities.CreateInstance<T>(context));

    /// <summary>Replaces the model's text encoder with the one that a function creates. The generator disposes it.</summary>
    /// <param name="factory">Creates the text encoder.</param>
    public TBuilder UseTextEncoder(Func<PartContext, ITextEncoder> factory)
    {
        Parts.TextEncoder = factory;
        return Self;
    }

    /// <summary>Registers a transformer architecture that <c>model.json</c> can specify.</summary>
    /// <param name="transformer">The architecture.</param>
    /// <exception cref="ArgumentException">An architecture with this name is already registered.</exception>
    public TBuilder AddArchitecture(Architecture<IVideoTransformer> transformer)
    {
        Parts.Architectures = Parts.Architectures.Add(transformer);
        return Self;
    }

    /// <summary>Registers an autoencoder architecture that <c>model.json</c> can specify.</summary>
    /// <param name="autoencoder">The architecture.</param>
    /// <exception cref="ArgumentException">An architecture with this name is already registered.</exception>
    public TBuilder AddArchitecture(Architecture<IVideoAutoencoder> autoencoder)
    {
        Parts.Architectures = Parts.Architectures.Add(autoencoder);
        return Self;
    }

    /// <summary>Registers a text encoder architecture that <c>model.json</c> can specify.</summary>
    /// <param name="textEncoder">The architecture.</param>
    /// <exception cref="ArgumentException">An architecture with this name is already registered.</exception>
    public TBuilder AddArchitecture(Architecture<ITextEncoder> textEncoder)
    {
        Parts.Architectures = Parts.Architectures.Add(textEncoder);
        return Self;
    }
}
