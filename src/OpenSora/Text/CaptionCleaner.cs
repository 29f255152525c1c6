using System.Net;
using System.Text.RegularExpressions;

namespace OpenSora.Text;

/// <summary>Cleans captions the way the captions of the published models were cleaned: web debris goes, plain lower-case words stay.</summary>
public static class CaptionCleaner
{
    /// <summary>More underscores and hyphens than this stand for spaces.</summary>
    private const int MaxJoiners = 3;

    private static readonly Regex Tag = Pattern(@"<[a-z/!?][^>]*>");
    private static readonly Regex Joiner = Pattern("[-_]");

    private static readonly (Regex Pattern, string Replacement)[] Addresses =
    [
        (Pattern("<person>"), "person"),
        (Pattern(@"(https?://|www\.)\S+"), ""),
    ];

    private static readonly (Regex Pattern, string Replacement)[] MachineNames =
    [
        (Pattern(@"@\w+"), ""),
        (Pattern(@"\b\d{1,3}(\.\d{1,3}){3}\b"), " "), // IP addresses
        (Pattern(@"\\n"), " "), // line breaks spelled out
        (Pattern(@"#\d{1,3}\b|#\d{5,}\b|\b\d{6,}\b"), ""), // article numbers
        (Pattern(@"\S+\.(png|jpe?g|gif|bmp|webp|eps|pdf|mp4|avi|mov|webm)\b"), ""),
    ];

    private static readonly (Regex Pattern, string Replacement)[] Signs =
    [
        (Pattern("[\u00AB\u00BB\u201C\u201D\u201E\u201F\u2033]|\"{2,}"), "\""),
        (Pattern("[\u2018\u2019\u201A\u201B\u2032`\u00B4]|'{2,}"), "'"),
        (Pattern("[\u2010-\u2015\u2212]"), "-"),
        (Pattern(@"\.{2,}"), " "),
        (Pattern(@"[#@&*~|/\\()\[\]{}\u00A9\u00AE\u2122\u2022\u00B7\u00A7\u00A1\u00BF\u00BA\u00BC-\u00BE]+"), " "),
        (Pattern(@"\s+\.\s+"), " "),
    ];

    private static readonly (Regex Pattern, string Replacement)[] Debris =
    [
        (Pattern(@"\b[a-z]+\d{3,}[a-z]*\b"), ""), // codes such as jc6640vc
        (Pattern(@"\b\d+[x\u0445\u00D7]\d+\b"), ""), // picture sizes
        (Pattern(@"\bpage\s+\d+\b"), ""),
        (Pattern(@"\b(worldwide\s+)?free\s+shipping\b|\bclick\s+(for|on)\s+\w+"), ""),
        (Pattern(@"[^\d\s][,./]\b"), "$0 "), // a space after a sign between words
        (Pattern(@"\s+"), " "),
    ];

    /// <summary>Cleans a caption. The rules run twice, as the published models had it: the second run sees markup that the first one unescaped.</summary>
    /// <param name="caption">Any text.</param>
    public static string Clean(string caption) => CleanOnce(CleanOnce(caption));

    /// <summary>What is done when cleaning is off: lower case, no white space at the ends.</summary>
    /// <param name="caption">Any text.</param>
    public static string Lower(string caption)
    {
        ArgumentNullException.ThrowIfNull(caption);
        return caption.ToLowerInvariant().Trim();
    }

    internal static string CleanOnce(string caption)
    {
        var text = Apply(Addresses, Lower(caption));
        text = WebUtility.HtmlDecode(Tag.Replace(text, ""));
        text = Apply(Signs, Apply(MachineNames, text));
        if (Joiner.Count(text) > MaxJoiners)
            text = Joiner.Replace(text, " ");
        text = Apply(Debris, text).Trim();
        return text is ['"', .. var quoted, '"'] ? quoted : text is ['\'', .. var single, '\''] ? single : text;
    }

    private static string Apply((Regex Pattern, string Replacement)[] rules, string text) =>
        rules.Aggregate(text, (current, rule) => rule.Pattern.Replace(current, rule.Replacement));

    /// <summary>A pattern that is matched in linear time, whatever the caption.</summary>
    private static Regex Pattern(string pattern) => new(pattern, RegexOptions.NonBacktracking | RegexOptions.CultureInvariant | RegexOptions.ExplicitCapture);
}
