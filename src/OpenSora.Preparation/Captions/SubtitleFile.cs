using System.Globalization;
using System.Net;
using System.Text.RegularExpressions;

namespace OpenSora.Preparation.Captions;

/// <summary>A line of subtitles.</summary>
/// <param name="Start">The time at which it appears.</param>
/// <param name="End">The time at which it disappears.</param>
/// <param name="Text">The text without markup, in one line.</param>
internal readonly record struct SubtitleLine(TimeSpan Start, TimeSpan End, string Text);

/// <summary>Reads SubRip (<c>.srt</c>) and WebVTT (<c>.vtt</c>).</summary>
internal static partial class SubtitleFile
{
    private const int Patience = 10_000; // milliseconds; far more than any line needs

    /// <summary>Reads subtitles.</summary>
    /// <returns>The lines in the order of their start.</returns>
    internal static IReadOnlyList<SubtitleLine> Parse(TextReader reader)
    {
        List<SubtitleLine> lines = [];
        (TimeSpan Start, TimeSpan End)? range = null;
        List<string> text = [];
        while (true)
        {
            var line = reader.ReadLine();
            var times = line is null ? null : Times().Match(line);
            if (range is not null && times is { Success: true } && text is [.., var last] && last.Trim().All(char.IsAsciiDigit))
            {
                text.RemoveAt(text.Count - 1); // the number of the next line, without the blank line that belongs before it
            }

            if (range is { } shown && (string.IsNullOrWhiteSpace(line) || times!.Success))
            {
                var words = CaptionAnswer.OneLine(WebUtility.HtmlDecode(Markup().Replace(string.Join(' ', text), "")));
                if (words.Length > 0 && shown.End > shown.Start)
                {
                    lines.Add(new SubtitleLine(shown.Start, shown.End, words));
                }

                range = null;
            }

            if (line is null)
            {
                return [.. lines.OrderBy(each => each.Start)];
            }

            if (times!.Success)
            {
                range = (Time(times, "from"), Time(times, "to"));
                text.Clear();
            }
            else if (range is not null)
            {
                text.Add(line);
            }
        }
    }

    private static TimeSpan Time(Match match, string name)
    {
        var parts = match.Groups[name].Value.Replace(',', '.').Split(':');
        return TimeSpan.FromSeconds(parts.Aggregate(0.0, (sum, part) => sum * 60 + double.Parse(part, CultureInfo.InvariantCulture)));
    }

    [GeneratedRegex(
        @"^\s*(?<from>(\d{1,3}:)?\d{1,2}:\d{1,2}[.,]\d{1,3})\s+-->\s+(?<to>(\d{1,3}:)?\d{1,2}:\d{1,2}[.,]\d{1,3})(\s|$)",
        RegexOptions.ExplicitCapture,
        Patience
    )]
    private static partial Regex Times();

    // Tags, and positions of SubStation Alpha, which converters leave in.
    [GeneratedRegex(@"<[^>\n]{1,200}>|\{\\[^}\n]{1,200}\}", RegexOptions.ExplicitCapture, Patience)]
    private static partial Regex Markup();
}
