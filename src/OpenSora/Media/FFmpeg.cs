using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;
using System.Text;
using FFMpegCore;
using FFMpegCore.Exceptions;
using FFMpegCore.Pipes;

namespace OpenSora.Media;

/// <summary>Runs ffmpeg and ffprobe through FFMpegCore.</summary>
internal static class FFmpeg
{
    private static volatile bool s_knowsFpsMode = true;

    internal static async Task<VideoInfo> ProbeAsync(string? folder, string path, CancellationToken cancellationToken)
    {
        var purpose = $"read '{path}'";
        try
        {
            var analysis = await FFProbe
                .AnalyseAsync(FileName(path, purpose), ffOptions: Options(folder, "ffprobe", purpose), cancellationToken: cancellationToken)
                .ConfigureAwait(false);
            var stream = analysis.PrimaryVideoStream ?? throw new MediaException($"'{path}' does not contain a video stream.");
            if (stream is not { Width: > 0 and var width, Height: > 0 and var height })
            {
                throw new MediaException($"The video stream of '{path}' does not specify its width and height.");
            }
            // Players show pixels that are not square by scaling the width.
            var (across, down) = stream.SampleAspectRatio;
            var shown = across > 0 && down > 0 ? (int)Math.Max(1, Math.Round((double)width * across / down)) : width;
            var rotation = IsImage(analysis) ? await RotationOfFirstFrameAsync(purpose, folder, path, cancellationToken).ConfigureAwait(false) : null;
            var turned = Math.Abs(rotation ?? stream.Rotation) % 180 == 90;
            var duration = stream.Duration > TimeSpan.Zero ? stream.Duration : analysis.Duration;
            return new VideoInfo(
                turned ? height : shown,
                turned ? shown : height,
                stream.AverageFrameRate > 0 ? stream.AverageFrameRate : 25,
                duration > TimeSpan.Zero ? duration : null
            );
        }
        catch (FFMpegException e)
        {
            throw new MediaException($"ffprobe could not {purpose}: {e.Message}", e);
        }
        catch (Win32Exception e)
        {
            throw FFmpegMissing.Error("ffprobe", purpose, folder, e);
        }
    }

    private static bool IsImage(IMediaAnalysis analysis) =>
        analysis.Format.FormatName is "image2" || analysis.Format.FormatName.EndsWith("_pipe", StringComparison.Ordinal);

    // ffmpeg turns photos upright as their EXIF orientation says. ffprobe reports this only for frames, and not for the stream.
    private static async Task<int?> RotationOfFirstFrameAsync(string purpose, string? folder, string path, CancellationToken cancellationToken)
    {
        const string Input = "-v error -select_streams v:0 -read_intervals %+#1",
            Output = "-show_entries frame_side_data=rotation -of default=noprint_wrappers=1:nokey=1";
        string[] arguments = [.. Input.Split(' '), .. Output.Split(' '), Path.GetFullPath(path)];
        using var output = new MemoryStream();
        await ReadOutputAsync(purpose, folder, "ffprobe", arguments, (pipe, token) => pipe.CopyToAsync(output, token), cancellationToken)
            .ConfigureAwait(false);
        var lines = Encoding.ASCII.GetString(output.ToArray()).Split('\n');
        return int.TryParse(lines[0].Trim(), CultureInfo.InvariantCulture, out var rotation) ? rotation : null;
    }

    /// <summary>Decodes the first video stream of a file.</summary>
    /// <param name="folder">The folder that contains ffmpeg; null to search PATH.</param>
    /// <param name="path">The path of the file.</param>
    /// <param name="inputArguments">The options of the decoder.</param>
    /// <param name="outputArguments">The filters and the format of the output.</param>
    /// <param name="read">Reads the output. If it throws, ffmpeg is stopped and the exception is thrown.</param>
    /// <param name="cancellationToken">Stops the decoder.</param>
    /// <returns>Whether ffmpeg failed, and its errors, or the first error of the decoder after which it continued; null if there was none.</returns>
    internal static async Task<(bool Failed, string? Error)> DecodeAsync(
        string? folder,
        string path,
        IReadOnlyList<string> inputArguments,
        IReadOnlyList<string> outputArguments,
        Func<Stream, CancellationToken, Task> read,
        CancellationToken cancellationToken
    )
    {
        var purpose = $"decode '{path}'";
        while (true)
        {
            // Every frame that is decoded is output once, whatever its timestamp.
            string[] passThrough = s_knowsFpsMode ? ["-fps_mode", "passthrough"] : ["-vsync", "passthrough"];
            string[] arguments = ["-v", "error", .. inputArguments, "-i", Path.GetFullPath(path), .. passThrough, .. outputArguments, "pipe:1"];
            var (exitCode, errors) = await ReadOutputAsync(purpose, folder, "ffmpeg", arguments, read, cancellationToken).ConfigureAwait(false);
            if (exitCode == 0)
            {
                return (false, errors.Split('\n').FirstOrDefault(line => !string.IsNullOrWhiteSpace(line)));
            }

            if (!s_knowsFpsMode || !errors.Contains("Unrecognized option 'fps_mode'", StringComparison.Ordinal))
            {
                return (true, $"ffmpeg could not {purpose} (exit code {exitCode}): {errors.Trim()}");
            }

            s_knowsFpsMode = false; // older than ffmpeg 5.1
        }
    }

    // Runs ffmpeg or ffprobe and reads its standard output to the end. FFMpegCore's pipes are not used for this: FFMpegCore stops reading as soon as
    // the process has exited, and frames that are still in the pipe are lost.
    private static async Task<(int ExitCode, string Errors)> ReadOutputAsync(
        string purpose,
        string? folder,
        string program,
        IEnumerable<string> arguments,
        Func<Stream, CancellationToken, Task> read,
        CancellationToken cancellationToken
    )
    {
        cancellationToken.ThrowIfCancellationRequested();
        var start = new ProcessStartInfo(Path.Combine(Options(folder, program, purpose).BinaryFolder, program), arguments)
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
            process.StandardInput.Close(); // ffmpeg would read commands from the console
            var errors = process.StandardError.ReadToEndAsync(cancellationToken);
            await read(process.StandardOutput.BaseStream, cancellationToken).ConfigureAwait(false);
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
            throw FFmpegMissing.Error(program, purpose, folder, e);
        }
    }

    internal static async Task EncodeAsync(
        string? folder,
        VideoFrames frames,
        IReadOnlyList<string> outputArguments,
        string path,
        string target,
        CancellationToken cancellationToken
    )
    {
        var (purpose, source) = ($"write '{target}'", new Source(frames));
        await RunAsync(
                purpose,
                folder,
                FFMpegArguments
                    .FromPipeInput(source)
                    .OutputToFile(FileName(path, purpose), overwrite: true, options =>
                        options.WithCustomArgument("-xerror " + Join(outputArguments))
                    ),
                cancellationToken
            )
            .ConfigureAwait(false);
        if (source.Failure is { } failure)
        {
            throw new MediaException($"The pipe to ffmpeg broke: {failure.Message}", failure);
        }
    }

    private static async Task RunAsync(string purpose, string? folder, FFMpegArgumentProcessor processor, CancellationToken cancellationToken)
    {
        cancellationToken.ThrowIfCancellationRequested();
        var options = Options(folder, "ffmpeg", purpose);
        try
        {
            processor.CancellableThrough(out var stop);
            await using (cancellationToken.Register(() => Stop(stop)).ConfigureAwait(false))
            {
                await processor.ProcessAsynchronously(throwOnError: true, options).ConfigureAwait(false);
            }
        }
        catch (FFMpegException e)
        {
            throw new MediaException($"ffmpeg could not {purpose}: {e.Message}", e);
        }
        catch (Win32Exception e)
        {
            throw FFmpegMissing.Error("ffmpeg", purpose, folder, e);
        }
    }

    // The method of FFMpegCore that takes a token keeps the frames as long as the token exists, and lets its exceptions out of Cancel.
    private static void Stop(Action stop)
    {
        try
        {
            stop();
        }
        catch (IOException)
        {
            // ffmpeg is ending already: it has closed the pipe that the command to stop is written to.
        }
    }

    /// <summary>Determines whether ffmpeg is in a folder, or in PATH.</summary>
    internal static bool Exists(string? folder)
    {
        var folders = folder is null ? (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator) : [folder];
        return folders.Any(each => Contains(each, "ffmpeg"));
    }

    private static bool Contains(string folder, string program) =>
        File.Exists(Path.Combine(folder, program)) || File.Exists(Path.Combine(folder, program + ".exe"));

    // If a folder does not contain the program, FFMpegCore would silently use the one in PATH.
    private static FFOptions Options(string? folder, string program, string purpose) =>
        folder is null || Contains(folder, program) ? new() { BinaryFolder = folder ?? "" } : throw FFmpegMissing.Error(program, purpose, folder);

    // FFMpegCore puts file names in quotation marks.
    private static string FileName(string path, string purpose) =>
        !path.Contains('"', StringComparison.Ordinal)
            ? Path.GetFullPath(path)
            : throw new MediaException($"FFMpegCore could not {purpose}: file names with a quotation mark are not supported. Use another name.");

    private static string Join(IReadOnlyList<string> arguments) =>
        string.Join(' ', arguments.Select(a => a.Contains(';', StringComparison.Ordinal) ? $"\"{a}\"" : a));

    private sealed class Source(VideoFrames frames) : IPipeSource
    {
        public string GetStreamArguments() =>
            string.Create(
                CultureInfo.InvariantCulture,
                $"-f rawvideo -pix_fmt rgb24 -video_size {frames.Width}x{frames.Height} -framerate {frames.FramesPerSecond}"
            );

        /// <summary>Gets the exception if not all pixels were written. If ffmpeg itself fails, its own error is more specific.</summary>
        public IOException? Failure { get; private set; }

        public async Task WriteAsync(Stream outputStream, CancellationToken cancellationToken)
        {
            try
            {
                await outputStream.WriteAsync(frames.Pixels, cancellationToken).ConfigureAwait(false);
            }
            catch (IOException e)
            {
                Failure = e;
            }
        }
    }
}
