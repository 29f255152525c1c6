using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using OpenSora.Models.Layers;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Describes an architecture: how to create a network from its configuration, load its weights, and recognize them in files.</summary>
/// <typeparam name="TNetwork">The type of the network: <see cref="IVideoTransformer"/>, <see cref="IVideoAutoencoder"/> or
/// <see cref="ITextEncoder"/>.</typeparam>
public sealed record Architecture<TNetwork>
    where TNetwork : class
{
    // A network is created in two steps, because a text encoder has a module and, in addition, a tokenizer.
    private readonly Func<object, object?> _module;
    private readonly Func<object, object?, TextEncoderSettings, TNetwork> _create;

    private Architecture(
        string name,
        Type configType,
        Func<object, object?> module,
        Func<object, object?, TextEncoderSettings, TNetwork> create,
        object? defaults
    )
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(name);
        (Name, ConfigType, _module, _create, Defaults) = (name, configType, module, create, defaults);
    }

    /// <summary>The name in <c>model.json</c>, in snake case. Names are case-insensitive.</summary>
    public string Name { get; }

    /// <summary>The type of the configuration. Its properties are written in snake case in <c>model.json</c>.</summary>
    public Type ConfigType { get; }

    /// <summary>The class names in the <c>config.json</c> of a hub (<c>_class_name</c> or <c>model_type</c>); empty for an architecture without
    /// one.</summary>
    public IReadOnlyList<string> HubNames { get; init; } = [];

    /// <summary>The configuration with the values of settings that a file does not contain; null for those of a new instance.</summary>
    internal object? Defaults { get; }

    internal IJsonTypeInfoResolver? JsonResolver { get; private init; }

    /// <summary>Gets the options for loading a file with the names of published checkpoints.</summary>
    internal Func<object, WeightsFile, LoadOptions>? Loading { get; init; }

    /// <summary>Reads the <c>config.json</c> of a hub; null if it contains the settings under their own names.</summary>
    internal Func<HubConfig, TextEncoderSettings, object>? HubReader { get; init; }

    /// <summary>Finds the configurations with which weights may belong to this architecture.</summary>
    internal Func<WeightsFile, IEnumerable<Candidate>>? Recognizer { get; init; }

    /// <summary>The name of the tokenizer file of a text encoder in the folders of a hub, such as <c>spiece.model</c>; null if it has no
    /// tokenizer.</summary>
    public string? TokenizerFile { get; init; }

    /// <summary>Describes a network that is a TorchSharp module.</summary>
    /// <typeparam name="TConfig">The type of the configuration.</typeparam>
    /// <param name="name">The name in <c>model.json</c>.</param>
    /// <param name="create">A function that creates the network, a TorchSharp module, from a configuration. It need not initialize the parameters,
    /// because the weights are loaded afterwards. A network without weights need not be a module.</param>
    /// <param name="defaults">The values of settings that <c>model.json</c> does not contain. This is required if <paramref name="json"/> is set and
    /// the configuration has init-only properties, because generated code does not keep their initial values.</param>
    /// <param name="loading">A function that returns the options for reading published checkpoints; null if the weights have the network's own names
    /// and shapes.</param>
    /// <param name="recognize">A function that returns the configuration of a network with tensors of the specified names and shapes, or null if they
    /// belong to another architecture. Wrappers such as <c>module.</c> are removed from the names.</param>
    /// <param name="json">The generated code that reads and writes the configuration. It is required in programs without reflection-based JSON, such
    /// as file-based apps.</param>
    /// <exception cref="ArgumentException">The name is empty.</exception>
    public static Architecture<TNetwork> Of<TConfig>(
        string name,
        Func<TConfig, TNetwork> create,
        TConfig? defaults = null,
        Func<TConfig, LoadOptions>? loading = null,
        Func<IReadOnlyDictionary<string, IReadOnlyList<long>>, TConfig?>? recognize = null,
        JsonTypeInfo<TConfig>? json = null
    )
        where TConfig : class
    {
        ArgumentNullException.ThrowIfNull(create);
        return new(name, typeof(TConfig), config => create((TConfig)config), (_, network, _) => (TNetwork)network!, defaults)
        {
            JsonResolver = json?.OriginatingResolver ?? json?.Options.TypeInfoResolver,
            Loading = loading is null ? null : (config, _) => loading((TConfig)config),
            Recognizer = recognize is null ? null : file => Candidate.Of(file, name, recognize),
        };
    }

    /// <summary>Describes a text encoder that consists of a TorchSharp module and a tokenizer.</summary>
    /// <typeparam name="TConfig">The type of the configuration.</typeparam>
    /// <param name="name">The name in <c>model.json</c>.</param>
    /// <param name="module">A function that creates the module, to which the weights are then loaded; it returns null for a text encoder without
    /// weights.</param>
    /// <param name="create">A function that creates the text encoder from the configuration, the module and the settings.</param>
    /// <param name="defaults">The values of settings that <c>model.json</c> does not contain. This is required if <paramref name="json"/> is set and
    /// the configuration has init-only properties.</param>
    /// <param name="json">The generated code that reads and writes the configuration.</param>
    /// <exception cref="ArgumentException">The name is empty.</exception>
    public static Architecture<TNetwork> Of<TConfig>(
        string name,
        Func<TConfig, nn.Module?> module,
        Func<TConfig, nn.Module?, TextEncoderSettings, TNetwork> create,
        TConfig? defaults = null,
        JsonTypeInfo<TConfig>? json = null
    )
        where TConfig : class
    {
        ArgumentNullException.ThrowIfNull(module);
        ArgumentNullException.ThrowIfNull(create);
        return new(
            name,
            typeof(TConfig),
            config => module((TConfig)config),
            (config, made, settings) => create((TConfig)config, (nn.Module?)made, settings),
            defaults
        )
        {
            JsonResolver = json?.OriginatingResolver ?? json?.Options.TypeInfoResolver,
        };
    }

    /// <summary>Reads the configuration from the <c>config.json</c> of a hub.</summary>
    /// <exception cref="FormatException">A value is missing, has the wrong type or is not supported.</exception>
    internal object ReadHubConfig(HubConfig config, TextEncoderSettings settings)
    {
        try
        {
            return HubReader?.Invoke(config, settings) ?? ConfigJson.Read(config.Root, ConfigType, Defaults, JsonResolver, strict: false);
        }
        catch (JsonException exception)
        {
            throw new FormatException($"does not fit {ConfigType.Name}: {exception.Message}", exception);
        }
    }

    /// <summary>Reads a configuration from JSON, such as the <c>config</c> of a part in <c>model.json</c>.</summary>
    /// <param name="json">A JSON object with names in snake case.</param>
    /// <returns>A configuration of type <see cref="ConfigType"/>.</returns>
    /// <exception cref="JsonException">A setting is unknown, missing or of the wrong type.</exception>
    /// <exception cref="NotSupportedException">The program has no reflection-based JSON, and no generated code was passed.</exception>
    public object ReadConfig(JsonElement json) => ConfigJson.Read(json, ConfigType, Defaults, JsonResolver);

    /// <summary>Converts a configuration to JSON, such as the <c>config</c> of a part in <c>model.json</c>.</summary>
    /// <param name="config">A configuration of type <see cref="ConfigType"/>.</param>
    /// <exception cref="ArgumentException">The configuration has the wrong type.</exception>
    /// <exception cref="NotSupportedException">The program has no reflection-based JSON, and no generated code was passed.</exception>
    public JsonElement WriteConfig(object config) => ConfigJson.Write(Checked(config), JsonResolver);

    /// <summary>Creates the network and loads its weights.</summary>
    /// <param name="config">A configuration of type <see cref="ConfigType"/>.</param>
    /// <param name="weights">The path of a weights file, an index of shards, or a folder; null for a network without weights.</param>
    /// <param name="device">The device of the parameters; null for the CPU.</param>
    /// <param name="precision">The data type of matrix multiplications; null for the type of the weights.</param>
    /// <param name="settings">The tokenizer and the length of prompts, for a text encoder.</param>
    /// <returns>The network in evaluation mode, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The configuration has the wrong type, or a network cannot be created from it.</exception>
    /// <exception cref="InvalidWeightsException">The weights are damaged or do not match the network.</exception>
    /// <exception cref="InvalidDataException">The tokenizer is damaged or does not match the network.</exception>
    public TNetwork Load(object config, string? weights, Device? device = null, ScalarType? precision = null, TextEncoderSettings? settings = null) =>
        Load(
            config,
            () => weights ?? throw new ArgumentException($"The architecture {Name} has weights; specify their path.", nameof(weights)),
            weights is not null,
            device,
            precision,
            settings
        );

    /// <summary>Counts the trainable parameters of a network by part, without creating it in memory.</summary>
    /// <param name="config">A configuration of type <see cref="ConfigType"/>.</param>
    /// <exception cref="ArgumentException">The configuration has the wrong type or is invalid.</exception>
    public IReadOnlyDictionary<string, long> CountParameters(object config)
    {
        using var shapes = Parameters.ShapesOnly();
        using var module = _module(Checked(config)) as nn.Module;
        return module?.CountParameters() ?? new Dictionary<string, long>(StringComparer.Ordinal);
    }

    /// <summary>Compares weights with the network of a configuration, without loading them. No memory is allocated for the network.</summary>
    /// <param name="config">A configuration of type <see cref="ConfigType"/>.</param>
    /// <param name="file">The open weights file.</param>
    /// <returns>The report that loading would return. If the weights fit, it is complete (<see cref="LoadReport.IsComplete"/>).</returns>
    /// <exception cref="ArgumentException">The configuration has the wrong type or is invalid, or the network has no weights.</exception>
    public LoadReport Compare(object config, WeightsFile file)
    {
        ArgumentNullException.ThrowIfNull(file);
        using var shapes = Parameters.ShapesOnly();
        using var module =
            _module(Checked(config)) as nn.Module ?? throw new ArgumentException($"The architecture {Name} has no weights.", nameof(config));
        return ModuleMatch.Best(module.state_dict(), file, section => Loading?.Invoke(config, section) ?? new LoadOptions()).Report;
    }

    /// <summary>Compares weights with the networks of this architecture that they may belong to.</summary>
    internal IEnumerable<WeightsMatch> Recognize(WeightsFile file)
    {
        foreach (var candidate in Recognizer?.Invoke(file) ?? [])
        {
            if (candidate.Match(Name, file, _module, candidate.Options ?? Loading?.Invoke(candidate.Config, file)) is { } match)
            {
                yield return match;
            }
        }
    }

    /// <summary>Creates the network and loads its weights.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="weights">Gets the path of the weights, or throws the exception for missing weights. It is called only for a network with
    /// weights.</param>
    /// <param name="hasWeights">Whether weights are specified.</param>
    /// <param name="device">The device of the parameters.</param>
    /// <param name="precision">The data type of matrix multiplications.</param>
    /// <param name="settings">The settings of a text encoder.</param>
    /// <param name="residency">When the weights are in memory. Unless they are kept, callers use the network with
    /// <see cref="TransientWeights.Use"/>, and close its file with <see cref="TransientWeights.Close"/>.</param>
    internal TNetwork Load(
        object config,
        Func<string> weights,
        bool hasWeights,
        Device? device,
        ScalarType? precision,
        TextEncoderSettings? settings,
        Residency residency = Residency.Keep
    )
    {
        var made = _module(Checked(config));
        try
        {
            settings ??= new TextEncoderSettings();
            device ??= settings.Device;
            var network = _create(config, made, settings with { Device = device });
            if (made is nn.Module module)
            {
                LoadOptions Options(WeightsFile section) => Loading?.Invoke(config, section) ?? new LoadOptions();
                if (residency == Residency.Keep)
                {
                    using var file = WeightsFile.Open(weights());
                    module.LoadWeights(file, Options, out _);
                    module.eval();
                    module.to(device);
                }
                else
                {
                    TransientWeights.Attach(network, module, weights(), Options, device, residency == Residency.Stream);
                }

                module.UseComputeType(precision);
            }
            else if (hasWeights)
            {
                throw new InvalidOperationException(
                    $"Weights are specified for the architecture {Name}, which creates a network that is not a TorchSharp module and has no weights."
                );
            }

            return network;
        }
        catch
        {
            (made as IDisposable)?.Dispose();
            throw;
        }
    }

    private object Checked(object config)
    {
        ArgumentNullException.ThrowIfNull(config);
        return ConfigType.IsInstanceOfType(config)
            ? config
            : throw new ArgumentException(
                $"{Name} requires a {ConfigType.Name}, but the configuration is a {config.GetType().Name}.",
                nameof(config)
            );
    }
}

/// <summary>Settings of a text encoder that are not part of its network.</summary>
public sealed record TextEncoderSettings
{
    /// <summary>The path of the tokenizer file: a SentencePiece model for T5, <c>vocab.json</c> for CLIP (next to <c>merges.txt</c>). Null for a text
    /// encoder without a tokenizer, and in the folder of a hub, where the tokenizer is found by its name.</summary>
    public string? Tokenizer { get; init; }

    /// <summary>The number of tokens that prompts are padded or truncated to. CLIP has a fixed number and ignores this setting.</summary>
    public int MaxTokens { get; init; } = 120;

    /// <summary>Whether prompts are cleaned (<see cref="Text.Tokenizers.PrepareCaption"/>). If false, T5 only converts them to lowercase.</summary>
    public bool CleanCaptions { get; init; } = true;

    /// <summary>The output of the network to use as the encoding of a prompt, if the encoder is loaded from the folder of a hub; in
    /// <c>model.json</c>, it is part of the configuration. CLIP has <c>pooled</c> (one vector, the default), <c>projected</c> (one vector in the
    /// space of texts and images) and <c>states</c> (the states of all tokens). Null for the default of the architecture.</summary>
    public string? Output { get; init; }

    /// <summary>The device of the encoded states.</summary>
    public Device Device { get; init; } = CPU;
}
