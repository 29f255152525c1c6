using System.Globalization;

namespace OpenSora.Distributed;

/// <summary>The place of this process among those that a launcher started: torchrun, Slurm, MPI or Kubernetes.</summary>
/// <remarks>The variables are those that the launchers set. The first launcher for which a variable of the rank exists is used, in this order:
/// torchrun
/// (<c>RANK</c>, <c>WORLD_SIZE</c>, <c>LOCAL_RANK</c>, <c>LOCAL_WORLD_SIZE</c>), MPI (<c>PMI_RANK</c>, <c>PMI_SIZE</c>, <c>MPI_LOCALRANKID</c>,
/// <c>MPI_LOCALNRANKS</c>; or <c>OMPI_COMM_WORLD_RANK</c> and its neighbors), Slurm (<c>SLURM_PROCID</c>, <c>SLURM_NTASKS</c>, <c>SLURM_LOCALID</c>,
/// <c>SLURM_TASKS_PER_NODE</c>, or those of the step), Kubernetes (<c>JOB_COMPLETION_INDEX</c> and <c>WORLD_SIZE</c>, one process per pod).</remarks>
public sealed record LaunchEnvironment
{
    /// <summary>The port of the first process if <c>MASTER_PORT</c> is not set.</summary>
    public const int DefaultPort = 29500;

    /// <summary>The name of the launcher: <c>torchrun</c>, <c>mpi</c>, <c>slurm</c> or <c>kubernetes</c>; <c>none</c> for a process that was started
    /// alone.</summary>
    public string Launcher { get; init; } = "none";

    /// <summary>The number of this process, from 0.</summary>
    public int Rank { get; init; }

    /// <summary>The number of processes.</summary>
    public int Size { get; init; } = 1;

    /// <summary>The number of this process among those on its machine, from 0. It selects the GPU.</summary>
    public int LocalRank { get; init; }

    /// <summary>The number of processes on this machine.</summary>
    public int LocalSize { get; init; } = 1;

    /// <summary>The name or address of the machine of the first process, from <c>MASTER_ADDR</c> or Slurm's list of machines.</summary>
    public string MasterAddress { get; init; } = "127.0.0.1";

    /// <summary>The port at which the first process can be reached, from <c>MASTER_PORT</c>.</summary>
    public int MasterPort { get; init; } = DefaultPort;

    /// <summary>Reads the variables of this process.</summary>
    /// <exception cref="InvalidOperationException">A variable has no valid value, or one that must accompany another is missing.</exception>
    public static LaunchEnvironment Read() => Read(Environment.GetEnvironmentVariable);

    /// <summary>Reads variables.</summary>
    /// <param name="variable">Returns the value of a variable, null if it is not set.</param>
    /// <exception cref="InvalidOperationException">A variable has no valid value, or one that must accompany another is missing.</exception>
    public static LaunchEnvironment Read(Func<string, string?> variable)
    {
        ArgumentNullException.ThrowIfNull(variable);
        if (Array.Find(Launchers, launcher => Text(launcher.Rank) is not null) is not { } found)
        {
            return new LaunchEnvironment { MasterAddress = Text("MASTER_ADDR") ?? "127.0.0.1", MasterPort = Number("MASTER_PORT") ?? DefaultPort };
        }

        // "WORLD_SIZE" of torchrun also describes pods and tasks, for which users set it themselves.
        var rank = Number(found.Rank)!.Value;
        var isSlurm = found.Name is "slurm" || (found.Name is "mpi" && Text(found.LocalRank) is null && Number("SLURM_PROCID") == rank);
        var size = (isSlurm ? Number("SLURM_STEP_NUM_TASKS") : null) ?? Number(found.Size) ?? Number("WORLD_SIZE") ?? throw Missing(found.Size);

        // srun --mpi=pmi2 sets PMI's variables of the rank, but not those of the machine.
        var localSize = (isSlurm ? TasksOnThisMachine() : Number(found.LocalSize)) ?? 1;
        var localRank = Number(found.LocalRank) ?? (isSlurm ? Number("SLURM_LOCALID") : null) ?? rank % localSize;
        if (size < 1 || rank >= size || localSize < 1 || localSize > size || localRank >= localSize)
        {
            throw new InvalidOperationException(
                $"The variables of {found.Name} contradict each other: process {rank} of {size} ({found.Rank}, {found.Size}), "
                    + $"{localRank} of {localSize} on this machine ({found.LocalRank}, {found.LocalSize}). Processes are counted from 0."
            );
        }

        var master = Text("MASTER_ADDR") ?? (isSlurm ? FirstMachine(Text("SLURM_STEP_NODELIST") ?? Text("SLURM_JOB_NODELIST")) : null);
        if (master is null && localSize < size && (found.Name is "torchrun" or "kubernetes"))
        {
            throw Missing("MASTER_ADDR");
        }

        return new LaunchEnvironment
        {
            Launcher = found.Name,
            Rank = rank,
            Size = size,
            LocalRank = localRank,
            LocalSize = localSize,
            MasterAddress = master ?? "127.0.0.1",
            MasterPort = Number("MASTER_PORT") ?? DefaultPort,
        };

        string? Text(string name) => name.Length > 0 && variable(name) is { Length: > 0 } value ? value : null;

        int? Number(string name) => Text(name) is { } value ? ToNumber(name, value, value) : null;

        // Slurm writes "4(x2),3" for two machines with four tasks each, and one with three.
        int? TasksOnThisMachine()
        {
            var name = Array.Find(SlurmTasks, known => Text(known) is not null);
            if (name is null)
            {
                return null;
            }

            var value = Text(name)!;
            var machine = Number("SLURM_NODEID") ?? 0;
            var tasks = 0;
            foreach (var group in value.Split(','))
            {
                var parts = group.TrimEnd(')').Split("(x");
                tasks = ToNumber(name, value, parts[0]);
                machine -= parts.Length > 1 ? ToNumber(name, value, parts[1]) : 1;
                if (machine < 0)
                {
                    break;
                }
            }

            return tasks;
        }

        InvalidOperationException Missing(string name) =>
            new($"The environment variable {found.Rank} of {found.Name} is set, but {name} is not. Set both, or neither.");
    }

    private static int ToNumber(string name, string value, string digits) =>
        int.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out var number)
            ? number
            : throw new InvalidOperationException(
                $"The environment variable {name} is '{value}', but it must be a whole number that is not negative."
            );

    // Slurm writes "node[03-05,9],other" for five machines.
    private static string? FirstMachine(string? list)
    {
        var start = list?.IndexOf('[', StringComparison.Ordinal) ?? -1;
        if (list is null || start < 0 || list[..start].Contains(',', StringComparison.Ordinal))
        {
            return list?.Split(',')[0];
        }

        var end = list.IndexOf(']', start) is var found && found > 0 ? found : list.Length - 1;
        return string.Concat(list.AsSpan(0, start), list[(start + 1)..end].Split(',', '-')[0], list[(end + 1)..].Split(',')[0]);
    }

    private static readonly string[] SlurmTasks = ["SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE"];

    private static readonly Variables[] Launchers =
    [
        new("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
        new("mpi", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
        new("mpi", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        new("slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_TASKS_PER_NODE"),
        new("kubernetes", "JOB_COMPLETION_INDEX", "WORLD_SIZE", "", ""),
    ];

    private sealed record Variables(string Name, string Rank, string Size, string LocalRank, string LocalSize);
}
