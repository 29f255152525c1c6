using System.Globalization;
using FFMpegCore;
using FFMpegCore.Exceptions;
using FFMpegCore.Pipes;

namespace OpenSora.Media;

/// <summary>ffmpeg and ffprobe through FFMpegCore.</summary>
internal static class FFmpeg
{
    internal static async Task<VideoInfo> ProbeAsync(string? folder, string path, CancellationToken cancellationToken)
    {
        try
        {
            var analysis = await FFProbe.AnalyseAsync(Path.GetFullPath(path), ffOptions: Options(folder), cancellationToken: cancellationToken);
            var stream = analysis.PrimaryVideoStream ?? throw new MediaException($"'{path}' holds no video.");
            var turned = Math.Abs(stream.Rotation) % 180 == 90;
            return new VideoInfo(turned ? stream.Height : stream.Width, turned ? stream.Width : stream.Height,
                stream.AvgFrameRate > 0 ? stream.AvgFrameRate : 25, analysis.Duration);
        }
        catch (FFMpegException e)
        {
            throw Failure("read", path, e);
        }
    }

    internal static Task DecodeAsync(string? folder, string path, IReadOnlyList<string> outputArguments, Func<Stream, CancellationToken, Task> read,
        CancellationToken cancellationToken) =>
        RunAsync("decode", path, folder, FFMpegArguments.FromFileInput(Path.GetFullPath(path))
            .OutputToPipe(new Sink(read), options => options.WithCustomArgument(Join(outputArguments))), cancellationToken);

    internal static Task EncodeAsync(string? folder, VideoFrames frames, IReadOnlyList<string> outputArguments, string path, string target,
        CancellationToken cancellationToken) =>
        RunAsync("write", target, folder, FFMpegArguments.FromPipeInput(new Source(frames))
            .OutputToFile(Path.GetFullPath(path), overwrite: true, options => options.WithCustomArgument("-xerror " + Join(outputArguments))), cancellationToken);

    private static async Task RunAsync(string purpose, string path, string? folder, FFMpegArgumentProcessor processor, CancellationToken cancellationToken)
    {
        cancellationToken.ThrowIfCancellationRequested();
        try
        {
            await processor.CancellableThrough(cancellationToken).ProcessAsynchronously(throwOnError: true, Options(folder));
        }
        catch (FFMpegException e)
        {
            throw Failure(purpose, path, e);
        }
    }

    private static MediaException Failure(string purpose, string path, FFMpegException e) =>
        new($"ffmpeg could not {purpose} '{path}': {e.Message} (If ffmpeg is missing, install it, or name its folder in the FFmpegFolder option.)", e);

    private static FFOptions Options(string? folder) => new() { BinaryFolder = folder ?? "" };

    private static string Join(IReadOnlyList<string> arguments) => string.Join(' ', arguments.Select(a => a.Contains(';', StringComparison.Ordinal) ? $"\"{a}\"" : a));

    private sealed class Source(VideoFrames frames) : IPipeSource
    {
        public string GetStreamArguments() => string.Create(CultureInfo.InvariantCulture,
            $"-f rawvideo -pix_fmt rgb24 -video_size {frames.Width}x{frames.Height} -framerate {frames.FramesPerSecond}");

        public Task WriteAsync(Stream outputStream, CancellationToken cancellationToken) => outputStream.WriteAsync(frames.Pixels, cancellationToken).AsTask();
    }

    private sealed class Sink(Func<Stream, CancellationToken, Task> read) : IPipeSink
    {
        public string GetFormat() => "";

        public Task ReadAsync(Stream inputStream, CancellationToken cancellationToken) => read(inputStream, cancellationToken);
    }
}
