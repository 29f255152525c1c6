using System.Globalization;

namespace OpenSora.Media;

/// <summary>Encodes videos with ffmpeg, by writing raw pixels to a pipe, and images with ImageSharp.</summary>
/// <remarks>Instances are stateless and thread-safe. Output is atomic: a file appears under its name only when it is complete.</remarks>
/// <param name="ffmpegFolder">The folder that contains ffmpeg; null to search PATH.</param>
/// <param name="quality">The constant rate factor for MP4, from 0 (lossless) to 51 (lowest quality).</param>
public sealed class VideoWriter(string? ffmpegFolder = null, int quality = 18)
{
    // Pads odd sizes, which yuv420p does not support, by repeating the last column and row.
    private const string Even = "pad=ceil(iw/2)*2:ceil(ih/2)*2";
    private const string Bt709 = "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_int";

    /// <summary>Encodes a video to a file, replacing any existing file. The folder of the file is created if it does not exist.</summary>
    /// <param name="frames">The video to encode.</param>
    /// <param name="path">The path of the file, or of the folder for <see cref="VideoFormat.PngSequence"/>.</param>
    /// <param name="format">The output format; null to choose by the extension: <c>.gif</c> for <see cref="VideoFormat.Gif"/>, <c>.png</c>,
    /// <c>.jpg</c> and <c>.jpeg</c> for <see cref="VideoFormat.Image"/>, and <see cref="VideoFormat.Mp4"/> otherwise.</param>
    /// <param name="cancellationToken">Stops the encoder; no partial output is left behind.</param>
    /// <exception cref="ArgumentException">An image is to be written, but the video has more than one frame.</exception>
    /// <exception cref="MediaException">The encoder failed (the message includes the encoder's message), or ffmpeg is missing.</exception>
    /// <exception cref="IOException">The file cannot be moved to its final path, or the folder is not empty.</exception>
    public Task WriteAsync(VideoFrames frames, string path, VideoFormat? format = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(frames);
        ArgumentException.ThrowIfNullOrEmpty(path);
        return (format ?? ByExtension(path)) switch
        {
            VideoFormat.Mp4 => WriteFileAsync(Mp4Arguments(frames)),
            VideoFormat.Gif => WriteFileAsync(GifArguments),
            VideoFormat.PngSequence => AtomicOutput.WriteFolderAsync(path, folder =>
                FFmpeg.EncodeAsync(
                    ffmpegFolder,
                    frames,
                    PngArguments,
                    Path.Combine(folder.Replace("%", "%%", StringComparison.Ordinal), "frame_%05d.png"),
                    path,
                    cancellationToken
                )
            ),
            VideoFormat.Image => ImageFile.WriteAsync(frames, path, cancellationToken),
            _ => throw new ArgumentOutOfRangeException(nameof(format), format, "Unknown video format."),
        };

        Task WriteFileAsync(IReadOnlyList<string> arguments) =>
            AtomicOutput.WriteFileAsync(path, temporary => FFmpeg.EncodeAsync(ffmpegFolder, frames, arguments, temporary, path, cancellationToken));
    }

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

    private static readonly string[] GifArguments =
    [
        "-filter_complex",
        "split[a][b];[a]palettegen[palette];[b][palette]paletteuse=dither=sierra2_4a",
        "-loop",
        "0",
        "-f",
        "gif",
    ];

    private static readonly string[] PngArguments = ["-c:v", "png", "-pix_fmt", "rgb24", "-f", "image2"];
}
