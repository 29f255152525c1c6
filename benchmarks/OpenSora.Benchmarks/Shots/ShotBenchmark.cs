using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using OpenSora.Preparation.Shots;

namespace OpenSora.Benchmarks.Shots;

/// <summary>Measures the speed, memory and accuracy of shot detection.</summary>
internal static partial class ShotBenchmark
{
    private const int Rounds = 5;

    /// <summary>Gets the folder of footage, in which every file is one shot; null, and a message, if there is none.</summary>
    private static string? Footage
    {
        get
        {
            var folder = Environment.GetEnvironmentVariable("OPENSORA_BENCH_FOOTAGE");
            if (folder is null || !Directory.Exists(folder))
            {
                Console.WriteLine(
                    "Accuracy is not measured: set OPENSORA_BENCH_FOOTAGE to a folder of videos, each of which is one shot of at least two seconds.\n"
                );
                return null;
            }

            return folder;
        }
    }

    public static void Run()
    {
        var other = PySceneDetect.Find();
        Speed(other);
        if (Footage is { } footage)
        {
            var folder = Environment.GetEnvironmentVariable("OPENSORA_BENCH_OUT") ?? Path.Combine(Path.GetTempPath(), "opensora-bench-shots");
            var videos = ShotVideos.Assemble(footage, folder, count: 32, seed: 2);
            ShotAccuracy.Print(videos, other?.Cuts(videos.Select(video => video.Path)));
        }
    }

    /// <summary>Detects the shots of a file in this process, which is what <see cref="Speed"/> measures.</summary>
    public static int Detect(string path, string detector)
    {
        var shots = new ShotDetection(ShotAccuracy.Detectors[detector]).DetectAsync(path).GetAwaiter().GetResult();
        Console.WriteLine($"{shots.Shots.Count} shots, {shots.Frames.Count} frames");
        return 0;
    }

    /// <summary>Prints the time and peak memory of each program and its children, and ratios to ffmpeg that decodes and scales.</summary>
    private static void Speed(PySceneDetect? other)
    {
        var files = Environment.GetEnvironmentVariable("OPENSORA_BENCH_VIDEOS")?.Split(Path.PathSeparator) ?? [];
        if (files.Length == 0)
        {
            Console.WriteLine("Speed is not measured: set OPENSORA_BENCH_VIDEOS to the paths of videos, separated as in PATH.\n");
        }

        foreach (var file in files)
        {
            string[] input = ["-v", "error", "-nostdin", "-i", file, "-vsync", "passthrough"];
            var scale = "scale=256:256:force_original_aspect_ratio=decrease:flags=neighbor,format=yuv420p";
            List<(string Name, string Program, string[] Arguments)> programs =
            [
                ("ffmpeg, decoding", "ffmpeg", [.. input, "-f", "null", "-"]),
                ("ffmpeg, decoding and scaling", "ffmpeg", [.. input, "-vf", scale, "-pix_fmt", "rgb24", "-f", "rawvideo", "-y", "/dev/null"]),
            ];
            foreach (var detector in (string[])["content", "adaptive", "default"])
            {
                programs.Add(
                    ($"this library, {detector}", Environment.ProcessPath!, [typeof(ShotBenchmark).Assembly.Location, "detect", file, detector])
                );
                if (other is not null && detector is not "default")
                {
                    var (program, arguments) = other.Command(detector, file);
                    programs.Add(($"PySceneDetect, {detector}", program, arguments));
                }
            }

            var runs = Enumerable.Range(0, Rounds).Select(_ => programs.ConvertAll(each => Time(each.Program, each.Arguments))).ToArray();
            var length = Seconds(file);
            Console.WriteLine($"{Path.GetFileName(file)}, {length:F0} s, medians of {Rounds} rounds:\n");
            Console.WriteLine("| program | seconds | multiples of real time | time / ffmpeg's | processor seconds | / ffmpeg's | peak memory, MB |");
            Console.WriteLine("|---|---|---|---|---|---|---|");
            foreach (var (i, (name, _, _)) in programs.Index())
            {
                var wall = Median(runs.Select(run => run[i].Wall));
                var ratio = Median(runs.Select(run => run[i].Wall / run[1].Wall));
                var cpu = Median(runs.Select(run => run[i].Cpu));
                var cpuRatio = Median(runs.Select(run => run[i].Cpu / run[1].Cpu));
                var memory = runs.Max(run => run[i].Memory) / 1e6;
                Console.WriteLine(
                    string.Create(
                        CultureInfo.InvariantCulture,
                        $"| {name} | {wall:F2} | {length / wall:F0}x | {ratio:F2} | {cpu:F2} | {cpuRatio:F2} | {memory:F0} |"
                    )
                );
            }

            Console.WriteLine();
        }

        static double Median(IEnumerable<double> values) => values.Order().ElementAt(Rounds / 2);
    }

    // Runs a program, and samples the memory of it and its children.
    private static (double Wall, double Cpu, double Memory) Time(string program, string[] arguments)
    {
        var before = ChildrenCpu();
        var start = Stopwatch.GetTimestamp();
        using var process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, UseShellExecute = false })!;
        Dictionary<int, double> peaks = [];
        using var timer = new Timer(_ => Sample(process.Id, peaks), null, 0, 50);
        process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        var wall = Stopwatch.GetElapsedTime(start).TotalSeconds;
        return process.ExitCode == 0
            ? (wall, ChildrenCpu() - before, Sum(peaks))
            : throw new InvalidOperationException($"{program} {string.Join(' ', arguments)} failed.");
    }

    private static double Sum(Dictionary<int, double> peaks)
    {
        lock (peaks)
        {
            return peaks.Values.Sum();
        }
    }

    private static void Sample(int id, Dictionary<int, double> peaks)
    {
        try
        {
            foreach (var each in (int[])[id, .. Children(id)])
            {
                var line = File.ReadLines($"/proc/{each}/status").FirstOrDefault(line => line.StartsWith("VmHWM:", StringComparison.Ordinal));
                if (line is not null)
                {
                    lock (peaks)
                    {
                        peaks[each] = 1024 * double.Parse(line[6..].Replace("kB", "", StringComparison.Ordinal), CultureInfo.InvariantCulture);
                    }
                }
            }
        }
        catch (IOException)
        {
            // The process has ended.
        }
    }

    private static IEnumerable<int> Children(int id) =>
        Directory
            .EnumerateDirectories($"/proc/{id}/task")
            .SelectMany(task => File.ReadAllText(Path.Combine(task, "children")).Split(' ', StringSplitOptions.RemoveEmptyEntries))
            .Select(text => int.Parse(text, CultureInfo.InvariantCulture));

    private static double Seconds(string path)
    {
        using var ffprobe = Process.Start(
            new ProcessStartInfo("ffprobe", ["-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", path])
            {
                RedirectStandardOutput = true,
                UseShellExecute = false,
            }
        )!;
        return double.Parse(ffprobe.StandardOutput.ReadToEnd(), CultureInfo.InvariantCulture);
    }

    // The processor time of all ended children and their children.
    private static double ChildrenCpu()
    {
        Span<long> usage = stackalloc long[18];
        _ = GetUsage(-1, ref usage[0]);
        return usage[0] + (usage[1] / 1e6) + usage[2] + (usage[3] / 1e6);
    }

    [LibraryImport("libc", EntryPoint = "getrusage")]
    private static partial int GetUsage(int who, ref long usage);
}
