using OpenSora.Preparation.Shots;

namespace OpenSora.Preparation.Tests.Shots;

public class PlanesTests
{
    [Theory]
    [InlineData(1, 1)]
    [InlineData(7, 5)]
    [InlineData(64, 36)]
    [InlineData(255, 143)]
    public void Planes_agree_with_scalar_formulas(int width, int height)
    {
        var random = new Random(1);
        var (rgb, before) = (new byte[width * height * 3], new byte[width * height * 3]);
        random.NextBytes(rgb);
        random.NextBytes(before);
        var (previous, frame) = (new ShotFrame(width, height), new ShotFrame(width, height));
        previous.SetRgb(before, 0, TimeSpan.Zero, null);
        frame.SetRgb(rgb, 1, TimeSpan.FromSeconds(1), previous);

        var sums = new long[3];
        for (var i = 0; i < width * height; i++)
        {
            var (red, green, blue) = (rgb[3 * i], rgb[(3 * i) + 1], rgb[(3 * i) + 2]);
            (frame.Red[i], frame.Green[i], frame.Blue[i]).ShouldBe((red, green, blue));
            var (hue, saturation, value) = Hsv(red, green, blue);
            frame.Hue[i].ShouldBe(hue);
            frame.Saturation[i].ShouldBe(saturation);
            frame.Value[i].ShouldBe(value);
            ((double)frame.Luma[i]).ShouldBe((0.299 * red) + (0.587 * green) + (0.114 * blue), 0.51);
            sums[0] += Math.Abs(hue - previous.Hue[i]);
            sums[1] += Math.Abs(saturation - previous.Saturation[i]);
            sums[2] += Math.Abs(value - previous.Value[i]);
        }

        var pixels = (double)width * height;
        frame.Difference.ShouldBe(new FrameDifference(sums[0] / pixels, sums[1] / pixels, sums[2] / pixels));
        previous.Difference.ShouldBe(default);
        Planes.Sum(frame.Red).ShouldBe(frame.Red.ToArray().Sum(each => (long)each));
    }

    [Theory]
    [InlineData(10, 6, 5, 3)]
    [InlineData(7, 5, 3, 2)]
    [InlineData(4, 3, 8, 9)]
    public void Scaling_keeps_the_mean(int width, int height, int toWidth, int toHeight)
    {
        var plane = new byte[width * height];
        new Random(2).NextBytes(plane);
        var result = new float[toWidth * toHeight];

        new AreaScale(width, height, toWidth, toHeight).Apply(plane, result);

        ((double)result.Average()).ShouldBe(plane.Average(each => (double)each), 0.01);
        if (width == 10)
        {
            ((double)result[0]).ShouldBe((plane[0] + plane[1] + plane[10] + plane[11]) / 4.0, 0.01);
        }
    }

    [Fact]
    public void Edges_are_found_where_brightness_changes()
    {
        const int Side = 40;
        var plane = new byte[Side * Side];
        for (var i = 0; i < plane.Length; i++)
        {
            plane[i] = (byte)(i % Side < 20 ? 50 : 150);
        }

        var edges = new EdgeMap(Side, Side, kernel: 3);
        edges.Compute(plane);

        // One column, widened by one pixel on each side.
        for (var y = 0; y < Side; y++)
        {
            var columns = Enumerable.Range(0, Side).Where(x => edges.Pixels[(y * Side) + x] == 255).ToArray();
            columns.Length.ShouldBe(3);
            columns[1].ShouldBeInRange(19, 20);
        }
    }

    private static (byte Hue, byte Saturation, byte Value) Hsv(int red, int green, int blue)
    {
        var (max, min) = (Math.Max(red, Math.Max(green, blue)), Math.Min(red, Math.Min(green, blue)));
        var range = (float)(max - min);
        if (range == 0)
        {
            return (0, 0, (byte)max);
        }

        var scale = 30 / range;
        var hue =
            max == red ? (green - blue) * scale
            : max == green ? ((blue - red) * scale) + 60
            : ((red - green) * scale) + 120;
        hue = hue < 0 ? hue + 180 : hue;
        return ((byte)(hue >= 179.5f ? 0 : hue + 0.5f), (byte)((range * 255 / max) + 0.5f), (byte)max);
    }
}
