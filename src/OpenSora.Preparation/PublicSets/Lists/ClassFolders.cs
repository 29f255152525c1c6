namespace OpenSora.Preparation.PublicSets.Lists;

/// <summary>Lists a folder that has a folder of files for each class.</summary>
internal static class ClassFolders
{
    /// <summary>Lists the files by class, sorted by name; other entries are reported.</summary>
    internal static IEnumerable<(string Class, string Path)> Files(string folder, string extension, Action<PublicSetNotice> report)
    {
        foreach (var inner in Directory.EnumerateDirectories(Path.GetFullPath(folder)).Order(StringComparer.Ordinal))
        {
            foreach (var file in Directory.EnumerateFiles(inner).Order(StringComparer.Ordinal))
            {
                if (Path.GetExtension(file).Equals(extension, StringComparison.OrdinalIgnoreCase) && !Path.GetFileName(file).StartsWith('.'))
                {
                    yield return (Path.GetFileName(inner), file);
                }
                else
                {
                    report(new(folder, 0, "another kind of file", $"'{file}' does not end with {extension}."));
                }
            }
        }
    }
}
