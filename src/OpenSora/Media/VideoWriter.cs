using System.Globalization;

namespace OpenSora.Media;

/// <summary>Encodes MP4 with ffmpeg, by writing raw pixels to a pipe, and GIF, PNG and JPEG with ImageSharp.</summary>
/// <remarks>Instances are stateless and thread-safe. Output is atomic: a file appears under its name only when it is complete.</remarks>
/// <param name="ffmpegFolder">The folder that contains ffmpeg; null to search PATH.</param>
/// <param name="quality">The constant rate factor for MP4, from 0 (lossless) to 51 (lowest quality).</param>
public sealed class VideoWriter(string? ffmpegFolder = null, int quality = 18)
{
    // Pads odd sizes, which yuv420p does not support, by repeating the last column and row.
    private const string Even = "pad=ceil(iw/2)*2:ceil(ih/2)*2";
    private const string Bt709 = "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_int";

    /// <summary>Encodes a video to a file, replacing any existing file. The folder of the file is created if it does not exist. Symbolic links are
    /// followed.</summary>
    /// <param name="frames">The video to encode.</param>
    /// <param name="path">The path of the file, or of the folder for <see cref="VideoFormat.PngSequence"/>.</param>
    /// <param name="format">The output format; null to choose by the extension: <c>.gif</c> for <see cref="VideoFormat.Gif"/>, <c>.png</c>,
    /// <c>.jpg</c> and <c>.jpeg</c> for <see cref="VideoFormat.Image"/>, and <see cref="VideoFormat.Mp4"/> otherwise.</param>
    /// <param name="cancellationToken">Stops the encoder; no partial output is left behind.</param>
    /// <exception cref="ArgumentException">An image is to be written, but the video has more than one frame.</exception>
    /// <exception cref="MediaException">Encoding or writing failed (the message includes the cause), or ffmpeg is missing, which only
    /// <see cref="VideoFormat.Mp4"/> requires.</exception>
    /// <exception cref="IOException">The path is that of a folder or a pipe, or the folder of a PNG sequence is not empty.</exception>
    public Task WriteAsync(VideoFrames frames, string path, VideoFormat? format = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(frames);
        ArgumentException.ThrowIfNullOrEmpty(path);
        var chosen = format ?? ByExtension(path);
        Check(frames, chosen);
        return chosen switch
        {
            VideoFormat.Mp4 => AtomicOutput.WriteFileAsync(path, temporary => WriteMp4Async(frames, temporary, path, cancellationToken)),
            VideoFormat.PngSequence => AtomicOutput.WriteFolderAsync(path, async folder =>
            {
                for (var i = 0; i < frames.Count; i++)
                {
                    var name = string.Create(CultureInfo.InvariantCulture, $"frame_{i + 1:D5}.png");
                    await EncodeFileAsync(frames, i, Path.Combine(folder, name), path, chosen, cancellationToken).ConfigureAwait(false);
                }
            }),
            _ => AtomicOutput.WriteFileAsync(path, temporary => EncodeFileAsync(frames, 0, temporary, path, chosen, cancellationToken)),
        };
    }

    /// <summary>Encodes a video to a stream, such as the body of an HTTP response.</summary>
    /// <param name="frames">The video to encode.</param>
    /// <param name="stream">The stream. It is written from its current position and need not support seeking.</param>
    /// <param name="format">The output format; <see cref="VideoFormat.Image"/> writes PNG.</param>
    /// <param name="cancellationToken">Stops the encoder.</param>
    /// <exception cref="ArgumentException">The format is a folder of files, or an image is to be written, but the video has more than one
    /// frame.</exception>
    /// <exception cref="MediaException">Encoding failed, or ffmpeg is missing, which only <see cref="VideoFormat.Mp4"/> requires.</exception>
    public async Task WriteAsync(VideoFrames frames, Stream stream, VideoFormat format, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(frames);
        ArgumentNullException.ThrowIfNull(stream);
        Check(frames, format);
        if (format == VideoFormat.PngSequence)
        {
            throw new ArgumentException("A PNG sequence is a folder of files; it cannot be written to a stream.", nameof(format));
        }

        if (format != VideoFormat.Mp4)
        {
            await EncodeAsync(frames, 0, stream, "", format, cancellationToken).ConfigureAwait(false);
            return;
        }

        // An MP4 file with its index at the start cannot be written from start to end.
        var temporary = Path.Combine(Path.GetTempPath(), $"{Guid.NewGuid():N}.mp4");
        try
        {
            await WriteMp4Async(frames, temporary, "the stream", cancellationToken).ConfigureAwait(false);
            var file = File.OpenRead(temporary);
            await using (file.ConfigureAwait(false))
            {
                await file.CopyToAsync(stream, cancellationToken).ConfigureAwait(false);
            }
        }
        finally
        {
            File.Delete(temporary);
        }
    }

    /// <summary>Checks that a format can be written on this machine, so that a program can report a missing ffmpeg before it generates a
    /// video.</summary>
    /// <param name="format">The output format. Only <see cref="VideoFormat.Mp4"/> requires ffmpeg.</param>
    /// <exception cref="MediaException">ffmpeg is missing; the message says how to install it.</exception>
    public void RequireSupport(VideoFormat format)
    {
        if (format == VideoFormat.Mp4 && !FFmpeg.Exists(ffmpegFolder))
        {
            throw FFmpegMissing.Error("ffmpeg", "write MP4 files", ffmpegFolder);
        }
    }

    private static void Check(VideoFrames frames, VideoFormat format)
    {
        if (!Enum.IsDefined(format))
        {
            throw new ArgumentOutOfRangeException(nameof(format), format, "Unknown video format.");
        }

        if (format == VideoFormat.Image && frames.Count != 1)
        {
            throw new ArgumentException($"An image must have one frame, but this video has {frames.Count}.", nameof(frames));
        }
    }

    private Task WriteMp4Async(VideoFrames frames, string file, string target, CancellationToken cancellationToken) =>
        FFmpeg.EncodeAsync(ffmpegFolder, frames, Mp4Arguments(frames), file, target, cancellationToken);

    private static async Task EncodeFileAsync(
        VideoFrames frames,
        int frame,
        string file,
        string target,
        VideoFormat format,
        CancellationToken cancellationToken
    )
    {
        try
        {
            var stream = File.Create(file);
            await using (stream.ConfigureAwait(false))
            {
                await EncodeAsync(frames, frame, stream, target, format, cancellationToken).ConfigureAwait(false);
            }
        }
        catch (IOException e) when (e is not MediaException)
        {
            throw new MediaException($"Could not write '{target}': {e.Message}", e);
        }
    }

    private static Task EncodeAsync(
        VideoFrames frames,
        int frame,
        Stream stream,
        string target,
        VideoFormat format,
        CancellationToken cancellationToken
    ) =>
        format == VideoFormat.Gif
            ? GifFile.WriteAsync(frames, stream, cancellationToken)
            : ImageFile.WriteAsync(frames, frame, stream, ImageFile.EncoderFor(format == VideoFormat.Image ? target : ".png"), cancellationToken);

    private static VideoFormat ByExtension(string path) =>
        Path.GetExtension(path).ToUpperInvariant() switch
        {
            ".GIF" => VideoFormat.Gif,
            ".PNG" or ".JPG" or ".JPEG" => VideoFormat.Image,
            _ => VideoFormat.Mp4,
        };

    private List<string> Mp4Arguments(VideoFrames frames)
    {
        var (right, bottom) = (frames.Width % 2, frames.Height % 2);
        var filter = right + bottom == 0 ? Bt709 : $"{Even},fillborders=right={right}:bottom={bottom}:mode=smear,{Bt709}";
        return
        [
            "-vf",
            filter,
            "-c:v",
            "libx264",
            "-preset",
            "medium",
            "-crf",
            quality.ToString(CultureInfo.InvariantCulture),
            "-pix_fmt",
            "yuv420p",
            "-colorspace",
            "bt709",
            "-color_primaries",
            "bt709",
            "-color_trc",
            "bt709",
            "-movflags",
            "+faststart",
            "-f",
            "mp4",
        ];
    }
}
