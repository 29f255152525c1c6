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
            ((int)frame.Luma[i]).ShouldBe(((4899 * red) + (9617 * green) + (1868 * blue) + 8192) >> 14);
            ((int)frame.Gray[i]).ShouldBe(((9798 * red) + (19235 * green) + (3735 * blue) + 16384) >> 15);
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
    [InlineData(16, 20, 235, 128, 128)] // gray
    [InlineData(1, 1, 255, 0, 255)]
    public void Yuv_is_converted_with_products_that_are_rounded_down(int seed, int width, int y, int u, int v)
    {
        var random = new Random(seed);
        byte[][] planes = [.. Enumerable.Range(0, 6).Select(_ => Planes.Allocate(width))];
        planes.Take(3).ToList().ForEach(random.NextBytes);
        (planes[0][0], planes[1][0], planes[2][0]) = ((byte)y, (byte)u, (byte)v);

        Planes.ToRgb(width, planes[0], planes[1], planes[2], planes[3], planes[4], planes[5]);

        for (var i = 0; i < width; i++)
        {
            var luma = Product(planes[0][i] - 16, 9539);
            var (blueness, redness) = (planes[1][i] - 128, planes[2][i] - 128);
            ((int)planes[3][i]).ShouldBe(Math.Clamp(luma + Product(redness, 13075), 0, 255));
            ((int)planes[4][i]).ShouldBe(Math.Clamp(luma + Product(blueness, -3209) + Product(redness, -6660), 0, 255));
            ((int)planes[5][i]).ShouldBe(Math.Clamp(luma + Product(blueness, 16525), 0, 255));
        }

        static int Product(int value, int factor) => (value * 8 * factor) >> 16;
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

    // The fixed-point arithmetic of OpenCV.
    private static (byte Hue, byte Saturation, byte Value) Hsv(int red, int green, int blue)
    {
        var (max, min) = (Math.Max(red, Math.Max(green, blue)), Math.Min(red, Math.Min(green, blue)));
        var range = max - min;
        if (range == 0)
        {
            return (0, 0, (byte)max);
        }

        var angle =
            max == red ? green - blue
            : max == green ? blue - red + (2 * range)
            : red - green + (4 * range);
        var hue = ((angle * (int)Math.Round(122880.0 / range)) + 2048) >> 12;
        var saturation = ((range * (int)Math.Round(1044480.0 / max)) + 2048) >> 12;
        return ((byte)(hue < 0 ? hue + 180 : hue), (byte)saturation, (byte)max);
    }
}
