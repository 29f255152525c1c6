using System.Globalization;

namespace OpenSora.Preparation.Manifests;

/// <summary>A value in a column of a manifest: a number, text, or nothing.</summary>
/// <remarks>CSV files do not distinguish numbers from text, so text that has the form of a number, such as <c>0.5</c> or <c>1e-05</c>, is that number
/// in every format. Text with leading zeros, a plus sign, spaces or more digits than a <see cref="double"/> can represent remains text.</remarks>
public readonly record struct ManifestValue
{
    private const int MaximumDigits = 17;
    private const double MaximumInteger = (1L << 53) - 1;
    private readonly double _number;
    private readonly bool _isNumber;

    private ManifestValue(string? text, double number, bool isNumber) => (Text, _number, _isNumber) = (text, number, isNumber);

    /// <summary>Gets the number; null if the value is text or empty.</summary>
    public double? Number => _isNumber ? _number : null;

    /// <summary>Gets the text; null if the value is a number or empty.</summary>
    public string? Text { get; }

    /// <summary>Gets a value that indicates whether there is neither a number nor text.</summary>
    public bool IsEmpty => !_isNumber && Text is null;

    /// <summary>Converts a number to a value.</summary>
    /// <param name="number">The number.</param>
    public static implicit operator ManifestValue(double number) => new(null, number, isNumber: true);

    /// <summary>Converts text to a value: a number if the text has the form of one.</summary>
    /// <param name="text">The text; null or an empty string for an empty value.</param>
    public static implicit operator ManifestValue(string? text) =>
        ParseNumber(text) is { } number ? new(null, number, isNumber: true) : Verbatim(text);

    /// <summary>Creates a value from a number.</summary>
    /// <param name="number">The number; null for an empty value.</param>
    public static ManifestValue FromNumber(double? number) => number is { } value ? value : default(ManifestValue);

    /// <summary>Returns the number in its shortest form that can be parsed without loss, the text, or an empty string.</summary>
    public override string ToString() => _isNumber ? _number.ToString(CultureInfo.InvariantCulture) : Text ?? "";

    /// <summary>Creates a value from text, even if it has the form of a number.</summary>
    internal static ManifestValue Verbatim(string? text) => new(string.IsNullOrEmpty(text) ? null : text, 0, isNumber: false);

    /// <summary>Parses text that has the form of a number, as JSON defines it, or of a number that is not finite; null for other text.</summary>
    internal static double? ParseNumber(ReadOnlySpan<char> text)
    {
        switch (text)
        {
            case "NaN" or "nan":
                return double.NaN;
            case "Infinity" or "inf":
                return double.PositiveInfinity;
            case "-Infinity" or "-inf":
                return double.NegativeInfinity;
        }

        var rest = text is ['-', ..] ? text[1..] : text;
        var whole = Digits(rest);
        if (whole is 0 || (whole > 1 && rest[0] is '0'))
        {
            return null;
        }

        var digits = text[(text.Length - rest.Length)..];
        rest = rest[whole..];
        var isInteger = rest.IsEmpty;
        if (rest is ['.', ..])
        {
            var fraction = Digits(rest[1..]);
            if (fraction is 0)
            {
                return null;
            }

            whole += 1 + fraction;
            rest = rest[(1 + fraction)..];
        }

        digits = digits[..whole];
        if (rest is ['e' or 'E', ..])
        {
            rest = rest[1..] is ['+' or '-', ..] ? rest[2..] : rest[1..];
            rest = rest.IsEmpty ? "?" : rest[Digits(rest)..];
        }

        if (!rest.IsEmpty || SignificantDigits(digits) > MaximumDigits)
        {
            return null;
        }

        var number = double.Parse(text, NumberStyles.Float, CultureInfo.InvariantCulture);
        var isExact = !isInteger || Math.Abs(number) <= MaximumInteger || text.SequenceEqual(number.ToString(CultureInfo.InvariantCulture));
        return double.IsFinite(number) && isExact && (number is not 0 || !digits.ContainsAnyInRange('1', '9')) ? number : null;
    }

    private static int Digits(ReadOnlySpan<char> text) => text.IndexOfAnyExceptInRange('0', '9') is >= 0 and var end ? end : text.Length;

    private static int SignificantDigits(ReadOnlySpan<char> digits)
    {
        var point = digits.Contains('.');
        var significant = (point ? digits.TrimEnd('0') : digits).TrimStart("0.");
        return significant.Length - (significant.Contains('.') ? 1 : 0);
    }
}
