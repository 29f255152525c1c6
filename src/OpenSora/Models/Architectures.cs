using OpenSora.Models.Layers;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Describes an architecture so that the library can create a network from a model folder.</summary>
/// <typeparam name="TNetwork">The type of the network: <see cref="IVideoTransformer"/> or <see cref="IVideoAutoencoder"/>.</typeparam>
public sealed class Architecture<TNetwork>
    where TNetwork : class
{
    private readonly Func<object, TNetwork> _create;
    private readonly Func<object, LoadOptions>? _loading;

    private Architecture(string name, Type configType, Func<object, TNetwork> create, Func<object, LoadOptions>? loading) =>
        (Name, ConfigType, _create, _loading) = (name, configType, create, loading);

    /// <summary>The name in <c>model.json</c>, in snake case. Names are case-insensitive.</summary>
    public string Name { get; }

    /// <summary>The type of the configuration. Its properties are written in snake case in <c>model.json</c>.</summary>
    public Type ConfigType { get; }

    /// <summary>The class name in the <c>config.json</c> of a hub (<c>_class_name</c> or <c>model_type</c>); null for an architecture without
    /// one.</summary>
    public string? HubName { get; init; }

    /// <summary>Creates the description of an architecture.</summary>
    /// <typeparam name="TConfig">The type of the configuration.</typeparam>
    /// <param name="name">The name in <c>model.json</c>.</param>
    /// <param name="create">A function that creates the network, a TorchSharp module, from a configuration. It need not initialize the parameters,
    /// because the weights are loaded afterwards.</param>
    /// <param name="loading">A function that returns the options for reading published checkpoints; null if the weights have the network's own names
    /// and shapes.</param>
    /// <param name="hubName">The class name in the <c>config.json</c> of a hub; see <see cref="HubName"/>.</param>
    /// <exception cref="ArgumentException">The name is empty.</exception>
    public static Architecture<TNetwork> Of<TConfig>(
        string name,
        Func<TConfig, TNetwork> create,
        Func<TConfig, LoadOptions>? loading = null,
        string? hubName = null
    )
        where TConfig : class
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(name);
        ArgumentNullException.ThrowIfNull(create);
        return new Architecture<TNetwork>(
            name,
            typeof(TConfig),
            config => create((TConfig)config),
            loading is null ? null : config => loading((TConfig)config)
        )
        {
            HubName = hubName,
        };
    }

    /// <summary>Creates the network and loads its weights.</summary>
    /// <param name="config">A configuration of type <see cref="ConfigType"/>.</param>
    /// <param name="weights">The path of a weights file, an index of shards, or a folder.</param>
    /// <param name="device">The device of the parameters; null for the CPU.</param>
    /// <param name="precision">The data type of matrix multiplications; null for the type of the weights.</param>
    /// <returns>The network in evaluation mode, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The configuration has the wrong type, or a network cannot be created from it.</exception>
    /// <exception cref="InvalidWeightsException">The weights are damaged or do not match the network.</exception>
    public TNetwork Load(object config, string weights, Device? device = null, ScalarType? precision = null)
    {
        ArgumentNullException.ThrowIfNull(config);
        if (!ConfigType.IsInstanceOfType(config))
        {
            throw new ArgumentException($"{Name} requires a {ConfigType.Name}, but the configuration is a {config.GetType().Name}.", nameof(config));
        }
        var network = _create(config);
        var module =
            network as nn.Module
            ?? throw new InvalidOperationException($"The architecture {Name} creates a {network.GetType().Name}, which is not a TorchSharp module.");
        try
        {
            module.LoadWeights(weights, _loading?.Invoke(config));
            module.eval();
            module.to(device ?? CPU);
            module.UseComputeType(precision);
            return network;
        }
        catch
        {
            module.Dispose();
            throw;
        }
    }
}

/// <summary>A collection of the architectures that an application supports: the built-in ones and those that it adds.</summary>
/// <remarks>Collections are immutable; <see cref="Add(Architecture{IVideoTransformer})"/> returns a larger one. There is no global
/// registry.</remarks>
public sealed class Architectures
{
    private readonly Dictionary<string, Architecture<IVideoTransformer>> _transformers;
    private readonly Dictionary<string, Architecture<IVideoAutoencoder>> _autoencoders;

    private Architectures(IEnumerable<Architecture<IVideoTransformer>> transformers, IEnumerable<Architecture<IVideoAutoencoder>> autoencoders)
    {
        _transformers = transformers.ToDictionary(a => a.Name, StringComparer.OrdinalIgnoreCase);
        _autoencoders = autoencoders.ToDictionary(a => a.Name, StringComparer.OrdinalIgnoreCase);
    }

    /// <summary>The built-in architectures.</summary>
    public static Architectures BuiltIn { get; } =
        new(
            [
                Architecture<IVideoTransformer>.Of<StdiTConfig>(
                    "stdit",
                    config => new StdiT(config, initialize: false),
                    _ => PublishedWeights.Options()
                ),
                Architecture<IVideoTransformer>.Of<PixArtConfig>(
                    "pixart",
                    config => new PixArt(config, initialize: false),
                    _ => PublishedWeights.Options()
                ),
                Architecture<IVideoTransformer>.Of<DiTConfig>("dit", config => new DiT(config, initialize: false), _ => PublishedWeights.Options()),
                Architecture<IVideoTransformer>.Of<LatteConfig>(
                    "latte",
                    config => new Latte(config, initialize: false),
                    _ => PublishedWeights.Options()
                ),
                Architecture<IVideoTransformer>.Of<StdiT2Config>("stdit2", config => new StdiT2(config, initialize: false), hubName: "STDiT2"),
                Architecture<IVideoTransformer>.Of<StdiT3Config>("stdit3", config => new StdiT3(config, initialize: false), hubName: "STDiT3"),
            ],
            [
                Architecture<IVideoAutoencoder>.Of<AutoencoderKLConfig>(
                    "autoencoder_kl",
                    config => new AutoencoderKL(config, initialize: false),
                    config => new LoadOptions { KeyMap = KeyMaps.StableDiffusionVae(config.BlockOutChannels.Count), AllowReshape = true },
                    "AutoencoderKL"
                ),
                Architecture<IVideoAutoencoder>.Of<AutoencoderKLConfig>(
                    "autoencoder_kl_temporal_decoder",
                    config => new AutoencoderKLTemporalDecoder(config, initialize: false),
                    hubName: "AutoencoderKLTemporalDecoder"
                ),
                Architecture<IVideoAutoencoder>.Of<TinyAutoencoderConfig>(
                    "autoencoder_tiny",
                    config => new TinyAutoencoder(config, initialize: false),
                    hubName: "AutoencoderTiny"
                ),
            ]
        );

    /// <summary>The architectures of transformers.</summary>
    public IReadOnlyCollection<Architecture<IVideoTransformer>> Transformers => _transformers.Values;

    /// <summary>The architectures of autoencoders.</summary>
    public IReadOnlyCollection<Architecture<IVideoAutoencoder>> Autoencoders => _autoencoders.Values;

    /// <summary>Adds the architecture of a transformer.</summary>
    /// <returns>A new collection that contains the added architecture; this collection is unchanged.</returns>
    /// <exception cref="ArgumentException">An architecture with this name already exists.</exception>
    public Architectures Add(Architecture<IVideoTransformer> transformer)
    {
        ArgumentNullException.ThrowIfNull(transformer);
        return new Architectures(_transformers.Values.Append(transformer), _autoencoders.Values);
    }

    /// <summary>Adds the architecture of an autoencoder.</summary>
    /// <returns>A new collection that contains the added architecture; this collection is unchanged.</returns>
    /// <exception cref="ArgumentException">An architecture with this name already exists.</exception>
    public Architectures Add(Architecture<IVideoAutoencoder> autoencoder)
    {
        ArgumentNullException.ThrowIfNull(autoencoder);
        return new Architectures(_transformers.Values, _autoencoders.Values.Append(autoencoder));
    }
}
