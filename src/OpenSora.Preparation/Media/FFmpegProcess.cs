using System.ComponentModel;
using System.Diagnostics;
using System.Text;

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
    ) => (await RunAsync(folder, purpose, ["-v", "error", .. arguments], read, decoder: null, cancellationToken).ConfigureAwait(false)).Damage;

    /// <summary>Runs ffmpeg, and returns its first error and the number of its errors. The log is read by a decoder's log; if that is null, all lines
    /// are errors.</summary>
    internal static async Task<(string? Damage, long Errors)> RunAsync(
        string? folder,
        string purpose,
        IEnumerable<string> arguments,
        Func<Stream, CancellationToken, Task>? read,
        DecoderLog? decoder,
        CancellationToken cancellationToken
    )
    {
        var log = new ErrorLog(decoder);
        var exitCode = await RunAsync(folder, "ffmpeg", purpose, ["-nostdin", .. arguments], read, log, cancellationToken).ConfigureAwait(false);
        return exitCode == 0
            ? (log.First, log.Count)
            : throw new PreparationException("cannot be decoded", $"ffmpeg could not {purpose} (exit code {exitCode}): {log}");
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
        var log = new ErrorLog(null);
        return (await RunAsync(folder, program, purpose, arguments, read, log, cancellationToken).ConfigureAwait(false), log.ToString());
    }

    /// <summary>Reads a pipe on a thread of its own. That takes less time than continuing on other threads for every piece that arrives.</summary>
    internal static Task OnThread(Action read) =>
        Task.Factory.StartNew(read, CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);

    private static async Task<int> RunAsync(
        string? folder,
        string program,
        string purpose,
        IEnumerable<string> arguments,
        Func<Stream, CancellationToken, Task>? read,
        ErrorLog log,
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
        var errors = Task.CompletedTask;
        try
        {
            // A reader that waits for the pipe sees its end.
            using var stop = cancellationToken.UnsafeRegister(static process => Stop((Process)process!), process);
            process.StandardInput.Close();
            var output = ProcessPipe.Open(process.StandardOutput);
            errors = OnThread(() => log.Read(ProcessPipe.Open(process.StandardError)));
            if (read is not null)
            {
                await read(output, cancellationToken).ConfigureAwait(false);
            }

            await OnThread(() => output.CopyTo(Stream.Null)).ConfigureAwait(false);
            await errors.ConfigureAwait(false);
            await process.WaitForExitAsync(cancellationToken).ConfigureAwait(false);
            return process.ExitCode;
        }
        catch
        {
            Stop(process);
            await process.WaitForExitAsync(CancellationToken.None).ConfigureAwait(false);
            await errors.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing); // its pipe must not be closed before
            throw;
        }
    }

    private static void Stop(Process process)
    {
        try
        {
            process.Kill(entireProcessTree: true);
        }
        catch (Exception e) when (e is InvalidOperationException or Win32Exception)
        {
            // It has ended.
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

    /// <summary>Keeps the first errors of a process; a damaged video can cause millions.</summary>
    private sealed class ErrorLog(DecoderLog? decoder)
    {
        private const int MaxLines = 20;
        private readonly List<string> _lines = [];

        internal long Count { get; private set; }

        internal string? First => _lines.FirstOrDefault();

        internal void Read(Stream pipe)
        {
            try
            {
                var buffer = new byte[8192];
                var length = 0;
                while (pipe.Read(buffer.AsSpan(length)) is > 0 and var read)
                {
                    length += read;
                    var rest = buffer.AsSpan(0, length);
                    while (rest.IndexOf((byte)'\n') is >= 0 and var end)
                    {
                        Add(rest[..end]);
                        rest = rest[(end + 1)..];
                    }

                    if (rest.Length == buffer.Length)
                    {
                        Add(rest); // a part of a very long line
                        rest = [];
                    }

                    rest.CopyTo(buffer);
                    length = rest.Length;
                }

                Add(buffer.AsSpan(0, length));
            }
            finally
            {
                decoder?.Complete();
            }
        }

        private void Add(ReadOnlySpan<byte> line)
        {
            var error = (decoder is null ? Encoding.UTF8.GetString(line) : decoder.Read(line))?.Trim();
            if (string.IsNullOrEmpty(error))
            {
                return;
            }

            Count++;
            if (_lines.Count < MaxLines)
            {
                _lines.Add(error);
            }
        }

        public override string ToString() => string.Join('\n', _lines) + (Count > MaxLines ? $"\n({Count - MaxLines} more lines)" : "");
    }
}
