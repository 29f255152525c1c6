namespace OpenSora.Preparation.Scores;

/// <summary>The scores that need no model.</summary>
public static class StandardScores
{
    /// <summary>Gets the name of the column with the perceptual hash, which <see cref="NearDuplicates"/> compares.</summary>
    public const string HashColumn = "hash";

    /// <summary>Creates all scores that need no model.</summary>
    public static IReadOnlyList<IClipScore> Create() =>
        [new SizeScore(), new EmptyScore(), new SharpnessScore(), new CutScore(), new MotionScore(), new TextAreaScore(), new HashScore()];

    /// <summary>Creates the scores that compute some columns, so that nothing else is computed.</summary>
    /// <param name="columns">The names of the columns.</param>
    /// <exception cref="ArgumentException">A column is unknown.</exception>
    public static IReadOnlyList<IClipScore> Create(IEnumerable<string> columns)
    {
        ArgumentNullException.ThrowIfNull(columns);
        var all = Create();
        var wanted = columns.ToHashSet(StringComparer.Ordinal);
        var known = all.SelectMany(score => score.Columns).Select(column => column.Name).ToArray();
        return wanted.Except(known, StringComparer.Ordinal).FirstOrDefault() is { } unknown
            ? throw new ArgumentException($"There is no score '{unknown}'. The scores are {string.Join(", ", known)}.", nameof(columns))
            : [.. all.Where(score => score.Columns.Any(column => wanted.Contains(column.Name)))];
    }
}
