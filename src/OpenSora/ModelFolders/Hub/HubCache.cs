using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using OpenSora.Weights;

namespace OpenSora.ModelFolders;

/// <summary>A repository in the cache, in the layout that the hub's Python tools use.</summary>
/// <remarks>
/// <c>blobs/HASH</c> contains file contents, <c>snapshots/COMMIT/PATH</c> links to them, <c>refs/REVISION</c> contains the commit of a branch or tag,
/// and <c>blobs/HASH.incomplete</c> is a partial download that can be resumed. Locks are in the folder <c>.locks</c> next to the repositories.
/// </remarks>
internal sealed class HubCache(string cacheFolder, string repository, bool links = true)
{
    private const int Poll = 50; // milliseconds between attempts to acquire a lock that another process holds
    private readonly string _name = "models--" + repository.Replace("/", "--", StringComparison.Ordinal);

    private string Folder => Path.Combine(cacheFolder, _name);

    public string Snapshot(string commit) => Path.Combine(Folder, "snapshots", commit);

    public string PathOf(string commit, string file) => Path.Combine([Snapshot(commit), .. file.Split('/')]);

    public string Blob(string hash) => Path.Combine(Folder, "blobs", hash);

    public string Incomplete(string hash) => Blob(hash) + ".incomplete";

    /// <summary>Gets the length of a file in a snapshot in bytes, or null if it does not exist or its link is broken.</summary>
    public long? LengthOf(string commit, string file)
    {
        var there = new FileInfo(PathOf(commit, file));
        var target = there.LinkTarget is null ? there : (FileInfo)there.ResolveLinkTarget(returnFinalTarget: true)!;
        return target.Exists ? target.Length : null;
    }

    /// <summary>Gets the last known commit of a branch or tag, or the revision itself if it is a commit. Returns null if there is no snapshot of the
    /// commit.</summary>
    public string? Commit(string revision)
    {
        var path = RefPath(revision);
        var commit = File.Exists(path) ? File.ReadAllText(path).Trim() : revision;
        return HubNames.IsCommit(commit) && Directory.Exists(Snapshot(commit)) ? commit : null;
    }

    /// <summary>Stores the commit of a branch or tag.</summary>
    public void Remember(string revision, string commit)
    {
        if (!string.Equals(revision, commit, StringComparison.Ordinal))
        {
            AtomicFile.Write(RefPath(revision), stream => stream.Write(Encoding.ASCII.GetBytes(commit)));
        }
    }

    /// <summary>Acquires a lock on a blob, waiting while another process or thread holds it. Dispose the result to release the lock.</summary>
    public async Task<IDisposable> LockAsync(string hash, CancellationToken cancellationToken)
    {
        var path = Path.Combine(cacheFolder, ".locks", _name, hash + ".lock");
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        while (true)
        {
            try
            {
                return new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            }
            catch (IOException exception) when (IsHeldElsewhere(exception))
            {
                await Task.Delay(Poll, cancellationToken).ConfigureAwait(false);
            }
        }
    }

    /// <summary>Adds a blob to a snapshot, as a symbolic link if possible and otherwise as a file.</summary>
    /// <param name="commit">The commit of the snapshot.</param>
    /// <param name="file">The path of the file in the snapshot.</param>
    /// <param name="hash">The hash of the blob.</param>
    /// <param name="isNew">true if the blob was just downloaded and may be moved instead of copied.</param>
    public void Place(string commit, string file, string hash, bool isNew)
    {
        var path = PathOf(commit, file);
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        var temporary = $"{path}.{Guid.NewGuid():N}.tmp";
        try
        {
            if (!TryLink(temporary, Path.GetRelativePath(Path.GetDirectoryName(path)!, Blob(hash))))
            {
                if (isNew)
                {
                    File.Move(Blob(hash), temporary);
                }
                else
                {
                    File.Copy(Blob(hash), temporary);
                }
            }

            File.Move(temporary, path, overwrite: true);
        }
        catch
        {
            File.Delete(temporary);
            throw;
        }
    }

    /// <summary>Determines whether the contents of a file match a hash: SHA-256, or the SHA-1 of a git blob.</summary>
    public static async Task<bool> MatchesAsync(string path, string hash, CancellationToken cancellationToken)
    {
        using var stream = new FileStream(
            path,
            FileMode.Open,
            FileAccess.Read,
            FileShare.Read,
            1 << 20,
            FileOptions.Asynchronous | FileOptions.SequentialScan
        );
        using var algorithm = IncrementalHash.CreateHash(hash.Length == HubNames.Sha256Length ? HashAlgorithmName.SHA256 : HashAlgorithmName.SHA1);
        if (hash.Length != HubNames.Sha256Length)
        {
            algorithm.AppendData(Encoding.ASCII.GetBytes(string.Create(CultureInfo.InvariantCulture, $"blob {stream.Length}\0")));
        }

        var buffer = new byte[1 << 20];
        while (await stream.ReadAsync(buffer, cancellationToken).ConfigureAwait(false) is var count and > 0)
        {
            algorithm.AppendData(buffer, 0, count);
        }

        return string.Equals(Convert.ToHexStringLower(algorithm.GetHashAndReset()), hash, StringComparison.Ordinal);
    }

    private string RefPath(string revision) => Path.Combine([Folder, "refs", .. revision.Split('/')]);

    private bool TryLink(string path, string target)
    {
        if (!links)
        {
            return false;
        }

        try
        {
            File.CreateSymbolicLink(path, target);
            return true;
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException or PlatformNotSupportedException)
        {
            return false; // Windows without permission to create links, or a file system without links
        }
    }

    // EWOULDBLOCK on Linux and macOS, ERROR_SHARING_VIOLATION and ERROR_LOCK_VIOLATION on Windows
    private static bool IsHeldElsewhere(IOException exception) =>
        exception.HResult is 11 or 35 or unchecked((int)0x80070020) or unchecked((int)0x80070021);
}

/// <summary>Validates names, so that none refers to a path outside the cache.</summary>
internal static class HubNames
{
    public const int Sha1Length = 40,
        Sha256Length = 64;

    public static bool IsRepository(string name) =>
        name.Split('/') is { Length: 1 or 2 } parts
        && Array.TrueForAll(parts, IsPlain)
        && !name.Contains("--", StringComparison.Ordinal)
        && name.Length <= 200;

    public static bool IsRevision(string name) => name.Length <= 200 && Array.TrueForAll(name.Split('/'), IsPlain);

    public static bool IsCommit(string name) => name.Length == Sha1Length && IsHex(name);

    /// <summary>Determines whether the ETag of a file is a checksum.</summary>
    public static bool IsHash(string tag) => tag.Length is Sha1Length or Sha256Length && IsHex(tag);

    /// <summary>Determines whether a relative path stays within its base folder on every operating system.</summary>
    public static bool IsPath(string path) =>
        path.Length <= 1000
        && Array.TrueForAll(path.Split('/'), part =>
            part.Length > 0
            && part is not ("." or "..")
            && part.AsSpan().IndexOfAny(@"\:*?""<>|") < 0
            && !part.AsSpan().ContainsAnyInRange('\0', '\x1F')
        );

    private static bool IsPlain(string part) =>
        part.Length > 0 && part is not ("." or "..") && part.All(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '_' or '-' or '+');

    private static bool IsHex(string text) => text.All(char.IsAsciiHexDigitLower);
}
