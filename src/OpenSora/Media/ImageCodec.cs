using SixLabors.ImageSharp;
using SixLabors.ImageSharp.Formats.Jpeg;
using SixLabors.ImageSharp.PixelFormats;

namespace OpenSora.Media;

/// <summary>Reads images with ffmpeg and writes PNG and JPEG files with ImageSharp.</summary>
/// <remarks>An image from elsewhere is decoded in another process: a file made to exploit a decoder does not reach this one.</remarks>
/// <param name="ffmpegFolder">The folder that holds ffmpeg and ffprobe, for reading; null = wherever PATH finds them.</param>
public sealed class ImageCodec(string? ffmpegFolder = null) : IImageCodec
{
    private static readonly JpegEncoder Jpeg = new() { Quality = 95, ColorType = JpegColorType.YCbCrRatio444 };

    /// <inheritdoc/>
    public Task<VideoFrames> ReadAsync(string path, CancellationToken cancellationToken = default) =>
        new VideoReader(ffmpegFolder).ReadAsync(path, new ClipOptions { Frames = 1 }, cancellationToken);

    /// <inheritdoc/>
    public Task WriteAsync(VideoFrames image, string path, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(image);
        if (image.Count != 1)
        {
            throw new ArgumentException($"A picture has one frame, this video has {image.Count}.", nameof(image));
        }

        return AtomicOutput.WriteFileAsync(path, async temporary =>
        {
            cancellationToken.ThrowIfCancellationRequested();
            using var picture = Image.LoadPixelData<Rgb24>(image.Pixels.Span, image.Width, image.Height);
            var file = File.Create(temporary);
            await using (file.ConfigureAwait(false))
            {
                if (Path.GetExtension(path).ToUpperInvariant() is ".JPG" or ".JPEG")
                {
                    await picture.SaveAsync(file, Jpeg, cancellationToken).ConfigureAwait(false);
                }
                else
                {
                    await picture.SaveAsPngAsync(file, cancellationToken).ConfigureAwait(false);
                }
            }

            cancellationToken.ThrowIfCancellationRequested(); // a small picture is written at once, and the token not looked at
        });
    }
}
