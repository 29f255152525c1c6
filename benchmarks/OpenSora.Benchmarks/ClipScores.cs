using System.Diagnostics;
using OpenSora.Preparation.Scores;

namespace OpenSora.Benchmarks;

/// <summary>Measures the scores of a clip of 3 seconds, compared with ffmpeg's decoding alone.</summary>
internal static class ClipScores
{
    private const int Seconds = 3;
    private const int Runs = 9;

    internal static void Run()
    {
        var folder = Directory.CreateTempSubdirectory("opensora-scores-").FullName;
        try
        {
            foreach (var size in (string[])["1280x720", "1920x1080"])
            {
                RunAsync(Path.Combine(folder, $"{size}.mp4"), size).GetAwaiter().GetResult();
            }
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static async Task RunAsync(string path, string size)
    {
        string[] source = ["-f", "lavfi", "-i", $"mandelbrot=size={size}:rate=30", "-vf", "noise=alls=6", "-t", $"{Seconds}"];
        await FFmpegAsync([.. source, "-pix_fmt", "yuv420p", path]);
        var scorer = new ClipScorer();
        var frames = await ClipFrames.ReadAsync(path);
        for (var i = 0; i < 30; i++)
        {
            await scorer.ScoreAsync(frames); // until the code is compiled with optimization
        }

        // Alternating, so that other programs on the machine disturb all of them alike.
        var (decode, scores, all) = (new List<double>(), new List<double>(), new List<double>());
        for (var i = 0; i < Runs; i++)
        {
            decode.Add(await TimeAsync(() => FFmpegAsync(["-i", path, "-f", "null", "-"])));
            scores.Add(await TimeAsync(() => scorer.ScoreAsync(frames)));
            all.Add(await TimeAsync(() => scorer.ScoreAsync(path)));
        }

        Console.WriteLine(
            $"  {size}, {Seconds} s: ffmpeg decoding {Median(decode):f0} ms; all scores of decoded frames {Median(scores):f0} ms; "
                + $"decoding and scores {Median(all):f0} ms = {1000 * Seconds / Median(all):f1} times real time, "
                + $"{Median(all) / Median(decode):f2} x ffmpeg"
        );
        foreach (var score in StandardScores.Create())
        {
            var cpu = new List<double>();
            for (var i = 0; i < Runs; i++)
            {
                var start = Process.GetCurrentProcess().TotalProcessorTime;
                await score.ComputeAsync(frames);
                cpu.Add((Process.GetCurrentProcess().TotalProcessorTime - start).TotalMilliseconds);
            }

            Console.WriteLine($"    {string.Join(", ", score.Columns.Select(column => column.Name))}: {Median(cpu):f1} ms of processor time");
        }
    }

    private static double Median(List<double> values) => values.Order().ElementAt(values.Count / 2);

    private static async Task<double> TimeAsync(Func<Task> action)
    {
        var start = Stopwatch.GetTimestamp();
        await action();
        return Stopwatch.GetElapsedTime(start).TotalMilliseconds;
    }

    private static async Task FFmpegAsync(IEnumerable<string> arguments)
    {
        using var process = Process.Start(new ProcessStartInfo("ffmpeg", ["-v", "error", "-nostdin", "-y", .. arguments]))!;
        await process.WaitForExitAsync();
        if (process.ExitCode != 0)
        {
            throw new InvalidOperationException("ffmpeg failed.");
        }
    }
}
