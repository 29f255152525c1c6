using OpenSora.Training.Data;

namespace OpenSora.Preparation.Media;

/// <summary>An entry of a folder that is not used as a source.</summary>
/// <param name="Path">The path of the file, folder or link.</param>
/// <param name="Reason">The reason in a few words, the same for all entries with this problem, such as <c>is hidden</c>.</param>
/// <param name="Message">The reason with details, such as the other path of the same file.</param>
public sealed record PassedOverEntry(string Path, string Reason, string Message);

/// <summary>The videos in a folder and its subfolders.</summary>
/// <remarks>Every file is listed once, even if links lead to it or it has several names (hard links). Symbolic links to files and folders are
/// followed. Files are recognized by their extensions. Sidecar files of listed videos (the same name with the extension <c>.txt</c>,
/// <c>.caption</c>, <c>.json</c>, <c>.info.json</c>, <c>.srt</c> or <c>.vtt</c>) are not reported.</remarks>
public sealed record SourceFolder
{
    private SourceFolder(IReadOnlyList<string> files, IReadOnlyList<PassedOverEntry> passedOver) => (Files, PassedOver) = (files, passedOver);

    /// <summary>The full paths of the videos, sorted by the bytes of their relative paths.</summary>
    public IReadOnlyList<string> Files { get; }

    /// <summary>The entries that are not used, sorted by path: hidden and AppleDouble files, files that are not videos, named pipes, broken links,
    /// second names of listed files, and folders that cannot be read.</summary>
    public IReadOnlyList<PassedOverEntry> PassedOver { get; }

    /// <summary>Lists the videos in a folder and its subfolders. No file is opened.</summary>
    /// <param name="folder">The folder.</param>
    /// <exception cref="DirectoryNotFoundException">The folder does not exist.</exception>
    /// <exception cref="IOException">The folder cannot be read.</exception>
    /// <exception cref="UnauthorizedAccessException">The folder must not be read.</exception>
    public static SourceFolder List(string folder)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        return Directory.Exists(folder)
            ? List(folder, new ClipFolder(folder) { IncludeImages = false, Sidecars = [".txt", ".caption", ".json", ".info.json", ".srt", ".vtt"] })
            : throw new DirectoryNotFoundException($"The folder '{folder}' does not exist. Specify a folder that contains videos.");
    }

    internal static SourceFolder List(string folder, ClipFolder listing)
    {
        var root = Path.GetFullPath(folder);
        var (files, passedOver) = listing.List();
        return new(
            [.. files.Select(file => Path.Combine(root, file))],
            [.. passedOver.Select(entry => new PassedOverEntry(entry.Path, Shorten(entry.Reason), entry.Reason))]
        );
    }

    // "cannot be read: Access is denied." and "is the same file as 'a.mp4'" count as one reason each.
    private static string Shorten(string message) =>
        message.StartsWith("is the same file", StringComparison.Ordinal) ? "is another name of a listed file" : message.Split(':')[0];
}
