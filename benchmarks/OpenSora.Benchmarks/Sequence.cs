using System.Diagnostics;
using System.Globalization;
using OpenSora.Distributed;
using OpenSora.Models;
using OpenSora.Mpi;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Benchmarks;

/// <summary>A forward and a backward pass over the tokens of a long video, in one process and divided between two, each with one thread.</summary>
internal static class Sequence
{
    public const string Child = "sequence-child";
    private const int Frames = 48,
        Side = 32, // latents; patches of 2x2
        Runs = 3;

    private static readonly StdiT3Config Config = new()
    {
        HiddenSize = 128,
        Depth = 2,
        NumHeads = 4,
        CaptionChannels = 128,
        ModelMaxLength = 32,
        ClassDropoutProb = 0,
    };

    public static void Run()
    {
        foreach (var checkpointing in new[] { false, true })
        {
            var (one, two) = (Measure(1, checkpointing), Measure(2, checkpointing));
            Console.WriteLine(
                string.Create(
                    CultureInfo.InvariantCulture,
                    $"{Frames * Side * Side / 4} tokens{(checkpointing ? ", gradient checkpointing" : "")}: 1 process {one.Seconds:F2} s, "
                        + $"{one.Bytes / 1e6:F0} MB; 2 processes {two.Seconds:F2} s ({one.Seconds / two.Seconds:F2} times as fast), "
                        + $"{two.Bytes / 1e6:F0} MB each ({two.Bytes / one.Bytes:P0})"
                )
            );
        }

        Console.WriteLine($"(STDiT3 with {Config.HiddenSize} channels and {2 * Config.Depth} blocks, medians of {Runs} passes, one thread each)");
    }

    /// <summary>The child process: prints the median time, and the peak memory in addition to the weights.</summary>
    public static int MeasureChild(bool checkpointing)
    {
        set_num_threads(1);
        using var group = LaunchEnvironment.Read().Size > 1 ? MpiCollectives.Create() : null;
        using var scope = NewDisposeScope();
        using var model = new StdiT3(Config).UseSequenceParallel(group).UseGradientCheckpointing(checkpointing);
        var conditions = new DenoiserConditions(randn(1, 32, 128))
        {
            Frames = Frames,
            Height = 8 * Side,
            Width = 8 * Side,
        };
        var (x, t) = (randn([1, 4, Frames, Side, Side]), tensor(new[] { 500f }));
        void Pass()
        {
            using var pass = NewDisposeScope();
            model.Denoise(x, t, conditions).square().mean().backward();
            model.zero_grad();
            group?.Barrier();
        }

        var time = Timing.Median(Runs, Pass);
        var before = ResidentMemory.Start();
        Pass();
        var bytes = ResidentMemory.Peak() - before;
        if (group is null or { Rank: 0 })
        {
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{time.TotalSeconds} {bytes}"));
        }

        return 0;
    }

    private static (double Seconds, double Bytes) Measure(int processes, bool checkpointing)
    {
        string[] child = [Environment.ProcessPath!, typeof(Sequence).Assembly.Location, Child, checkpointing.ToString()];
        string[] command = processes == 1 ? child : ["mpirun.mpich", "-np", "2", .. child];
        var start = new ProcessStartInfo(command[0], command[1..]) { RedirectStandardOutput = true, UseShellExecute = false };
        start.Environment["OMP_NUM_THREADS"] = "1";
        using var process = Process.Start(start)!;
        var lines = process.StandardOutput.ReadToEnd().Split('\n', StringSplitOptions.RemoveEmptyEntries);
        process.WaitForExit();
        return process.ExitCode == 0 && lines is [var line] && line.Split(' ') is [var seconds, var bytes]
            ? (double.Parse(seconds, CultureInfo.InvariantCulture), double.Parse(bytes, CultureInfo.InvariantCulture))
            : throw new InvalidOperationException($"The child process failed: {string.Join('\n', lines)}");
    }
}
