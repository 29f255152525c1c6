using System.Diagnostics;
using System.Text;

namespace OpenSora.Studio.Tests;

/// <summary>Studio in a process of its own, as it is built.</summary>
internal sealed class StudioProcess : IDisposable
{
    private readonly Process _process;
    private readonly StringBuilder _log = new();

    private StudioProcess(Process process, Uri address)
    {
        (_process, Address) = (process, address);
        _ = Task.Run(async () =>
        {
            while (await process.StandardOutput.ReadLineAsync() is { } line)
            {
                lock (_log)
                {
                    _log.AppendLine(line);
                }
            }
        });
    }

    public Uri Address { get; }

    public int Id => _process.Id;

    /// <summary>Gets what the process has printed after it listened.</summary>
    public string Log
    {
        get
        {
            lock (_log)
            {
                return _log.ToString();
            }
        }
    }

    /// <summary>Starts the process and waits until it listens.</summary>
    /// <param name="folder">The data folder.</param>
    /// <param name="gate">Holds the jobs of the process; null for jobs that finish.</param>
    /// <param name="settings">Settings of the section Studio, as in <c>Workers=2</c>.</param>
    public static async Task<StudioProcess> StartAsync(string folder, FFmpegGate? gate, params string[] settings)
    {
        // From tests/OpenSora.Studio.Tests/bin/Release/net10.0 to the program with the same configuration.
        var output = new DirectoryInfo(AppContext.BaseDirectory);
        var root = output.Parent!.Parent!.Parent!.Parent!.Parent!.FullName;
        var program = Path.Combine(root, "samples", "Studio", "bin", output.Parent!.Name, output.Name, "Studio.dll");
        var start = new ProcessStartInfo("dotnet", [program]) { UseShellExecute = false, RedirectStandardOutput = true };
        start.Environment["Studio__DataFolder"] = folder;
        foreach (var setting in settings)
        {
            start.ArgumentList.Add($"--Studio:{setting}");
        }

        if (gate is not null)
        {
            start.Environment["PATH"] = gate.Folder + Path.PathSeparator + start.Environment["PATH"];
        }

        start.Environment["ASPNETCORE_URLS"] = "";
        start.Environment["OMP_NUM_THREADS"] = "1"; // the frames are too small for more
        start.Environment["Urls"] = "http://127.0.0.1:0";
        var process = Process.Start(start)!;
        while (await process.StandardOutput.ReadLineAsync() is { } line)
        {
            const string listening = "Now listening on: ";
            if (line.IndexOf(listening, StringComparison.Ordinal) is var at and >= 0)
            {
                return new(process, new Uri(line[(at + listening.Length)..].Trim()));
            }
        }

        throw new InvalidOperationException($"Studio ended with exit code {process.ExitCode} before it listened.");
    }

    /// <summary>Ends the process with SIGKILL.</summary>
    public void Kill()
    {
        _process.Kill();
        _process.WaitForExit();
    }

    public void Dispose()
    {
        Kill();
        _process.Dispose();
    }
}
