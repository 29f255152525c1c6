using System.Globalization;

namespace OpenSora.Preparation.PublicSets.Downloads;

/// <summary>The rules of a robots.txt file for one program (RFC 9309).</summary>
internal sealed class RobotsRules
{
    private readonly List<(string Pattern, bool IsAllowed)> _rules = [];

    /// <summary>Allows everything.</summary>
    internal static RobotsRules None { get; } = new();

    /// <summary>The seconds between requests that the file asks for; null if it does not.</summary>
    internal TimeSpan? CrawlDelay { get; private set; }

    /// <summary>Parses a file.</summary>
    /// <param name="text">The text.</param>
    /// <param name="userAgent">The User-Agent header; its product name before the version selects the group.</param>
    internal static RobotsRules Parse(string text, string userAgent)
    {
        var product = userAgent.Split('/', ' ')[0];
        var (own, others) = (new RobotsRules(), new RobotsRules());
        var (isOwn, isOthers, inRules, hasOwn) = (false, false, true, false);
        foreach (var raw in text.Split('\n', '\r'))
        {
            var line = raw.Split('#')[0];
            if (line.IndexOf(':', StringComparison.Ordinal) is var colon && colon < 0)
            {
                continue;
            }

            var (key, value) = (line[..colon].Trim().ToLowerInvariant(), line[(colon + 1)..].Trim());
            if (key is "user-agent")
            {
                if (inRules)
                {
                    (isOwn, isOthers, inRules) = (false, false, false);
                }

                isOwn |= value.Split('/')[0].Equals(product, StringComparison.OrdinalIgnoreCase);
                isOthers |= value is "*";
                hasOwn |= isOwn;
            }
            else if (key is "allow" or "disallow" or "crawl-delay")
            {
                inRules = true;
                if (isOwn)
                {
                    own.Add(key, value);
                }

                if (isOthers)
                {
                    others.Add(key, value);
                }
            }
        }

        return hasOwn ? own : others;
    }

    /// <summary>Determines whether a path with its query may be requested. The longest matching rule decides; if an allowing and an excluding rule
    /// are equally long, the path is allowed.</summary>
    internal bool Allows(string pathAndQuery)
    {
        var (length, isAllowed) = (-1, true);
        foreach (var (pattern, allows) in _rules)
        {
            if ((pattern.Length > length || (pattern.Length == length && allows)) && Matches(pattern, pathAndQuery))
            {
                (length, isAllowed) = (pattern.Length, allows);
            }
        }

        return isAllowed;
    }

    private void Add(string key, string value)
    {
        if (key is "crawl-delay")
        {
            if (double.TryParse(value, CultureInfo.InvariantCulture, out var seconds) && seconds is > 0 and < 86_400)
            {
                CrawlDelay = TimeSpan.FromSeconds(seconds);
            }
        }
        else if (value.Length > 0)
        {
            _rules.Add((value, key is "allow"));
        }
    }

    // '*' matches any characters, a final '$' the end. Each part is found at its first place, which is enough for patterns of this kind.
    private static bool Matches(string pattern, string path)
    {
        var isWhole = pattern.EndsWith('$');
        var parts = (isWhole ? pattern[..^1] : pattern).Split('*');
        if (!path.StartsWith(parts[0], StringComparison.Ordinal))
        {
            return false;
        }

        var position = parts[0].Length;
        for (var i = 1; i < parts.Length; i++)
        {
            if (isWhole && i == parts.Length - 1)
            {
                return path.Length - position >= parts[i].Length && path.EndsWith(parts[i], StringComparison.Ordinal);
            }

            var found = path.IndexOf(parts[i], position, StringComparison.Ordinal);
            if (found < 0)
            {
                return false;
            }

            position = found + parts[i].Length;
        }

        return !isWhole || position == path.Length;
    }
}
