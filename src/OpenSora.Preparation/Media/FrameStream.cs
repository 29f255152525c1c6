using System.Buffers;
using System.Globalization;

namespace OpenSora.Preparation.Media;

/// <summary>A decoded frame. Its pixels are only valid until the next frame is read.</summary>
/// <param name="Pixels">The pixels, row by row, RGB24 or gray.</param>
/// <param name="Width">The width in pixels.</param>
/// <param name="Height">The height in pixels.</param>
/// <param name="Index">The index of the frame among those that are read, from 0.</param>
/// <param name="Time">The presentation time, relative to the first frame of the file.</param>
internal readonly record struct StreamedFrame(ReadOnlyMemory<byte> Pixels, int Width, int Height, int Index, TimeSpan Time);

/// <summary>Specifies which frames of a video are decoded, and how.</summary>
internal sealed record FrameStreamOptions
{
    /// <summary>The width in pixels; null for that of the video. Set it together with <see cref="Height"/>.</summary>
    public int? Width { get; init; }

    /// <summary>The height in pixels; null for that of the video.</summary>
    public int? Height { get; init; }

    /// <summary>Decodes gray pixels, one byte each, instead of RGB24.</summary>
    public bool Gray { get; init; }

    /// <summary>Resamples the video to this frame rate; null for all frames of the file.</summary>
    public double? FramesPerSecond { get; init; }

    /// <summary>The folder that contains ffmpeg and ffprobe; null to search PATH.</summary>
    public string? FFmpegFolder { get; init; }
}

/// <summary>Decodes a video frame by frame with bounded memory.</summary>
internal static class FrameStream
{
    /// <summary>Decodes all frames of a video in the order of presentation.</summary>
    /// <param name="source">The metadata of the video.</param>
    /// <param name="options">Specifies how the frames are decoded.</param>
    /// <param name="read">Receives every frame.</param>
    /// <param name="cancellationToken">Stops the decoder.</param>
    /// <returns>The number of frames, and the first error of a decoder that continued nevertheless; null if there was none.</returns>
    /// <exception cref="PreparationException">The video cannot be decoded, or ffmpeg is missing.</exception>
    internal static async Task<(int Frames, string? Damage)> ReadAsync(
        SourceInfo source,
        FrameStreamOptions options,
        Action<StreamedFrame> read,
        CancellationToken cancellationToken = default
    )
    {
        var (width, height) = (options.Width ?? source.Width, options.Height ?? source.Height);
        List<string> filters = [];
        if (options.FramesPerSecond is { } rate)
        {
            filters.Add(string.Create(CultureInfo.InvariantCulture, $"fps={rate}"));
        }

        filters.Add($"scale={width}:{height}:flags=fast_bilinear,setsar=1");
        var frameBytes = width * height * (options.Gray ? 1 : 3);
        var framesPerSecond = options.FramesPerSecond ?? source.FramesPerSecond;
        var buffer = ArrayPool<byte>.Shared.Rent(frameBytes);
        var frames = 0;
        try
        {
            var damage = await FFmpegProcess
                .RunAsync(
                    options.FFmpegFolder,
                    $"decode '{source.Path}'",
                    [
                        .. FFmpegProcess.Input(source.Path),
                        "-map",
                        "0:v:0",
                        .. options.FramesPerSecond is null ? FFmpegProcess.Passthrough : [],
                        "-vf",
                        string.Join(',', filters),
                        "-f",
                        "rawvideo",
                        "-pix_fmt",
                        options.Gray ? "gray" : "rgb24",
                        "pipe:1",
                    ],
                    async (pipe, token) =>
                    {
                        while (
                            await pipe.ReadAtLeastAsync(buffer.AsMemory(0, frameBytes), frameBytes, throwOnEndOfStream: false, token)
                                .ConfigureAwait(false) == frameBytes
                        )
                        {
                            read(new(buffer.AsMemory(0, frameBytes), width, height, frames, TimeSpan.FromSeconds(frames / framesPerSecond)));
                            frames++;
                        }
                    },
                    cancellationToken
                )
                .ConfigureAwait(false);
            return frames > 0
                ? (frames, damage)
                : throw new PreparationException("no frames", $"No frame of '{source.Path}' can be decoded{(damage is null ? "" : $": {damage}")}.");
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(buffer);
        }
    }
}
