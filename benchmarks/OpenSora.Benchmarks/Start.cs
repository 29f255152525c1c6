using System.Diagnostics;
using System.Globalization;
using OpenSora.Generation;

namespace OpenSora.Benchmarks;

/// <summary>The time from the start of a process to the first denoising step of the bundled model.</summary>
internal static class Start
{
    public const string Child = "start-child";
    private const int Runs = 9;
    private const string Denoises = "denoises";
    private const string Stepped = "stepped";

    public static void Run()
    {
        Measure(); // reads the files into memory
        List<(double Begins, double Ends)> times = [];
        for (var i = 0; i < Runs; i++)
        {
            times.Add(Measure());
        }

        var (begins, ends) = (Median(times.Select(time => time.Begins)), Median(times.Select(time => time.Ends)));
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"The first step begins after {begins:F2} s and ends after {ends:F2} s."));
        Console.WriteLine($"(medians of {Runs} processes, each with a generator of the model 'stickers' and a request of 24 frames)");
    }

    /// <summary>The child process: generates a video, and prints when the first step begins and ends.</summary>
    public static async Task<int> GenerateAsync()
    {
        using var generator = VideoGenerator.Create().UseModel("stickers").UseBackend("cpu").Build();
        using var done = new CancellationTokenSource();
        try
        {
            await generator.GenerateAsync(new VideoRequest { Prompt = "a goat", Seed = 7 }, new FirstStep(done), done.Token);
        }
        catch (OperationCanceledException)
        {
            return 0;
        }

        return 1;
    }

    private static (double Begins, double Ends) Measure()
    {
        var watch = Stopwatch.StartNew();
        using var process = Process.Start(
            new ProcessStartInfo(Environment.ProcessPath!, [typeof(Start).Assembly.Location, Child])
            {
                RedirectStandardOutput = true,
                UseShellExecute = false,
            }
        )!;
        var (begins, ends) = (0.0, 0.0);
        while (process.StandardOutput.ReadLine() is { } line)
        {
            _ = line switch
            {
                Denoises => begins = watch.Elapsed.TotalSeconds,
                Stepped => ends = watch.Elapsed.TotalSeconds,
                _ => 0,
            };
        }

        process.WaitForExit();
        return process.ExitCode == 0 && ends > 0 ? (begins, ends) : throw new InvalidOperationException("The child process failed.");
    }

    private static double Median(IEnumerable<double> times) => times.Order().ElementAt(Runs / 2);

    private sealed class FirstStep(CancellationTokenSource done) : IProgress<GenerationProgress>
    {
        public void Report(GenerationProgress value)
        {
            if (value.Stage != GenerationStage.Denoising)
            {
                return;
            }

            Console.WriteLine(value.Step == 0 ? Denoises : Stepped);
            if (value.Step > 0)
            {
                done.Cancel();
            }
        }
    }
}
