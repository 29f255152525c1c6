using System.Globalization;

namespace OpenSora.Preparation.Manifests;

/// <summary>The statistics of the rows of a manifest, with bounded memory.</summary>
internal sealed class ManifestStatistics
{
    /// <summary>The number of different texts of a column that are counted.</summary>
    internal const int MaximumTexts = 20_000;
    private const int MaximumWords = 200_000;
    private const int LongestValue = 200;

    // Function words, which are the most frequent ones in all English captions.
    private static readonly HashSet<string> FunctionWords =
    [
        .. (
            "a about above after against all also an and another any are around as at away back be been before behind being below "
            + "between both but by can could down during each either for from had has have he her here him his how if in into is it "
            + "its just like more most near next no not of off on one onto or other out over same she since so some such than that "
            + "the their them then there these they this those through to too towards two under until up very was we were what when "
            + "where which while who whose will with within without you your"
        ).Split(' '),
    ];
    private static readonly HashSet<string>.AlternateLookup<ReadOnlySpan<char>> IsFunctionWord = FunctionWords.GetAlternateLookup<
        ReadOnlySpan<char>
    >();

    // Columns that tell where a clip comes from, or identify it. Their distribution says nothing.
    private static readonly HashSet<string> LeftOut = new(["start", "end", "hash"], StringComparer.OrdinalIgnoreCase);

    private readonly Dictionary<string, ColumnStatistics> _columns = new(StringComparer.OrdinalIgnoreCase);
    private readonly List<ColumnStatistics> _ordered = [];

    internal long Rows { get; private set; }

    internal long Images { get; private set; }

    internal long WithoutCaption { get; private set; }

    internal Distribution Seconds { get; } = new();

    internal Distribution Frames { get; } = new();

    internal Distribution FrameRates { get; } = new();

    internal Distribution Megapixels { get; } = new();

    internal Distribution AspectRatios { get; } = new();

    internal FrequencyTable Sizes { get; } = new(MaximumTexts);

    internal Distribution CaptionWords { get; } = new();

    internal FrequencyTable Words { get; } = new(MaximumWords);

    /// <summary>Gets the statistics of the other columns, in their order.</summary>
    internal IReadOnlyList<ColumnStatistics> Columns => _ordered;

    internal void Add(ManifestRow row)
    {
        Rows++;
        var isImage = row.NumFrames == 1;
        Images += isImage ? 1 : 0;
        if (row.NumFrames is { } frames && !isImage)
        {
            Frames.Add(frames);
            if (row.Fps is > 0 and var rate)
            {
                Seconds.Add(frames / rate);
            }
        }

        if (row.Fps is { } fps && !isImage)
        {
            FrameRates.Add(Math.Round(fps, 2));
        }

        if (row.Height is > 0 and var height && row.Width is > 0 and var width)
        {
            Sizes.Add(string.Create(CultureInfo.InvariantCulture, $"{width}×{height}"));
            Megapixels.Add((double)height * width / 1e6);
        }

        if ((row.AspectRatio ?? (double?)row.Height / row.Width) is > 0 and < double.PositiveInfinity and var aspect)
        {
            AspectRatios.Add(aspect);
        }

        AddCaption(row.Text);
        foreach (var (name, value) in row.Columns)
        {
            if (LeftOut.Contains(name))
            {
                continue;
            }

            if (!_columns.TryGetValue(name, out var column))
            {
                _columns[name] = column = new ColumnStatistics(name);
                _ordered.Add(column);
            }

            column.Add(value.Text is { Length: > LongestValue } text ? text[..LongestValue] + "…" : value);
        }
    }

    private void AddCaption(string text)
    {
        if (string.IsNullOrWhiteSpace(text))
        {
            WithoutCaption++;
            return;
        }

        var count = 0;
        Span<char> buffer = stackalloc char[64];
        var rest = text.AsSpan();
        while (!rest.IsEmpty)
        {
            var length = 0;
            while (length < rest.Length && IsInWord(rest, length))
            {
                length++;
            }

            if (length > 0)
            {
                count++;
                if (length <= buffer.Length)
                {
                    var word = buffer[..rest[..length].ToLowerInvariant(buffer)];
                    if (length > 1 && !IsFunctionWord.Contains(word) && word.ContainsAnyExceptInRange('0', '9'))
                    {
                        Words.Add(word);
                    }
                }
            }

            rest = rest[Math.Min(rest.Length, length + 1)..];
        }

        CaptionWords.Add(count);
    }

    // Letters and digits, and apostrophes and hyphens between them.
    private static bool IsInWord(ReadOnlySpan<char> text, int index) =>
        char.IsLetterOrDigit(text[index])
        || char.IsSurrogate(text[index])
        || char.GetUnicodeCategory(text[index]) is UnicodeCategory.NonSpacingMark or UnicodeCategory.SpacingCombiningMark
        || (text[index] is '\'' or '’' or '-' && index > 0 && index + 1 < text.Length && char.IsLetterOrDigit(text[index + 1]));
}

/// <summary>The statistics of a column: the distribution of its numbers, and its most frequent texts.</summary>
internal sealed class ColumnStatistics(string name)
{
    internal string Name => name;

    internal Distribution Numbers { get; } = new();

    internal FrequencyTable Texts { get; } = new(ManifestStatistics.MaximumTexts);

    internal long Empty { get; private set; }

    internal void Add(ManifestValue value)
    {
        if (value.Number is { } number && !double.IsNaN(number))
        {
            Numbers.Add(number);
        }
        else if (value.Text is { } text)
        {
            Texts.Add(text);
        }
        else
        {
            Empty++;
        }
    }
}
