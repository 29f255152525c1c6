using System.Globalization;

namespace OpenSora.Runtime;

/// <summary>The memory of the machine that this process can use.</summary>
/// <param name="Total">The memory and the swap space in bytes, at most the limit of the container (cgroup).</param>
/// <param name="Available">The memory that is not in use, in bytes. Memory that the operating system uses as a file cache is available.</param>
internal readonly record struct MachineMemory(long Total, long Available)
{
    private const string Groups = "/sys/fs/cgroup";

    /// <summary>Reads the current values.</summary>
    public static MachineMemory Read()
    {
        var memory = OperatingSystem.IsLinux() && FromMemInfo() is { } host ? host : FromRuntime();
        foreach (var (limit, used) in OperatingSystem.IsLinux() ? CgroupLimits() : [])
        {
            memory = new(Math.Min(memory.Total, limit), Math.Min(memory.Available, Math.Max(0, limit - used)));
        }

        return memory;
    }

    private static MachineMemory FromRuntime()
    {
        if (GC.GetGCMemoryInfo().Index == 0)
        {
            GC.Collect(0); // the values are those of the last collection
        }

        var info = GC.GetGCMemoryInfo();
        return new(info.TotalAvailableMemoryBytes, Math.Max(0, info.TotalAvailableMemoryBytes - info.MemoryLoadBytes));
    }

    private static MachineMemory? FromMemInfo()
    {
        var values = Fields("/proc/meminfo");
        return values.TryGetValue("MemTotal:", out var total) && values.TryGetValue("MemAvailable:", out var available)
            ? new(1024 * (total + values.GetValueOrDefault("SwapTotal:")), 1024 * available)
            : null;
    }

    // The limits of the groups that contain the process, and the memory that they use without caches of files.
    private static IEnumerable<(long Limit, long Used)> CgroupLimits()
    {
        foreach (var line in Lines("/proc/self/cgroup"))
        {
            var parts = line.Split(':', 3);
            var isFirstVersion = parts.Length == 3 && parts[1].Split(',').Contains("memory", StringComparer.Ordinal);
            if (parts.Length < 3 || (!string.Equals(parts[0], "0", StringComparison.Ordinal) && !isFirstVersion))
            {
                continue;
            }

            // Inside a container, the path may be that of the host, and then only the root exists.
            var root = isFirstVersion ? $"{Groups}/memory" : Groups;
            for (var path = parts[2].TrimEnd('/'); ; path = path[..Math.Max(0, path.LastIndexOf('/'))])
            {
                var folder = root + path;
                var limit = Number(isFirstVersion ? $"{folder}/memory.limit_in_bytes" : $"{folder}/memory.max");
                var used = Number(isFirstVersion ? $"{folder}/memory.usage_in_bytes" : $"{folder}/memory.current");
                if (limit is { } most && used is { } now)
                {
                    var cache = Fields($"{folder}/memory.stat").GetValueOrDefault(isFirstVersion ? "total_inactive_file" : "inactive_file");
                    yield return (most, Math.Max(0, now - cache));
                }

                if (path.Length == 0)
                {
                    break;
                }
            }
        }
    }

    private static long? Number(string path) =>
        long.TryParse(Lines(path).FirstOrDefault(), NumberStyles.None, CultureInfo.InvariantCulture, out var value) ? value : null;

    private static Dictionary<string, long> Fields(string path)
    {
        var fields = new Dictionary<string, long>(StringComparer.Ordinal);
        foreach (var line in Lines(path))
        {
            var parts = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
            if (parts.Length >= 2 && long.TryParse(parts[1], NumberStyles.None, CultureInfo.InvariantCulture, out var value))
            {
                fields[parts[0]] = value;
            }
        }

        return fields;
    }

    private static string[] Lines(string path)
    {
        try
        {
            return File.Exists(path) ? File.ReadAllLines(path) : [];
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return [];
        }
    }
}
