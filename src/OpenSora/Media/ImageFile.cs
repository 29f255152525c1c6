using SixLabors.ImageSharp;
using SixLabors.ImageSharp.Formats;
using SixLabors.ImageSharp.Formats.Jpeg;
using SixLabors.ImageSharp.Formats.Png;
using SixLabors.ImageSharp.PixelFormats;

namespace OpenSora.Media;

/// <summary>Writes PNG and JPEG files with ImageSharp.</summary>
internal static class ImageFile
{
    private static readonly JpegEncoder Jpeg = new() { Quality = 95, ColorType = JpegColorType.YCbCrRatio444 };

    /// <summary>The encoder for a path: JPEG for the extensions <c>.jpg</c> and <c>.jpeg</c>, and PNG otherwise.</summary>
    public static IImageEncoder EncoderFor(string path) => Path.GetExtension(path).ToUpperInvariant() is ".JPG" or ".JPEG" ? Jpeg : new PngEncoder();

    /// <summary>Writes one frame of a video.</summary>
    public static async Task WriteAsync(VideoFrames video, int frame, Stream stream, IImageEncoder encoder, CancellationToken cancellationToken)
    {
        cancellationToken.ThrowIfCancellationRequested();
        using var image = Image.LoadPixelData<Rgb24>(video.Frame(frame).Span, video.Width, video.Height);
        await image.SaveAsync(stream, encoder, cancellationToken).ConfigureAwait(false);
        cancellationToken.ThrowIfCancellationRequested(); // the encoder does not check the token when it writes a small image
    }
}
