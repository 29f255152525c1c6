using SixLabors.ImageSharp;
using SixLabors.ImageSharp.Formats.Jpeg;
using SixLabors.ImageSharp.PixelFormats;

namespace OpenSora.Media;

/// <summary>Writes PNG and JPEG files with ImageSharp.</summary>
internal static class ImageFile
{
    private static readonly JpegEncoder Jpeg = new() { Quality = 95, ColorType = JpegColorType.YCbCrRatio444 };

    /// <summary>Writes an image, a video of one frame. The format is JPEG for the extensions <c>.jpg</c> and <c>.jpeg</c>, and PNG
    /// otherwise.</summary>
    public static Task WriteAsync(VideoFrames image, string path, CancellationToken cancellationToken)
    {
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
