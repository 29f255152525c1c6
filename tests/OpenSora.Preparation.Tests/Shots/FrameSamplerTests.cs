using System.Diagnostics;
using OpenSora.Preparation.Media;
using OpenSora.Preparation.Shots;

namespace OpenSora.Preparation.Tests.Shots;

public class FrameSamplerTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(30, 14, 16, 7)] // 1.875 times as small, as from 480x270 to 256x144
    [InlineData(32, 18, 16, 9)]
    [InlineData(31, 17, 16, 9)]
    [InlineData(16, 9, 16, 9)]
    [InlineData(8, 3, 8, 3)]
    public void Whole_frames_are_reduced_like_those_of_OpenCV(int sourceWidth, int sourceHeight, int width, int height)
    {
        var chroma = (sourceWidth + 1) / 2 * ((sourceHeight + 1) / 2);
        var pixels = new byte[(sourceWidth * sourceHeight) + (2 * chroma)];
        new Random(3).NextBytes(pixels);
        var sampler = new FrameSampler(sourceWidth, sourceHeight, PixelLayout.Yuv420, maxSide: 16);
        var frame = new ShotFrame(sampler.Width, sampler.Height);

        sampler.Apply(pixels, frame);

        (frame.Width, frame.Height).ShouldBe((width, height));
        var source = Convert(pixels, sourceWidth, sourceHeight);
        var (columns, rows) = (Taps(sourceWidth, width), Taps(sourceHeight, height));
        for (var i = 0; i < width * height; i++)
        {
            var ((x, right), (y, below)) = (columns[i % width], rows[i / width]);
            (frame.Red[i], frame.Green[i], frame.Blue[i]).ShouldBe((Mixed(source[0]), Mixed(source[1]), Mixed(source[2])));

            byte Mixed(byte[] plane)
            {
                var lower = Math.Min(y + 1, sourceHeight - 1);
                var (first, second) = (Line(plane, y), Line(plane, lower));
                return (byte)((((first >> 4) * (2048 - below) >> 16) + ((second >> 4) * below >> 16) + 2) >> 2);
            }

            int Line(byte[] plane, int row) =>
                (plane[(row * sourceWidth) + x] * (2048 - right)) + (plane[(row * sourceWidth) + Math.Min(x + 1, sourceWidth - 1)] * right);
        }
    }

    [Fact]
    public void A_plane_is_reduced_to_whole_numbers()
    {
        byte[] plane = [.. Enumerable.Range(0, 16 * 9).Select(i => (byte)(i * i))];
        var result = new float[4 * 2];

        new AreaScale(16, 9, 4, 2).ApplyRounded(plane, result);

        for (var i = 0; i < result.Length; i++)
        {
            // The line in the middle belongs to both halves.
            var mean = Enumerable.Range(0, 4).Sum(x => Enumerable.Range(0, 5).Sum(y => Pixel(i % 4, i / 4, x, y) * (y == 4 ? 0.5 : 1))) / 18;
            ((double)result[i]).ShouldBe(Math.Round(mean));
        }

        int Pixel(int left, int half, int x, int y) => plane[((half == 0 ? y : 8 - y) * 16) + (4 * left) + x];
    }

    // 1280x720 is divided by 5: the points of the grid are pixels of the video.
    [Theory]
    [InlineData(1280, 720, 5)]
    [InlineData(768, 432, 3)]
    public async Task Of_large_frames_the_decoder_delivers_the_pixels_of_the_grid(int width, int height, int factor)
    {
        using var folder = new TemporaryFolder();
        var path = await Videos.MakeAsync([
            "-f",
            "lavfi",
            "-i",
            $"nullsrc=size={width}x{height}:rate=5:duration=0.4,geq=lum='random(1)*255':cb='random(2)*255':cr='random(3)*255'",
            .. Lossless,
            folder["noise.mkv"],
        ]);
        var source = await SourceProbe.ReadAsync(path, cancellationToken: Token);
        var whole = await WholeAsync(path);
        var colors = Convert(whole, width, height);
        List<byte[]> early = [];

        var (frames, _) = await FrameStream.ReadAsync(source, FrameSampler.Input(source, 256), frame => Check(frame), Token);
        var options = new FrameStreamOptions { Layout = PixelLayout.Yuv444 };
        await FrameStream.ReadAsync(path, Task.FromResult(source), FrameSampler.InputSize(256), options, frame => Check(frame), Token);

        frames.ShouldBe(2);

        void Check(StreamedFrame streamed)
        {
            var sampler = new FrameSampler(streamed.Width, streamed.Height, PixelLayout.Yuv444, 256);
            var frame = new ShotFrame(sampler.Width, sampler.Height);
            (frame.Width, frame.Height).ShouldBe((256, 144));
            sampler.Apply(streamed.Pixels.Span, frame);
            if (streamed.Index == 0)
            {
                var middle = factor / 2;
                for (var i = 0; i < 256 * 144; i++)
                {
                    var at = (((i / 256 * factor) + middle) * width) + (i % 256 * factor) + middle;
                    (frame.Red[i], frame.Green[i], frame.Blue[i]).ShouldBe((colors[0][at], colors[1][at], colors[2][at]));
                }
            }
        }
    }

    // The size that ffmpeg computes while the metadata are still unknown.
    [Theory]
    [InlineData("1280x544", "1", 256, 109)]
    [InlineData("1024x578", "1", 256, 144)] // 144.5
    [InlineData("720x576", "64/45", 256, 144)]
    [InlineData("480x270", "1", 480, 270)]
    [InlineData("360x640", "1", 360, 640)]
    [InlineData("576x1024", "1", 144, 256)]
    public async Task The_size_is_the_same_without_metadata(string size, string aspect, int width, int height)
    {
        using var folder = new TemporaryFolder();
        var path = await Videos.MakeAsync([
            "-f",
            "lavfi",
            "-i",
            $"color=red:size={size}:rate=5:duration=0.2,setsar={aspect}",
            .. Lossless,
            folder["a.mkv"],
        ]);
        var source = await SourceProbe.ReadAsync(path, cancellationToken: Token);
        var (known, options) = (FrameSampler.Input(source, 256), new FrameStreamOptions { Layout = PixelLayout.Yuv444 });
        (int, int) found = default;

        await FrameStream.ReadAsync(
            path,
            Task.FromResult(source),
            FrameSampler.InputSize(256),
            options,
            frame => found = (frame.Width, frame.Height),
            Token
        );

        (known.Width, known.Height).ShouldBe((width, height));
        found.ShouldBe((width, height));
    }

    private static string[] Lossless => ["-c:v", "ffv1", "-pix_fmt", "yuv420p"];

    private static async Task<byte[]> WholeAsync(string path)
    {
        using var ffmpeg = Process.Start(
            new ProcessStartInfo(
                "ffmpeg",
                ["-v", "error", "-nostdin", "-i", path, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "yuv420p", "pipe:1"]
            )
            {
                RedirectStandardOutput = true,
                UseShellExecute = false,
            }
        )!;
        using var pixels = new MemoryStream();
        await ffmpeg.StandardOutput.BaseStream.CopyToAsync(pixels, Token);
        await ffmpeg.WaitForExitAsync(Token);
        return pixels.ToArray();
    }

    // Red, green and blue of a frame in which blocks of 2x2 pixels share their chroma.
    private static byte[][] Convert(byte[] pixels, int width, int height)
    {
        byte[][] planes = [.. Enumerable.Range(0, 6).Select(_ => Planes.Allocate(width * height))];
        var (size, chromaWidth) = (width * height, (width + 1) / 2);
        var chroma = chromaWidth * ((height + 1) / 2);
        for (var i = 0; i < size; i++)
        {
            var at = size + (i / width / 2 * chromaWidth) + (i % width / 2);
            (planes[0][i], planes[1][i], planes[2][i]) = (pixels[i], pixels[at], pixels[at + chroma]);
        }

        Planes.ToRgb(size, planes[0], planes[1], planes[2], planes[3], planes[4], planes[5]);
        return planes[3..];
    }

    // For each pixel of the result: the pixel of the source, and the weight of its neighbor in 2048ths.
    private static (int Position, int Next)[] Taps(int from, int to) =>
        [
            .. Enumerable
                .Range(0, to)
                .Select(at => Math.Clamp(((at + 0.5) * from / to) - 0.5, 0, from - 1))
                .Select(center => ((int)center, (int)Math.Round((center - (int)center) * 2048))),
        ];
}
