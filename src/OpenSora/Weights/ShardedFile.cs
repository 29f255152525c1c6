using System.Text.Json;
using OpenSora.Runtime;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Weights;

/// <summary>Weights in several files: a complete set of shards, or an index that maps tensors to files:
/// <c>{"metadata": {...}, "weight_map": {"name": "file", ...}}</c>.</summary>
/// <remarks>An index that this library writes for a training checkpoint can also have <c>"slices"</c>: tensors of which several shards have parts
/// (see <see cref="ShardSlices"/>).</remarks>
internal sealed class ShardedFile : WeightsFile
{
    private const int LongestIndex = 100_000_000;

    private readonly Dictionary<string, WeightsFile> _shards = new(StringComparer.Ordinal);
    private readonly IReadOnlyList<string> _others = [];
    private readonly ShardSlices _slices = ShardSlices.None;

    /// <summary>Opens the shards that an index names.</summary>
    public ShardedFile(string path, string? section)
        : base(path)
    {
        var index = ReadIndex(path, out var metadata, out var slices);
        (Metadata, _slices) = (metadata, slices);
        Tensors = OpenAll([.. index.Values.Distinct(StringComparer.Ordinal)], index, section);
    }

    /// <summary>Opens a set of shards without an index.</summary>
    /// <param name="set">The set, which must be complete.</param>
    /// <param name="section">The section to read from each file, or null for the default one.</param>
    /// <param name="others">The paths of weights files in the same folder that do not belong to the set.</param>
    public ShardedFile(ShardSet set, string? section, IReadOnlyList<string>? others = null)
        : base(set.Path)
    {
        _others = [.. (others ?? []).Select(path => $"{System.IO.Path.GetFileName(path)}, a file beside the shards")];
        if (set.Missing is { Count: > 0 } missing)
        {
            throw new InvalidWeightsException(
                Path,
                $"it is one of {set.Count} files, and {Names(missing)} {(missing.Count == 1 ? "is" : "are")} missing. Download the missing "
                    + $"{(missing.Count == 1 ? "file" : "files")} into the folder '{set.Folder}'."
            );
        }

        Tensors = OpenAll([.. set.Files.Values], [], section);
        Metadata = _shards
            .Values.SelectMany(shard => shard.Metadata)
            .DistinctBy(pair => pair.Key, StringComparer.Ordinal)
            .ToDictionary(StringComparer.Ordinal);
    }

    private OrderedDictionary<string, TensorEntry> OpenAll(IReadOnlyList<string> shards, Dictionary<string, string> index, string? section)
    {
        try
        {
            foreach (var shard in shards)
            {
                CheckName(shard);
            }

            var folder = System.IO.Path.GetDirectoryName(Path)!;
            if (shards.Where(shard => !File.Exists(System.IO.Path.Combine(folder, shard))).ToList() is { Count: > 0 } missing)
            {
                throw new InvalidWeightsException(
                    Path,
                    $"the index names {Names(missing)}, which {(missing.Count == 1 ? "does" : "do")} not exist; "
                        + $"download {(missing.Count == 1 ? "it" : "them")} into the same folder."
                );
            }

            foreach (var shard in shards)
            {
                _shards.Add(shard, OpenFile(System.IO.Path.Combine(folder, shard), section));
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
                                + (index.Count == 0 ? "and there is no index." : "and the index does not specify which one to use.")
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

            _slices.Join(Path, tensors);
            return tensors;
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

    /// <inheritdoc/>
    public override IReadOnlyList<string> Skipped =>
        [.. _shards.Values.SelectMany(shard => shard.Skipped).Distinct(StringComparer.Ordinal), .. _others];

    private protected override Tensor Read(TensorEntry entry, TensorMaps? maps) =>
        _slices.Of(entry.Name) is { } parts
            ? ShardSlices.Read(entry, parts, part => _shards[part.Shard!].Read(part.Name, maps))
            : _shards[entry.Shard!].Read(entry.Name, maps);

    internal override MappedFile FileOf(TensorEntry entry) => _shards[entry.Shard!].FileOf(entry);

    internal override void ReadAhead(TensorEntry entry)
    {
        foreach (var part in _slices.Of(entry.Name) ?? [entry])
        {
            FileOf(part).ReadAhead(part);
        }
    }

    internal override void Drop(TensorEntry entry)
    {
        foreach (var part in _slices.Of(entry.Name) ?? [entry])
        {
            FileOf(part).Drop(part);
        }
    }

    private protected override void Close()
    {
        foreach (var shard in _shards.Values)
        {
            shard.Dispose();
        }
    }

    /// <summary>Rejects names that refer to other folders.</summary>
    private void CheckName(string name)
    {
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
    }

    private static string Names(IReadOnlyList<string> names)
    {
        const int shown = 8;
        var more = names.Count > shown ? $" and {names.Count - shown} more" : "";
        return string.Join(", ", names.Take(shown).Select(name => $"'{InvalidWeightsException.Shown(name)}'")) + more;
    }

    private static Dictionary<string, string> ReadIndex(string path, out IReadOnlyDictionary<string, string> metadata, out ShardSlices slices)
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
            using var document = JsonDocument.Parse(JsonBytes.Read(path), new JsonDocumentOptions { MaxDepth = 8 });
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
            slices = ShardSlices.Parse(document.RootElement);
            return index;
        }
        // The last two also if names are not valid text or sizes are not numbers.
        catch (Exception exception) when (exception is JsonException or InvalidOperationException or FormatException)
        {
            throw new InvalidWeightsException(
                path,
                $"the index is not valid JSON: {InvalidWeightsException.Shown(exception.Message, 1500)}",
                exception
            );
        }
    }
}
