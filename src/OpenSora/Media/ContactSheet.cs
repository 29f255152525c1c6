namespace OpenSora.Media;

/// <summary>Lays videos or frames side by side.</summary>
public static class ContactSheet
{
    /// <summary>Tiles videos of one size into one video; shorter ones hold their last frame.</summary>
    /// <param name="videos">At least one; the first one's frame rate counts.</param>
    /// <param name="columns">Tiles in a row.</param>
    /// <param name="gap">Pixels between the tiles and around them.</param>
    /// <param name="background">Grey level of the gaps, 0 to 255.</param>
    /// <exception cref="ArgumentException">There are none, or their sizes differ.</exception>
    public static VideoFrames Tile(IReadOnlyList<VideoFrames> videos, int columns, int gap = 4, byte background = 255)
    {
        ArgumentNullException.ThrowIfNull(videos);
        ArgumentOutOfRangeException.ThrowIfLessThan(columns, 1);
        ArgumentOutOfRangeException.ThrowIfNegative(gap);
        if (videos.Count == 0)
        {
            throw new ArgumentException("A contact sheet needs at least one video.", nameof(videos));
        }

        var (width, height, fps) = (videos[0].Width, videos[0].Height, videos[0].FramesPerSecond);
        if (videos.FirstOrDefault(v => v.Width != width || v.Height != height) is { } other)
        {
            throw new ArgumentException(
                $"All videos of a contact sheet have one size, but there are {width}x{height} and {other.Width}x{other.Height}.",
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

    /// <summary>One picture of frames spread evenly over a video, the first and the last among them.</summary>
    /// <param name="video">The video.</param>
    /// <param name="columns">Frames in a row.</param>
    /// <param name="frames">The most frames to show.</param>
    public static VideoFrames OfFrames(VideoFrames video, int columns = 4, int frames = 16)
    {
        ArgumentNullException.ThrowIfNull(video);
        ArgumentOutOfRangeException.ThrowIfLessThan(frames, 1);
        var shown = Math.Min(frames, video.Count);
        return Tile([.. Enumerable.Range(0, shown).Select(i => video.Slice(shown == 1 ? 0 : i * (video.Count - 1) / (shown - 1), 1))], columns);
    }

    /// <summary>One picture with a row for each video, its frames spread evenly over the row.</summary>
    /// <param name="videos">Videos of one size.</param>
    /// <param name="framesEach">Frames in a row.</param>
    public static VideoFrames OfVideos(IReadOnlyList<VideoFrames> videos, int framesEach = 4)
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
