namespace OpenSora.Preparation.Manifests;

/// <summary>The columns of all rows of a manifest that is being written, apart from those of <see cref="StandardColumns"/>.</summary>
internal sealed class ManifestSchema
{
    private readonly List<string> _names = [];
    private readonly List<bool> _isText = [];
    private string[]? _known;
    private int[] _positions = [];

    /// <summary>Gets the names of the columns in the order in which they appeared.</summary>
    internal IReadOnlyList<string> Names => _names;

    /// <summary>Gets a value that indicates whether a column contains text.</summary>
    internal bool IsText(int column) => _isText[column];

    /// <summary>Adds the columns of rows.</summary>
    /// <returns>Whether there are new columns, and whether a column contained only numbers before and now contains text.</returns>
    internal (bool HasNewColumns, bool HasNewTypes) Widen(IReadOnlyList<ManifestRow> rows)
    {
        var (count, hasNewTypes) = (_names.Count, false);
        foreach (var row in rows)
        {
            var positions = Positions(row.Columns.Names);
            var values = row.Columns.Values;
            for (var i = 0; i < values.Length; i++)
            {
                if (values[i].Text is not null && !_isText[positions[i]])
                {
                    _isText[positions[i]] = true;
                    hasNewTypes = true;
                }
            }
        }

        return (_names.Count > count, hasNewTypes);
    }

    /// <summary>Copies the values of a row to the positions of their columns.</summary>
    internal void Arrange(ManifestRow row, Span<ManifestValue> cells)
    {
        cells.Clear();
        var positions = Positions(row.Columns.Names);
        var values = row.Columns.Values;
        for (var i = 0; i < values.Length; i++)
        {
            cells[positions[i]] = values[i];
        }
    }

    // Where the columns of a row are in the schema. The rows of a file share their names.
    private int[] Positions(string[] names)
    {
        if (!ReferenceEquals(names, _known))
        {
            _positions = [.. names.Select(PositionOf)];
            _known = names;
        }

        return _positions;
    }

    private int PositionOf(string name)
    {
        var position = _names.FindIndex(each => each.Equals(name, StringComparison.OrdinalIgnoreCase));
        if (position < 0)
        {
            position = _names.Count;
            _names.Add(name);
            _isText.Add(false);
        }

        return position;
    }
}
