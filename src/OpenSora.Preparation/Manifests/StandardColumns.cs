namespace OpenSora.Preparation.Manifests;

/// <summary>The columns of a manifest that are properties of <see cref="ManifestRow"/>.</summary>
internal static class StandardColumns
{
    internal const int Path = 0,
        Text = 1,
        NumFrames = 2,
        Height = 3,
        Width = 4,
        AspectRatio = 5,
        Fps = 6,
        Resolution = 7;

    /// <summary>Gets the names that files have, in their order.</summary>
    internal static readonly string[] Names = ["path", "text", "num_frames", "height", "width", "aspect_ratio", "fps", "resolution"];

    internal static int IndexOf(string name) => Array.FindIndex(Names, each => each.Equals(name, StringComparison.OrdinalIgnoreCase));

    internal static ManifestValue Get(ManifestRow row, int column) =>
        column switch
        {
            Path => ManifestValue.Verbatim(row.Path),
            Text => ManifestValue.Verbatim(row.Text),
            NumFrames => ManifestValue.FromNumber(row.NumFrames),
            Height => ManifestValue.FromNumber(row.Height),
            Width => ManifestValue.FromNumber(row.Width),
            AspectRatio => ManifestValue.FromNumber(row.AspectRatio),
            Fps => ManifestValue.FromNumber(row.Fps),
            Resolution => ManifestValue.FromNumber(row.Resolution),
            _ => throw new ArgumentOutOfRangeException(nameof(column)),
        };
}

/// <summary>Creates rows from the cells of a file that has certain columns in a certain order.</summary>
internal sealed class RowLayout
{
    private readonly int[] _standard = new int[StandardColumns.Names.Length];
    private readonly int[] _others;
    private readonly string[] _names;

    /// <summary>Initializes a new instance.</summary>
    /// <param name="file">The path of the file, for messages.</param>
    /// <param name="columns">The names of the columns.</param>
    /// <exception cref="PreparationException">There is no column of paths, or several columns have the same name.</exception>
    internal RowLayout(string file, string[] columns)
    {
        Array.Fill(_standard, -1);
        List<int> others = [];
        for (var i = 0; i < columns.Length; i++)
        {
            if (StandardColumns.IndexOf(columns[i]) is >= 0 and var standard)
            {
                _standard[standard] =
                    _standard[standard] < 0 ? i : throw Malformed($"'{file}' has several columns with the name '{StandardColumns.Names[standard]}'.");
            }
            else
            {
                others.Add(i);
            }
        }

        if (_standard[StandardColumns.Path] < 0)
        {
            throw Malformed($"'{file}' needs the column path; it has {string.Join(", ", columns)}.");
        }

        if (
            _standard[StandardColumns.Text] < 0
            && others.FindIndex(i => columns[i].Equals("caption", StringComparison.OrdinalIgnoreCase)) is >= 0 and var caption
        )
        {
            _standard[StandardColumns.Text] = others[caption];
            others.RemoveAt(caption);
        }

        _others = [.. others];
        _names = [.. others.Select(i => columns[i].Length > 0 ? columns[i] : $"Unnamed: {i}")]; // as pandas names them
        if (ManifestColumns.Problem(_names) is { } problem)
        {
            throw Malformed($"'{file}': {problem}");
        }
    }

    /// <summary>Creates a row.</summary>
    /// <param name="cells">The values of all columns.</param>
    /// <param name="where">Describes the position in the file for messages, such as <c>Line 3 of 'a.csv'</c>.</param>
    /// <exception cref="PreparationException">A value is not valid for its column.</exception>
    internal ManifestRow Create(ReadOnlySpan<ManifestValue> cells, Func<string> where)
    {
        var path = Cell(cells, StandardColumns.Path).ToString();
        if (string.IsNullOrWhiteSpace(path))
        {
            throw Malformed($"{where()} has no path. Remove it, or correct its path.");
        }

        var columns = ManifestColumns.Empty;
        if (_others.Length > 0)
        {
            var values = new ManifestValue[_others.Length];
            for (var i = 0; i < values.Length; i++)
            {
                var value = cells[_others[i]];
                values[i] = value.Text ?? value; // text in the form of a number is a number
            }

            columns = new ManifestColumns(_names, values);
        }

        return new ManifestRow
        {
            Path = path,
            Text = Cell(cells, StandardColumns.Text).ToString(),
            NumFrames = (int?)Number(cells, StandardColumns.NumFrames, int.MaxValue, where),
            Height = (int?)Number(cells, StandardColumns.Height, int.MaxValue, where),
            Width = (int?)Number(cells, StandardColumns.Width, int.MaxValue, where),
            AspectRatio = Number(cells, StandardColumns.AspectRatio, null, where),
            Fps = Number(cells, StandardColumns.Fps, null, where),
            Resolution = (long?)Number(cells, StandardColumns.Resolution, 1L << 53, where),
            Columns = columns,
        };
    }

    internal static PreparationException Malformed(string message, Exception? inner = null) => new("malformed manifest", message, inner);

    private ManifestValue Cell(ReadOnlySpan<ManifestValue> cells, int column) => _standard[column] is >= 0 and var index ? cells[index] : default;

    // A number that is not negative; null for an empty cell or NaN, which Open-Sora's tools write for unknown values. A maximum means whole numbers.
    private double? Number(ReadOnlySpan<ManifestValue> cells, int column, double? maximum, Func<string> where)
    {
        var cell = Cell(cells, column);
        if (cell.IsEmpty)
        {
            return null;
        }

        var number = cell.Number ?? ManifestValue.ParseNumber(cell.Text);
        return number switch
        {
            { } value when double.IsNaN(value) => null,
            { } value when value >= 0 && double.IsFinite(value) && (maximum is null || (value <= maximum && value == Math.Floor(value))) => value,
            _ => throw Malformed(
                $"{where()} has the value '{cell}' in the column {StandardColumns.Names[column]}; expected "
                    + $"{(maximum is null ? "a number" : "a whole number")} that is not negative, or nothing."
            ),
        };
    }
}
