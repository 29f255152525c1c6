using OpenSora.Preparation.Media;
using OpenSora.Preparation.Shots;

namespace OpenSora.Preparation.Tests.Media;

/// <summary>Files that are not fine end as frames or as a counted reason.</summary>
public sealed class BadInputTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task Damaged_frames_are_reported_and_the_others_are_read()
    {
        var path = await MakeAsync("damaged.mp4", "testsrc2=size=128x96:rate=25:duration=3", "-g", "10", "-bf", "0");
        var bytes = await File.ReadAllBytesAsync(path, Token);
        new Random(1).NextBytes(bytes.AsSpan(bytes.Length / 2, 2000));
        await File.WriteAllBytesAsync(path, bytes, Token);

        var shots = await new ShotDetection().DetectAsync(path, cancellationToken: Token);

        shots.Frames.Count.ShouldBeInRange(40, 75);
        shots.Damage.ShouldNotBeNullOrEmpty();
    }

    [Fact]
    public async Task A_truncated_file_ends_early()
    {
        // Without an index at its end, so that the beginning can be read.
        var path = await MakeAsync("cut.mkv", "testsrc2=size=128x96:rate=25:duration=3", "-g", "10");
        var bytes = await File.ReadAllBytesAsync(path, Token);
        await File.WriteAllBytesAsync(path, bytes[..(bytes.Length / 2)], Token);

        (await FramesAsync(path)).ShouldBeInRange(20, 60);

        // The index is at the end of this one.
        path = await MakeAsync("cut.mp4", "testsrc2=size=128x96:rate=25:duration=1");
        bytes = await File.ReadAllBytesAsync(path, Token);
        await File.WriteAllBytesAsync(path, bytes[..(bytes.Length / 2)], Token);
        (await ReasonAsync(path)).ShouldBe("not a readable video");
    }

    [Fact]
    public async Task Files_without_video_have_a_reason()
    {
        await File.WriteAllBytesAsync(_folder["empty.mp4"], [], Token);
        (await ReasonAsync(_folder["empty.mp4"])).ShouldBe("not a readable video");
        await File.WriteAllTextAsync(_folder["text.mp4"], string.Concat(Enumerable.Repeat("This is not a video.\n", 100)), Token);
        (await ReasonAsync(_folder["text.mp4"])).ShouldBe("not a readable video");
        var sound = await Videos.MakeAsync("-f", "lavfi", "-i", "sine=duration=1", _folder["sound.mp4"]);
        (await ReasonAsync(sound)).ShouldBe("no video stream");
        var cover = await Videos.MakeAsync([
            .. (string[])["-f", "lavfi", "-i", "sine=duration=1", "-f", "lavfi", "-i", "color=red:size=64x64:duration=0.04:rate=25"],
            .. (string[])["-map", "0", "-map", "1", "-c:v", "mjpeg", "-frames:v", "1", "-disposition:v", "attached_pic", _folder["cover.m4a"]],
        ]);
        (await ReasonAsync(cover)).ShouldBe("no video stream");
        await Should.ThrowAsync<FileNotFoundException>(() => FramesAsync(_folder["missing.mp4"]));
    }

    [Fact]
    public async Task A_video_whose_frames_cannot_be_decoded_has_a_reason()
    {
        var path = await MakeAsync("noise.avi", "testsrc2=size=128x96:rate=25:duration=1", "-c:v", "mpeg4");
        var bytes = await File.ReadAllBytesAsync(path, Token);
        var data = bytes.AsSpan().IndexOf("movi"u8);
        // The headers of the chunks stay.
        for (var at = data + 4; at + 8 < bytes.Length && bytes.AsSpan(at, 4).SequenceEqual("00dc"u8); )
        {
            var size = BitConverter.ToInt32(bytes, at + 4);
            bytes.AsSpan(at + 8, size).Fill(0x55);
            at += 8 + size + (size % 2);
        }

        await File.WriteAllBytesAsync(path, bytes, Token);

        (await ReasonAsync(path)).ShouldBeOneOf("no frames", "cannot be decoded");
    }

    [Fact]
    public async Task A_rotated_video_is_upright()
    {
        var path = await MakeAsync("flat.mp4", "testsrc2=size=64x32:rate=10:duration=1");
        path = await Videos.MakeAsync("-i", path, "-c", "copy", "-metadata:s:v:0", "rotate=90", _folder["rotated.mp4"]);

        var source = await SourceProbe.ReadAsync(path, cancellationToken: Token);

        (source.Width, source.Height).ShouldBe((32, 64));
        (await new ShotDetection().DetectAsync(source, cancellationToken: Token)).Frames.Count.ShouldBe(10);
    }

    [Fact]
    public async Task An_anamorphic_video_has_square_pixels()
    {
        var path = await MakeAsync("anamorphic.mp4", "testsrc2=size=72x58:rate=10:duration=1,setsar=16/11");

        var source = await SourceProbe.ReadAsync(path, cancellationToken: Token);

        (source.Width, source.Height).ShouldBe((105, 58));
        (await FramesAsync(path)).ShouldBe(10);
    }

    [Fact]
    public async Task Ten_bits_and_one_frame_and_odd_sizes_are_read()
    {
        var deep = await MakeAsync("deep.mkv", "testsrc2=size=65x33:rate=10:duration=1", "-c:v", "ffv1", "-pix_fmt", "yuv422p10le");
        (await SourceProbe.ReadAsync(deep, cancellationToken: Token)).BitDepth.ShouldBe(10);
        (await FramesAsync(deep)).ShouldBe(10);
        var old = await MakeAsync("old.mkv", "testsrc2=size=64x32:rate=10:duration=1", "-c:v", "ffv1", "-pix_fmt", "yuv410p");
        (await SourceProbe.ReadAsync(old, cancellationToken: Token)).BitDepth.ShouldBe(8);
        var single = await MakeAsync("single.mp4", "testsrc2=size=64x32:rate=10", "-frames:v", "1");
        var shots = await new ShotDetection().DetectAsync(single, cancellationToken: Token);
        shots.Shots.ShouldHaveSingleItem().Frames.ShouldBe(new(0, 1, TimeSpan.Zero, TimeSpan.FromSeconds(0.1)));
    }

    [Fact]
    public async Task A_large_picture_is_reduced_by_the_decoder()
    {
        var path = await MakeAsync("8k.mkv", "color=blue:size=7680x4320:rate=5", "-frames:v", "2", "-c:v", "mjpeg");

        (await FramesAsync(path)).ShouldBe(2);
    }

    [Theory]
    [InlineData(64, 64)] // bwdif
    [InlineData(16, 16)] // one field
    public async Task An_interlaced_video_has_no_combs(int width, int height)
    {
        // Every frame of the source has one gray level, so that interlaced frames have two.
        var path = await MakeAsync(
            "interlaced.mkv",
            "color=black:size=64x64:rate=50:duration=1,geq=lum='20+30*mod(N\\,7)':cb=128:cr=128,interlace=lowpass=off",
            "-c:v",
            "ffv1",
            "-field_order",
            "tt"
        );
        var source = await SourceProbe.ReadAsync(path, cancellationToken: Token);
        source.IsInterlaced.ShouldBeTrue();
        var combs = 0;

        var (frames, _) = await FrameStream.ReadAsync(
            source,
            new()
            {
                Width = width,
                Height = height,
                Layout = PixelLayout.Gray,
            },
            frame =>
            {
                var column = Enumerable.Range(0, height).Select(y => frame.Pixels.Span[y * width]).ToArray();
                // Lines that differ from both of their neighbors in the same direction.
                combs += Enumerable
                    .Range(4, height - 8)
                    .Count(y =>
                        (column[y] > column[y - 1] + 10 && column[y] > column[y + 1] + 10)
                        || (column[y] < column[y - 1] - 10 && column[y] < column[y + 1] - 10)
                    );
            },
            Token
        );

        frames.ShouldBe(25);
        combs.ShouldBe(0);
    }

    [Fact]
    public async Task Times_of_a_variable_frame_rate_are_those_of_the_file()
    {
        // Frames 0 to 9 are 40 ms apart, the others 120 ms, and the first one is not at 0.
        var path = await MakeAsync(
            "variable.mkv",
            "testsrc2=size=64x32:rate=25:duration=2,select='lt(n\\,10)+not(mod(n-10\\,3))',setpts=PTS+3/TB",
            "-vsync",
            "passthrough"
        );
        var source = await SourceProbe.ReadAsync(path, cancellationToken: Token);
        List<TimeSpan> times = [];

        await FrameStream.ReadAsync(source, new() { Width = 64, Height = 32 }, frame => times.Add(frame.Time), Token);

        times.ShouldBe(
            Enumerable.Range(0, 10).Concat(Enumerable.Range(0, 14).Select(i => 10 + (3 * i))).Select(i => TimeSpan.FromMilliseconds(40 * i))
        );
    }

    [Theory]
    [InlineData("a b'c\"d.mp4")]
    [InlineData("line\nbreak.mp4")]
    [InlineData("50%d [x];$(y).mp4")]
    [InlineData("-n.mp4")]
    [InlineData("http:x.mp4")]
    public async Task Odd_names_are_read(string name)
    {
        var path = await MakeAsync("plain.mp4", "testsrc2=size=64x32:rate=10:duration=0.5");
        File.Move(path, _folder[name]);

        (await FramesAsync(_folder[name])).ShouldBe(5);
    }

    private async Task<string> MakeAsync(string name, string source, params string[] encoding) =>
        await Videos.MakeAsync(["-f", "lavfi", "-i", source, .. encoding, _folder[name]]);

    [Fact]
    public async Task A_video_that_changes_its_size_is_read_to_its_end()
    {
        var parts = await Task.WhenAll(
            MakeAsync("a.h264", "testsrc2=size=320x180:rate=10:duration=1"),
            MakeAsync("b.h264", "mandelbrot=size=1280x720:rate=10", "-frames:v", "10")
        );
        await File.WriteAllBytesAsync(_folder["both.h264"], [.. parts.SelectMany(File.ReadAllBytes)], Token);

        var early = await new ShotDetection(new ContentDetector()).DetectAsync(_folder["both.h264"], cancellationToken: Token);
        var known = await new ShotDetection(new ContentDetector()).DetectAsync(early.Source, cancellationToken: Token);

        early.Frames.Count.ShouldBe(20);
        early.Shots.Select(shot => shot.Frames.Start).ShouldBe([0, 10]);
        known.Shots.ShouldBe(early.Shots);
    }

    [Fact]
    public async Task An_interlaced_video_is_detected_the_same_with_and_without_its_metadata()
    {
        var path = await MakeAsync("interlaced.mkv", "testsrc2=size=64x64:rate=50:duration=1,interlace", "-c:v", "ffv1", "-field_order", "tt");
        var source = await SourceProbe.ReadAsync(path, cancellationToken: Token);
        source.IsInterlaced.ShouldBeTrue();

        var shots = await new ShotDetection().DetectAsync(path, cancellationToken: Token);

        shots.Frames.ShouldBe((await new ShotDetection().DetectAsync(source, cancellationToken: Token)).Frames);
        shots.Frames.Count.ShouldBe(25);
    }

    private static async Task<int> FramesAsync(string path) => (await new ShotDetection().DetectAsync(path, cancellationToken: Token)).Frames.Count;

    private static async Task<string> ReasonAsync(string path) => (await Should.ThrowAsync<PreparationException>(() => FramesAsync(path))).Reason;
}
