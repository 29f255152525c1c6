using System.Collections;
using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;

namespace OpenSora.Preparation.Manifests;

/// <summary>An ordered set of named values of a row of a manifest, such as scores. It is immutable and compared by its contents.</summary>
[CollectionBuilder(typeof(ManifestColumns), nameof(Create))]
[SuppressMessage("Naming", "CA1710:Identifiers should have correct suffix", Justification = "The name says what it contains.")]
public sealed class ManifestColumns : IReadOnlyList<KeyValuePair<string, ManifestValue>>, IEquatable<ManifestColumns>
{
    private readonly ManifestValue[] _values;

    // The names are not verified: a reader verifies those of a file once, and all its rows share them.
    internal ManifestColumns(string[] names, ManifestValue[] values) => (Names, _values) = (names, values);

    /// <summary>Gets a set without columns.</summary>
    public static ManifestColumns Empty { get; } = new([], []);

    /// <inheritdoc/>
    public int Count => Names.Length;

    internal string[] Names { get; }

    internal ReadOnlySpan<ManifestValue> Values => _values;

    /// <inheritdoc/>
    public KeyValuePair<string, ManifestValue> this[int index] => new(Names[index], _values[index]);

    /// <summary>Gets the value of a column; an empty value if there is no such column.</summary>
    /// <param name="name">The name of the column. Case is ignored.</param>
    public ManifestValue this[string name] => IndexOf(name) is >= 0 and var index ? _values[index] : default;

    /// <summary>Creates a set of columns.</summary>
    /// <param name="columns">The names and values, in the order of the columns.</param>
    /// <exception cref="ArgumentException">A name is empty, begins or ends with a space, is used twice, or is that of a property of
    /// <see cref="ManifestRow"/>.</exception>
    public static ManifestColumns Create(ReadOnlySpan<KeyValuePair<string, ManifestValue>> columns)
    {
        var (names, values) = (new string[columns.Length], new ManifestValue[columns.Length]);
        for (var i = 0; i < columns.Length; i++)
        {
            (names[i], values[i]) = (columns[i].Key, columns[i].Value);
        }

        return Problem(names) is { } problem ? throw new ArgumentException(problem, nameof(columns)) : new ManifestColumns(names, values);
    }

    /// <summary>Creates a set in which a column has another value. A new column is appended.</summary>
    /// <param name="name">The name of the column. Case is ignored.</param>
    /// <param name="value">The value.</param>
    /// <exception cref="ArgumentException">The name is not valid for a column.</exception>
    public ManifestColumns With(string name, ManifestValue value)
    {
        if (IndexOf(name) is >= 0 and var index)
        {
            var values = (ManifestValue[])_values.Clone();
            values[index] = value;
            return new ManifestColumns(Names, values);
        }

        return Create([.. this, new(name, value)]);
    }

    /// <inheritdoc/>
    public bool Equals(ManifestColumns? other) =>
        other is not null && Names.AsSpan().SequenceEqual(other.Names) && _values.AsSpan().SequenceEqual(other._values);

    /// <inheritdoc/>
    public override bool Equals(object? obj) => Equals(obj as ManifestColumns);

    /// <inheritdoc/>
    public override int GetHashCode()
    {
        var hash = default(HashCode);
        foreach (var (name, value) in this)
        {
            hash.Add(name, StringComparer.Ordinal);
            hash.Add(value);
        }

        return hash.ToHashCode();
    }

    /// <summary>Returns the columns as <c>name=value</c>.</summary>
    public override string ToString() => string.Join(", ", this.Select(column => $"{column.Key}={column.Value}"));

    /// <inheritdoc/>
    public IEnumerator<KeyValuePair<string, ManifestValue>> GetEnumerator()
    {
        for (var i = 0; i < Names.Length; i++)
        {
            yield return this[i];
        }
    }

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();

    /// <summary>Describes what is wrong with names of columns; null if they are valid.</summary>
    internal static string? Problem(ReadOnlySpan<string> names)
    {
        var used = new HashSet<string>(StandardColumns.Names, StringComparer.OrdinalIgnoreCase);
        foreach (var name in names)
        {
            if (string.IsNullOrWhiteSpace(name) || name.Trim([' ', '\t', '\uFEFF']).Length != name.Length)
            {
                return $"The name '{name}' of a column is empty, or begins or ends with a space.";
            }

            if (!used.Add(name))
            {
                return StandardColumns.Names.Contains(name, StringComparer.OrdinalIgnoreCase)
                    ? $"The column '{name}' is a property of {nameof(ManifestRow)}. Set the property, or choose another name."
                    : $"Several columns have the name '{name}'. Rename or remove all but one.";
            }
        }

        return null;
    }

    private int IndexOf(string name) => Array.FindIndex(Names, each => each.Equals(name, StringComparison.OrdinalIgnoreCase));
}
