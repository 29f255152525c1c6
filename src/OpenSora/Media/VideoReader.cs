using System.Globalization;

namespace OpenSora.Media;

/// <summary>Decodes all formats that ffmpeg supports, by reading raw pixels from a pipe.</summary>
/// <param name="ffmpegFolder">The folder that contains ffmpeg and ffprobe; null to search PATH.</param>
public sealed class VideoReader(string? ffmpegFolder = null) : IVideoReader
{
    /// <inheritdoc/>
    public Task<VideoInfo> ProbeAsync(string path, CancellationToken cancellationToken = default)
    {
        RequireFile(path);
        return FFmpeg.ProbeAsync(ffmpegFolder, path, cancellationToken);
    }

    /// <inheritdoc/>
    public async Task<VideoFrames> ReadAsync(string path, ClipOptions? clip = null, CancellationToken cancellationToken = default)
    {
        clip ??= new ClipOptions();
        ClipOptions.Check(clip);
        var info = await ProbeAsync(path, cancellationToken).ConfigureAwait(false);
        var (width, height) = (clip.Width ?? info.Width, clip.Height ?? info.Height);
        var frameBytes = FrameBytes(width, height);

        var pixels = new MemoryStream();
        await FFmpeg
            .DecodeAsync(
                ffmpegFolder,
                path,
                Arguments(clip, width, height, clip.Frames),
                (pipe, token) => pipe.CopyToAsync(pixels, token),
                cancellationToken
            )
            .ConfigureAwait(false);
        var count = (int)(pixels.Length / frameBytes);
        if (count == 0)
        {
            throw new MediaException($"'{path}' has no frame at or after frame {clip.StartFrame}. Use a smaller StartFrame.");
        }

        return new VideoFrames(
            pixels.GetBuffer().AsMemory(0, count * frameBytes),
            count,
            height,
            width,
            (clip.FramesPerSecond ?? info.FramesPerSecond) / clip.FrameInterval
        );
    }

    /// <inheritdoc/>
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
        await FFmpeg
            .DecodeAsync(
                ffmpegFolder,
                path,
                Arguments(clip, width, height, Math.Min(clip.Frames ?? fitting, fitting)),
                async (pipe, token) =>
                    read = await pipe.ReadAtLeastAsync(destination[..(fitting * frameBytes)], fitting * frameBytes, throwOnEndOfStream: false, token)
                        .ConfigureAwait(false),
                cancellationToken
            )
            .ConfigureAwait(false);
        return read / frameBytes;
    }

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

    private static List<string> Arguments(ClipOptions clip, int width, int height, int? frames)
    {
        List<string> filters = [];
        if (clip.FramesPerSecond is { } fps)
        {
            filters.Add(string.Create(CultureInfo.InvariantCulture, $"fps={fps}"));
        }

        if (clip.StartFrame > 0)
        {
            filters.Add($"trim=start_frame={clip.StartFrame},setpts=PTS-STARTPTS");
        }

        if (clip.FrameInterval > 1)
        {
            filters.Add($"framestep={clip.FrameInterval}");
        }

        const string Scaler = "flags=bicubic+accurate_rnd+full_chroma_int";
        filters.Add(
            clip.Fit switch
            {
                FrameFit.Crop => $"scale={width}:{height}:force_original_aspect_ratio=increase:{Scaler},crop={width}:{height}",
                FrameFit.Pad => $"scale={width}:{height}:force_original_aspect_ratio=decrease:{Scaler},pad={width}:{height}:-1:-1",
                _ => $"scale={width}:{height}:{Scaler}",
            }
        );

        // Output every frame exactly once. With irregular timestamps, ffmpeg would repeat and drop frames to reach a constant frame rate.
        filters.Add("settb=1/25,setpts=N");
        List<string> arguments = ["-map", "0:v:0", "-vf", string.Join(',', filters), "-r", "25"];
        if (frames is { } limit)
        {
            arguments.AddRange(["-frames:v", limit.ToString(CultureInfo.InvariantCulture)]);
        }

        arguments.AddRange(["-f", "rawvideo", "-pix_fmt", "rgb24"]);
        return arguments;
    }
}
