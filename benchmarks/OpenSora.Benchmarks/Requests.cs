using System.Diagnostics;
using System.Globalization;
using OpenSora.Generation;
using TorchSharp;

namespace OpenSora.Benchmarks;

/// <summary>1,000 requests, 8 at a time, on one loaded model; 40 % of them are canceled at random points.</summary>
internal static class Requests
{
    private const int Count = 1000;
    private const int AtOnce = 8;

    public static void Run() => RunAsync().GetAwaiter().GetResult();

    private static async Task RunAsync()
    {
        using var generator = VideoGenerator.Create().UseModel("stickers").UseBackend("cpu").Build();
        await generator.GenerateAsync(Request(0));
        GC.Collect();
        GC.WaitForPendingFinalizers();
        var (before, watch) = (torch.Tensor.TotalCount, Stopwatch.StartNew());
        var (complete, canceled, ended) = (0, 0, 0);
        List<double> memory = [];
        Console.WriteLine("| requests | seconds | resident memory, MB | live tensors |\n|---|---|---|---|");
        await Parallel.ForEachAsync(Enumerable.Range(0, Count), new ParallelOptions { MaxDegreeOfParallelism = AtOnce }, async (i, _) =>
        {
            var random = new Random(i);
            using var source = new CancellationTokenSource();
            if (random.NextDouble() < 0.4)
            {
                source.CancelAfter(TimeSpan.FromMilliseconds(random.Next(1500)));
            }

            try
            {
                await generator.GenerateAsync(Request(i), cancellationToken: source.Token);
                Interlocked.Increment(ref complete);
            }
            catch (OperationCanceledException)
            {
                Interlocked.Increment(ref canceled);
            }

            var done = Interlocked.Increment(ref ended);
            if (done % 100 == 0)
            {
                lock (memory)
                {
                    memory.Add(Environment.WorkingSet / 1e6);
                    Console.WriteLine(
                        string.Create(
                            CultureInfo.InvariantCulture,
                            $"| {done} | {watch.Elapsed.TotalSeconds:F0} | {memory[^1]:F0} | {torch.Tensor.TotalCount} |"
                        )
                    );
                }
            }
        });
        GC.Collect();
        GC.WaitForPendingFinalizers();
        var half = memory[(memory.Count / 2 - 1)..];
        Console.WriteLine(
            string.Create(
                CultureInfo.InvariantCulture,
                $"{complete} complete, {canceled} canceled; live tensors {before} before, {torch.Tensor.TotalCount} after; "
                    + $"resident memory in the second half from {half.Min():F0} to {half.Max():F0} MB, {half[^1] - half[0]:+0;-0} MB"
            )
        );
    }

    private static VideoRequest Request(int seed) =>
        new()
        {
            Prompt = "a goat",
            Seed = seed,
            Frames = 4 + seed % 3 * 2,
        };
}
