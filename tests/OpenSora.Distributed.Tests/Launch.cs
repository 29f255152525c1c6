using System.Diagnostics;
using System.Globalization;
using System.Text;

namespace OpenSora.Distributed.Tests;

/// <summary>Runs a scenario of OpenSora.Distributed.Program in several processes on this machine.</summary>
/// <param name="ExitCode">The exit code of mpirun.</param>
/// <param name="Output">The lines of all processes.</param>
/// <param name="Error">The messages of all processes and of mpirun.</param>
/// <param name="Time">The time that it took.</param>
internal sealed record Launch(int ExitCode, string[] Output, string Error, TimeSpan Time)
{
    /// <summary>The launcher of MPICH. On Debian, mpirun can be another one.</summary>
    public const string Launcher = "mpirun.mpich";

    /// <summary>The arguments of mpirun with which the other processes live on when one dies.</summary>
    public static readonly string[] KeepOthers = ["-disable-auto-cleanup"];

    /// <summary>Gets the program of the scenarios.</summary>
    public static string Program => Path.Combine(AppContext.BaseDirectory, "OpenSora.Distributed.Program.dll");

    /// <summary>Runs a scenario and waits for its end.</summary>
    /// <param name="processes">The number of processes.</param>
    /// <param name="scenario">The name and the arguments of the scenario.</param>
    /// <param name="timeout">The timeout of operations, in seconds.</param>
    /// <param name="launcherArguments">Further arguments of mpirun.</param>
    /// <param name="variables">Environment variables.</param>
    public static async Task<Launch> RunAsync(
        int processes,
        string[] scenario,
        double timeout = 120,
        string[]? launcherArguments = null,
        params (string Name, string Value)[] variables
    )
    {
        string[] arguments =
        [
            "-np",
            processes.ToString(CultureInfo.InvariantCulture),
            .. launcherArguments ?? [],
            Environment.ProcessPath is { } path && Path.GetFileNameWithoutExtension(path) is "dotnet" ? path : "dotnet",
            Program,
            .. scenario,
        ];
        var folder = Directory.CreateTempSubdirectory();
        try
        {
            var run = await StartAsync(
                    Launcher,
                    arguments,
                    [
                        .. variables,
                        ("OPENSORA_TEST_TIMEOUT", timeout.ToString(CultureInfo.InvariantCulture)),
                        ("OPENSORA_TEST_OUTPUT", folder.FullName),
                    ]
                )
                .ConfigureAwait(false);
            var written = folder.GetFiles().SelectMany(file => File.ReadAllLines(file.FullName));
            return run with { Output = [.. run.Output, .. written.Except(run.Output, StringComparer.Ordinal)] };
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    /// <summary>Runs a program, skips the test if it is not installed, and fails it if it does not end.</summary>
    public static async Task<Launch> StartAsync(string program, string[] arguments, params (string Name, string Value)[] variables)
    {
        Assert.SkipUnless(IsInstalled(program), $"{program} is not installed (Debian: apt-get install mpich; './build.sh test' does it).");
        var start = new ProcessStartInfo(program, arguments)
        {
            UseShellExecute = false,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        start.Environment["OMP_NUM_THREADS"] = "1";
        foreach (var (name, value) in variables)
        {
            start.Environment[name] = value;
        }

        var watch = Stopwatch.StartNew();
        using var process = new Process { StartInfo = start };
        var (output, error) = (new StringBuilder(), new StringBuilder());
        process.OutputDataReceived += (_, line) => Append(output, line.Data);
        process.ErrorDataReceived += (_, line) => Append(error, line.Data);
        process.Start();
        process.BeginOutputReadLine();
        process.BeginErrorReadLine();
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(TestContext.Current.CancellationToken);
        limit.CancelAfter(TimeSpan.FromMinutes(5));
        try
        {
            await process.WaitForExitAsync(limit.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            process.Kill(entireProcessTree: true);
            Assert.Fail($"The processes did not end. Output:\n{output}\nErrors:\n{error}");
        }

        lock (output)
        {
            lock (error)
            {
                var lines = output.ToString().Split('\n', StringSplitOptions.RemoveEmptyEntries);
                return new Launch(process.ExitCode, lines, error.ToString(), watch.Elapsed);
            }
        }
    }

    /// <summary>Fails the test if a process failed.</summary>
    public Launch Succeeded()
    {
        ExitCode.ShouldBe(0, $"{string.Join('\n', Output)}\n{Error}");
        return this;
    }

    /// <summary>Gets the exceptions of a type with which processes ended.</summary>
    public string[] Exceptions(string type) => [.. Output.Where(line => line.Contains($"] {type}: ", StringComparison.Ordinal))];

    private static void Append(StringBuilder text, string? line)
    {
        if (line is not null)
        {
            lock (text)
            {
                text.Append(line).Append('\n');
            }
        }
    }

    private static bool IsInstalled(string program) =>
        Path.IsPathRooted(program)
            ? File.Exists(program)
            : (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator).Any(folder => File.Exists(Path.Combine(folder, program)));
}
