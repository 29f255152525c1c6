using System.Text.Json;
using OpenSora.Models;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Goldens;

/// <summary>How one tensor compares with the original's.</summary>
/// <param name="Name">The tensor.</param>
/// <param name="Error">Largest absolute difference, relative to the largest magnitude expected; infinite where shapes differ or a value is not
/// finite.</param>
/// <param name="Limit">The most that is allowed.</param>
public sealed record Comparison(string Name, double Error, double Limit)
{
    public bool Ok => Error <= Limit;
}

/// <summary>Recorded inputs, weights and outputs of an original model: a safetensors file, or a plain JSON file without tensors.</summary>
public sealed class GoldenFile : IDisposable
{
    /// <summary>What one model call in float32 may differ by; whole sampling runs: <see cref="RunLimit"/>.</summary>
    public const double CallLimit = 2e-5,
        RunLimit = 1e-4;

    private readonly Dictionary<string, Tensor> _tensors = new(StringComparer.Ordinal);
    private readonly List<IDisposable> _modules = [];

    public GoldenFile(string path)
    {
        Name = Path.GetFileNameWithoutExtension(path);
        Folder = Path.GetDirectoryName(Path.GetFullPath(path))!;
        if (string.Equals(Path.GetExtension(path), ".json", StringComparison.Ordinal))
        {
            Json = JsonDocument.Parse(File.ReadAllBytes(path)).RootElement;
            return;
        }
        using var file = WeightsFile.Open(path);
        Config = JsonDocument.Parse(file.Metadata["config"]).RootElement;
        foreach (var name in file.Tensors.Keys)
        {
            _tensors.Add(name, file.Read(name).DetachFromDisposeScope());
        }
    }

    /// <summary>The file's name without its extension; its first words are the kind.</summary>
    public string Name { get; }

    /// <summary>Where the file is.</summary>
    public string Folder { get; }

    /// <summary>A JSON file's content.</summary>
    public JsonElement Json { get; }

    /// <summary>The configuration that the original was made with.</summary>
    public JsonElement Config { get; }

    public IReadOnlyCollection<string> Names => _tensors.Keys;

    /// <summary>A tensor by its full name such as <c>input.x</c>, owned by the file.</summary>
    public Tensor this[string name] =>
        _tensors.TryGetValue(name, out var tensor) ? tensor : throw new InvalidDataException($"{Name} has no tensor '{name}'.");

    public bool Has(string name) => _tensors.ContainsKey(name);

    /// <summary>A tensor that not every case has.</summary>
    public Tensor? Optional(string name) => _tensors.GetValueOrDefault(name);

    /// <summary>The configuration, or a part of it, as a record whose property names are spelt in snake case.</summary>
    /// <param name="part">The part; null for the whole configuration.</param>
    /// <param name="defaults">The values of settings that the configuration does not contain; null for those of a new record.</param>
    public T ConfigAs<T>(string? part = null, T? defaults = null)
        where T : class, new() => (T)ConfigJson.Read(part is null ? Config : Config.GetProperty(part), typeof(T), defaults ?? new T(), strict: false);

    /// <summary>A choice that the original makes unless the configuration says otherwise.</summary>
    public bool Flag(string name, bool otherwise = false) => Config.TryGetProperty(name, out var value) ? value.GetBoolean() : otherwise;

    /// <summary>How many channels guidance changes: what <c>cfg_channel</c> says (null: all latent channels), or the original's own choice without
    /// it.</summary>
    public int? GuidedChannels(int? otherwise) =>
        !Config.TryGetProperty("cfg_channel", out var value) ? otherwise
        : value.ValueKind == JsonValueKind.Number ? value.GetInt32()
        : null;

    /// <summary>The same as a number, where it is known how many latent channels there are.</summary>
    public int GuidedChannels(int otherwise, int latentChannels) => GuidedChannels(otherwise) ?? latentChannels;

    /// <summary>Copies the tensors under a prefix into a module's parameters and buffers; all must be there on both sides.</summary>
    /// <param name="module">The module; it goes with the file.</param>
    /// <param name="prefix">What stands before the module's own names.</param>
    /// <param name="ignore">Names in the file that are not the module's.</param>
    public T Load<T>(T module, string prefix = "weights.", params string[] ignore)
        where T : nn.Module
    {
        _modules.Add(module);
        using var noGradients = no_grad();
        var names = _tensors
            .Keys.Where(name => name.StartsWith(prefix, StringComparison.Ordinal))
            .Select(name => name[prefix.Length..])
            .Except(ignore, StringComparer.Ordinal)
            .ToHashSet(StringComparer.Ordinal);
        foreach (var (name, value) in module.state_dict())
        {
            if (!names.Remove(name))
            {
                throw new InvalidDataException($"{Name} has no weights for '{name}'.");
            }

            if (!value.shape.SequenceEqual(this[prefix + name].shape))
            {
                throw new InvalidDataException(
                    $"{Name}: '{name}' is [{string.Join(", ", this[prefix + name].shape)}], the model has [{string.Join(", ", value.shape)}]."
                );
            }

            value.copy_(this[prefix + name]);
        }
        return names.Count == 0 ? module : throw new InvalidDataException($"{Name} has weights that the model has not: {string.Join(", ", names)}.");
    }

    /// <summary>Compares a result with the recorded tensor of that name.</summary>
    public Comparison Compare(string name, Tensor actual, double limit = CallLimit)
    {
        using var scope = NewDisposeScope();
        var expected = this[name];
        if (!actual.shape.SequenceEqual(expected.shape))
        {
            return new Comparison(
                $"{name} [{string.Join(", ", actual.shape)}] for [{string.Join(", ", expected.shape)}]",
                double.PositiveInfinity,
                limit
            );
        }

        if (expected.numel() == 0)
        {
            return new Comparison(name, 0, limit);
        }

        var (a, e) = (actual.detach().to(ScalarType.Float64), expected.to(ScalarType.Float64));
        var difference = (a - e).abs().max().item<double>();
        var magnitude = e.abs().max().item<double>();
        var error = difference == 0 ? 0 : difference / magnitude;
        return new Comparison(name, double.IsNaN(error) ? double.PositiveInfinity : error, limit);
    }

    public void Dispose()
    {
        foreach (var owned in _modules.Concat(_tensors.Values))
        {
            owned.Dispose();
        }
    }
}
