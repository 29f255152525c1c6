using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using OpenSora.Weights;

namespace OpenSora.ModelFolders;

/// <summary>One repository in the cache, in the layout that the hub's Python tools share.</summary>
/// <remarks>
/// <c>blobs/HASH</c> holds contents, <c>snapshots/COMMIT/PATH</c> links to them, <c>refs/REVISION</c> says a branch's or tag's commit, and
/// <c>blobs/HASH.incomplete</c> is a download that goes on where it stopped. Locks lie in <c>.locks</c> beside the repositories.
/// </remarks>
internal sealed class HubCache(string cacheFolder, string repository, bool links = true)
{
    private const int Poll = 50; // milliseconds between looks at a lock that another process holds
    private readonly string _name = "models--" + repository.Replace("/", "--", StringComparison.Ordinal);

    private string Folder => Path.Combine(cacheFolder, _name);

    public string Snapshot(string commit) => Path.Combine(Folder, "snapshots", commit);

    public string PathOf(string commit, string file) => Path.Combine([Snapshot(commit), .. file.Split('/')]);

    public string Blob(string hash) => Path.Combine(Folder, "blobs", hash);

    public string Incomplete(string hash) => Blob(hash) + ".incomplete";

    /// <summary>The length of a file in a snapshot; null if it is not there, or its link leads nowhere.</summary>
    public long? LengthOf(string commit, string file)
    {
        var there = new FileInfo(PathOf(commit, file));
        var target = there.LinkTarget is null ? there : (FileInfo)there.ResolveLinkTarget(returnFinalTarget: true)!;
        return target.Exists ? target.Length : null;
    }

    /// <summary>The commit of a branch or tag when it was last asked for, or the commit itself; null if there is no snapshot of it.</summary>
    public string? Commit(string revision)
    {
        var path = RefPath(revision);
        var commit = File.Exists(path) ? File.ReadAllText(path).Trim() : revision;
        return HubNames.IsCommit(commit) && Directory.Exists(Snapshot(commit)) ? commit : null;
    }

    /// <summary>Remembers the commit of a branch or tag.</summary>
    public void Remember(string revision, string commit)
    {
        if (!string.Equals(revision, commit, StringComparison.Ordinal))
        {
            AtomicFile.Write(RefPath(revision), stream => stream.Write(Encoding.ASCII.GetBytes(commit)));
        }
    }

    /// <summary>Waits until no other process or thread works at a blob; the lock ends when it is disposed of.</summary>
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

    /// <summary>Makes a blob appear in a snapshot: as a link where the system lets us, else as the file itself.</summary>
    /// <param name="commit">The snapshot.</param>
    /// <param name="file">The path in it.</param>
    /// <param name="hash">The blob.</param>
    /// <param name="isNew">Whether the blob was just downloaded: it then may move.</param>
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

    /// <summary>Whether a file's content is what a hash says: SHA-256, or the SHA-1 of a git blob.</summary>
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
            return false; // Windows without the right to make links, or a file system without them
        }
    }

    // EWOULDBLOCK of Linux and of macOS, ERROR_SHARING_VIOLATION and ERROR_LOCK_VIOLATION of Windows
    private static bool IsHeldElsewhere(IOException exception) =>
        exception.HResult is 11 or 35 or unchecked((int)0x80070020) or unchecked((int)0x80070021);
}

/// <summary>What names may look like, so that none leads out of the cache.</summary>
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

    /// <summary>Whether a server's tag of a file is a checksum.</summary>
    public static bool IsHash(string tag) => tag.Length is Sha1Length or Sha256Length && IsHex(tag);

    /// <summary>Whether a path stays within the folder that it is relative to, on every system.</summary>
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
