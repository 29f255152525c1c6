using SixLabors.ImageSharp;
using SixLabors.ImageSharp.PixelFormats;

namespace OpenSora.Media;

/// <summary>Reads and writes pictures with ImageSharp.</summary>
/// <param name="ffmpegFolder">Not needed by this implementation.</param>
public sealed class ImageCodec(string? ffmpegFolder = null) : IImageCodec
{
    private readonly string? ffmpegFolder = ffmpegFolder;

    /// <inheritdoc/>
    public async Task<VideoFrames> ReadAsync(string path, CancellationToken cancellationToken = default)
    {
        try
        {
            using var image = await Image.LoadAsync<Rgb24>(path, cancellationToken);
            var pixels = new byte[image.Width * image.Height * 3];
            image.CopyPixelDataTo(pixels);
            return new VideoFrames(pixels, 1, image.Height, image.Width, 25);
        }
        catch (ImageFormatException e)
        {
            throw new MediaException($"'{path}' cannot be read as a picture: {e.Message}", e);
        }
    }

    /// <inheritdoc/>
    public Task WriteAsync(VideoFrames image, string path, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(image);
        if (image.Count != 1)
            throw new ArgumentException($"A picture has one frame, this video has {image.Count}.", nameof(image));
        return AtomicOutput.WriteFileAsync(path, async temporary =>
        {
            cancellationToken.ThrowIfCancellationRequested();
            using var picture = Image.LoadPixelData<Rgb24>(image.Pixels.Span, image.Width, image.Height);
            await using var file = File.Create(temporary);
            if (Path.GetExtension(path).ToUpperInvariant() is ".JPG" or ".JPEG")
                await picture.SaveAsJpegAsync(file, cancellationToken);
            else
                await picture.SaveAsPngAsync(file, cancellationToken);
            cancellationToken.ThrowIfCancellationRequested(); // a small picture is written at once, and the token not looked at
        });
    }
}
