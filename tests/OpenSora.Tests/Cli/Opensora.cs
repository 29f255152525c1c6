using System.Diagnostics;
using System.Text.Json;
using OpenSora.Cli;

namespace OpenSora.Tests.Cli;

/// <summary>The result of a command: its exit code and what it wrote.</summary>
internal sealed record Opensora(int ExitCode, string Output, string Error)
{
    /// <summary>The output of a command with <c>--json</c>, which must be one document.</summary>
    public JsonElement Json => JsonDocument.Parse(Output).RootElement;

    /// <summary>Runs a command in this process.</summary>
    public static async Task<Opensora> RunAsync(params string[] arguments)
    {
        using var output = new StringWriter();
        using var error = new StringWriter();
        var code = await CommandLine.RunAsync(arguments, output, error, TestContext.Current.CancellationToken);
        return new Opensora(code, output.ToString(), error.ToString());
    }

    /// <summary>The path of the program.</summary>
    public static string Program => Path.Combine(AppContext.BaseDirectory, "OpenSora.Cli.dll");

    /// <summary>Starts a command in a process of its own, with libtorch from the folder of the tests. Programs that a shell starts in the background
    /// ignore SIGINT, and so would the process.</summary>
    public static Process Start(string folder, params string[] arguments) =>
        Process.Start(
            new ProcessStartInfo("env", ["--default-signal=INT", "dotnet", Program, .. arguments])
            {
                WorkingDirectory = folder,
                RedirectStandardOutput = true,
                RedirectStandardError = true,
                UseShellExecute = false,
            }
        )!;

    /// <summary>Reads lines until one contains a text, and then sends SIGINT.</summary>
    public static async Task<Opensora> InterruptAfterAsync(Process process, string text)
    {
        var output = process.StandardOutput.ReadToEndAsync();
        var error = new StringWriter();
        while (await process.StandardError.ReadLineAsync() is { } line)
        {
            await error.WriteLineAsync(line);
            if (line.Contains(text, StringComparison.Ordinal))
            {
                using var kill = Process.Start("kill", ["-INT", $"{process.Id}"]);
                await kill.WaitForExitAsync();
                break;
            }
        }

        await error.WriteAsync(await process.StandardError.ReadToEndAsync());
        await process.WaitForExitAsync();
        return new Opensora(process.ExitCode, await output, error.ToString());
    }
}
