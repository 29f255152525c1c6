using System.Globalization;

namespace OpenSora.Preparation.Shots;

/// <summary>Formats and parses time codes.</summary>
public static class TimeCode
{
    /// <summary>Formats a time as <c>HH:MM:SS.mmm</c>.</summary>
    public static string Format(TimeSpan time)
    {
        var milliseconds = (long)Math.Round(time.TotalMilliseconds);
        var (sign, rest) = (milliseconds < 0 ? "-" : "", Math.Abs(milliseconds));
        return string.Create(
            CultureInfo.InvariantCulture,
            $"{sign}{rest / 3_600_000:00}:{rest / 60_000 % 60:00}:{rest / 1000 % 60:00}.{rest % 1000:000}"
        );
    }

    /// <summary>Parses a time code: <c>HH:MM:SS.mmm</c>, <c>MM:SS.mmm</c>, seconds such as <c>12.5</c> or <c>12.5s</c>, or a number of frames such
    /// as <c>90f</c>.</summary>
    /// <param name="text">The time code.</param>
    /// <param name="framesPerSecond">The frame rate for a number of frames.</param>
    /// <exception cref="FormatException">The text is not a time code.</exception>
    public static TimeSpan Parse(string text, double framesPerSecond = 25)
    {
        ArgumentNullException.ThrowIfNull(text);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(framesPerSecond);
        var trimmed = text.Trim();
        if (trimmed.EndsWith('f') && Number(trimmed[..^1], allowsPoint: false) is { } frames)
        {
            return TimeSpan.FromSeconds(frames / framesPerSecond);
        }

        var parts = (trimmed.EndsWith('s') && !trimmed.Contains(':', StringComparison.Ordinal) ? trimmed[..^1] : trimmed).Split(':');
        var seconds = 0.0;
        for (var i = 0; i < parts.Length; i++)
        {
            var number = Number(parts[i], allowsPoint: i == parts.Length - 1);
            if (number is null || parts.Length > 3 || (i > 0 && number >= 60))
            {
                throw new FormatException(
                    $"'{text}' is not a time code. Write hours, minutes and seconds as 01:02:03.456, seconds as 12.5, or frames as 90f."
                );
            }

            seconds = (seconds * 60) + number.Value;
        }

        return TimeSpan.FromSeconds(seconds);
    }

    private static double? Number(string text, bool allowsPoint) =>
        double.TryParse(text, allowsPoint ? NumberStyles.AllowDecimalPoint : NumberStyles.None, CultureInfo.InvariantCulture, out var number)
            ? number
            : null;
}
