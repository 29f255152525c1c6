using System.Globalization;

namespace OpenSora.Preparation.Media;

/// <summary>A decoded frame. Its pixels are only valid until the next frame is read.</summary>
/// <param name="Pixels">The pixels in the layout of <see cref="FrameStreamOptions.Layout"/>, row by row.</param>
/// <param name="Width">The width in pixels.</param>
/// <param name="Height">The height in pixels.</param>
/// <param name="Index">The index of the frame among those that are read, from 0.</param>
/// <param name="Time">The presentation time, relative to the first frame of the file.</param>
internal readonly record struct StreamedFrame(ReadOnlyMemory<byte> Pixels, int Width, int Height, int Index, TimeSpan Time);

/// <summary>The layouts of decoded pixels.</summary>
internal enum PixelLayout
{
    /// <summary>Red, green and blue of each pixel.</summary>
    Rgb,

    /// <summary>The brightness of each pixel.</summary>
    Gray,

    /// <summary>A plane of Y, and planes of U and V of half the width and height, in limited range. Pixels are taken from the video, not
    /// mixed.</summary>
    Yuv420,

    /// <summary>Planes of Y, U and V in limited range. Pixels are taken from the video, not mixed.</summary>
    Yuv444,
}

/// <summary>Specifies which frames of a video are decoded, and how.</summary>
internal sealed record FrameStreamOptions
{
    /// <summary>The width in pixels; null for that of the video. Set it together with <see cref="Height"/>.</summary>
    public int? Width { get; init; }

    /// <summary>The height in pixels; null for that of the video.</summary>
    public int? Height { get; init; }

    /// <summary>The layout of the pixels.</summary>
    public PixelLayout Layout { get; init; }

    /// <summary>Resamples the video to this frame rate; null for all frames of the file.</summary>
    public double? FramesPerSecond { get; init; }

    /// <summary>The folder that contains ffmpeg and ffprobe; null to search PATH.</summary>
    public string? FFmpegFolder { get; init; }
}

/// <summary>Decodes a video frame by frame with bounded memory.</summary>
internal static class FrameStream
{
    private static readonly TimeSpan LogDelay = TimeSpan.FromSeconds(30);

    // The decoder waits for its slowest thread, so that a few more than processors keep all of them busy. Dividing a filter that only makes a small
    // picture between threads takes longer than running it.
    private static readonly string[] Threads =
    [
        "-threads",
        Math.Clamp(Environment.ProcessorCount + 2, 4, 16).ToString(CultureInfo.InvariantCulture),
        "-filter_threads",
        "1",
    ];

    /// <summary>Decodes all frames of a video in the order of presentation. Rotation is applied, and interlaced video is deinterlaced.</summary>
    /// <param name="source">The metadata of the video.</param>
    /// <param name="options">Specifies how the frames are decoded.</param>
    /// <param name="read">Receives every frame.</param>
    /// <param name="cancellationToken">Stops the decoder.</param>
    /// <returns>The number of frames, and the first error of a decoder that continued nevertheless; null if there was none.</returns>
    /// <exception cref="PreparationException">The video cannot be decoded, or ffmpeg is missing.</exception>
    internal static Task<(int Frames, string? Damage)> ReadAsync(
        SourceInfo source,
        FrameStreamOptions options,
        Action<StreamedFrame> read,
        CancellationToken cancellationToken = default
    )
    {
        var (width, height) = (options.Width ?? source.Width, options.Height ?? source.Height);
        // One field has enough lines for half the height, and is free of charge.
        var deinterlacer =
            !source.IsInterlaced ? null
            : height * 2 <= source.Height ? "field=top"
            : "bwdif=mode=send_frame";
        var size = string.Create(CultureInfo.InvariantCulture, $"{width}:{height}");
        return ReadAsync(source.Path, Task.FromResult(source), deinterlacer, size, options, read, cancellationToken);
    }

    /// <summary>Decodes all frames of a video while its metadata are still being read. Interlaced video is not decoded.</summary>
    /// <param name="path">The path of the video.</param>
    /// <param name="metadata">Reads the metadata.</param>
    /// <param name="size">The width and height as expressions of ffmpeg's scale filter.</param>
    /// <param name="options">Specifies how the frames are decoded, except for their size.</param>
    /// <param name="read">Receives every frame.</param>
    /// <param name="cancellationToken">Stops the decoder.</param>
    /// <exception cref="OperationCanceledException">The decoder was stopped, or the video is interlaced.</exception>
    internal static Task<(int Frames, string? Damage)> ReadAsync(
        string path,
        Task<SourceInfo> metadata,
        string size,
        FrameStreamOptions options,
        Action<StreamedFrame> read,
        CancellationToken cancellationToken
    ) => ReadAsync(path, metadata, deinterlacer: null, size, options, read, cancellationToken);

    private static async Task<(int Frames, string? Damage)> ReadAsync(
        string path,
        Task<SourceInfo> metadata,
        string? deinterlacer,
        string size,
        FrameStreamOptions options,
        Action<StreamedFrame> read,
        CancellationToken cancellationToken
    )
    {
        var log = new DecoderLog();
        var frames = 0;
        var (damage, _) = await FFmpegProcess
            .RunAsync(
                options.FFmpegFolder,
                $"decode '{path}'",
                Arguments(path, deinterlacer, size, options),
                (pipe, token) => FFmpegProcess.OnThread(() => Pump(pipe, token)),
                log,
                cancellationToken
            )
            .ConfigureAwait(false);
        return frames > 0
            ? (frames, damage)
            : throw new PreparationException("no frames", $"No frame of '{path}' can be decoded{(damage is null ? "" : $": {damage}")}.");

        // The pipe holds several frames, so that the decoder continues while one is processed.
        void Pump(Stream pipe, CancellationToken token)
        {
            var source = metadata.GetAwaiter().GetResult();
            if (source.IsInterlaced && deinterlacer is null)
            {
                throw new OperationCanceledException();
            }

            var clock = new Clock(source.Start.TotalSeconds, 1 / (options.FramesPerSecond ?? source.FramesPerSecond));
            var (width, height) = (0, 0);
            var pixels = new byte[1];
            while (pipe.ReadAtLeast(pixels, pixels.Length, throwOnEndOfStream: false) == pixels.Length)
            {
                token.ThrowIfCancellationRequested();
                var time = clock.Next(Time(log));
                if (frames == 0)
                {
                    // The size is known now: so far only the first byte was read.
                    (width, height) = log.Size;
                    Array.Resize(ref pixels, FrameBytes(options.Layout, width, height));
                    pipe.ReadExactly(pixels.AsSpan(1));
                }

                read(new(pixels, width, height, frames, time));
                frames++;
            }
        }
    }

    private static int FrameBytes(PixelLayout layout, int width, int height) =>
        checked(
            layout switch
            {
                PixelLayout.Gray => width * height,
                PixelLayout.Yuv420 => (width * height) + (2 * ((width + 1) / 2) * ((height + 1) / 2)),
                _ => 3 * width * height,
            }
        );

    // The time of a frame is logged before the frame is written, and only arrives a little later through another pipe.
    private static double? Time(DecoderLog log) =>
        log.TryTake(LogDelay, out var time)
            ? time
            : throw new PreparationException("ffmpeg is not supported", "ffmpeg did not log the times of frames. Install version 4.3 or later.");

    private static IEnumerable<string> Arguments(string path, string? deinterlacer, string size, FrameStreamOptions options)
    {
        List<string> filters = [];
        if (deinterlacer is not null)
        {
            filters.Add(deinterlacer);
        }

        if (options.FramesPerSecond is { } rate)
        {
            filters.Add(string.Create(CultureInfo.InvariantCulture, $"fps={rate}"));
        }

        var format = options.Layout switch
        {
            PixelLayout.Gray => "gray",
            PixelLayout.Yuv420 => "yuv420p",
            PixelLayout.Yuv444 => "yuv444p",
            _ => "rgb24",
        };
        // The size is changed before the color space, which is faster.
        filters.Add(
            options.Layout is PixelLayout.Yuv420 or PixelLayout.Yuv444
                ? $"scale={size}:flags=neighbor:out_range=tv,format={format}"
                : $"scale={size}:flags=fast_bilinear"
        );
        filters.Add("setsar=1");
        filters.Add(DecoderLog.Filter);
        return
        [
            .. DecoderLog.Arguments,
            "-copyts",
            .. Threads,
            .. FFmpegProcess.Input(path),
            "-map",
            "0:v:0",
            .. options.FramesPerSecond is null ? FFmpegProcess.Passthrough : [],
            "-vf",
            string.Join(',', filters),
            "-f",
            "rawvideo",
            "-pix_fmt",
            format,
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
