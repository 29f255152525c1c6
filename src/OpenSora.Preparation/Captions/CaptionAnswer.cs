using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;

namespace OpenSora.Preparation.Captions;

/// <summary>Turns answers of chat models into captions.</summary>
internal static partial class CaptionAnswer
{
    private const RegexOptions Ignore = RegexOptions.IgnoreCase | RegexOptions.CultureInvariant | RegexOptions.ExplicitCapture;
    private const int MostCharacters = 8_000,
        ShownCharacters = 200,
        Patience = 10_000; // milliseconds; far more than any text of this length needs

    /// <summary>Removes everything from an answer that does not describe the clip, and limits its length.</summary>
    /// <param name="answer">The answer.</param>
    /// <param name="minWords">The least number of words.</param>
    /// <param name="maxWords">The most words.</param>
    /// <returns>A caption without a source; or the reason why there is none: <c>empty answer</c>, <c>refused</c>, <c>not text</c>,
    /// <c>too short</c>.</returns>
    internal static CaptionResult Clean(ChatAnswer answer, int minWords, int maxWords)
    {
        try
        {
            return Cleaned(answer, minWords, maxWords);
        }
        catch (RegexMatchTimeoutException)
        {
            return CaptionResult.None("not text", Start(answer.Text));
        }
    }

    private static CaptionResult Cleaned(ChatAnswer answer, int minWords, int maxWords)
    {
        if (answer.End is "content_filter")
        {
            return CaptionResult.None("refused", Start(answer.Text));
        }

        var text = WithoutThoughts(answer.Text);
        var isUnfinished = answer.End is "length" || text.Length > MostCharacters;
        text = FromJson((text.Length > MostCharacters ? text[..MostCharacters] : text).Trim());
        text = WithoutMarkup(text);
        if (text.Length == 0)
        {
            return CaptionResult.None("empty answer");
        }

        if (Refusal().IsMatch(Salutation().Replace(text, "").Replace('’', '\'')))
        {
            return CaptionResult.None("refused", Start(answer.Text));
        }

        if (!IsText(text))
        {
            return CaptionResult.None("not text", Start(answer.Text));
        }

        var sentences = Sentences().Split(WithoutIntroduction(text)).Where(each => each.Length > 0).ToList();
        for (var i = 1; i < sentences.Count; i++)
        {
            sentences[i] = Capitalized(Location().Replace(sentences[i], ""));
        }

        while (sentences.Count > 1 && Chatter().IsMatch(sentences[^1]))
        {
            sentences.RemoveAt(sentences.Count - 1);
        }

        if ((isUnfinished || answer.End is null) && sentences.Count > 1 && !EndsSentence(sentences[^1]))
        {
            sentences.RemoveAt(sentences.Count - 1);
        }

        text = string.Join(' ', sentences.Distinct(StringComparer.OrdinalIgnoreCase)); // some models repeat sentences until the limit
        return Limit(text, minWords, maxWords, Start(answer.Text));
    }

    /// <summary>Limits the length of a text that is a caption already.</summary>
    /// <param name="text">The text.</param>
    /// <param name="minWords">The least number of words.</param>
    /// <param name="maxWords">The most words.</param>
    /// <param name="detail">The detail of a result without a caption.</param>
    internal static CaptionResult Limit(string text, int minWords, int maxWords, string? detail = null)
    {
        var words = text.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries);
        if (words.Length + text.Count(each => char.GetUnicodeCategory(each) == UnicodeCategory.OtherLetter) / 2 < minWords) // no spaces in Chinese
        {
            return words.Length == 0 ? CaptionResult.None("empty answer") : CaptionResult.None("too short", detail ?? Start(text));
        }

        if (words.Length <= maxWords)
        {
            return CaptionResult.Of(string.Join(' ', words), "");
        }

        // The last end of a sentence in the second half of what is allowed, otherwise of a clause, otherwise of a word.
        var kept = words[..maxWords];
        var end = Array.FindLastIndex(kept, EndsSentence);
        if (end < Math.Max(minWords, maxWords / 2) - 1)
        {
            end = Array.FindLastIndex(kept, each => each[^1] is ',' or ';' or ':' or '.' or '!' or '?');
            end = end < Math.Max(minWords, maxWords / 2) - 1 ? maxWords - 1 : end;
        }

        var shortened = string.Join(' ', kept[..(end + 1)]).TrimEnd(',', ';', ':', '-', '–', '—', ' ');
        return CaptionResult.Of(EndsSentence(shortened) ? shortened : shortened + ".", "") with { IsShortened = true };
    }

    /// <summary>Replaces every run of white space by one space.</summary>
    internal static string OneLine(string text) => string.Join(' ', text.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries));

    // Models that reason write their thoughts first. Thoughts without an end are all that the model wrote.
    private static string WithoutThoughts(string text)
    {
        const string begin = "<think>",
            end = "</think>";
        var last = text.LastIndexOf(end, StringComparison.OrdinalIgnoreCase);
        return last >= 0 ? text[(last + end.Length)..]
            : text.TrimStart().StartsWith(begin, StringComparison.OrdinalIgnoreCase) ? ""
            : text;
    }

    private static string FromJson(string text)
    {
        var body = Fence().Match(text) is { Success: true } fence ? fence.Groups["body"].Value.Trim() : text;
        if (body is not ['{', .., '}'])
        {
            return body;
        }

        try
        {
            using var json = JsonDocument.Parse(body);
            return
                json.RootElement.EnumerateObject().Select(each => each.Value).FirstOrDefault(each => each.ValueKind == JsonValueKind.String)
                    is { ValueKind: JsonValueKind.String } value
                ? value.GetString()!.Trim()
                : body;
        }
        catch (JsonException)
        {
            return body;
        }
    }

    private static string WithoutMarkup(string text)
    {
        text = SpecialTokens().Replace(text.Normalize(NormalizationForm.FormC), " ");
        text = Link().Replace(text, "${text}");
        var lines = new List<string>();
        foreach (var raw in text.Split('\n', '\r'))
        {
            if (Rule().IsMatch(raw))
            {
                continue;
            }

            var isHeading = Heading().IsMatch(raw);
            var line = Emphasis()
                .Replace(Bullet().Replace(Heading().Replace(raw, ""), ""), "${text}")
                .Replace("`", "", StringComparison.Ordinal)
                .Trim();
            line = new string([.. line.Where(each => !char.IsControl(each))]);
            if (line.Length == 0 || (isHeading && !EndsSentence(line)))
            {
                continue;
            }

            // The items of a list become sentences.
            var isItem = Bullet().IsMatch(raw);
            lines.Add(isItem ? Capitalized(EndsSentence(line) ? line : line.TrimEnd(',', ';', ':') + ".") : line);
        }

        return WithoutQuotes(OneLine(string.Join(' ', lines)));
    }

    private static string WithoutQuotes(string text)
    {
        while (text.Length >= 2 && (text[0], text[^1]) is ('"', '"') or ('“', '”') or ('\'', '\'') or ('«', '»') or ('„', '“'))
        {
            var inner = text[1..^1];
            if (inner.Contains(text[0], StringComparison.Ordinal) && text[0] != '\'')
            {
                break; // two quotations, not one
            }

            text = inner.Trim();
        }

        return text;
    }

    private static string WithoutIntroduction(string text)
    {
        for (var before = ""; !string.Equals(before, text, StringComparison.Ordinal); )
        {
            before = text;
            text = WithoutQuotes(Salutation().Replace(text, "").TrimStart());
            text = WithoutQuotes(Label().Replace(text, "").TrimStart());
            text = Location().Replace(text, "");
            text = Seen().Replace(text, "");
            text = Shows().Replace(text, "");
            text = Of().Replace(text, "");
        }

        return Capitalized(text);
    }

    private static bool IsText(string text)
    {
        if (text.Contains('\uFFFD', StringComparison.Ordinal) || text[0] is '<' or '{' or '[')
        {
            return false;
        }

        var (letters, others) = (0, 0);
        foreach (var each in text)
        {
            letters += char.IsLetter(each) ? 1 : 0;
            others += char.IsLetter(each) || char.IsWhiteSpace(each) ? 0 : 1;
        }

        return letters > others * 2;
    }

    private static bool EndsSentence(string text) => text.TrimEnd('"', '\'', '”', '’', ')', ']') is [.., '.' or '!' or '?' or '…' or '。'];

    private static string Capitalized(string text) => text.Length > 0 && char.IsLower(text[0]) ? char.ToUpperInvariant(text[0]) + text[1..] : text;

    private static string Start(string text) =>
        OneLine(text) is { Length: > ShownCharacters } longer ? longer[..ShownCharacters] + "..." : OneLine(text);

    [GeneratedRegex(@"^```\w*\s*\n?(?<body>.*?)\n?```\s*$", Ignore | RegexOptions.Singleline, Patience)]
    private static partial Regex Fence();

    [GeneratedRegex(@"<\|[^|>\n]{1,40}\|>|</?s>|\[/?INST\]|<image>|^\s*(ASSISTANT|AI)\s*:", Ignore, Patience)]
    private static partial Regex SpecialTokens();

    [GeneratedRegex(@"!?\[(?<text>[^\]\n]*)\]\([^)\n]*\)", Ignore, Patience)]
    private static partial Regex Link();

    [GeneratedRegex(@"^\s*#{1,6}\s+|^\s*\*\*[^*]{1,60}:?\*\*:?\s*$", Ignore, Patience)]
    private static partial Regex Heading();

    [GeneratedRegex(@"^\s*([-*+•·–]|\(?\d{1,2}[.)])\s+", Ignore, Patience)]
    private static partial Regex Bullet();

    [GeneratedRegex(@"^\s*[-*_=~]{3,}\s*$", Ignore, Patience)]
    private static partial Regex Rule();

    [GeneratedRegex(@"(?<mark>\*{1,3}|_{2,3}|~~)(?=\S)(?<text>[^\n]*?\S)\k<mark>", Ignore, Patience)]
    private static partial Regex Emphasis();

    [GeneratedRegex(@"(?<=[.!?…][""'”’)\]]?)\s+(?=[""'“\u2018(\[]?[\p{Lu}\p{Nd}])|(?<=。)", Ignore & ~RegexOptions.IgnoreCase, Patience)]
    private static partial Regex Sentences();

    [GeneratedRegex(
        @"^((sure|certainly|of course|absolutely|okay|ok|yes|great|alright|no problem|here you go)( thing)?[,.!:]+\s*)+",
        Ignore,
        Patience
    )]
    private static partial Regex Salutation();

    [GeneratedRegex(
        @"^((here('s|’s| is| are)|this is|below is|the following is)\s+)?(((an?|the|my|your|one|possible|short|brief|detailed|concise|single|"
            + @"one-paragraph|video|image|clip|final|requested|suggested)\s+)*(caption|description|summary|answer|paragraph|response))"
            + @"(\s+(of|for|that|based|in)\s[^:.\n]{0,120})?\s*[:：]\s*",
        Ignore,
        Patience
    )]
    private static partial Regex Label();

    [GeneratedRegex(
        @"^(in|throughout|within|across|from|during)\s+((this|the|these|those|all|each|every)\s+)?((of|the|first|second|third|last|final|next|middle|"
            + @"top|bottom|left|right|provided|given|three|3|short|series|sequence|opening|beginning|start|end|entire)\s+)*"
            + @"(video|videos|image|images|clip|clips|picture|pictures|photo|photos|photograph|frame|frames|footage|screenshot|screenshots|collage|"
            + @"panel|panels)(\s+(clip|sequence|provided|frames|footage))?\s*(,\s*|(?=\s+(we|you|one|i|there)\b)\s+)",
        Ignore,
        Patience
    )]
    private static partial Regex Location();

    [GeneratedRegex(
        @"^(we|you|one|i|the viewers?|viewers)\s+(can\s+|are able to\s+|could\s+)?(clearly\s+)?(see|sees|observe|notice)\s+(that\s+)?",
        Ignore,
        Patience
    )]
    private static partial Regex Seen();

    [GeneratedRegex(
        @"^(this|the|these|those|each|all)\s+((of|the|short|provided|given|three|3|black[- ]and[- ]white|animated|sequence|series|same|entire|first|"
            + @"single|close-up|still)\s+)*(video|videos|image|images|clip|clips|picture|pictures|photo|photos|photograph|frame|frames|footage|"
            + @"screenshot|screenshots|scene|collage|sequence|series)(\s+(clip|sequence|frames|footage|of (the )?(video|clip|frames|images)|you provided))?\s+"
            + @"((is|are)\s+(of|showing|a depiction of|depicting|a (shot|view|photo|picture|close-up) of)|"
            + @"(appears?|seems?)\s+to\s+(show|depict|be\s+of|feature|capture|be\s+showing)|"
            + @"(primarily|mainly|simply|clearly|then)?\s*(shows?|depicts?|features?|captures?|displays?|presents?|portrays?|showcases?|illustrates?|"
            + @"contains?|focuses on))\s+(?!(how|what|why|where|when)\b)(that\s+|us\s+)?",
        Ignore,
        Patience
    )]
    private static partial Regex Shows();

    [GeneratedRegex(
        @"^an?\s+((short|brief|single|series|sequence|set|of|three|3|the|still)\s+)*(video|clip|footage|image|images|frame|frames|screenshot)"
            + @"(\s+(clip|frames|sequence))?\s+((of|showing|depicting)|that (shows|depicts))\s+",
        Ignore,
        Patience
    )]
    private static partial Regex Of();

    [GeneratedRegex(
        @"^((i('m| am)|we('re| are)) (very |so |really )?(sorry|afraid)|sorry\b|i apologi[sz]e|my apologies|unfortunately,? (i|we|the (image|video))|"
            + @"(as an? )(ai\b|artificial|language|text)|i('m| am) (unable|not able|just an?|only an?|an? (ai|language|text))|"
            + @"i (can ?not|can't|could not|couldn't|do not|don't|will not|won't|am not)\b|i (need|require) (more|an? |the )|"
            + @"(it|there) (seems|appears|looks like)( that| like)? (you|no (image|video|frame)|(there|the) (is|image|video)[^.]{0,30} (no|not|missing|blank))|"
            + @"(could|can|would) you (please )?(provide|share|upload|send)|please (provide|share|upload|send)|"
            + @"no (image|video|frame|picture)s?( (was|were|is|are|has|have)\b| (provided|attached|visible|given)))",
        Ignore,
        Patience
    )]
    private static partial Regex Refusal();

    [GeneratedRegex(
        @"^(let me know|(i )?hope (this|that|it)|is there anything|if you (have|need|want|would)|feel free|please (let|note|feel)|would you like|"
            + @"do you (want|need)|(please )?note that|note:|this (description|caption|summary)|the (description|caption)|i can (also|provide)|"
            + @"(overall|in summary|in conclusion),? (the|this) (video|image|clip|scene) (is|captures|conveys|evokes))",
        Ignore,
        Patience
    )]
    private static partial Regex Chatter();
}
