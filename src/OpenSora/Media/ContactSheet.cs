namespace OpenSora.Media;

public sealed partial class VideoFrames
{
    /// <summary>Tiles videos of equal size into one video. Shorter videos repeat their last frame.</summary>
    /// <param name="videos">The videos, at least one. The result has the frame rate of the first video.</param>
    /// <param name="columns">The number of tiles per row.</param>
    /// <param name="gap">The spacing between and around the tiles, in pixels.</param>
    /// <param name="background">The gray level of the gaps, from 0 to 255.</param>
    /// <exception cref="ArgumentException">The list is empty, or the videos have different sizes.</exception>
    public static VideoFrames Tile(IReadOnlyList<VideoFrames> videos, int columns, int gap = 4, byte background = 255)
    {
        ArgumentNullException.ThrowIfNull(videos);
        ArgumentOutOfRangeException.ThrowIfLessThan(columns, 1);
        ArgumentOutOfRangeException.ThrowIfNegative(gap);
        if (videos.Count == 0)
        {
            throw new ArgumentException("A contact sheet requires at least one video.", nameof(videos));
        }

        var (width, height, fps) = (videos[0].Width, videos[0].Height, videos[0].FramesPerSecond);
        if (videos.FirstOrDefault(v => v.Width != width || v.Height != height) is { } other)
        {
            throw new ArgumentException(
                $"All videos of a contact sheet must have the same size, but these are {width}x{height} and {other.Width}x{other.Height}.",
                nameof(videos)
            );
        }

        columns = Math.Min(columns, videos.Count);
        var rows = (videos.Count + columns - 1) / columns;
        var (sheetWidth, sheetHeight) = (columns * (width + gap) + gap, rows * (height + gap) + gap);
        var count = videos.Max(v => v.Count);
        var pixels = new byte[checked(count * sheetHeight * sheetWidth * 3)];
        Array.Fill(pixels, background);
        var sheet = new VideoFrames(pixels, count, sheetHeight, sheetWidth, fps);

        for (var frame = 0; frame < count; frame++)
        {
            var target = sheet.Frame(frame).Span;
            for (var i = 0; i < videos.Count; i++)
            {
                var source = videos[i].Frame(Math.Min(frame, videos[i].Count - 1)).Span;
                var (left, top) = (i % columns * (width + gap) + gap, i / columns * (height + gap) + gap);
                for (var y = 0; y < height; y++)
                {
                    source.Slice(y * width * 3, width * 3).CopyTo(target[(((top + y) * sheetWidth + left) * 3)..]);
                }
            }
        }
        return sheet;
    }

    /// <summary>Creates a contact sheet: one image of evenly spaced frames of the video, including the first and last frames.</summary>
    /// <param name="columns">The number of frames per row.</param>
    /// <param name="frames">The maximum number of frames to show.</param>
    public VideoFrames ContactSheet(int columns = 4, int frames = 16)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(frames, 1);
        var shown = Math.Min(frames, Count);
        return Tile([.. Enumerable.Range(0, shown).Select(i => Slice(shown == 1 ? 0 : i * (Count - 1) / (shown - 1), 1))], columns);
    }

    /// <summary>Creates a contact sheet of several videos: one image with one row of evenly spaced frames for each video.</summary>
    /// <param name="videos">The videos, all of the same size.</param>
    /// <param name="framesEach">The number of frames per row.</param>
    public static VideoFrames ContactSheet(IReadOnlyList<VideoFrames> videos, int framesEach = 4)
    {
        ArgumentNullException.ThrowIfNull(videos);
        ArgumentOutOfRangeException.ThrowIfLessThan(framesEach, 1);
        return Tile(
            [
                .. videos.SelectMany(v =>
                    Enumerable.Range(0, framesEach).Select(i => v.Slice(framesEach == 1 ? 0 : i * (v.Count - 1) / (framesEach - 1), 1))
                ),
            ],
            framesEach
        );
    }
}
