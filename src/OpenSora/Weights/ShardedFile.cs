using System.Text.Json;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Weights;

/// <summary>Weights in several files, with an index that maps tensors to files: <c>{"metadata": {...}, "weight_map": {"name": "file",
/// ...}}</c>.</summary>
internal sealed class ShardedFile : WeightsFile
{
    private const int LongestIndex = 100_000_000;

    private readonly Dictionary<string, WeightsFile> _shards = new(StringComparer.Ordinal);

    public ShardedFile(string path, string? section)
        : base(path)
    {
        var index = ReadIndex(path, out var metadata);
        try
        {
            foreach (var shard in index.Values.Distinct(StringComparer.Ordinal))
            {
                _shards.Add(shard, OpenShard(shard, section));
            }

            var tensors = new OrderedDictionary<string, TensorEntry>(StringComparer.Ordinal);
            foreach (var (shard, file) in _shards)
            {
                foreach (var (name, entry) in file.Tensors)
                {
                    if (
                        string.Equals(index.GetValueOrDefault(name, shard), shard, StringComparison.Ordinal)
                        && !tensors.TryAdd(name, entry with { Shard = shard })
                    )
                    {
                        throw new InvalidWeightsException(
                            Path,
                            $"tensor '{InvalidWeightsException.Shown(name)}' is in two shards, '{tensors[name].Shard}' and '{shard}', "
                                + "and the index does not specify which one to use."
                        );
                    }
                }
            }

            foreach (var (name, shard) in index)
            {
                if (!tensors.ContainsKey(name))
                {
                    throw new InvalidWeightsException(
                        Path,
                        $"the index lists tensor '{InvalidWeightsException.Shown(name)}' in '{shard}', which does not contain it; "
                            + "the shards belong to a different index."
                    );
                }
            }

            Tensors = tensors;
            Metadata = metadata;
        }
        catch
        {
            Close();
            throw;
        }
    }

    /// <inheritdoc/>
    public override string Format => $"{_shards.Count} shards, {_shards.Values.First().Format}";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, string> Metadata { get; }

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, TensorEntry> Tensors { get; }

    /// <inheritdoc/>
    internal override IReadOnlyList<WeightsSection> AllSections =>
        [
            .. _shards
                .Values.SelectMany(shard => shard.AllSections)
                .GroupBy(section => section.Name, StringComparer.Ordinal)
                .Select(group => new WeightsSection(group.Key, group.Sum(section => section.Tensors), group.Any(section => section.Chosen))),
        ];

    private protected override Tensor Read(TensorEntry entry, TensorMaps? maps) => _shards[entry.Shard!].Read(entry.Name, maps);

    private protected override void Close()
    {
        foreach (var shard in _shards.Values)
        {
            shard.Dispose();
        }
    }

    /// <summary>Opens a shard in the folder of the index. Names that refer to other folders are rejected.</summary>
    private WeightsFile OpenShard(string name, string? section)
    {
        var folder = System.IO.Path.GetDirectoryName(Path)!;
        if (
            name.Length == 0
            || !string.Equals(System.IO.Path.GetFileName(name), name, StringComparison.Ordinal)
            || name.EndsWith(".json", StringComparison.OrdinalIgnoreCase)
            || name is "." or ".."
        )
        {
            throw new InvalidWeightsException(
                Path,
                $"the index names the shard '{InvalidWeightsException.Shown(name)}'; expected the name of a weights file in the same folder."
            );
        }

        var path = System.IO.Path.Combine(folder, name);
        if (!File.Exists(path))
        {
            throw new InvalidWeightsException(
                Path,
                $"the shard '{InvalidWeightsException.Shown(name)}' that the index names does not exist; download it into the same folder."
            );
        }

        return Open(path, section);
    }

    private static Dictionary<string, string> ReadIndex(string path, out IReadOnlyDictionary<string, string> metadata)
    {
        var file = new FileInfo(path);
        if (!file.Exists)
        {
            throw new FileNotFoundException($"The weights file '{path}' does not exist.", path);
        }

        if (file.Length > LongestIndex)
        {
            throw new InvalidWeightsException(path, $"it is {file.Length} bytes long, which is too long for an index of shards.");
        }

        try
        {
            using var document = JsonDocument.Parse(File.ReadAllBytes(path), new JsonDocumentOptions { MaxDepth = 8 });
            if (
                document.RootElement.ValueKind != JsonValueKind.Object
                || !document.RootElement.TryGetProperty("weight_map", out var map)
                || map.ValueKind != JsonValueKind.Object
            )
            {
                throw new InvalidWeightsException(
                    path,
                    "it is JSON without a weight_map; expected a weights file or the index of a sharded file (*.index.json)."
                );
            }

            var index = new Dictionary<string, string>(StringComparer.Ordinal);
            foreach (var property in map.EnumerateObject())
            {
                if (property.Value.ValueKind != JsonValueKind.String || !index.TryAdd(property.Name, property.Value.GetString()!))
                {
                    throw new InvalidWeightsException(
                        path,
                        $"the index is not valid: '{InvalidWeightsException.Shown(property.Name)}' occurs twice or does not name a file."
                    );
                }
            }

            if (index.Count == 0)
            {
                throw new InvalidWeightsException(path, "the index names no tensors.");
            }

            metadata =
                document.RootElement.TryGetProperty("metadata", out var pairs) && pairs.ValueKind == JsonValueKind.Object
                    ? pairs
                        .EnumerateObject()
                        .DistinctBy(pair => pair.Name, StringComparer.Ordinal)
                        .ToDictionary(pair => pair.Name, pair => pair.Value.ToString(), StringComparer.Ordinal)
                    : new Dictionary<string, string>(StringComparer.Ordinal);
            return index;
        }
        catch (Exception exception) when (exception is JsonException or InvalidOperationException) // the latter if names are not valid text
        {
            throw new InvalidWeightsException(
                path,
                $"the index is not valid JSON: {InvalidWeightsException.Shown(exception.Message, 1500)}",
                exception
            );
        }
    }
}
