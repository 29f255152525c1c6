namespace OpenSora.ModelFolders;

/// <summary>The things that a model of a small world knows, one line each in a file of its folder: the name, and synonyms after <c>|</c>.</summary>
internal sealed class PromptVocabulary
{
    private const int Suggestions = 3;
    private readonly Dictionary<string, string> _names = new(StringComparer.Ordinal); // words of a name or synonym -> name
    private readonly int _longest;

    /// <summary>Reads the lines of a vocabulary.</summary>
    public PromptVocabulary(IEnumerable<string> lines)
    {
        foreach (var names in lines.Select(line => line.Split('|', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries)))
        {
            foreach (var name in names)
            {
                var words = Words(name);
                _names.TryAdd(string.Join(' ', words), names[0]);
                _longest = Math.Max(_longest, words.Length);
            }
        }
    }

    /// <summary>Checks whether a prompt names something that the model knows.</summary>
    /// <param name="prompt">The prompt.</param>
    /// <returns>A sentence with the nearest known names if it does not; null if it does, or if it is empty.</returns>
    public string? Check(string prompt)
    {
        var words = Words(prompt);
        if (words.Length == 0 || Runs(words, _longest).Any(run => _names.ContainsKey(run) || _names.ContainsKey(Singular(run))))
        {
            return null;
        }

        var nearest = _names
            .Select(pair => (Name: pair.Value, Distance: Runs(words, 3).Min(run => Distance(run, pair.Key))))
            .GroupBy(each => each.Name, StringComparer.Ordinal)
            .Select(group => (Name: group.Key, Distance: group.Min(each => each.Distance)))
            .Where(each => each.Distance < 0.45)
            .OrderBy(each => each.Distance)
            .ThenBy(each => each.Name, StringComparer.Ordinal)
            .Take(Suggestions)
            .Select(each => $"'{each.Name}'")
            .ToList();
        return "The prompt names nothing that this model knows, so the video is arbitrary."
            + (nearest.Count == 0 ? "" : $" The nearest names are {string.Join(", ", nearest)}.");
    }

    private static string[] Words(string text) =>
        new string([.. text.Select(c => char.IsLetterOrDigit(c) ? char.ToLowerInvariant(c) : ' ')]).Split(' ', StringSplitOptions.RemoveEmptyEntries);

    // All runs of adjacent words, up to a number of them.
    private static IEnumerable<string> Runs(string[] words, int longest) =>
        from start in Enumerable.Range(0, words.Length)
        from length in Enumerable.Range(1, Math.Min(longest, words.Length - start))
        select string.Join(' ', words, start, length);

    private static string Singular(string words) =>
        words.EndsWith("ies", StringComparison.Ordinal) ? words[..^3] + "y"
        : words.EndsWith("oes", StringComparison.Ordinal) || words.EndsWith("xes", StringComparison.Ordinal) ? words[..^2]
        : words.TrimEnd('s');

    // From 0 for equal names to 1. A name of which one word is near is near, too.
    private static double Distance(string run, string name)
    {
        const double PartOfName = 0.1;
        return name.Split(' ').Where(word => word.Length > 3).Select(word => PartOfName + Edits(run, word)).Append(Edits(run, name)).Min();
    }

    // The edits for each letter, with neighbors that changed places as one edit (Damerau 1964, Levenshtein 1966).
    private static double Edits(string a, string b)
    {
        var edits = new int[a.Length + 1, b.Length + 1];
        for (var i = 0; i <= a.Length; i++)
        {
            for (var j = 0; j <= b.Length; j++)
            {
                if (i == 0 || j == 0)
                {
                    edits[i, j] = i + j;
                    continue;
                }

                var replaced = edits[i - 1, j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
                edits[i, j] = Math.Min(replaced, Math.Min(edits[i - 1, j], edits[i, j - 1]) + 1);
                if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                {
                    edits[i, j] = Math.Min(edits[i, j], edits[i - 2, j - 2] + 1);
                }
            }
        }

        return (double)edits[a.Length, b.Length] / Math.Max(a.Length, b.Length);
    }
}
