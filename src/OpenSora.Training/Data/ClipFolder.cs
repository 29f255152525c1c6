using System.Runtime.InteropServices;
using OpenSora.Runtime;

namespace OpenSora.Training.Data;

/// <summary>Lists the videos and images in a folder and its subfolders: each file once, in an order that does not depend on the system.</summary>
/// <param name="folder">The folder.</param>
internal sealed class ClipFolder(string folder)
{
    private readonly string _root = Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder));

    private static readonly HashSet<string> StillImages = new(
        ".bmp .dib .jfif .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".Split(' '),
        StringComparer.OrdinalIgnoreCase
    );

    private static readonly HashSet<string> Videos = new(
        (
            ".264 .265 .3g2 .3gp .3gpp .amv .apng .asf .avi .dif .divx .dv .f4v .flv .gif .gifv .h264 .h265 .hevc .ismv .ivf .m1v .m2t .m2ts .m2v "
            + ".m4v .mj2 .mjpeg .mjpg .mkv .mod .mov .mp4 .mpe .mpeg .mpg .mpv .mts .mxf .nut .obu .ogm .ogv .ogx .qt .rm .rmvb .tod .trp .ts .vob "
            + ".webm .wmv .wtv .xvid .y4m"
        ).Split(' '),
        StringComparer.OrdinalIgnoreCase
    );

    // Folders that systems add beside files of users.
    private static readonly HashSet<string> SystemFolders = new(
        ["__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"],
        StringComparer.OrdinalIgnoreCase
    );

    private readonly List<(string Relative, string Real, bool IsLinked)> _found = [];
    private readonly List<(string Path, string Reason)> _passedOver = [];

    /// <summary>Gets the entries of a folder; tests replace it.</summary>
    public Func<string, IEnumerable<FileSystemInfo>> Entries { get; init; } =
        folder =>
            new DirectoryInfo(folder).EnumerateFileSystemInfos(
                "*",
                new EnumerationOptions { AttributesToSkip = FileAttributes.None, IgnoreInaccessible = false }
            );

    /// <summary>Lists images of a single frame as well as videos; true by default.</summary>
    public bool IncludeImages { get; init; } = true;

    /// <summary>The extensions of files with captions, which are not reported if they belong to a listed file.</summary>
    public IReadOnlyList<string> Sidecars { get; init; } = [".txt"];

    /// <summary>Determines by its name whether a file is an image of a single frame.</summary>
    public static bool IsStillImage(string path) => StillImages.Contains(Path.GetExtension(path));

    /// <summary>Describes the names of files that are listed.</summary>
    public static string Extensions => string.Join(", ", StillImages.Concat(Videos).Order(StringComparer.Ordinal));

    /// <summary>Lists the files, by their paths relative to the folder, and everything that was passed over.</summary>
    public (IReadOnlyList<string> Files, IReadOnlyList<(string Path, string Reason)> PassedOver) List()
    {
        Walk();
        var known = new Dictionary<object, string>();
        List<string> files = [];
        // Of several paths of one file, the one without links is used.
        foreach (var (relative, real, _) in _found.OrderBy(file => file.IsLinked).ThenBy(file => file.Relative, StringComparer.Ordinal))
        {
            object identity = HardLinks.IdentityOf(real) is { } node ? node : real;
            if (known.TryAdd(identity, relative))
            {
                files.Add(relative);
            }
            else
            {
                _passedOver.Add((Path.Combine(_root, relative), $"is the same file as '{known[identity]}'"));
            }
        }

        files.Sort(StringComparer.Ordinal);
        var sidecars = files
            .SelectMany(file => Sidecars.Select(extension => Path.ChangeExtension(file, extension)))
            .ToHashSet(StringComparer.Ordinal);
        return (
            files,
            [
                .. _passedOver
                    .Where(other => !sidecars.Contains(Path.GetRelativePath(_root, other.Path)))
                    .OrderBy(other => other.Path, StringComparer.Ordinal),
            ]
        );
    }

    // Visits every real folder once; folders behind links come last, so that files are listed by their own paths where possible.
    private void Walk()
    {
        var top = OutputPath.FollowLinks(_root);
        var folders = new Queue<(string Path, string Real, bool IsLinked)>([(_root, top, false)]);
        var linked = new Queue<(string Path, string Real, bool IsLinked)>();
        HashSet<string> visited = new(StringComparer.Ordinal);
        while (folders.TryDequeue(out var folder) || linked.TryDequeue(out folder))
        {
            if (!visited.Add(folder.Real))
            {
                _passedOver.Add((folder.Path, "leads to a folder that is already listed"));
                continue;
            }

            foreach (var entry in EntriesOf(folder.Path))
            {
                var path = Path.Combine(folder.Path, entry.Name);
                if (ReasonOf(entry) is { } reason)
                {
                    _passedOver.Add((path, reason));
                    continue;
                }

                var isLink = entry.LinkTarget is not null;
                var real = isLink ? OutputPath.FollowLinks(path) : Path.Combine(folder.Real, entry.Name);
                if (!Directory.Exists(path))
                {
                    _found.Add((Path.GetRelativePath(_root, path), real, isLink || folder.IsLinked));
                }
                else if (!isLink)
                {
                    folders.Enqueue((path, real, folder.IsLinked));
                }
                else if (Contains(real, top))
                {
                    _passedOver.Add((path, "is a link to a folder that contains it"));
                }
                else
                {
                    linked.Enqueue((path, real, true));
                }
            }
        }

        static bool Contains(string folder, string inner) =>
            inner.Equals(folder, StringComparison.Ordinal)
            || inner.StartsWith(Path.TrimEndingDirectorySeparator(folder) + Path.DirectorySeparatorChar, StringComparison.Ordinal)
            || folder.Equals(Path.GetPathRoot(inner), StringComparison.Ordinal);
    }

    // The entries in the order of their names; none, and a report, if the folder cannot be read.
    private List<FileSystemInfo> EntriesOf(string path)
    {
        try
        {
            return [.. Entries(path).OrderBy(entry => entry.Name, StringComparer.Ordinal)];
        }
        catch (Exception e) when (e is UnauthorizedAccessException or IOException && !ReferenceEquals(path, _root))
        {
            _passedOver.Add((path, $"cannot be read: {e.Message}"));
            return [];
        }
    }

    // Returns why an entry is passed over; null if it is a clip, or a folder to visit.
    private string? ReasonOf(FileSystemInfo entry)
    {
        var name = entry.Name;
        if (name.StartsWith("._", StringComparison.Ordinal))
        {
            return "holds file attributes of macOS";
        }

        if (name.StartsWith('.') || entry.Attributes.HasFlag(FileAttributes.Hidden))
        {
            return "is hidden";
        }

        switch (FileKinds.Of(entry.FullName))
        {
            case FileKind.Missing:
                return entry.LinkTarget is null ? "cannot be accessed" : "is a link that leads to nothing";
            case FileKind.Folder:
                return SystemFolders.Contains(name) ? "is a folder of the system" : null;
            case FileKind.Regular:
                var extension = Path.GetExtension(name);
                var isImage = StillImages.Contains(extension);
                return Videos.Contains(extension) || (isImage && IncludeImages) ? null
                    : isImage ? "is an image, not a video"
                    : IncludeImages ? "is not a video or image according to its extension"
                    : "is not a video according to its extension";
            case var kind:
                return $"is {kind.Describe()}, not a file";
        }
    }
}

/// <summary>Identifies files that have several names (hard links).</summary>
internal static unsafe partial class HardLinks
{
    private const int CurrentFolder = -100, // AT_FDCWD
        LinksAndNumber = 0x4 | 0x100; // STATX_NLINK | STATX_INO

    /// <summary>Gets the device and the number of a file with several names; null for other files, or if the system does not say.</summary>
    public static (ulong Device, ulong Number)? IdentityOf(string path)
    {
        const int structSize = 256;
        var status = stackalloc byte[structSize];
        new Span<byte>(status, structSize).Clear();
        try
        {
            return OperatingSystem.IsLinux() && StatX(CurrentFolder, path, 0, LinksAndNumber, status) == 0 && *(uint*)(status + 16) > 1
                ? (*(ulong*)(status + 136), *(ulong*)(status + 32))
                : null;
        }
        catch (EntryPointNotFoundException)
        {
            return null;
        }
    }

    // The layout of struct statx is the same on all Linux platforms: links at 16, number at 32, major and minor device at 136.
    [LibraryImport("libc", EntryPoint = "statx", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int StatX(int folder, string path, int flags, uint mask, byte* status);
}
