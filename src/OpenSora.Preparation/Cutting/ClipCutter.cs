using System.Globalization;
using System.Text;
using OpenSora.Media;
using OpenSora.Preparation.Media;

namespace OpenSora.Preparation.Cutting;

/// <summary>A part of a video: the frames from a presentation time (included) to another (not included), relative to the first frame.</summary>
/// <param name="Start">The presentation time of the first frame of the part.</param>
/// <param name="End">The presentation time at which the part ends.</param>
public readonly record struct TimeRange(TimeSpan Start, TimeSpan End)
{
    /// <summary>Gets the length of the part.</summary>
    public TimeSpan Duration => End - Start;
}

/// <summary>A clip that was cut from a video.</summary>
/// <param name="Path">The path of the file.</param>
/// <param name="Frames">The number of frames.</param>
/// <param name="Width">The width in pixels.</param>
/// <param name="Height">The height in pixels.</param>
/// <param name="FramesPerSecond">The frame rate in frames per second.</param>
public sealed record ClipFile(string Path, int Frames, int Width, int Height, double FramesPerSecond);

/// <summary>Divides shots into clips, and cuts clips out of videos exactly to the frame by encoding them again with ffmpeg.</summary>
/// <remarks>Clips are MP4 files with H.264 video in square pixels and without sound. Interlaced video is deinterlaced, rotation is applied. Instances
/// are thread-safe.</remarks>
public sealed class ClipCutter
{
    private readonly CutOptions _options;
    private readonly string? _ffmpegFolder;

    /// <summary>Initializes a new instance.</summary>
    /// <param name="options">The options of the clips; null for the defaults.</param>
    /// <param name="ffmpegFolder">The folder that contains ffmpeg and ffprobe; null to search PATH.</param>
    /// <exception cref="ArgumentException">An option is invalid.</exception>
    public ClipCutter(CutOptions? options = null, string? ffmpegFolder = null)
    {
        (_options, _ffmpegFolder) = (options ?? new(), ffmpegFolder);
        if (_options.Problems().ToArray() is { Length: > 0 } problems)
        {
            throw new ArgumentException(string.Join(' ', problems), nameof(options));
        }
    }

    /// <summary>Divides a shot into clips.</summary>
    /// <param name="shot">The shot.</param>
    /// <returns>The clips in order; none if the shot is too short.</returns>
    public IReadOnlyList<TimeRange> Divide(TimeRange shot)
    {
        List<TimeRange> clips = [];
        var end = shot.End - _options.Trim;
        for (
            var start = shot.Start + _options.Trim;
            end - start >= _options.MinLength && clips.Count < (_options.MaxClipsPerShot ?? int.MaxValue);
            start += _options.MaxLength
        )
        {
            clips.Add(new(start, end - start > _options.MaxLength ? start + _options.MaxLength : end));
        }

        return clips;
    }

    /// <summary>Cuts a clip out of a video. The file appears under its name when it is complete.</summary>
    /// <param name="source">The metadata of the video.</param>
    /// <param name="range">The frames of the clip: all frames with a presentation time in this range.</param>
    /// <param name="path">The path of the clip, ending with <c>.mp4</c>.</param>
    /// <param name="requireIntact">true to fail if the decoder reports any error. Decoders also report errors that do not matter when they start in
    /// the middle of a video, so this is for videos that are known to be damaged.</param>
    /// <param name="cancellationToken">Stops ffmpeg; no file is left behind.</param>
    /// <exception cref="PreparationException">The clip cannot be decoded or encoded, it has no frames, or ffmpeg is missing.</exception>
    public async Task<ClipFile> CutAsync(
        SourceInfo source,
        TimeRange range,
        string path,
        bool requireIntact = false,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(source);
        ArgumentException.ThrowIfNullOrEmpty(path);
        ClipFile? clip = null;
        await AtomicOutput
            .WriteFileAsync(path, async temporary =>
            {
                var size = await EncodeAsync(source, range, temporary, seek: true, requireIntact, cancellationToken).ConfigureAwait(false);
                var (frames, rate) = await MeasureAsync(temporary, cancellationToken).ConfigureAwait(false);
                // In some containers seeking is inexact. Then the video is decoded from its beginning.
                if (frames == 0 || (!source.HasVariableFrameRate && frames != ExpectedFrames(source, range)))
                {
                    await EncodeAsync(source, range, temporary, seek: false, requireIntact, cancellationToken).ConfigureAwait(false);
                    (frames, rate) = await MeasureAsync(temporary, cancellationToken).ConfigureAwait(false);
                }

                clip =
                    frames > 0
                        ? new ClipFile(path, frames, size.Width, size.Height, rate)
                        : throw new PreparationException(
                            "no frames",
                            $"'{source.Path}' has no frames from {range.Start} to {range.End}; its metadata or time stamps are wrong."
                        );
            })
            .ConfigureAwait(false);
        return clip!;
    }

    // The number of frames of a constant frame rate in a range.
    private int ExpectedFrames(SourceInfo source, TimeRange range)
    {
        var rate = source.FramesPerSecond;
        return _options.FramesPerSecond is { } resampled
            ? (int)Math.Round(range.Duration.TotalSeconds * resampled)
            : (int)(Math.Ceiling(range.End.TotalSeconds * rate - 0.25) - Math.Ceiling(range.Start.TotalSeconds * rate - 0.25));
    }

    private async Task<(int Width, int Height)> EncodeAsync(
        SourceInfo source,
        TimeRange range,
        string output,
        bool seek,
        bool requireIntact,
        CancellationToken cancellationToken
    )
    {
        // Frames are selected by time. A quarter of a frame earlier, rounding of time stamps does not matter.
        var early = 0.25 / Math.Max(source.FramesPerSecond, 25);
        var (start, end) = (source.Start.TotalSeconds + range.Start.TotalSeconds - early, source.Start.TotalSeconds + range.End.TotalSeconds - early);
        var (width, height) = Size(source);
        StringBuilder filters = new();
        filters.Append(CultureInfo.InvariantCulture, $"trim=start={start:F6}:end={end:F6},");
        filters.Append("setpts=PTS-STARTPTS,");
        if (source.IsInterlaced)
        {
            filters.Append("bwdif=mode=send_frame,");
        }

        if (_options.FramesPerSecond is { } rate)
        {
            filters.Append(CultureInfo.InvariantCulture, $"fps={rate},");
        }

        filters.Append(CultureInfo.InvariantCulture, $"scale={width}:{height}:flags=bicubic,setsar=1");
        // Some decoders give wrong time stamps to the first frames after seeking, so decoding begins earlier, and ends soon after the clip.
        string[] position =
            seek && start - 2 > source.Start.TotalSeconds ? ["-seek_timestamp", "1", "-ss", Seconds(start - 2), "-t", Seconds(end - start + 3)] : [];
        string[] strict = requireIntact ? ["-xerror", "-err_detect", "explode"] : [];
        var errors = await FFmpegProcess
            .RunAsync(
                _ffmpegFolder,
                $"cut '{source.Path}'",
                [
                    "-y",
                    .. strict,
                    .. position,
                    "-copyts",
                    .. FFmpegProcess.Input(source.Path),
                    "-map",
                    "0:v:0",
                    .. _options.FramesPerSecond is null ? FFmpegProcess.Passthrough : [],
                    "-vf",
                    filters.ToString(),
                    "-c:v",
                    "libx264",
                    "-preset",
                    _options.Preset,
                    "-crf",
                    _options.Quality.ToString(CultureInfo.InvariantCulture),
                    "-pix_fmt",
                    "yuv420p",
                    // One thread, and no date or version: the same clip has the same bytes. Clips are cut in parallel instead.
                    "-threads",
                    "1",
                    "-map_metadata",
                    "-1",
                    "-fflags",
                    "+bitexact",
                    "-flags:v",
                    "+bitexact",
                    "-movflags",
                    "+faststart",
                    "-f",
                    "mp4",
                    output,
                ],
                read: null,
                cancellationToken
            )
            .ConfigureAwait(false);
        return requireIntact && errors is not null
            ? throw new PreparationException("damaged", $"'{source.Path}' is damaged between {range.Start} and {range.End}: {errors}")
            : (width, height);
    }

    private static string Seconds(double time) => time.ToString("F6", CultureInfo.InvariantCulture);

    // The size of the clips in even numbers, which the encoder requires.
    private (int Width, int Height) Size(SourceInfo source)
    {
        var scale = _options.ShortSide is { } side ? Math.Min(1, (double)side / Math.Min(source.Width, source.Height)) : 1;
        return (Even(source.Width * scale), Even(source.Height * scale));

        static int Even(double size) => Math.Max(2, 2 * (int)Math.Round(size / 2, MidpointRounding.AwayFromZero));
    }

    // The number of frames in a file that was just written, and its frame rate.
    private async Task<(int Frames, double FramesPerSecond)> MeasureAsync(string path, CancellationToken cancellationToken)
    {
        using var output = new MemoryStream();
        var (exitCode, _) = await FFmpegProcess
            .RunAsync(
                _ffmpegFolder,
                "ffprobe",
                $"read '{path}'",
                [
                    "-v",
                    "error",
                    "-select_streams",
                    "v:0",
                    "-count_packets",
                    "-show_entries",
                    "stream=nb_read_packets,avg_frame_rate",
                    "-of",
                    "default=noprint_wrappers=1:nokey=1",
                    .. FFmpegProcess.Input(path),
                ],
                (pipe, token) => pipe.CopyToAsync(output, token),
                cancellationToken
            )
            .ConfigureAwait(false);
        var lines = Encoding.ASCII.GetString(output.ToArray()).Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        if (exitCode != 0 || lines.Length < 2 || !int.TryParse(lines[1], CultureInfo.InvariantCulture, out var frames))
        {
            return (0, 0); // an output without frames
        }

        var rate = lines[0].Split('/');
        return (frames, double.Parse(rate[0], CultureInfo.InvariantCulture) / double.Parse(rate[1], CultureInfo.InvariantCulture));
    }
}
