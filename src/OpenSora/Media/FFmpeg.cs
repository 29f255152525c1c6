using System.Collections.Concurrent;
using System.ComponentModel;
using System.Globalization;
using FFMpegCore;
using FFMpegCore.Enums;
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
            var turned = Math.Abs(stream.Rotation) % 180 == 90;
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

    /// <summary>Decodes the first video stream of a file.</summary>
    /// <param name="folder">The folder that contains ffmpeg; null to search PATH.</param>
    /// <param name="path">The path of the file.</param>
    /// <param name="inputArguments">The options of the decoder.</param>
    /// <param name="outputArguments">The filters and the format of the output.</param>
    /// <param name="read">Reads the output. If it throws, its exception is thrown, not that of ffmpeg.</param>
    /// <param name="cancellationToken">Stops the decoder.</param>
    /// <returns>The first error that the decoder reported, although it went on; null if there was none.</returns>
    internal static async Task<string?> DecodeAsync(
        string? folder,
        string path,
        string inputArguments,
        IReadOnlyList<string> outputArguments,
        Func<Stream, CancellationToken, Task> read,
        CancellationToken cancellationToken
    )
    {
        var purpose = $"decode '{path}'";
        while (true)
        {
            var (sink, errors) = (new Sink(read), new ConcurrentQueue<string>());
            // Every frame that is decoded is output once, whatever its timestamp.
            var passThrough = s_knowsFpsMode ? "-fps_mode passthrough " : "-vsync passthrough ";
            try
            {
                await RunAsync(
                        purpose,
                        folder,
                        FFMpegArguments
                            .FromFileInput(FileName(path, purpose), verifyExists: true, options => options.WithCustomArgument(inputArguments))
                            .OutputToPipe(sink, options => options.WithCustomArgument(passThrough + Join(outputArguments)))
                            .WithLogLevel(FFMpegLogLevel.Error)
                            .NotifyOnStandardError(errors.Enqueue),
                        cancellationToken
                    )
                    .ConfigureAwait(false);
            }
            catch (MediaException) when (sink.Failure is not null)
            {
                // Reading stopped first, so ffmpeg's broken pipe is only a consequence.
            }
            catch (MediaException e) when (s_knowsFpsMode && e.Message.Contains("Unrecognized option 'fps_mode'", StringComparison.Ordinal))
            {
                s_knowsFpsMode = false; // older than ffmpeg 5.1
                continue;
            }

            return sink.Failure is { } other ? throw other : errors.FirstOrDefault(line => !string.IsNullOrWhiteSpace(line));
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
            await processor.CancellableThrough(cancellationToken).ProcessAsynchronously(throwOnError: true, options).ConfigureAwait(false);
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

    private sealed class Sink(Func<Stream, CancellationToken, Task> read) : IPipeSink
    {
        public string GetFormat() => "";

        public string GetStreamArguments() => "";

        /// <summary>Gets the exception of the reader, which is the cause if ffmpeg fails because its output is not read.</summary>
        public MediaException? Failure { get; private set; }

        public async Task ReadAsync(Stream inputStream, CancellationToken cancellationToken)
        {
            try
            {
                await read(inputStream, cancellationToken).ConfigureAwait(false);
            }
            catch (MediaException e)
            {
                Failure = e;
                throw;
            }
        }
    }
}
