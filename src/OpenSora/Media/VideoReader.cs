using System.Globalization;

namespace OpenSora.Media;

/// <summary>Decodes videos and images of all formats that ffmpeg supports, by reading raw pixels from a pipe.</summary>
/// <remarks>Instances are stateless and thread-safe.</remarks>
/// <param name="ffmpegFolder">The folder that contains ffmpeg and ffprobe; null to search PATH.</param>
public sealed class VideoReader(string? ffmpegFolder = null)
{
    // Memory is not allocated for more than this because of what a file says of itself.
    private const int FirstCapacity = 1 << 28;

    /// <summary>Reads the metadata of a video file without decoding the video.</summary>
    /// <param name="path">The path of the file.</param>
    /// <param name="cancellationToken">Cancels the operation.</param>
    /// <exception cref="FileNotFoundException">The file does not exist.</exception>
    /// <exception cref="MediaException">The file is not a readable video, or ffmpeg is missing.</exception>
    public Task<VideoInfo> ProbeAsync(string path, CancellationToken cancellationToken = default)
    {
        RequireFile(path);
        return FFmpeg.ProbeAsync(ffmpegFolder, path, cancellationToken);
    }

    /// <summary>Counts the frames of a clip by decoding the video, because the length that a file specifies can be wrong.</summary>
    /// <param name="path">The path of the file.</param>
    /// <param name="clip">The part of the video to count; null for the entire video. Its size is ignored.</param>
    /// <param name="cancellationToken">Stops the decoder.</param>
    /// <returns>The number of frames that <see cref="ReadAsync(string, ClipOptions?, CancellationToken)"/> decodes; 0 if the video ends before the
    /// clip.</returns>
    /// <exception cref="FileNotFoundException">The file does not exist.</exception>
    /// <exception cref="MediaException">The file cannot be decoded or is damaged, or ffmpeg is missing.</exception>
    public async Task<int> CountFramesAsync(string path, ClipOptions? clip = null, CancellationToken cancellationToken = default)
    {
        clip ??= new ClipOptions();
        ClipOptions.Check(clip);
        RequireFile(path);
        const int FrameBytes = 2 * 2; // frames are scaled to the smallest size, because only their number counts
        List<string> filters = [.. Selection(clip), "scale=2:2:flags=neighbor"];
        long bytes = 0;
        await DecodeAsync(
                path,
                clip,
                [.. Arguments(filters, clip.Frames), "-pix_fmt", "gray"],
                async (pipe, token) =>
                {
                    var buffer = new byte[1 << 14];
                    while (await pipe.ReadAsync(buffer, token).ConfigureAwait(false) is > 0 and var read)
                    {
                        bytes += read;
                    }
                },
                () => bytes / FrameBytes,
                cancellationToken
            )
            .ConfigureAwait(false);
        return (int)(bytes / FrameBytes);
    }

    /// <summary>Decodes a clip into new memory.</summary>
    /// <param name="path">The path of the file.</param>
    /// <param name="clip">The part of the video to decode, and its size and frame rate; null for the entire video without changes.</param>
    /// <param name="cancellationToken">Stops the decoder.</param>
    /// <exception cref="FileNotFoundException">The file does not exist.</exception>
    /// <exception cref="MediaException">The file cannot be decoded or is damaged, it does not contain any frame of the clip, the pixels exceed the 2
    /// GB that one array can hold, or ffmpeg is missing.</exception>
    public async Task<VideoFrames> ReadAsync(string path, ClipOptions? clip = null, CancellationToken cancellationToken = default)
    {
        clip ??= new ClipOptions();
        ClipOptions.Check(clip);
        var info = await ProbeAsync(path, cancellationToken).ConfigureAwait(false);
        var (width, height) = (clip.Width ?? info.Width, clip.Height ?? info.Height);
        var frameBytes = FrameBytes(width, height);
        var framesPerSecond = clip.FramesPerSecond ?? info.FramesPerSecond;
        var expected = info.Duration is { } duration
            ? Math.Ceiling((duration.TotalSeconds * framesPerSecond - clip.StartFrame) / clip.FrameInterval)
            : 1;
        expected = Math.Clamp(expected, 1, clip.Frames ?? double.PositiveInfinity);
        if (expected * frameBytes > Array.MaxLength)
        {
            throw TooLarge();
        }

        var (pixels, length) = (new byte[(int)Math.Max(frameBytes, Math.Min(FirstCapacity, expected * frameBytes))], 0);
        await DecodeAsync(
                path,
                clip,
                [.. Arguments([.. Selection(clip), .. Scaling(clip, width, height)], clip.Frames), "-pix_fmt", "rgb24"],
                async (pipe, token) =>
                {
                    while (await pipe.ReadAsync(pixels.AsMemory(length), token).ConfigureAwait(false) is > 0 and var read)
                    {
                        length += read;
                        if (length == pixels.Length)
                        {
                            if (length == Array.MaxLength)
                            {
                                throw TooLarge();
                            }

                            Array.Resize(ref pixels, (int)Math.Min(Array.MaxLength, length + Math.Max(1L << 16, length / 2L)));
                        }
                    }
                },
                () => length / frameBytes,
                cancellationToken
            )
            .ConfigureAwait(false);
        var count = length / frameBytes;
        if (count == 0)
        {
            throw new MediaException($"'{path}' has no frame at or after frame {clip.StartFrame}. Use a smaller StartFrame.");
        }

        return new VideoFrames(pixels.AsMemory(0, count * frameBytes), count, height, width, framesPerSecond / clip.FrameInterval);

        MediaException TooLarge() =>
            new(
                $"The clip of '{path}' has {(expected * frameBytes > Array.MaxLength ? $"about {expected:F0}" : "too many")} frames of "
                    + $"{width}x{height} pixels; at most {Array.MaxLength / frameBytes} of this size fit into memory at once (2 GB). "
                    + "Set Frames to read the video in parts (with StartFrame), a larger FrameInterval, or a smaller Width and Height."
            );
    }

    /// <summary>Decodes a clip into existing memory, up to as many frames as fit.</summary>
    /// <param name="path">The path of the file.</param>
    /// <param name="clip">The part of the video to decode; <see cref="ClipOptions.Width"/> and <see cref="ClipOptions.Height"/> must be set.</param>
    /// <param name="destination">Receives the RGB24 pixels, <c>[frames, height, width, 3]</c>.</param>
    /// <param name="cancellationToken">Stops the decoder.</param>
    /// <returns>The number of decoded frames, which is less than fits into the memory if the clip is shorter.</returns>
    /// <exception cref="FileNotFoundException">The file does not exist.</exception>
    /// <exception cref="MediaException">The file cannot be decoded or is damaged, or ffmpeg is missing.</exception>
    public async Task<int> ReadAsync(string path, ClipOptions clip, Memory<byte> destination, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(clip);
        ClipOptions.Check(clip);
        if (clip is not { Width: { } width, Height: { } height })
        {
            throw new ArgumentException("Width and Height of the clip must be set: they determine the layout of the destination.", nameof(clip));
        }

        var frameBytes = FrameBytes(width, height);
        var fitting = destination.Length / frameBytes;
        if (fitting == 0)
        {
            throw new ArgumentException(
                $"The destination has {destination.Length} bytes, but one frame of {width}x{height} pixels has {frameBytes}.",
                nameof(destination)
            );
        }

        RequireFile(path);

        var read = 0;
        await DecodeAsync(
                path,
                clip,
                [.. Arguments([.. Selection(clip), .. Scaling(clip, width, height)], Math.Min(clip.Frames ?? fitting, fitting)), "-pix_fmt", "rgb24"],
                async (pipe, token) =>
                    read = await pipe.ReadAtLeastAsync(destination[..(fitting * frameBytes)], fitting * frameBytes, throwOnEndOfStream: false, token)
                        .ConfigureAwait(false),
                () => read / frameBytes,
                cancellationToken
            )
            .ConfigureAwait(false);
        return read / frameBytes;
    }

    // Decodes, and refuses a video with errors unless the clip allows them.
    private async Task DecodeAsync(
        string path,
        ClipOptions clip,
        IReadOnlyList<string> arguments,
        Func<Stream, CancellationToken, Task> read,
        Func<long> frames,
        CancellationToken cancellationToken
    )
    {
        // Errors in the data are reported instead of concealed. The decoder of a part has one thread, so that it does not look far ahead.
        List<string> decoder = clip.AllowDamage ? [] : ["-err_detect", "explode"];
        if (clip.Frames is not null)
        {
            decoder.AddRange(["-threads", "1"]);
        }

        var (failed, error) = await FFmpeg.DecodeAsync(ffmpegFolder, path, decoder, arguments, read, cancellationToken).ConfigureAwait(false);
        if (failed && frames() == 0)
        {
            throw new MediaException(error!);
        }

        if (error is not null && !clip.AllowDamage)
        {
            throw new MediaException(
                $"'{path}' is damaged: {frames()} frames of the clip could be decoded, and the decoder reported: {Plain(error)}. "
                    + "Repair or replace the file, or set AllowDamage of ClipOptions to use the frames that can be decoded."
            );
        }
    }

    // An error of ffmpeg without the address of the part that reports it, as in "[h264 @ 0x55f270cde200] no frame!".
    private static string Plain(string error) => error.Split("] ", 2)[^1].Trim().TrimEnd('.');

    private static int FrameBytes(int width, int height) =>
        3L * width * height is <= int.MaxValue and var bytes
            ? (int)bytes
            : throw new MediaException($"A frame of {width}x{height} pixels is too large; use a smaller Width and Height.");

    private static void RequireFile(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        if (!File.Exists(path))
        {
            throw new FileNotFoundException($"The video file '{path}' does not exist.", path);
        }
    }

    // The filters that select frames.
    private static IEnumerable<string> Selection(ClipOptions clip)
    {
        if (clip.FramesPerSecond is { } fps)
        {
            yield return string.Create(CultureInfo.InvariantCulture, $"fps={fps}");
        }

        if (clip.StartFrame > 0)
        {
            yield return $"trim=start_frame={clip.StartFrame},setpts=PTS-STARTPTS";
        }

        if (clip.FrameInterval > 1)
        {
            yield return $"framestep={clip.FrameInterval}";
        }
    }

    // The filters that scale frames to square pixels: iw * sar is the width as the video is shown.
    private static IEnumerable<string> Scaling(ClipOptions clip, int width, int height)
    {
        const string Scaler = "flags=bicubic+accurate_rnd+full_chroma_int";
        var (across, down) = ($"round({height}*iw*sar/ih)", $"round({width}*ih/(iw*sar))");
        yield return clip.Fit switch
        {
            FrameFit.Crop => $"scale=w='max({width},{across})':h='max({height},{down})':{Scaler},crop={width}:{height}",
            FrameFit.Pad => $"scale=w='clip({across},1,{width})':h='clip({down},1,{height})':{Scaler},pad={width}:{height}:-1:-1",
            _ => $"scale={width}:{height}:{Scaler}",
        };
        yield return "setsar=1";
    }

    private static List<string> Arguments(IReadOnlyList<string> filters, int? frames)
    {
        List<string> arguments = ["-map", "0:v:0", "-vf", string.Join(',', filters)];
        if (frames is { } limit)
        {
            arguments.AddRange(["-frames:v", limit.ToString(CultureInfo.InvariantCulture)]);
        }

        arguments.AddRange(["-f", "rawvideo"]);
        return arguments;
    }
}
