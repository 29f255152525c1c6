using System.Globalization;
using System.Text.RegularExpressions;

namespace OpenSora.Weights;

/// <summary>Weights in several files with names such as <c>model-00001-of-00003.safetensors</c>, which are recognized without an index.</summary>
/// <param name="Folder">The folder of the files.</param>
/// <param name="Prefix">The part of the names before the number, such as <c>model-</c>.</param>
/// <param name="Suffix">The part of the names after the number, such as <c>-of-00003.safetensors</c>.</param>
/// <param name="Count">The number of files that belong to the set, according to the names.</param>
/// <param name="Files">The names of the files that exist, by number.</param>
internal sealed partial record ShardSet(string Folder, string Prefix, string Suffix, int Count, SortedDictionary<int, string> Files)
{
    private const int MostShards = 10_000;

    /// <summary>The numbers that the set needs: 1 to <see cref="Count"/>, or from 0 if the set was counted from 0.</summary>
    private IEnumerable<int> Numbers => Enumerable.Range(Files.ContainsKey(0) && !Files.ContainsKey(Count) ? 0 : 1, Count);

    /// <summary>The names of the files that are missing; empty if the set is complete.</summary>
    public IReadOnlyList<string> Missing
    {
        get
        {
            var digits = Files.Count == 0 ? 5 : Files.First().Value.Length - Prefix.Length - Suffix.Length;
            return
            [
                .. Numbers
                    .Where(number => !Files.ContainsKey(number))
                    .Select(number => Prefix + number.ToString(CultureInfo.InvariantCulture).PadLeft(digits, '0') + Suffix),
            ];
        }
    }

    /// <summary>The path of the first file that exists, which stands for the set.</summary>
    public string Path => System.IO.Path.Combine(Folder, Files.First().Value);

    /// <summary>The paths of all files, in order.</summary>
    public IReadOnlyList<string> Paths => [.. Files.Values.Select(name => System.IO.Path.Combine(Folder, name))];

    /// <summary>The path of the index that describes the set, such as <c>model.safetensors.index.json</c>, or null if it does not exist.</summary>
    public string? Index
    {
        get
        {
            var rest = Suffix.AsSpan(Suffix.IndexOf('.', StringComparison.Ordinal));
            var path = System.IO.Path.Combine(Folder, $"{Prefix.AsSpan().TrimEnd("-_.")}{rest}.index.json");
            return File.Exists(path) ? path : null;
        }
    }

    /// <summary>A description for messages, such as <c>model-*-of-00003.safetensors (2 of 3 files)</c>.</summary>
    public override string ToString()
    {
        var missing = Missing.Count;
        return $"{Prefix}*{Suffix} ({(missing == 0 ? $"{Count} files" : $"{Count - missing} of {Count} files")})";
    }

    /// <summary>Finds the set that a file belongs to by its name. Returns null if the name is not that of a shard, or if the set consists of this
    /// file alone.</summary>
    public static ShardSet? Of(string path)
    {
        var (folder, name) = (System.IO.Path.GetDirectoryName(path)!, System.IO.Path.GetFileName(path));
        if (Parse(name) is not (_, _, _, >= 2) || !Directory.Exists(folder))
        {
            return null;
        }

        return Group(Directory.EnumerateFiles(folder)).Sets.Find(set => set.Files.ContainsValue(name));
    }

    /// <summary>Separates the files of a folder into sets and other files. Files whose names begin with a dot are left out.</summary>
    public static (List<ShardSet> Sets, List<string> Others) Group(IEnumerable<string> paths)
    {
        var (sets, others) = (new List<ShardSet>(), new List<string>());
        foreach (var path in paths.Order(StringComparer.Ordinal))
        {
            var (folder, name) = (System.IO.Path.GetDirectoryName(path)!, System.IO.Path.GetFileName(path));
            if (name.StartsWith('.')) // hidden files, and those that macOS adds to other file systems
            {
                continue;
            }

            if (Parse(name) is not (var prefix, var number, var suffix, var count) || count < 2)
            {
                others.Add(path);
                continue;
            }

            var set = sets.Find(other =>
                string.Equals(other.Prefix, prefix, StringComparison.Ordinal) && string.Equals(other.Suffix, suffix, StringComparison.Ordinal)
            );
            if (set is null)
            {
                sets.Add(set = new ShardSet(folder, prefix, suffix, count, []));
            }

            if (number > count || !set.Files.TryAdd(number, name))
            {
                others.Add(path);
            }
        }

        sets.RemoveAll(set => set.Files.Count == 0);
        return (sets, others);
    }

    private static (string Prefix, int Number, string Suffix, int Count)? Parse(string name)
    {
        var match = Name().Match(name);
        return
            match.Success
            && int.Parse(match.Groups["count"].ValueSpan, NumberStyles.None, CultureInfo.InvariantCulture) is <= MostShards and var count
            ? (
                match.Groups["prefix"].Value,
                int.Parse(match.Groups["number"].ValueSpan, NumberStyles.None, CultureInfo.InvariantCulture),
                match.Groups["suffix"].Value,
                count
            )
            : null;
    }

    // Between the count and the extension, some programs write the name of a variant, such as '.fp16'.
    [GeneratedRegex(
        @"^(?<prefix>.*?)(?<number>[0-9]{1,9})(?<suffix>-of-(?<count>[0-9]{1,9})(\.[^.]+)?\.(safetensors|bin|pth|pt|ckpt))$",
        RegexOptions.ExplicitCapture | RegexOptions.CultureInvariant | RegexOptions.IgnoreCase,
        matchTimeoutMilliseconds: 1000
    )]
    private static partial Regex Name();
}
