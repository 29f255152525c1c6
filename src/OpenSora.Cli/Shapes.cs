using System.Globalization;
using OpenSora.Weights;

namespace OpenSora.Cli;

/// <summary>The shapes of weights by name, without what stands before every name.</summary>
internal sealed class Shapes
{
    private readonly Dictionary<string, IReadOnlyList<long>> _shapes;

    private Shapes(Dictionary<string, IReadOnlyList<long>> shapes) => _shapes = shapes;

    /// <summary>The tensors beside the one of a given name, wherever that stands; null if there is none.</summary>
    /// <param name="file">The weights.</param>
    /// <param name="name">A name that an architecture has.</param>
    /// <param name="map">Gives the architecture's names; null: they are the file's.</param>
    public static Shapes? Beside(WeightsFile file, string name, Func<string, string?>? map = null)
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
        return new Shapes(
            names
                .Where(pair => pair.Name!.StartsWith(prefix, StringComparison.Ordinal))
                .DistinctBy(pair => pair.Name, StringComparer.Ordinal)
                .ToDictionary(pair => pair.Name![prefix.Length..], pair => pair.Shape, StringComparer.Ordinal)
        );
    }

    /// <summary>Whether there is a tensor of that name.</summary>
    public bool Has(string name) => _shapes.ContainsKey(name);

    /// <summary>A size of a tensor; 0 if there is no such tensor or dimension.</summary>
    public int this[string name, int dimension] =>
        _shapes.TryGetValue(name, out var shape) && dimension < shape.Count ? (int)Math.Min(shape[dimension], int.MaxValue) : 0;

    /// <summary>The same, or the usual size where the weights do not tell it.</summary>
    public int Or(int usual, string name, int dimension) => this[name, dimension] is > 0 and var size ? size : usual;

    /// <summary>How many dimensions a tensor has.</summary>
    public int Dimensions(string name) => _shapes.TryGetValue(name, out var shape) ? shape.Count : 0;

    /// <summary>How many numbers follow a name, as in <c>blocks.0</c>, <c>blocks.1</c>.</summary>
    public int Count(string list) =>
        _shapes
            .Keys.Where(name => name.StartsWith(list + ".", StringComparison.Ordinal))
            .Select(name => name[(list.Length + 1)..].Split('.')[0])
            .Where(part => int.TryParse(part, NumberStyles.None, CultureInfo.InvariantCulture, out _))
            .Distinct(StringComparer.Ordinal)
            .Count();
}
