namespace OpenSora.Media;

/// <summary>Reads and writes pictures with ffmpeg.</summary>
/// <param name="ffmpegFolder">The folder that holds ffmpeg and ffprobe; null = wherever PATH finds them.</param>
public sealed class ImageCodec(string? ffmpegFolder = null) : IImageCodec
{
    private static readonly string[] Png = ["-frames:v", "1", "-c:v", "png", "-pix_fmt", "rgb24", "-f", "image2", "-update", "1"];
    private static readonly string[] Jpeg = ["-frames:v", "1", "-c:v", "mjpeg", "-pix_fmt", "yuvj444p", "-q:v", "2", "-f", "image2", "-update", "1"];

    /// <inheritdoc/>
    public Task<VideoFrames> ReadAsync(string path, CancellationToken cancellationToken = default) =>
        new VideoReader(ffmpegFolder).ReadAsync(path, new ClipOptions { Frames = 1 }, cancellationToken);

    /// <inheritdoc/>
    public Task WriteAsync(VideoFrames image, string path, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(image);
        if (image.Count != 1)
            throw new ArgumentException($"A picture has one frame, this video has {image.Count}.", nameof(image));
        var arguments = Path.GetExtension(path).ToUpperInvariant() is ".JPG" or ".JPEG" ? Jpeg : Png;
        return AtomicOutput.WriteFileAsync(path, temporary => FFmpeg.EncodeAsync(ffmpegFolder, image, arguments, temporary, path, cancellationToken));
    }
}
