using System.ComponentModel;
using System.Diagnostics;

namespace OpenSora.Preparation.Media;

/// <summary>Runs ffmpeg and ffprobe as processes, with arguments that need no quoting whatever the file's name.</summary>
internal static class FFmpegProcess
{
    /// <summary>Outputs every decoded frame once, whatever its timestamp.</summary>
    internal static readonly string[] Passthrough = ["-vsync", "passthrough"]; // known to all versions; -fps_mode since 5.1

    /// <summary>Arguments for a file as input. A name with a colon or percent sign is not taken for a protocol or a pattern.</summary>
    internal static string[] Input(string path) => ["-i", $"file:{Path.GetFullPath(path)}"];

    /// <summary>Runs ffmpeg.</summary>
    /// <param name="folder">The folder that contains ffmpeg; null to search PATH.</param>
    /// <param name="purpose">What ffmpeg is run for, for messages, such as <c>decode 'a.mp4'</c>.</param>
    /// <param name="arguments">The arguments.</param>
    /// <param name="read">Reads the standard output; null if it is not used.</param>
    /// <param name="cancellationToken">Stops the process.</param>
    /// <returns>The first error of a process that continued nevertheless; null if there was none.</returns>
    /// <exception cref="PreparationException">ffmpeg is missing or failed.</exception>
    internal static async Task<string?> RunAsync(
        string? folder,
        string purpose,
        IEnumerable<string> arguments,
        Func<Stream, CancellationToken, Task>? read,
        CancellationToken cancellationToken
    )
    {
        var (exitCode, errors) = await RunAsync(folder, "ffmpeg", purpose, ["-v", "error", "-nostdin", .. arguments], read, cancellationToken)
            .ConfigureAwait(false);
        var error = errors.Split('\n').FirstOrDefault(line => !string.IsNullOrWhiteSpace(line))?.Trim();
        return exitCode == 0
            ? error
            : throw new PreparationException("cannot be decoded", $"ffmpeg could not {purpose} (exit code {exitCode}): {errors.Trim()}");
    }

    /// <summary>Runs a program of ffmpeg, and returns its exit code and errors.</summary>
    internal static async Task<(int ExitCode, string Errors)> RunAsync(
        string? folder,
        string program,
        string purpose,
        IEnumerable<string> arguments,
        Func<Stream, CancellationToken, Task>? read,
        CancellationToken cancellationToken
    )
    {
        cancellationToken.ThrowIfCancellationRequested();
        var start = new ProcessStartInfo(folder is null ? program : Path.Combine(folder, program), arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            UseShellExecute = false,
            CreateNoWindow = true,
        };
        using var process = Start(start, program, purpose, folder);
        try
        {
            process.StandardInput.Close();
            var errors = process.StandardError.ReadToEndAsync(cancellationToken);
            if (read is not null)
            {
                await read(process.StandardOutput.BaseStream, cancellationToken).ConfigureAwait(false);
            }

            await process.StandardOutput.BaseStream.CopyToAsync(Stream.Null, cancellationToken).ConfigureAwait(false);
            var text = await errors.ConfigureAwait(false);
            await process.WaitForExitAsync(cancellationToken).ConfigureAwait(false);
            return (process.ExitCode, text);
        }
        catch
        {
            process.Kill(entireProcessTree: true);
            await process.WaitForExitAsync(CancellationToken.None).ConfigureAwait(false);
            throw;
        }
    }

    private static Process Start(ProcessStartInfo start, string program, string purpose, string? folder)
    {
        try
        {
            return Process.Start(start)!;
        }
        catch (Win32Exception e)
        {
            throw new PreparationException(
                "ffmpeg is missing",
                $"Could not {purpose}: {program} was not found in {(folder is null ? "PATH" : $"'{folder}'")}. Install ffmpeg (https://ffmpeg.org; "
                    + "'apt-get install ffmpeg' on Debian and Ubuntu).",
                e
            );
        }
    }
}
