using System.Globalization;
using System.Threading.Channels;

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

    /// <summary>Takes single pixels of the video instead of mixing neighbors when the size is reduced, as OpenCV does with its defaults.</summary>
    public bool TakesSinglePixels { get; init; }

    /// <summary>Resamples the video to this frame rate; null for all frames of the file.</summary>
    public double? FramesPerSecond { get; init; }

    /// <summary>The folder that contains ffmpeg and ffprobe; null to search PATH.</summary>
    public string? FFmpegFolder { get; init; }
}

/// <summary>Decodes a video frame by frame with bounded memory.</summary>
internal static class FrameStream
{
    // The decoder continues while frames are processed. With more buffers it is not faster.
    private const int Buffers = 4;
    private static readonly TimeSpan LogDelay = TimeSpan.FromSeconds(30);

    /// <summary>Decodes all frames of a video in the order of presentation. Rotation is applied, and interlaced video is deinterlaced.</summary>
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
        var log = new DecoderLog();
        var clock = new Clock(source.Start.TotalSeconds, 1 / (options.FramesPerSecond ?? source.FramesPerSecond));
        var frames = 0;
        var (damage, _) = await FFmpegProcess
            .RunAsync(options.FFmpegFolder, $"decode '{source.Path}'", Arguments(source, options, width, height), PumpAsync, log, cancellationToken)
            .ConfigureAwait(false);
        return frames > 0
            ? (frames, damage)
            : throw new PreparationException("no frames", $"No frame of '{source.Path}' can be decoded{(damage is null ? "" : $": {damage}")}.");

        // One task reads the pipe, another processes the frames.
        async Task PumpAsync(Stream pipe, CancellationToken token)
        {
            var frameBytes = checked(width * height * (options.Gray ? 1 : 3));
            var (empty, full) = (Channel.CreateUnbounded<byte[]>(), Channel.CreateUnbounded<byte[]>());
            using var stop = CancellationTokenSource.CreateLinkedTokenSource(token);
            var reader = Task.Run(() => FillAsync(pipe, frameBytes, empty.Reader, full.Writer, stop.Token), CancellationToken.None);
            try
            {
                for (var i = 0; i < Buffers; i++)
                {
                    empty.Writer.TryWrite(new byte[frameBytes]);
                }

                await foreach (var pixels in full.Reader.ReadAllAsync(token).ConfigureAwait(false))
                {
                    var time = clock.Next(await TimeAsync(log, token).ConfigureAwait(false));
                    read(new(pixels, width, height, frames, time));
                    frames++;
                    empty.Writer.TryWrite(pixels);
                }

                await reader.ConfigureAwait(false);
            }
            catch
            {
                await stop.CancelAsync().ConfigureAwait(false);
                throw;
            }
        }
    }

    private static async Task FillAsync(
        Stream pipe,
        int frameBytes,
        ChannelReader<byte[]> empty,
        ChannelWriter<byte[]> full,
        CancellationToken cancellationToken
    )
    {
        try
        {
            while (true)
            {
                var pixels = await empty.ReadAsync(cancellationToken).ConfigureAwait(false);
                var bytes = await pipe.ReadAtLeastAsync(pixels, frameBytes, throwOnEndOfStream: false, cancellationToken).ConfigureAwait(false);
                if (bytes < frameBytes)
                {
                    full.Complete();
                    return;
                }

                full.TryWrite(pixels);
            }
        }
        catch (Exception e)
        {
            full.TryComplete(e);
            throw;
        }
    }

    // The time of a frame is logged before the frame is written, and only arrives a little later through another pipe.
    private static async ValueTask<double?> TimeAsync(DecoderLog log, CancellationToken cancellationToken)
    {
        try
        {
            return log.Times.TryRead(out var time)
                ? time
                : await log.Times.ReadAsync(cancellationToken).AsTask().WaitAsync(LogDelay, cancellationToken).ConfigureAwait(false);
        }
        catch (Exception e) when (e is ChannelClosedException or TimeoutException)
        {
            throw new PreparationException("ffmpeg is not supported", "ffmpeg did not log the times of frames. Install version 4.3 or later.", e);
        }
    }

    private static IEnumerable<string> Arguments(SourceInfo source, FrameStreamOptions options, int width, int height)
    {
        List<string> filters = [];
        if (source.IsInterlaced)
        {
            // One field has enough lines for half the height, and is free of charge.
            filters.Add(height * 2 <= source.Height ? "field=top" : "bwdif=mode=send_frame");
        }

        if (options.FramesPerSecond is { } rate)
        {
            filters.Add(string.Create(CultureInfo.InvariantCulture, $"fps={rate}"));
        }

        // The size is changed before the color space, which is faster.
        filters.Add(
            options.TakesSinglePixels
                ? $"scale={width}:{height}:flags=neighbor,format={(options.Gray ? "gray" : "yuv420p")}"
                : $"scale={width}:{height}:flags=fast_bilinear"
        );
        filters.Add("setsar=1");
        filters.Add(DecoderLog.Filter);
        return
        [
            .. DecoderLog.Arguments,
            "-copyts",
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
        ];
    }

    // Times that never decrease, even if those of the file are missing or wrong.
    private struct Clock(double start, double step)
    {
        private double _start = start;
        private double _last = -step;

        internal TimeSpan Next(double? time)
        {
            if (_last < 0 && time < _start + step / 2)
            {
                _start = time.Value; // the metadata are rounded, or wrong
            }

            var relative = (time ?? double.NaN) - _start;
            _last = relative > _last ? relative : Math.Max(0, _last + step);
            return TimeSpan.FromSeconds(_last);
        }
    }
}
