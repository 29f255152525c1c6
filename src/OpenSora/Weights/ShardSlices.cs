using System.Text.Json;
using static TorchSharp.torch;

namespace OpenSora.Weights;

/// <summary>The tensors of an index of which several shards have parts:
/// <c>"slices": {"name": {"shape": [4, 2], "parts": ["name@0", "name@6"]}, ...}</c>. A part is a range of the values of the whole tensor in their
/// order.</summary>
internal sealed class ShardSlices
{
    private readonly Dictionary<string, (long[] Shape, string[] Names)> _named = new(StringComparer.Ordinal);
    private readonly Dictionary<string, TensorEntry[]> _parts = new(StringComparer.Ordinal);

    /// <summary>Gets an empty instance.</summary>
    public static ShardSlices None { get; } = new();

    /// <summary>Reads the slices of an index.</summary>
    /// <exception cref="InvalidOperationException">A value has the wrong type.</exception>
    /// <exception cref="FormatException">A size is not a whole number.</exception>
    public static ShardSlices Parse(JsonElement index)
    {
        if (!index.TryGetProperty("slices", out var slices))
        {
            return None;
        }

        var result = new ShardSlices();
        foreach (var slice in slices.EnumerateObject())
        {
            if (
                !slice.Value.TryGetProperty("shape", out var shape)
                || !slice.Value.TryGetProperty("parts", out var parts)
                || parts.GetArrayLength() == 0
            )
            {
                throw new FormatException($"the slice '{InvalidWeightsException.Shown(slice.Name)}' has no shape or no parts.");
            }

            result._named[slice.Name] = (
                [.. shape.EnumerateArray().Select(size => size.GetInt64())],
                [.. parts.EnumerateArray().Select(part => part.GetString() ?? "")]
            );
        }

        return result;
    }

    /// <summary>Replaces the parts in the tensors of an index by the whole tensors.</summary>
    /// <exception cref="InvalidWeightsException">A part is missing, or the parts do not fit the whole.</exception>
    public void Join(string path, OrderedDictionary<string, TensorEntry> tensors)
    {
        foreach (var (name, (shape, names)) in _named)
        {
            var parts = new TensorEntry[names.Length];
            for (var i = 0; i < names.Length; i++)
            {
                if (!tensors.Remove(names[i], out var part))
                {
                    throw new InvalidWeightsException(
                        path,
                        $"no shard has the tensor '{InvalidWeightsException.Shown(names[i])}', "
                            + $"which is a part of '{InvalidWeightsException.Shown(name)}'."
                    );
                }

                parts[i] = part;
            }

            var whole = new TensorEntry(name, parts[0].Type, shape, 0, parts.Sum(part => part.Length)) { Shard = parts[0].Shard };
            if (
                whole.Elements != parts.Sum(part => part.Elements)
                || !Array.TrueForAll(parts, part => string.Equals(part.Type, whole.Type, StringComparison.Ordinal))
                || !tensors.TryAdd(name, whole)
            )
            {
                throw new InvalidWeightsException(
                    path,
                    $"the parts of '{InvalidWeightsException.Shown(name)}' have {parts.Sum(part => part.Elements)} values, "
                        + $"but the tensor has the shape [{string.Join(", ", shape)}]."
                );
            }

            _parts.Add(name, parts);
        }
    }

    /// <summary>Gets the parts of a tensor; null if it is whole in one shard.</summary>
    public TensorEntry[]? Of(string name) => _parts.GetValueOrDefault(name);

    /// <summary>Reads a tensor, owned by the caller, from its parts.</summary>
    public static Tensor Read(TensorEntry whole, TensorEntry[] parts, Func<TensorEntry, Tensor> read)
    {
        var values = Array.ConvertAll(parts, part => read(part));
        try
        {
            using var scope = NewDisposeScope();
            return cat(Array.ConvertAll(values, value => value.flatten())).reshape([.. whole.Shape]).MoveToOuterDisposeScope();
        }
        finally
        {
            Array.ForEach(values, value => value.Dispose());
        }
    }
}
