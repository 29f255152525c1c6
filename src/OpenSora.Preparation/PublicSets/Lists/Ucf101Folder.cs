using System.Globalization;
using System.Runtime.CompilerServices;

namespace OpenSora.Preparation.PublicSets.Lists;

/// <summary>Reads the folder or a split of UCF-101.</summary>
internal static class Ucf101Folder
{
    internal static IAsyncEnumerable<PublicSetEntry> ReadAsync(string path, Action<PublicSetNotice> report, CancellationToken cancellationToken) =>
        Directory.Exists(path) ? FolderAsync(path, report, cancellationToken) : SplitAsync(path, report, cancellationToken);

    private static async IAsyncEnumerable<PublicSetEntry> FolderAsync(
        string path,
        Action<PublicSetNotice> report,
        [EnumeratorCancellation] CancellationToken cancellationToken
    )
    {
        await Task.CompletedTask.ConfigureAwait(false);
        var count = 0;
        foreach (var (name, file) in ClassFolders.Files(path, ".avi", report))
        {
            cancellationToken.ThrowIfCancellationRequested();
            count++;
            yield return Entry(name, file);
        }

        if (count == 0)
        {
            throw new PreparationException(
                "invalid list",
                $"'{path}' has no folders with .avi files. Specify the folder that contains ApplyEyeMakeup, Archery and so on."
            );
        }
    }

    // The published lists end lines with \r\n, and test lists have no class numbers.
    private static async IAsyncEnumerable<PublicSetEntry> SplitAsync(
        string path,
        Action<PublicSetNotice> report,
        [EnumeratorCancellation] CancellationToken cancellationToken
    )
    {
        var folder = Path.GetDirectoryName(Path.GetFullPath(path))!;
        var roots = new[] { ".", "UCF-101", "videos", "..", "../UCF-101", "../videos" }
            .Select(name => Path.GetFullPath(Path.Combine(folder, name)))
            .Where(Directory.Exists)
            .ToArray();
        var numbers = Numbers(Path.Combine(folder, "classInd.txt"));
        var line = 0L;
        await foreach (var text in File.ReadLinesAsync(path, cancellationToken).ConfigureAwait(false))
        {
            line++;
            var parts = text.Trim().Split(' ', StringSplitOptions.RemoveEmptyEntries);
            if (parts.Length == 0)
            {
                continue;
            }

            var names = parts[0].Split('/');
            if (
                parts.Length > 2
                || names.Length != 2
                || names.Any(name => name is "" or "." or "..")
                || (parts.Length == 2 && !int.TryParse(parts[1], NumberStyles.None, CultureInfo.InvariantCulture, out _))
            )
            {
                throw ListValues.Error(
                    path,
                    line,
                    $"'{text.Trim()}' is not like 'ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1' (or the same without a number)."
                );
            }

            if (
                parts.Length == 2
                && numbers is not null
                && !(numbers.TryGetValue(parts[1], out var known) && known.Equals(names[0], StringComparison.OrdinalIgnoreCase))
            )
            {
                throw ListValues.Error(path, line, $"Class {parts[1]} is not {names[0]} according to classInd.txt.");
            }

            if (roots.Select(root => Path.Combine(root, names[0], names[1])).FirstOrDefault(File.Exists) is { } file)
            {
                yield return Entry(names[0], file);
            }
            else
            {
                report(new(path, line, "file is missing", $"There is no file '{parts[0]}' in {string.Join(", ", roots)}."));
            }
        }
    }

    private static Dictionary<string, string>? Numbers(string path) =>
        !File.Exists(path)
            ? null
            : File.ReadLines(path)
                .Select(line => line.Trim().Split(' ', 2))
                .Where(parts => parts.Length == 2)
                .ToDictionary(parts => parts[0], parts => parts[1].Trim(), StringComparer.Ordinal);

    private static PublicSetEntry Entry(string name, string file) =>
        new()
        {
            Set = PublicSet.Ucf101.Name,
            Id = Path.GetFileNameWithoutExtension(file),
            VideoId = Path.GetFileNameWithoutExtension(file),
            Path = file,
            Class = name,
            Caption = ListValues.Words(name),
        };
}
