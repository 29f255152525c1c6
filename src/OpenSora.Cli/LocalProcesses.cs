using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;

namespace OpenSora.Cli;

/// <summary>Starts a command of <c>opensora</c> in several processes on this machine with mpirun.</summary>
internal static partial class LocalProcesses
{
    private const string Threads = "OMP_NUM_THREADS";
    private const int Interrupt = 2; // SIGINT

    // Debian names MPICH's launcher mpirun.mpich, because mpirun can be that of Open MPI.
    private static readonly string[] Launchers = OperatingSystem.IsWindows()
        ? ["mpiexec.exe"]
        : ["mpirun.mpich", "mpiexec.hydra", "mpirun", "mpiexec"];

    /// <summary>Runs a command in several processes until all have ended.</summary>
    /// <param name="count">The number of processes.</param>
    /// <param name="arguments">The arguments of <c>opensora</c>.</param>
    /// <param name="terminal">Receives what the processes write.</param>
    /// <param name="cancellationToken">Asks the processes to stop.</param>
    /// <returns>The exit code.</returns>
    /// <exception cref="FileNotFoundException">mpirun is not installed.</exception>
    public static async Task<int> RunAsync(int count, IEnumerable<string> arguments, Terminal terminal, CancellationToken cancellationToken)
    {
        var start = Create(count, arguments, Environment.GetEnvironmentVariable, Find);
        using var process = new Process { StartInfo = start };
        process.Start();
        var output = CopyAsync(process.StandardOutput, terminal.Output);
        var errors = CopyAsync(process.StandardError, terminal.Error);
        using (cancellationToken.Register(() => Stop(process)))
        {
            await process.WaitForExitAsync(CancellationToken.None).ConfigureAwait(false);
        }

        await Task.WhenAll(output, errors).ConfigureAwait(false);
        return cancellationToken.IsCancellationRequested ? CommandLine.Canceled : process.ExitCode;
    }

    /// <summary>Creates the command that starts the processes.</summary>
    /// <param name="count">The number of processes.</param>
    /// <param name="arguments">The arguments of <c>opensora</c>.</param>
    /// <param name="variable">Returns the value of an environment variable.</param>
    /// <param name="find">Finds a program; null if it is not installed.</param>
    internal static ProcessStartInfo Create(int count, IEnumerable<string> arguments, Func<string, string?> variable, Func<string, string?> find)
    {
        var launcher = Array.ConvertAll(Launchers, name => find(name)).FirstOrDefault(path => path is not null)
            ?? throw new FileNotFoundException(
                $"Several processes need a launcher of MPI, but none of {string.Join(", ", Launchers)} is on the PATH. Install MPICH (Debian and "
                    + "Ubuntu: "
                    + "apt-get install mpich; macOS: brew install mpich), or MS-MPI on Windows."
            );

        // In a session of its own, mpirun does not receive Ctrl+C from the terminal, but once from this process.
        var session = find("setsid");
        var start = new ProcessStartInfo(session ?? launcher)
        {
            UseShellExecute = false,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        string[] command =
        [
            .. session is null ? Array.Empty<string>() : ["--wait", launcher],
            "-np",
            count.ToString(CultureInfo.InvariantCulture),
            .. Self(),
            .. arguments,
        ];
        Array.ForEach(command, start.ArgumentList.Add);

        // The processes share the cores of this machine.
        var threads = int.TryParse(variable(Threads), NumberStyles.None, CultureInfo.InvariantCulture, out var given)
            ? given
            : Environment.ProcessorCount;
        start.Environment[Threads] = Math.Max(1, threads / count).ToString(CultureInfo.InvariantCulture);
        return start;
    }

    // The command that started this process: the runtime and this assembly, or the program of the tool.
    private static string[] Self()
    {
        var program = Environment.ProcessPath ?? "dotnet";
        var assembly = Path.Combine(AppContext.BaseDirectory, $"{typeof(LocalProcesses).Assembly.GetName().Name}.dll");
        return Path.GetFileNameWithoutExtension(program).ToUpperInvariant() switch
        {
            "OPENSORA" => [program],
            "DOTNET" => [program, assembly],
            _ => ["dotnet", assembly],
        };
    }

    private static string? Find(string program) =>
        (Environment.GetEnvironmentVariable("PATH") ?? "")
            .Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries)
            .Select(folder => Path.Combine(folder, program))
            .FirstOrDefault(File.Exists);

    // mpirun sends the signal to all processes, which save a checkpoint and end.
    private static void Stop(Process process)
    {
        if (OperatingSystem.IsWindows())
        {
            return; // Ctrl+C reaches all processes of the console.
        }

        if (!process.HasExited)
        {
            _ = SendSignal(process.Id, Interrupt);
        }
    }

    private static async Task CopyAsync(StreamReader reader, TextWriter writer)
    {
        while (await reader.ReadLineAsync().ConfigureAwait(false) is { } line)
        {
            await writer.WriteLineAsync(line).ConfigureAwait(false);
        }
    }

    [LibraryImport("libc", EntryPoint = "kill")]
    private static partial int SendSignal(int process, int signal);
}
