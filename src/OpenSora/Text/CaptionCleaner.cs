using System.Net;
using System.Text;
using System.Text.RegularExpressions;

namespace OpenSora.Text;

/// <summary>Cleans captions with the rules that were used for the published models: removes web artifacts and leaves plain lowercase words.</summary>
internal static class CaptionCleaner
{
    /// <summary>The number of underscores and hyphens above which they are replaced with spaces.</summary>
    private const int MaxJoiners = 3;

    private const string Letter = @"[\p{L}\p{N}_]";
    private const string Files = "(png|jpe?g|bmp|webp|eps|pdf|apk|mp4)";
    private const string Domains = "(com?|ru|net|org|edu|gov|it)";
    private const string Host = $@"[a-z0-9.-]+\.{Domains}({Letter}|[/-])*\b/?";

    private static readonly Regex Separator = Pattern(@"[\x1C-\x1F]"); // white space in the original implementation, but not in .NET
    private static readonly Regex FinalSigma = Pattern(@"(?<before>\p{L}\p{M}*)\u03A3(?<after>\p{M}*([^\p{L}\p{M}]|\z))");
    private static readonly Regex Joiner = Pattern("[-_]");
    private static readonly Regex SignBetweenWords = Pattern($@"(?<sign>\D[,./])(?<word>{Letter})");

    /// <summary>URL schemes and host names with the words of their paths. Text followed by an @ is not a host name.</summary>
    private static readonly Regex[] Addresses =
    [
        Pattern($@"\b((?<address>https?:(/{{1,3}}|[a-z0-9%]))|(?<address>{Host})([^@]|\z))"),
        Pattern($@"\b((?<address>www:(/{{1,3}}|[a-z0-9%]))|(?<address>{Host})([^@]|\z))"),
    ];

    private static readonly (Regex Pattern, string Replacement)[] Characters =
    [
        (Pattern($"@{Letter}+"), ""), // user names
        (Pattern(@"[\u31C0-\u9FFF]"), ""), // ideographs, which the text encoder does not support
        (Pattern(@"[\u058A\u05BE\u1400\u1806\u2010-\u2015\u2E17\u2E1A\u2E3A\u2E3B\u2E40\u301C\u3030\u30A0\uFE31\uFE32\uFE58\uFE63\uFF0D-]+"), "-"),
        (Pattern("[`\u00A8\u00AB\u00B4\u00BB\u201C\u201D]"), "\""),
        (Pattern("[\u2018\u2019]"), "'"),
        (Pattern("&quot;?|&amp"), ""), // doubly escaped entities
    ];

    private static readonly (Regex Pattern, string Replacement)[] Numbers =
    [
        (Pattern(@"\d{1,3}(\.\d{1,3}){3}"), " "), // IP addresses
        (Pattern(@"\d:\d\d\s+\z"), ""), // time at the end
        (Pattern(@"\\n"), " "), // literal \n
        (Pattern(@"#\d{1,3}\b"), ""), // article numbers
        (Pattern(@"#\d{5,}\b"), ""),
        (Pattern(@"\b\d{6,}\b"), ""),
        (Pattern($@"\S+\.{Files}"), ""), // file names
    ];

    private static readonly (Regex Pattern, string Replacement)[] Signs =
    [
        (Pattern("[\"']{2,}"), "\""),
        (Pattern(@"\.{2,}"), " "), // ellipses
        (Pattern(@"[#@&*~|/\\()\[\]{}\u00A9\u00AE\u2122\u2022\u00B7\u00A7\u00A1\u00BF\u00BA\u00BD\u00BE]+"), " "),
        (Pattern(@"\s+\.\s+"), " "), // lone dots
    ];

    /// <summary>Product codes and typical phrases of shops and stock image sites.</summary>
    private static readonly (Regex Pattern, string Replacement)[] Debris =
    [
        (Pattern(@"\b[a-z]{1,3}\d{3,15}\b"), ""), // codes such as ab123
        (Pattern(@"\b([a-z]+\d+[a-z]+|\d+[a-z]+\d+)\b"), ""), // ab12cd, 12ab34
        (Pattern(@"(worldwide\s+)?(free\s+)?shipping"), ""), // sales phrases
        (Pattern(@"free\sdownload(\sfree)?|download(\sfree)?"), ""), // (free\s)?download... is mismatched by the non-backtracking matcher of .NET 10
        (Pattern($@"\bclick\s(for|on)\s{Letter}+"), ""),
        (Pattern($@"\b{Files}(\simages?)?"), ""), // file types
        (Pattern(@"\bpage\s+\d+\b"), ""),
        (Pattern(@"\b\d*([a-z]+\d+){2,}[a-z]*\b"), " "), // longer codes: a1b2c3
        (Pattern(@"\b\d+\.?\d*[x\u0445\u00D7]\d+\.?\d*\b"), ""), // image sizes
    ];

    private static readonly (Regex Pattern, string Replacement)[] Spaces =
    [
        (Pattern($@"(?<word>{Letter})\s+:\s+"), "${word}: "),
        (SignBetweenWords, "${sign} ${word}"),
        (SignBetweenWords, "${sign} ${word}"), // applied twice because the matches in a.b.c overlap
        (Pattern(@"\s+"), " "),
    ];

    private static readonly (Regex Pattern, string Replacement)[] Ends =
    [
        (Pattern(@"\A[""'](?<quoted>.+)[""']\z"), "${quoted}"),
        (Pattern(@"\A['_,:;-]"), ""),
        (Pattern(@"['_,:+-]\z"), ""),
        (Pattern(@"\A\.\S+\z"), ""), // remainder of a file name
    ];

    /// <summary>Cleans a caption. The rules are applied twice, as for the published models: the second pass handles markup that the first pass
    /// unescaped.</summary>
    /// <param name="caption">The caption.</param>
    /// <returns>The cleaned caption.</returns>
    public static string Clean(string caption) => CleanOnce(CleanOnce(caption));

    /// <summary>Converts a caption to lowercase and trims it. This is the processing used when cleaning is disabled.</summary>
    /// <param name="caption">The caption.</param>
    /// <returns>The lowercase, trimmed caption.</returns>
    public static string Lower(string caption)
    {
        ArgumentNullException.ThrowIfNull(caption);
        return FinalSigma
            .Replace(caption, "${before}\u03C2${after}")
            .Replace("\u0130", "i\u0307", StringComparison.Ordinal)
            .ToLowerInvariant()
            .Trim();
    }

    internal static string CleanOnce(string caption)
    {
        ArgumentNullException.ThrowIfNull(caption);
        var text = Lower(Separator.Replace(WebUtility.UrlDecode(caption), " ")).Replace("<person>", "person", StringComparison.Ordinal);
        text = HtmlText.Of(Addresses.Aggregate(text, WithoutAddresses));
        text = Apply(Signs, Apply(Numbers, Apply(Characters, text)));
        if (Joiner.Count(text) > MaxJoiners)
        {
            text = Joiner.Replace(text, " ");
        }

        return Apply(Ends, Apply(Spaces, Apply(Debris, text.Trim()))).Trim();
    }

    private static string WithoutAddresses(string text, Regex pattern)
    {
        var kept = new StringBuilder(text.Length);
        var end = 0;
        for (var match = pattern.Match(text); match.Success; match = pattern.Match(text, end))
        {
            var address = match.Groups["address"];
            kept.Append(text, end, address.Index - end);
            end = address.Index + address.Length;
        }
        return kept.Append(text, end, text.Length - end).ToString();
    }

    private static string Apply((Regex Pattern, string Replacement)[] rules, string text) =>
        rules.Aggregate(text, (current, rule) => rule.Pattern.Replace(current, rule.Replacement));

    /// <summary>Creates a regular expression that matches in linear time for any caption.</summary>
    private static Regex Pattern(string pattern) =>
        new(pattern, RegexOptions.NonBacktracking | RegexOptions.CultureInvariant | RegexOptions.ExplicitCapture);
}
