using SixLabors.ImageSharp;
using SixLabors.ImageSharp.Formats.Gif;
using SixLabors.ImageSharp.PixelFormats;
using SixLabors.ImageSharp.Processing;
using SixLabors.ImageSharp.Processing.Processors.Quantization;

namespace OpenSora.Media;

/// <summary>Writes GIF animations with ImageSharp.</summary>
internal static class GifFile
{
    // Browsers show frames that are shorter than two hundredths of a second for a tenth of a second.
    private const int ShortestDelay = 2;

    /// <summary>Writes an animation that loops forever, with one palette for all frames.</summary>
    public static async Task WriteAsync(VideoFrames video, Stream stream, CancellationToken cancellationToken)
    {
        using var animation = new Image<Rgb24>(video.Width, video.Height);
        animation.Metadata.GetGifMetadata().RepeatCount = 0;
        foreach (var (frame, delay) in Schedule(video.Count, video.FramesPerSecond))
        {
            cancellationToken.ThrowIfCancellationRequested();
            using var image = Image.LoadPixelData<Rgb24>(video.Frame(frame).Span, video.Width, video.Height);
            animation.Frames.AddFrame(image.Frames.RootFrame).Metadata.GetGifMetadata().FrameDelay = delay;
        }

        animation.Frames.RemoveFrame(0); // the empty frame that a new image has
        var quantizer = new PaletteQuantizer(Palette(video), new QuantizerOptions { Dither = KnownDitherings.Sierra2 });
        var encoder = new GifEncoder { ColorTableMode = GifColorTableMode.Global, Quantizer = quantizer };
        await animation.SaveAsGifAsync(stream, encoder, cancellationToken).ConfigureAwait(false);
        cancellationToken.ThrowIfCancellationRequested();
    }

    // One palette for all frames: ImageSharp would compute it from the first frame.
    private static Color[] Palette(VideoFrames video)
    {
        const int Samples = 8;
        var samples = Math.Min(Samples, video.Count);
        var pixels = new byte[samples * video.FrameBytes];
        for (var i = 0; i < samples; i++)
        {
            video.Frame(i * video.Count / samples).CopyTo(pixels.AsMemory(i * video.FrameBytes));
        }

        using var sheet = Image.LoadPixelData<Rgb24>(pixels, video.Width, samples * video.Height);
        using var quantizer = new WuQuantizer(new QuantizerOptions { Dither = null }).CreatePixelSpecificQuantizer<Rgb24>(Configuration.Default);
        quantizer.BuildPaletteAndQuantizeFrame(sheet.Frames.RootFrame, sheet.Bounds()).Dispose();
        return [.. quantizer.Palette.ToArray().Select(color => (Color)color)];
    }

    /// <summary>Chooses frames and their delays in hundredths of a second, the unit of the format, so that the duration stays the same. Frame rates
    /// of more than 50 frames per second are reduced by leaving out frames.</summary>
    internal static IEnumerable<(int Frame, int Delay)> Schedule(int count, double framesPerSecond)
    {
        if (100 / framesPerSecond > ushort.MaxValue)
        {
            throw new MediaException(
                $"A frame lasts {1 / framesPerSecond:F0} s, but a GIF allows at most {ushort.MaxValue / 100.0:F2} s. Use a higher frame rate."
            );
        }

        var end = (int)Math.Max(ShortestDelay, At(count));
        if (framesPerSecond * ShortestDelay <= 100)
        {
            return Enumerable.Range(0, count).Select(i => (i, (int)(At(i + 1) - At(i))));
        }

        var frames = end / ShortestDelay;
        return Enumerable
            .Range(0, frames)
            .Select(i =>
            {
                var middle = (i + 0.5) * ShortestDelay / 100;
                var delay = i < frames - 1 ? ShortestDelay : end - ShortestDelay * (frames - 1);
                return (Math.Min(count - 1, (int)(middle * framesPerSecond)), delay);
            });

        // The time of a frame in hundredths of a second.
        double At(int frame) => Math.Round(frame * 100 / framesPerSecond, MidpointRounding.AwayFromZero);
    }
}
