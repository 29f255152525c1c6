namespace OpenSora.Cli;

/// <summary>The space of disks.</summary>
internal static class Disk
{
    /// <summary>Gets the free space of the disk that a folder is on, or will be on, in bytes; null if it is unknown.</summary>
    public static long? FreeSpace(string folder)
    {
        try
        {
            for (var path = Path.GetFullPath(folder); path is not null; path = Path.GetDirectoryName(path))
            {
                if (Directory.Exists(path))
                {
                    return new DriveInfo(path).AvailableFreeSpace;
                }
            }
        }
        catch (Exception exception) when (exception is ArgumentException or IOException or UnauthorizedAccessException)
        {
            // a network folder has no drive to query
        }

        return null;
    }
}
