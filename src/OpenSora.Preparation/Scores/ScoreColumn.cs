using System.Diagnostics.CodeAnalysis;
using System.Globalization;

namespace OpenSora.Preparation.Scores;

/// <summary>Describes a column of scores.</summary>
/// <param name="Name">The name in manifests and filters, such as <c>motion</c>.</param>
/// <param name="Description">What the values mean, with their unit.</param>
/// <param name="IsText">Indicates whether the values are texts instead of numbers.</param>
public sealed record ScoreColumn(string Name, string Description, bool IsText = false);

/// <summary>A value in a column of scores: a number, a text, or missing.</summary>
public readonly record struct ScoreValue
{
    private readonly double _number;

    private ScoreValue(double number, bool isNumber, string? text) => (_number, IsNumber, Text) = (number, isNumber, text);

    /// <summary>Gets a value that is missing.</summary>
    public static ScoreValue Missing => default;

    /// <summary>Gets the number; null if the value is missing or a text.</summary>
    public double? Number => IsNumber ? _number : null;

    /// <summary>Gets the text; null if the value is missing or a number.</summary>
    public string? Text { get; }

    /// <summary>Gets a value that indicates whether the value is missing.</summary>
    [MemberNotNullWhen(false, nameof(Number))]
    public bool IsMissing => !IsNumber && Text is null;

    private bool IsNumber { get; }

    /// <summary>Initializes a number. One that is not finite is missing.</summary>
    public static implicit operator ScoreValue(double number) => double.IsFinite(number) ? new(number, true, null) : Missing;

    /// <summary>Initializes a text; null is missing.</summary>
    public static implicit operator ScoreValue(string? text) => new(0, false, text);

    /// <summary>Reads a value from the text of a manifest. An empty text is missing.</summary>
    /// <param name="text">The text.</param>
    /// <param name="column">The column of the value.</param>
    /// <exception cref="FormatException">The column holds numbers, and the text is not one.</exception>
    public static ScoreValue Parse(string? text, ScoreColumn column)
    {
        ArgumentNullException.ThrowIfNull(column);
        return string.IsNullOrEmpty(text) ? Missing
            : column.IsText ? text
            : double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out var number) ? number
            : throw new FormatException(
                $"The column '{column.Name}' contains '{text}', which is not a number. Correct the value, or leave it empty."
            );
    }

    /// <summary>Returns a number with four decimals: more would only differ between processors.</summary>
    internal static ScoreValue Rounded(double number) => Math.Round(number, 4) + 0.0; // not -0

    /// <summary>Returns the value as a manifest stores it; empty if it is missing.</summary>
    public override string ToString() => IsNumber ? _number.ToString("R", CultureInfo.InvariantCulture) : Text ?? "";
}
