using System.ComponentModel;
using System.Globalization;
using FFMpegCore;
using FFMpegCore.Exceptions;
using FFMpegCore.Pipes;

namespace OpenSora.Media;

/// <summary>Runs ffmpeg and ffprobe through FFMpegCore.</summary>
internal static class FFmpeg
{
    internal static async Task<VideoInfo> ProbeAsync(string? folder, string path, CancellationToken cancellationToken)
    {
        var purpose = $"read '{path}'";
        try
        {
            var analysis = await FFProbe
                .AnalyseAsync(FileName(path, purpose), ffOptions: Options(folder, "ffprobe", purpose), cancellationToken: cancellationToken)
                .ConfigureAwait(false);
            var stream = analysis.PrimaryVideoStream ?? throw new MediaException($"'{path}' does not contain a video stream.");
            if (stream is not { Width: { } width, Height: { } height })
            {
                throw new MediaException($"The video stream of '{path}' does not specify its width and height.");
            }
            var turned = Math.Abs(stream.Rotation) % 180 == 90;
            return new VideoInfo(
                turned ? height : width,
                turned ? width : height,
                stream.AverageFrameRate > 0 ? stream.AverageFrameRate : 25,
                analysis.Duration
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

    internal static Task DecodeAsync(
        string? folder,
        string path,
        IReadOnlyList<string> outputArguments,
        Func<Stream, CancellationToken, Task> read,
        CancellationToken cancellationToken
    )
    {
        var purpose = $"decode '{path}'";
        return RunAsync(
            purpose,
            folder,
            FFMpegArguments
                .FromFileInput(FileName(path, purpose))
                .OutputToPipe(new Sink(read), options => options.WithCustomArgument(Join(outputArguments))),
            cancellationToken
        );
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

    // If a folder does not contain the program, FFMpegCore would silently use the one in PATH.
    private static FFOptions Options(string? folder, string program, string purpose) =>
        folder is null || File.Exists(Path.Combine(folder, program)) || File.Exists(Path.Combine(folder, program + ".exe"))
            ? new() { BinaryFolder = folder ?? "" }
            : throw FFmpegMissing.Error(program, purpose, folder);

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

        public Task ReadAsync(Stream inputStream, CancellationToken cancellationToken) => read(inputStream, cancellationToken);
    }
}
