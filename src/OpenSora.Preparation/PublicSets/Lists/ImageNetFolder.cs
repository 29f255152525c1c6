using System.Runtime.CompilerServices;

namespace OpenSora.Preparation.PublicSets.Lists;

/// <summary>Reads the folder of a split of ImageNet.</summary>
internal static class ImageNetFolder
{
    internal static async IAsyncEnumerable<PublicSetEntry> ReadAsync(
        string path,
        Action<PublicSetNotice> report,
        [EnumeratorCancellation] CancellationToken cancellationToken
    )
    {
        if (!Directory.Exists(path))
        {
            throw new PreparationException("invalid list", $"'{path}' is not a folder. Specify the folder 'train' or 'val' of ImageNet.");
        }

        var names = await NamesAsync(path, report, cancellationToken).ConfigureAwait(false);
        var count = 0;
        foreach (var (synset, file) in ClassFolders.Files(path, ".JPEG", report))
        {
            cancellationToken.ThrowIfCancellationRequested();
            count++;
            yield return Entry(synset, file);
        }

        if (count > 0)
        {
            yield break;
        }

        var solution = Above(path, "LOC_val_solution.csv")
            ?? throw new PreparationException(
                "invalid list",
                $"'{path}' has no folders of classes with .JPEG files, and there is no LOC_val_solution.csv in it or above it. "
                    + "Specify the folder 'train' or 'val' of ImageNet."
            );
        await foreach (var row in CsvRows.ReadAsync(solution, ["ImageId", "PredictionString"], cancellationToken).ConfigureAwait(false))
        {
            var (id, synset) = (row["ImageId"], row["PredictionString"].Split(' ')[0]);
            if (id.Length == 0 || id.AsSpan().IndexOfAny("/\\:") >= 0 || synset.Length == 0)
            {
                throw ListValues.Error(solution, row.Line, "The row has no ImageId or no class.");
            }

            var file = Path.Combine(Path.GetFullPath(path), id + ".JPEG");
            if (File.Exists(file))
            {
                yield return Entry(synset, file);
            }
            else
            {
                report(new(solution, row.Line, "file is missing", $"There is no file '{file}'."));
            }
        }

        PublicSetEntry Entry(string synset, string file) =>
            new()
            {
                Set = PublicSet.ImageNet.Name,
                Id = Path.GetFileNameWithoutExtension(file),
                VideoId = Path.GetFileNameWithoutExtension(file),
                Path = file,
                Class = synset,
                Caption = names.GetValueOrDefault(synset),
            };
    }

    private static async Task<Dictionary<string, string>> NamesAsync(string path, Action<PublicSetNotice> report, CancellationToken cancellationToken)
    {
        Dictionary<string, string> names = new(StringComparer.Ordinal);
        if (Above(path, "LOC_synset_mapping.txt") is not { } mapping)
        {
            report(new(path, 0, "no names of classes", "There is no LOC_synset_mapping.txt in the folder or above it; entries have no captions."));
            return names;
        }

        var line = 0L;
        await foreach (var text in File.ReadLinesAsync(mapping, cancellationToken).ConfigureAwait(false))
        {
            line++;
            var parts = text.Trim().Split(' ', 2);
            if (parts.Length != 2)
            {
                throw ListValues.Error(mapping, line, $"'{text}' is not like 'n01440764 tench, Tinca tinca'.");
            }

            names[parts[0]] = parts[1].Split(',')[0].Trim();
        }

        return names;
    }

    private static string? Above(string path, string name)
    {
        var folder = Path.TrimEndingDirectorySeparator(Path.GetFullPath(path));
        for (var level = 0; level <= 4 && folder is not null; level++, folder = Path.GetDirectoryName(folder))
        {
            if (File.Exists(Path.Combine(folder, name)))
            {
                return Path.Combine(folder, name);
            }
        }

        return null;
    }
}
