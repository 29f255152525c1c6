using System.Globalization;
using OpenSora.Weights;

namespace OpenSora.Models;

/// <summary>The shapes of weights by name, without the common prefix of the names. Descriptors recognize checkpoints by them.</summary>
internal sealed class TensorShapes
{
    private readonly Dictionary<string, IReadOnlyList<long>> _shapes;

    private TensorShapes(Dictionary<string, IReadOnlyList<long>> shapes) => _shapes = shapes;

    /// <summary>Finds a tensor by the end of its name and returns the shapes of all tensors with the same prefix, or null if there is no such
    /// tensor.</summary>
    /// <param name="file">The weights file.</param>
    /// <param name="name">A tensor name of the architecture, without a prefix.</param>
    /// <param name="map">A function that maps names in the file to names of the architecture. If null, names are used unchanged.</param>
    public static TensorShapes? Beside(WeightsFile file, string name, Func<string, string?>? map = null)
    {
        var names = file
            .Tensors.Values.Select(entry => (Name: map is null ? entry.Name : map(entry.Name), entry.Shape))
            .Where(pair => pair.Name is not null)
            .ToList();
        var found = names
            .Select(pair => pair.Name!)
            .Where(full => full.EndsWith(name, StringComparison.Ordinal) && (full.Length == name.Length || full[^(name.Length + 1)] == '.'))
            .MinBy(full => full.Length);
        if (found is null)
        {
            return null;
        }

        var prefix = found[..^name.Length];
        return new TensorShapes(
            names
                .Where(pair => pair.Name!.StartsWith(prefix, StringComparison.Ordinal))
                .DistinctBy(pair => pair.Name, StringComparer.Ordinal)
                .ToDictionary(pair => pair.Name![prefix.Length..], pair => pair.Shape, StringComparer.Ordinal)
        );
    }

    /// <summary>Determines whether there is a tensor with this name.</summary>
    public bool Has(string name) => _shapes.ContainsKey(name);

    /// <summary>Gets the size of a dimension of a tensor, or 0 if there is no such tensor or dimension.</summary>
    public int this[string name, int dimension] =>
        _shapes.TryGetValue(name, out var shape) && dimension < shape.Count ? (int)Math.Min(shape[dimension], int.MaxValue) : 0;

    /// <summary>Gets the size of a dimension of a tensor, or a default if there is no such tensor or dimension.</summary>
    public int Or(int usual, string name, int dimension) => this[name, dimension] is > 0 and var size ? size : usual;

    /// <summary>Gets the number of dimensions of a tensor, or 0 if there is no such tensor.</summary>
    public int Dimensions(string name) => _shapes.TryGetValue(name, out var shape) ? shape.Count : 0;

    /// <summary>Counts the distinct indices that follow a name, as in <c>blocks.0</c>, <c>blocks.1</c>.</summary>
    public int Count(string list) =>
        _shapes
            .Keys.Where(name => name.StartsWith(list + ".", StringComparison.Ordinal))
            .Select(name => name[(list.Length + 1)..].Split('.')[0])
            .Where(part => int.TryParse(part, NumberStyles.None, CultureInfo.InvariantCulture, out _))
            .Distinct(StringComparer.Ordinal)
            .Count();
}
