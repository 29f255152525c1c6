namespace OpenSora.Preparation.Manifests;

/// <summary>A clip or image in a manifest.</summary>
public sealed record ManifestRow
{
    /// <summary>Gets the path of the file, usually relative to the folder of the manifest.</summary>
    public required string Path { get; init; }

    /// <summary>Gets the caption; an empty string if there is none.</summary>
    public string Text { get; init; } = "";

    /// <summary>Gets the number of frames, 1 for an image; null if it is not known.</summary>
    public int? NumFrames { get; init; }

    /// <summary>Gets the height in pixels; null if it is not known.</summary>
    public int? Height { get; init; }

    /// <summary>Gets the width in pixels; null if it is not known.</summary>
    public int? Width { get; init; }

    /// <summary>Gets the height divided by the width, as Open-Sora defines it; null if it is not known.</summary>
    public double? AspectRatio { get; init; }

    /// <summary>Gets the frame rate in frames per second; null if it is not known, as for images.</summary>
    public double? Fps { get; init; }

    /// <summary>Gets the height multiplied by the width; null if it is not known.</summary>
    public long? Resolution { get; init; }

    /// <summary>Gets the other columns, such as scores.</summary>
    public ManifestColumns Columns { get; init; } = ManifestColumns.Empty;

    /// <summary>Gets the value of a column by the name that it has in files, such as <c>num_frames</c> or <c>motion</c>; an empty value if there is
    /// no such column.</summary>
    /// <param name="name">The name of the column. Case is ignored.</param>
    public ManifestValue this[string name]
    {
        get
        {
            ArgumentNullException.ThrowIfNull(name);
            return StandardColumns.IndexOf(name) is >= 0 and var index ? StandardColumns.Get(this, index) : Columns[name];
        }
    }

    /// <summary>Creates a row in which a column of <see cref="Columns"/> has another value. A new column is appended.</summary>
    /// <param name="name">The name of the column.</param>
    /// <param name="value">The value.</param>
    /// <exception cref="ArgumentException">The name is not valid for a column, or is that of a property.</exception>
    public ManifestRow With(string name, ManifestValue value) => this with { Columns = Columns.With(name, value) };
}
