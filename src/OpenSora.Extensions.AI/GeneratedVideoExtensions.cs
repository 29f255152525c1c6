using System.Diagnostics.CodeAnalysis;
using Microsoft.Extensions.AI;
using OpenSora.Generation;
using OpenSora.Media;
using SixLabors.ImageSharp;
using SixLabors.ImageSharp.Formats;
using SixLabors.ImageSharp.Formats.Jpeg;
using SixLabors.ImageSharp.Formats.Png;
using SixLabors.ImageSharp.Formats.Webp;
using SixLabors.ImageSharp.PixelFormats;

namespace OpenSora.Extensions.AI;

/// <summary>Extension methods that convert generated videos to the types of Microsoft.Extensions.AI.</summary>
public static class GeneratedVideoExtensions
{
    /// <summary>The formats of a single frame.</summary>
    internal const string ImageTypes = "image/png, image/jpeg and image/webp";

    /// <summary>Encodes a video as a <see cref="DataContent"/>, for example for a message to a chat model.</summary>
    /// <param name="video">The video.</param>
    /// <param name="mediaType">The format: <c>video/mp4</c>, which requires ffmpeg; <c>image/gif</c>; or, for a video of one frame,
    /// <c>image/png</c>, <c>image/jpeg</c> or <c>image/webp</c>.</param>
    /// <param name="cancellationToken">Cancels the operation.</param>
    /// <exception cref="ArgumentException">The format is not supported, or it is that of an image and the video has more than one frame.</exception>
    /// <exception cref="MediaException">The video could not be encoded; the message explains why.</exception>
    public static async Task<DataContent> ToDataContentAsync(
        this GeneratedVideo video,
        string mediaType = "video/mp4",
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(video);
        ArgumentException.ThrowIfNullOrEmpty(mediaType);
        cancellationToken.ThrowIfCancellationRequested();
        using var stream = new MemoryStream();
        if (IsType(mediaType, "video/mp4"))
        {
            await video.SaveMp4Async(stream, cancellationToken).ConfigureAwait(false);
        }
        else if (IsType(mediaType, "image/gif"))
        {
            await video.SaveGifAsync(stream, cancellationToken).ConfigureAwait(false);
        }
        else if (!TryGetEncoder(mediaType, out var encoder))
        {
            throw new ArgumentException($"The media type is '{mediaType}'; it must be one of video/mp4, image/gif, {ImageTypes}.", nameof(mediaType));
        }
        else if (video.Frames.Count != 1)
        {
            throw new ArgumentException(
                $"The media type is '{mediaType}', but the video has {video.Frames.Count} frames; use video/mp4 or image/gif.",
                nameof(mediaType)
            );
        }
        else
        {
            using var image = Image.LoadPixelData<Rgb24>(video.Frames.Frame(0).Span, video.Frames.Width, video.Frames.Height);
            await image.SaveAsync(stream, encoder, cancellationToken).ConfigureAwait(false);
        }

        return new DataContent(stream.ToArray(), mediaType.ToLowerInvariant());
    }

    /// <summary>Gets what a video took to generate: the numbers of frames, pixels and denoising steps.</summary>
    /// <param name="video">The video.</param>
    /// <returns>The usage, with the additional counts <c>frames</c>, <c>pixels</c> and <c>steps</c>.</returns>
    public static UsageDetails GetUsage(this GeneratedVideo video)
    {
        ArgumentNullException.ThrowIfNull(video);
        var frames = video.Frames;
        return new UsageDetails
        {
            AdditionalCounts = new()
            {
                ["frames"] = frames.Count,
                ["pixels"] = (long)frames.Count * frames.Height * frames.Width,
                ["steps"] = video.Steps,
            },
        };
    }

    /// <summary>Finds the encoder of an image format.</summary>
    internal static bool TryGetEncoder(string mediaType, [NotNullWhen(true)] out IImageEncoder? encoder)
    {
        encoder =
            IsType(mediaType, "image/png") ? new PngEncoder()
            : IsType(mediaType, "image/jpeg") ? new JpegEncoder { Quality = 95, ColorType = JpegColorType.YCbCrRatio444 }
            : IsType(mediaType, "image/webp") ? new WebpEncoder { FileFormat = WebpFileFormatType.Lossless }
            : null;
        return encoder is not null;
    }

    private static bool IsType(string mediaType, string expected) => string.Equals(mediaType, expected, StringComparison.OrdinalIgnoreCase);
}
