using OpenSora.Media;

namespace Stickers;

/// <summary>What a video shows, measured on its pixels: the color of its background, and the motion of what is on it.</summary>
internal static class Recognition
{
    public static PaletteColor Nearest(IEnumerable<PaletteColor> palette, double[] rgb) =>
        palette.MinBy(color => color.Rgb.Zip(rgb, (a, b) => (a - b) * (a - b)).Sum())!;

    /// <summary>The median color of the outermost two pixels, in RGB.</summary>
    public static double[] Border(VideoFrames video)
    {
        var (h, w) = (video.Height, video.Width);
        var channels = new List<byte>[] { [], [], [] };
        for (var f = 0; f < video.Count; f++)
        {
            var pixels = video.Frame(f).Span;
            for (var i = 0; i < h * w; i++)
            {
                var (y, x) = Math.DivRem(i, w);
                for (var c = 0; c < 3 && (Math.Min(x, y) < 2 || x >= w - 2 || y >= h - 2); c++)
                {
                    channels[c].Add(pixels[3 * i + c]);
                }
            }
        }
        return Array.ConvertAll(channels, values =>
        {
            values.Sort();
            return (double)values[values.Count / 2];
        });
    }

    /// <summary>Recognizes a motion from the position, the size and the proportions of everything that is not background.</summary>
    public static string MotionOf(VideoFrames video)
    {
        var under = Border(video);
        var track = Enumerable
            .Range(0, video.Count)
            .Select(f =>
            {
                var pixels = video.Frame(f).Span;
                double area = 0,
                    sumX = 0,
                    sumY = 0,
                    squaresX = 0,
                    squaresY = 0;
                for (var y = 0; y < video.Height; y++)
                {
                    for (var x = 0; x < video.Width; x++)
                    {
                        var at = (y * video.Width + x) * 3;
                        if (Math.Abs(pixels[at] - under[0]) + Math.Abs(pixels[at + 1] - under[1]) + Math.Abs(pixels[at + 2] - under[2]) < 60)
                        {
                            continue;
                        }

                        (area, sumX, sumY, squaresX, squaresY) = (area + 1, sumX + x, sumY + y, squaresX + x * x, squaresY + y * y);
                    }
                }
                area = Math.Max(1, area);
                var (middleX, middleY) = (sumX / area, sumY / area);
                // How far it reaches sideways, of up and down.
                var breadth = Math.Sqrt((squaresX / area - middleX * middleX + 1) / (squaresY / area - middleY * middleY + 1));
                return (Area: area, X: middleX / video.Width, Y: middleY / video.Height, Breadth: breadth);
            })
            .ToArray();
        var (start, end) = (track[0], track[^1]);
        var (x, y, growth) = (end.X - start.X, end.Y - start.Y, Math.Log(end.Area / start.Area));
        if (Math.Max(Math.Abs(x), Math.Abs(y)) > 0.15)
        {
            return Math.Abs(x) > Math.Abs(y)
                ? x < 0
                    ? "moving left"
                    : "moving right"
                : y < 0
                    ? "moving up"
                    : "moving down";
        }

        if (Math.Abs(growth) > 0.4)
        {
            return growth > 0 ? "zooming in" : "zooming out";
        }

        return track.Min(frame => frame.Breadth) < 0.6 * start.Breadth ? "spinning" : "";
    }
}
