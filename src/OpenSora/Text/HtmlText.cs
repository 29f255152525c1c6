using System.Globalization;
using System.Net;
using System.Text.RegularExpressions;

namespace OpenSora.Text;

/// <summary>Extracts the text of a lowercase HTML fragment with the leniency of browsers: removes tags, comments and invisible elements, and decodes
/// entities.</summary>
internal static class HtmlText
{
    /// <summary>Elements that are removed together with their content.</summary>
    private static readonly string[] Unseen = ["script", "style", "template", "rt", "rp"];

    /// <summary>The characters that the codes 128-159 represent in web pages (Windows-1252); a space means that the code represents itself.</summary>
    private const string C1 = "€ ‚ƒ„…†‡ˆ‰Š‹Œ Ž  ‘’“”•–—˜™š›œ žŸ";

    private const string Quoted = """(?:"[^"]*"|'[^']*')""";
    private const string Name = @"[^\s/>][^\s/=>]*";

    /// <summary>A pattern for attributes: names with optional values; quoted values can contain any character.</summary>
    private const string Attributes = $@"(?:[\s/]+(?:{Name}(?:\s*=+\s*{Quoted}(?:{Name})?)*(?:\s*=+\s*[^\s>""'=][^\s>]*)?)?)*(?:\s*=+\s*)?";

    private static readonly Regex Token = Pattern(
        string.Join(
            '|',
            [
                @"<!--.*?--\s*>",
                @"<!\[cdata\[(?<cdata>.*?)\]\]>",
                .. Unseen.Select(name => $@"<{name}(?:\s(?:[^>]*[^/>])?)?>.*?(?:</\s*{name}\s*>|\z)"),
                $@"<[a-z][^\s/>]*{Attributes}>",
                @"</[^>]*>|<\?[^>]*>|<!(?:[^->][^>]*|-(?:[^->][^>]*)?)?>",
                @"(?<broken><[a-z!][^>]*>|&#(?:[^;0-9x][^;]*)?\z)",
                "(?<open><[a-z/?!][^<>]*)",
                "&(?:#(?<decimal>[0-9]+)|#x(?<hexadecimal>[0-9a-f]+)|(?<name>[a-z][a-z0-9.-]*))(?<end>;?)",
            ]
        )
    );

    /// <summary>Returns the text that a reader of the page would see.</summary>
    public static string Of(string html) => Token.Replace(html, token => Read(token, html));

    private static string Read(Match token, string html)
    {
        if (token.Groups["cdata"] is { Success: true } data)
        {
            return data.Value;
        }

        if (token.Groups["broken"].Success)
        {
            return token.Value;
        }

        var next = token.Index + token.Length;
        if (token.Groups["open"].Success) // not a tag, because it is never closed
        {
            return next < html.Length ? token.Value : "<" + Of(token.Value[1..]);
        }

        if (token.ValueSpan[0] is not '&')
        {
            return "";
        }

        var ended = token.Groups["end"].Length > 0;
        if (token.Groups["name"] is { Success: true } name)
        {
            var known = name.Length;
            if (!ended && next == html.Length) // the last name may be incomplete
            {
                known = name.ValueSpan.LastIndexOfAny('.', '-');
                if (known < 0)
                {
                    return name.Length == 1 ? name.Value : token.Value;
                }
            }
            return string.Concat(Sign(name.ValueSpan[..known]), name.ValueSpan[known..]);
        }
        if (!ended && (next == html.Length || char.IsAsciiHexDigit(html[next])))
        {
            return token.Value;
        }

        var digits = token.Groups["decimal"];
        var valid = digits.Success
            ? int.TryParse(digits.ValueSpan, NumberStyles.None, CultureInfo.InvariantCulture, out var code)
            : int.TryParse(token.Groups["hexadecimal"].ValueSpan, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out code);
        return !valid || code is < 0 or > 0x10FFFF ? "\uFFFD"
            : code is >= 128 and < 160 && C1[code - 128] is not ' ' ? C1[code - 128].ToString()
            : code < 0x10000 ? ((char)code).ToString()
            : char.ConvertFromUtf32(code);
    }

    private static string Sign(ReadOnlySpan<char> name)
    {
        var entity = $"&{name};";
        var sign = WebUtility.HtmlDecode(entity);
        return string.Equals(sign, entity, StringComparison.Ordinal) ? $"&{name}" : sign;
    }

    private static Regex Pattern(string pattern) =>
        new(pattern, RegexOptions.NonBacktracking | RegexOptions.CultureInvariant | RegexOptions.ExplicitCapture | RegexOptions.Singleline);
}
