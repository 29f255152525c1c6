using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;
using System.Runtime.ExceptionServices;
using System.Text;
using System.Text.Json;

namespace OpenSora.Media;

/// <summary>ffmpeg and ffprobe as child processes.</summary>
internal static class FFmpeg
{
    private const int KeptErrorCharacters = 2000;
    private const double LongestSeconds = 1e9;

    internal static async Task<VideoInfo> ProbeAsync(string? folder, string path, CancellationToken cancellationToken)
    {
        var json = new MemoryStream();
        await RunAsync(folder, "ffprobe",
            ["-v", "error", "-select_streams", "v:0", "-show_entries",
                "stream=width,height,avg_frame_rate,duration:stream_side_data=rotation:format=duration", "-of", "json", FileName(path)],
            $"read '{path}'", null, (pipe, token) => pipe.CopyToAsync(json, token), cancellationToken);
        using var document = JsonDocument.Parse(json.GetBuffer().AsMemory(0, (int)json.Length));
        if (!document.RootElement.TryGetProperty("streams", out var streams) || streams.GetArrayLength() == 0)
            throw new MediaException($"'{path}' holds no video.");

        var stream = streams[0];
        var (width, height) = (stream.GetProperty("width").GetInt32(), stream.GetProperty("height").GetInt32());
        if (stream.TryGetProperty("side_data_list", out var sideData)
            && sideData.EnumerateArray().Any(d => d.TryGetProperty("rotation", out var r) && Math.Abs(r.GetDouble()) % 180 == 90))
            (width, height) = (height, width);
        var duration = Number(stream, "duration")
            ?? (document.RootElement.TryGetProperty("format", out var format) ? Number(format, "duration") : null);
        return new VideoInfo(width, height, Ratio(stream.GetProperty("avg_frame_rate").GetString()) ?? 25,
            duration is >= 0 and <= LongestSeconds ? TimeSpan.FromSeconds(duration.Value) : null); // damaged files claim anything

        static double? Number(JsonElement element, string name) => element.TryGetProperty(name, out var value)
            && double.TryParse(value.GetString(), CultureInfo.InvariantCulture, out var number) ? number : null;

        static double? Ratio(string? text) => text?.Split('/') is [var a, var b]
            && double.TryParse(a, CultureInfo.InvariantCulture, out var x) && double.TryParse(b, CultureInfo.InvariantCulture, out var y)
            && x > 0 && y > 0 ? x / y : null;
    }

    internal static Task DecodeAsync(string? folder, string path, IReadOnlyList<string> outputArguments, Func<Stream, CancellationToken, Task> read,
        CancellationToken cancellationToken) =>
        RunAsync(folder, "ffmpeg", ["-v", "error", "-nostdin", "-i", FileName(path), .. outputArguments, "pipe:1"],
            $"decode '{path}'", null, read, cancellationToken);

    // Writes to a path on behalf of a target, whose name the messages tell. Without -xerror, ffmpeg may end with exit code 0 although the disk was full.
    internal static Task EncodeAsync(string? folder, VideoFrames frames, IReadOnlyList<string> outputArguments, string path, string target,
        CancellationToken cancellationToken) =>
        RunAsync(folder, "ffmpeg",
            ["-v", "error", "-nostdin", "-xerror", "-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", $"{frames.Width}x{frames.Height}",
                "-framerate", frames.FramesPerSecond.ToString(CultureInfo.InvariantCulture), "-i", "pipe:0", .. outputArguments, "-y", FileName(path)],
            $"write '{target}'", async (pipe, token) => await pipe.WriteAsync(frames.Pixels, token), null, cancellationToken);

    // A file called "-" or "http:x" is still a file.
    private static string FileName(string path) => "file:" + Path.GetFullPath(path);

    private static async Task RunAsync(string? folder, string program, IReadOnlyList<string> arguments, string purpose,
        Func<Stream, CancellationToken, Task>? write, Func<Stream, CancellationToken, Task>? read, CancellationToken cancellationToken)
    {
        cancellationToken.ThrowIfCancellationRequested();
        using var process = Start(folder, program, arguments, purpose);
        using var kill = cancellationToken.Register(() => Kill(process));
        var errors = ReadTailAsync(process.StandardError);
        Exception? failure = null;
        try
        {
            await Task.WhenAll(WriteInputAsync(process, write, cancellationToken), (read ?? DrainAsync)(process.StandardOutput.BaseStream, cancellationToken));
        }
        catch (Exception e)
        {
            failure = e; // a broken pipe, most often, of which the child itself knows the reason
            process.StandardOutput.Close();
        }

        await process.WaitForExitAsync(CancellationToken.None);
        cancellationToken.ThrowIfCancellationRequested();
        if (failure is not null and not IOException)
            ExceptionDispatchInfo.Throw(failure);
        if (process.ExitCode != 0)
            throw new MediaException($"{program} could not {purpose} (exit code {process.ExitCode}): {await errors}", failure);
        if (failure is not null)
            throw new MediaException($"The pipe to {program} broke: {failure.Message}", failure);
    }

    private static Task DrainAsync(Stream pipe, CancellationToken cancellationToken) => pipe.CopyToAsync(Stream.Null, cancellationToken);

    private static async Task WriteInputAsync(Process process, Func<Stream, CancellationToken, Task>? write, CancellationToken cancellationToken)
    {
        await using var pipe = process.StandardInput.BaseStream;
        if (write is not null)
            await write(pipe, cancellationToken);
    }

    private static Process Start(string? folder, string program, IReadOnlyList<string> arguments, string purpose)
    {
        var start = new ProcessStartInfo(folder is null ? program : Path.Combine(folder, program))
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            UseShellExecute = false,
        };
        foreach (var argument in arguments)
            start.ArgumentList.Add(argument);
        try
        {
            return Process.Start(start)!;
        }
        catch (Win32Exception e)
        {
            throw FFmpegMissing.Told(program, purpose, folder, e);
        }
    }

    private static void Kill(Process process)
    {
        try
        {
            process.Kill(entireProcessTree: true);
        }
        catch (InvalidOperationException)
        {
            // it has ended already, which is all that is wanted
        }
    }

    private static async Task<string> ReadTailAsync(StreamReader reader)
    {
        var tail = new StringBuilder();
        while (await reader.ReadLineAsync() is { } line)
        {
            tail.AppendLine(line);
            if (tail.Length > 2 * KeptErrorCharacters)
                tail.Remove(0, tail.Length - KeptErrorCharacters);
        }
        var text = tail.ToString().Trim();
        return text.Length == 0 ? "it gave no reason." : text[^Math.Min(text.Length, KeptErrorCharacters)..];
    }
}
