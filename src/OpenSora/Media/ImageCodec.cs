using SixLabors.ImageSharp;
using SixLabors.ImageSharp.Formats.Jpeg;
using SixLabors.ImageSharp.PixelFormats;

namespace OpenSora.Media;

/// <summary>Reads images with ffmpeg and writes PNG and JPEG files with ImageSharp.</summary>
/// <remarks>Images are decoded in a separate process, so a file crafted to exploit a decoder does not affect this process.</remarks>
/// <param name="ffmpegFolder">The folder that contains ffmpeg and ffprobe, which are used for reading; null to search PATH.</param>
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
            throw new ArgumentException($"An image must have one frame, but this video has {image.Count}.", nameof(image));
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

            cancellationToken.ThrowIfCancellationRequested(); // the encoder does not check the token when it writes a small image
        });
    }
}
