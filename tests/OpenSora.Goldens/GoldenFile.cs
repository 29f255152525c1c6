using System.Buffers.Binary;
using System.Text.Json;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Goldens;

/// <summary>How one tensor compares with the original's.</summary>
/// <param name="Name">The tensor.</param>
/// <param name="Error">Largest absolute difference, relative to the largest magnitude expected; infinite where shapes differ or a value is not finite.</param>
/// <param name="Limit">The most that is allowed.</param>
public sealed record Comparison(string Name, double Error, double Limit)
{
    public bool Ok => Error <= Limit;
}

/// <summary>Recorded inputs, weights and outputs of an original model: a safetensors file, or a plain JSON file without tensors.</summary>
public sealed class GoldenFile : IDisposable
{
    /// <summary>What one model call in float32 may differ by; whole sampling runs: <see cref="RunLimit"/>.</summary>
    public const double CallLimit = 2e-5, RunLimit = 1e-4;

    private static readonly JsonSerializerOptions SnakeCase = new() { PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower };
    private readonly Dictionary<string, Tensor> _tensors = new(StringComparer.Ordinal);

    public GoldenFile(string path)
    {
        Name = Path.GetFileNameWithoutExtension(path);
        var bytes = File.ReadAllBytes(path);
        if (string.Equals(Path.GetExtension(path), ".json", StringComparison.Ordinal))
        {
            Json = JsonDocument.Parse(bytes).RootElement;
            return;
        }

        var header = (int)BinaryPrimitives.ReadInt64LittleEndian(bytes);
        Json = JsonDocument.Parse(bytes.AsMemory(8, header)).RootElement;
        foreach (var entry in Json.EnumerateObject().Where(entry => !entry.NameEquals("__metadata__")))
        {
            var offsets = entry.Value.GetProperty("data_offsets");
            var (from, to) = (8 + header + offsets[0].GetInt32(), 8 + header + offsets[1].GetInt32());
            var shape = entry.Value.GetProperty("shape").EnumerateArray().Select(size => size.GetInt64()).ToArray();
            var type = entry.Value.GetProperty("dtype").GetString() switch
            {
                "F32" => ScalarType.Float32,
                "F64" => ScalarType.Float64,
                "I64" => ScalarType.Int64,
                "BOOL" => ScalarType.Bool,
                var other => throw new InvalidDataException($"{path}: tensor '{entry.Name}' has type {other}, which recorded cases do not use."),
            };
            var tensor = empty(shape, dtype: type).DetachFromDisposeScope();
            bytes.AsSpan(from, to - from).CopyTo(tensor.bytes);
            _tensors.Add(entry.Name, tensor);
        }
    }

    /// <summary>The file's name without its extension; its first words are the kind.</summary>
    public string Name { get; }

    /// <summary>The safetensors header, or the whole JSON file.</summary>
    public JsonElement Json { get; }

    /// <summary>The configuration that the original was made with.</summary>
    public JsonElement Config => JsonDocument.Parse(Json.GetProperty("__metadata__").GetProperty("config").GetString()!).RootElement;

    public IReadOnlyCollection<string> Names => _tensors.Keys;

    /// <summary>A tensor by its full name such as <c>input.x</c>, owned by the file.</summary>
    public Tensor this[string name] => _tensors.TryGetValue(name, out var tensor) ? tensor
        : throw new InvalidDataException($"{Name} has no tensor '{name}'.");

    public bool Has(string name) => _tensors.ContainsKey(name);

    /// <summary>A tensor that not every case has.</summary>
    public Tensor? Optional(string name) => _tensors.GetValueOrDefault(name);

    /// <summary>The configuration, or a part of it, as a record whose property names are spelt in snake case.</summary>
    public T ConfigAs<T>(string? part = null) => (part is null ? Config : Config.GetProperty(part)).Deserialize<T>(SnakeCase)!;

    /// <summary>Compares a result with the recorded tensor of that name.</summary>
    public Comparison Compare(string name, Tensor actual, double limit = CallLimit)
    {
        using var scope = NewDisposeScope();
        var expected = this[name];
        if (!actual.shape.SequenceEqual(expected.shape))
            return new Comparison($"{name} [{string.Join(", ", actual.shape)}] for [{string.Join(", ", expected.shape)}]", double.PositiveInfinity, limit);
        if (expected.numel() == 0)
            return new Comparison(name, 0, limit);
        var (a, e) = (actual.detach().to(ScalarType.Float64), expected.to(ScalarType.Float64));
        var difference = (a - e).abs().max().item<double>();
        var magnitude = e.abs().max().item<double>();
        var error = difference == 0 ? 0 : difference / magnitude;
        return new Comparison(name, double.IsNaN(error) ? double.PositiveInfinity : error, limit);
    }

    public void Dispose()
    {
        foreach (var tensor in _tensors.Values)
            tensor.Dispose();
    }
}
