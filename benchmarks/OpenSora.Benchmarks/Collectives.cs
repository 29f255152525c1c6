using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using OpenSora.Mpi;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Benchmarks;

/// <summary>All-reduce between two processes on this machine, which mpirun starts.</summary>
internal static partial class Collectives
{
    public const string Child = "collectives-process";
    private const int Runs = 9;
    private const string Launcher = "mpirun.mpich";
    private static readonly int[] Megabytes = [1, 8, 80];

    public static void Run()
    {
        foreach (var engine in (string[])["functions", "library"])
        {
            var start = new ProcessStartInfo(
                Launcher,
                ["-np", "2", "dotnet", Path.Combine(AppContext.BaseDirectory, "OpenSora.Benchmarks.dll"), Child, engine]
            );
            start.Environment["OMP_NUM_THREADS"] = "1";
            start.Environment["UCX_ERROR_SIGNALS"] = "";
            using var process = Process.Start(start)!;
            process.WaitForExit();
        }
    }

    public static void Measure(string engine)
    {
        if (engine is "functions")
        {
            MeasureFunctions();
        }
        else
        {
            MeasureLibrary();
        }
    }

    // MPI.NET and the C functions, alternately in one process. MPI.NET calls msmpi.dll, which has the binary interface of MPICH.
    private static unsafe void MeasureFunctions()
    {
        NativeLibrary.SetDllImportResolver(typeof(MPI.Environment).Assembly, (name, assembly, path) =>
            name.StartsWith("msmpi", StringComparison.Ordinal) ? NativeLibrary.Load("libmpich.so.12") : 0
        );
        var args = Array.Empty<string>();
        using var environment = new MPI.Environment(ref args);
        var world = MPI.Communicator.world;
        foreach (var megabytes in Megabytes)
        {
            var values = new float[megabytes * 250_000];
            var result = new float[values.Length];
            using var tensor = zeros(values.Length);
            fixed (float* pointer = values)
            {
                var address = (nint)pointer;
                var times = Alternate(
                    world.Barrier,
                    () => world.Allreduce(values, MPI.Operation<float>.Add, ref result),
                    () =>
                    {
                        tensor.data<float>().CopyTo(values);
                        world.Allreduce(values, MPI.Operation<float>.Add, ref result);
                        result.CopyTo(MemoryMarshal.Cast<byte, float>(tensor.bytes));
                    },
                    () => _ = MPI_Allreduce(-1, address, values.Length, Float, Sum, World),
                    () =>
                    {
                        _ = MPI_Iallreduce(-1, address, values.Length, Float, Sum, World, out var request);
                        for (var complete = 0; complete == 0; )
                        {
                            _ = MPI_Test(ref request, out complete, 1);
                        }
                    }
                );
                if (world.Rank == 0)
                {
                    Console.WriteLine(
                        string.Create(
                            CultureInfo.InvariantCulture,
                            $"{megabytes} MB: MPI.NET {times[0]:F2} ms, with copies from and to a tensor {times[1]:F2} ms, MPI_Allreduce "
                                + $"{times[2]:F2} ms, "
                                + $"MPI_Iallreduce and MPI_Test {times[3]:F2} ms; ratio {times[0] / times[2]:F2}, with copies "
                                + $"{times[1] / times[2]:F2}"
                        )
                    );
                }
            }
        }
    }

    private static void MeasureLibrary()
    {
        using var group = MpiCollectives.Create();
        foreach (var megabytes in Megabytes)
        {
            using var values = zeros(megabytes * 250_000);
            using var narrow = values.to_type(ScalarType.BFloat16);
            var times = Alternate(group.Barrier, () => group.AllReduce(values).Wait(), () => group.AllReduce(narrow).Wait());
            Print($"{megabytes} MB: MpiCollectives {times[0]:F2} ms; as bfloat16 ({megabytes / 2.0} MB) {times[1]:F2} ms");
        }

        using var one = zeros(1);
        Print($"one value: {Alternate(group.Barrier, () => group.AllReduce(one).Wait())[0] * 1000:F0} microseconds");

        // Computation alone, and with an all-reduce in flight.
        using var gradient = zeros(20_000_000);
        using var matrix = rand(700, 700);
        void Compute()
        {
            for (var i = 0; i < 30; i++)
            {
                using var product = matrix.mm(matrix);
            }
        }

        var both = Alternate(
            group.Barrier,
            Compute,
            () => group.AllReduce(gradient).Wait(),
            () =>
            {
                var operation = group.AllReduce(gradient);
                Compute();
                operation.Wait();
            }
        );
        Print($"computation {both[0]:F1} ms, all-reduce of 80 MB {both[1]:F1} ms, both at the same time {both[2]:F1} ms");

        // A core that waits: processor time while the other process does not answer.
        group.Barrier();
        if (group.Rank == 0)
        {
            using var process = Process.GetCurrentProcess();
            var (before, watch) = (process.TotalProcessorTime, Stopwatch.StartNew());
            group.AllReduce(one).Wait();
            process.Refresh();
            Print($"processor time while waiting: {100 * (process.TotalProcessorTime - before) / watch.Elapsed:F1} % of a core");
        }
        else
        {
            Thread.Sleep(2000);
            group.AllReduce(one).Wait();
        }

        void Print(FormattableString line)
        {
            if (group.Rank == 0)
            {
                Console.WriteLine(line.ToString(CultureInfo.InvariantCulture));
            }
        }
    }

    // The median time of each action in milliseconds. They run in turns, so that other work on this machine affects all alike.
    private static double[] Alternate(Action barrier, params Action[] actions)
    {
        var times = actions.Select(_ => new List<double>()).ToArray();
        for (var run = -1; run < Runs; run++)
        {
            for (var i = 0; i < actions.Length; i++)
            {
                barrier();
                var watch = Stopwatch.StartNew();
                actions[i]();
                if (run >= 0)
                {
                    times[i].Add(watch.Elapsed.TotalMilliseconds);
                }
            }
        }

        return [.. times.Select(list => list.Order().ElementAt(Runs / 2))];
    }

    private const int Float = 0x4c00040a;
    private const int Sum = 0x58000003;
    private const int World = 0x44000000;

    [LibraryImport("libmpich.so.12")]
    private static partial int MPI_Allreduce(nint send, nint receive, int count, int type, int operation, int comm);

    [LibraryImport("libmpich.so.12")]
    private static partial int MPI_Iallreduce(nint send, nint receive, int count, int type, int operation, int comm, out int request);

    [LibraryImport("libmpich.so.12")]
    private static partial int MPI_Test(ref int request, out int complete, nint status);
}
