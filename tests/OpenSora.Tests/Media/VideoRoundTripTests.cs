using OpenSora.Cli;
using OpenSora.Media;

namespace OpenSora.Tests.Media;

public class VideoRoundTripTests
{
    // Smooth in space, so that chroma subsampling costs little; every frame's blue says which it is.
    private static VideoFrames Video(int count = 12, int height = 48, int width = 64, double fps = 12)
    {
        var pixels = new byte[count * height * width * 3];
        for (var i = 0; i < pixels.Length; i++)
        {
            var (frame, y, x, c) = (i / (height * width * 3), i / (width * 3) % height, i / 3 % width, i % 3);
            pixels[i] = (byte)(
                c switch
                {
                    0 => 40 + 160 * x / width,
                    1 => 40 + 160 * y / height,
                    _ => 20 * frame,
                }
            );
        }
        return new VideoFrames(pixels, count, height, width, fps);
    }

    private static double MeanDifference(VideoFrames expected, VideoFrames actual)
    {
        long sum = 0;
        for (var f = 0; f < expected.Count; f++)
        {
            for (var y = 0; y < expected.Height; y++)
            {
                for (var x = 0; x < expected.Width * 3; x++)
                {
                    sum += Math.Abs(expected.Frame(f).Span[y * expected.Width * 3 + x] - actual.Frame(f).Span[y * actual.Width * 3 + x]);
                }
            }
        }

        return sum / (double)expected.Pixels.Length;
    }

    [Fact]
    public async Task Mp4_keeps_frames_size_rate_and_colors()
    {
        using var folder = new TemporaryFolder();
        var video = Video();
        await new VideoWriter().WriteAsync(video, folder["a.mp4"]);

        var info = await new VideoReader().ProbeAsync(folder["a.mp4"]);
        info.ShouldBe(new VideoInfo(64, 48, 12, TimeSpan.FromSeconds(1)));
        var read = await new VideoReader().ReadAsync(folder["a.mp4"]);
        (read.Count, read.Height, read.Width, read.FramesPerSecond).ShouldBe((12, 48, 64, 12.0));
        MeanDifference(video, read).ShouldBeLessThan(2);
        folder.Entries.ShouldBe(["a.mp4"]);
    }

    [Fact]
    public async Task Frames_at_odd_times_are_read_once_each()
    {
        // Frames at 0, 0.1, 0.4, 0.9 ... seconds: at an even rate ffmpeg would show some of them many times.
        using var folder = new TemporaryFolder();
        var video = Video();
        await new VideoWriter().WriteAsync(video, folder["even.mp4"]);
        using (
            var ffmpeg = System.Diagnostics.Process.Start(
                "ffmpeg",
                [
                    "-v",
                    "error",
                    "-i",
                    folder["even.mp4"],
                    "-vf",
                    "settb=1/1000,setpts=N*N*100",
                    "-vsync",
                    "vfr",
                    "-enc_time_base",
                    "1:1000",
                    folder["odd.mkv"],
                ]
            )
        )
        {
            await ffmpeg.WaitForExitAsync();
            ffmpeg.ExitCode.ShouldBe(0);
        }
        var read = await new VideoReader().ReadAsync(folder["odd.mkv"]);
        read.Count.ShouldBe(12);
        MeanDifference(video, read).ShouldBeLessThan(4);
        var later = await new VideoReader().ReadAsync(
            folder["odd.mkv"],
            new ClipOptions
            {
                StartFrame = 4,
                FrameInterval = 2,
                Frames = 3,
            }
        );
        for (var i = 0; i < 3; i++)
        {
            MeanDifference(video.Slice(4 + 2 * i, 1), later.Slice(i, 1)).ShouldBeLessThan(4);
        }
    }

    [Fact]
    public async Task Mp4_has_its_index_before_its_data_and_plays_everywhere()
    {
        using var folder = new TemporaryFolder();
        await new VideoWriter().WriteAsync(Video(), folder["a.mp4"]);
        var text = System.Text.Encoding.Latin1.GetString(await File.ReadAllBytesAsync(folder["a.mp4"]));
        text.IndexOf("moov", StringComparison.Ordinal).ShouldBeInRange(1, text.IndexOf("mdat", StringComparison.Ordinal));
        text.ShouldContain("avc1");
    }

    [Fact]
    public async Task The_same_frames_give_the_same_file()
    {
        using var folder = new TemporaryFolder();
        await new VideoWriter().WriteAsync(Video(), folder["a.mp4"]);
        await new VideoWriter().WriteAsync(Video(), folder["b.mp4"]);
        (await File.ReadAllBytesAsync(folder["a.mp4"])).ShouldBe(await File.ReadAllBytesAsync(folder["b.mp4"]));
    }

    [Theory]
    [InlineData(47, 64)]
    [InlineData(48, 63)]
    [InlineData(1, 1)]
    public async Task Odd_sizes_are_padded_by_the_last_row_and_column_in_mp4(int height, int width)
    {
        using var folder = new TemporaryFolder();
        var video = Video(2, height, width);
        await new VideoWriter(quality: 1).WriteAsync(video, folder["a.mp4"]);
        var read = await new VideoReader().ReadAsync(folder["a.mp4"]);
        (read.Height, read.Width).ShouldBe((height + height % 2, width + width % 2));
        MeanDifference(video, read).ShouldBeLessThan(3);
        var frame = read.Frame(0).ToArray();
        var (last, inner) = (read.Width * 3 * (read.Height - 1), read.Width * 3 * (height - 1));
        for (var i = 0; i < read.Width * 3; i++) // the added row, or the row itself where none was added
        {
            Math.Abs(frame[last + i] - frame[inner + i]).ShouldBeLessThan(24);
        }
    }

    [Fact]
    public async Task Gif_keeps_odd_sizes_and_a_few_colors_exactly()
    {
        using var folder = new TemporaryFolder();
        var pixels = new byte[3 * 5 * 7 * 3];
        for (var i = 0; i < pixels.Length; i++)
        {
            pixels[i] = (byte)(i % 3 == 0 ? 200 : i / (5 * 7 * 3) * 60);
        }

        var video = new VideoFrames(pixels, 3, 5, 7, 10);
        await new VideoWriter().WriteAsync(video, folder["a.gif"], VideoFormat.Gif);
        var read = await new VideoReader().ReadAsync(folder["a.gif"]);
        (read.Count, read.Height, read.Width, read.FramesPerSecond).ShouldBe((3, 5, 7, 10.0));
        MeanDifference(video, read).ShouldBeLessThan(3);
    }

    [Fact]
    public async Task Png_sequence_keeps_every_byte()
    {
        using var folder = new TemporaryFolder();
        var video = Video(3, 5, 7);
        await new VideoWriter().WriteAsync(video, folder["100% frames"], VideoFormat.PngSequence);
        Directory
            .GetFiles(folder["100% frames"])
            .Select(Path.GetFileName)
            .Order(StringComparer.Ordinal)
            .ShouldBe(["frame_00001.png", "frame_00002.png", "frame_00003.png"]);
        for (var i = 0; i < 3; i++)
        {
            (await new VideoReader().ReadAsync(Path.Combine(folder["100% frames"], $"frame_0000{i + 1}.png")))
                .Pixels.ToArray()
                .ShouldBe(video.Frame(i).ToArray());
        }

        folder.Entries.ShouldBe(["100% frames"]);
    }

    [Fact]
    public async Task A_png_sequence_is_not_written_into_a_folder_with_files()
    {
        using var folder = new TemporaryFolder();
        Directory.CreateDirectory(folder["frames"]);
        await File.WriteAllTextAsync(Path.Combine(folder["frames"], "precious.txt"), "here");
        (
            await Should.ThrowAsync<IOException>(new VideoWriter().WriteAsync(Video(), folder["frames"], VideoFormat.PngSequence))
        ).Message.ShouldContain("not empty");
        Directory.GetFiles(folder["frames"]).Length.ShouldBe(1);
        folder.Entries.ShouldBe(["frames"]);
    }

    [Fact]
    public async Task Clips_contain_the_requested_frames()
    {
        using var folder = new TemporaryFolder();
        await new VideoWriter(quality: 1).WriteAsync(Video(), folder["a.mp4"]);
        var clip = new ClipOptions
        {
            Width = 32,
            Height = 32,
            StartFrame = 1,
            FrameInterval = 3,
        };

        var read = await new VideoReader().ReadAsync(folder["a.mp4"], clip);
        (read.Count, read.FramesPerSecond).ShouldBe((4, 4.0));
        for (var i = 0; i < 4; i++)
        {
            ((double)read.Frame(i).Span[2]).ShouldBe(20 * (1 + 3 * i), 4);
        }

        var buffer = new byte[3 * read.FrameBytes + 5]; // room for three frames
        (await new VideoReader().ReadAsync(folder["a.mp4"], clip, buffer)).ShouldBe(3);
        buffer.AsSpan(0, 3 * read.FrameBytes).SequenceEqual(read.Pixels.Span[..(3 * read.FrameBytes)]).ShouldBeTrue();

        clip.Frames = 2;
        (await new VideoReader().ReadAsync(folder["a.mp4"], clip)).Count.ShouldBe(2);
        clip.StartFrame = 11;
        (await new VideoReader().ReadAsync(folder["a.mp4"], clip, buffer)).ShouldBe(1);
        clip.StartFrame = 12;
        (await new VideoReader().ReadAsync(folder["a.mp4"], clip, buffer)).ShouldBe(0);
        (await Should.ThrowAsync<MediaException>(new VideoReader().ReadAsync(folder["a.mp4"], clip))).Message.ShouldContain("no frame");
    }

    [Fact]
    public async Task Clips_are_resampled_in_time()
    {
        using var folder = new TemporaryFolder();
        await new VideoWriter().WriteAsync(Video(), folder["a.mp4"]);
        (await new VideoReader().ReadAsync(folder["a.mp4"], new ClipOptions { FramesPerSecond = 24 })).Count.ShouldBe(24);
        (await new VideoReader().ReadAsync(folder["a.mp4"], new ClipOptions { FramesPerSecond = 6 })).Count.ShouldBe(6);
    }

    [Theory]
    [InlineData(FrameFit.Crop)]
    [InlineData(FrameFit.Pad)]
    [InlineData(FrameFit.Stretch)]
    public async Task Fits_decide_what_is_kept(FrameFit fit)
    {
        using var folder = new TemporaryFolder();
        await new VideoWriter(quality: 1).WriteAsync(Video(1, 32, 64), folder["a.mp4"]);
        var frame = (
            await new VideoReader().ReadAsync(
                folder["a.mp4"],
                new ClipOptions
                {
                    Width = 32,
                    Height = 32,
                    Fit = fit,
                }
            )
        ).Frame(0).ToArray();
        var (left, right, top) = (frame[16 * 32 * 3], frame[16 * 32 * 3 + 31 * 3], frame[16 * 3]);
        switch (fit)
        {
            case FrameFit.Crop: // the middle half: red from 80 to 160
                ((double)left).ShouldBe(80, 8);
                ((double)right).ShouldBe(160, 8);
                break;
            case FrameFit.Pad:
                ((double)top).ShouldBe(0, 4);
                ((double)left).ShouldBe(40, 8);
                break;
            default:
                ((double)left).ShouldBe(40, 8);
                ((double)right).ShouldBe(200, 8);
                ((double)top).ShouldBe(120, 8);
                break;
        }
    }

    [Fact]
    public async Task Files_with_odd_names_are_files()
    {
        using var folder = new TemporaryFolder();
        (await Should.ThrowAsync<MediaException>(new VideoWriter().WriteAsync(Video(), folder["\"d\".mp4"]))).Message.ShouldContain("quotation mark");
        folder.Entries.ShouldBeEmpty();
        var name = folder["concat:a|b 'c' %d.mp4"];
        await new VideoWriter().WriteAsync(Video(), name);
        (await new VideoReader().ReadAsync(name)).Count.ShouldBe(12);
    }

    [Fact]
    public async Task Contact_sheets_keep_every_pixel()
    {
        using var folder = new TemporaryFolder();
        var video = Video(5, 6, 8);
        var sheet = video.ContactSheet(columns: 2, frames: 3); // frames 0, 2, 4
        (sheet.Count, sheet.Width, sheet.Height).ShouldBe((1, 4 + 2 * 12, 4 + 2 * 10));
        await new VideoWriter().WriteAsync(sheet, folder["sheet.png"]);
        var read = await new VideoReader().ReadAsync(folder["sheet.png"]);
        read.Pixels.ToArray().ShouldBe(sheet.Pixels.ToArray());
        read.Pixels.Span[0].ShouldBe((byte)255);
        read.Pixels.Slice(((4 + 10 + 5) * 28 + 4) * 3, 24).ToArray().ShouldBe(video.Frame(4).Slice(5 * 24, 24).ToArray());

        var tiles = VideoFrames.Tile([video, video.Slice(0, 2)], 2);
        tiles.Count.ShouldBe(5);
        tiles.Frame(4).Slice((4 * tiles.Width + 4 + 12) * 3, 24).ToArray().ShouldBe(video.Frame(1)[..24].ToArray());
        Should.Throw<ArgumentException>(() => VideoFrames.Tile([video, Video(5, 6, 10)], 2)).Message.ShouldContain("8x6 and 10x6");
    }

    [Fact]
    public void Tensors_are_rounded_as_the_original_does()
    {
        // -1, 1 and beyond; 0 is 127.5 + 0.5 = 128; just below the half stays down
        using var tensor = TorchSharp.torch.tensor(new float[] { -1, 1, -3, 3, 0, 2 * 10.4999f / 255 - 1 }).reshape(1, 1, 1, 6).expand(3, 1, 1, 6);
        var frames = VideoFrames.FromTensor(tensor, 8);
        (frames.Count, frames.Height, frames.Width).ShouldBe((1, 1, 6));
        frames.Pixels.ToArray().Where((_, i) => i % 3 == 1).ShouldBe([0, 255, 0, 255, 128, 10]);

        using var back = frames.ToTensor();
        back.shape.ShouldBe([1, 3, 1, 1, 6]);
        VideoFrames.FromTensor(back, 8).Pixels.ToArray().ShouldBe(frames.Pixels.ToArray());
        Should.Throw<ArgumentException>(() => VideoFrames.FromTensor(back.expand(2, 3, 1, 1, 6), 8)).Message.ShouldContain("[2, 3, 1, 1, 6]");
    }

    [Fact]
    public void Every_byte_survives_a_round_trip_through_a_tensor()
    {
        var frames = new VideoFrames(Enumerable.Range(0, 256 * 3).Select(i => (byte)(i / 3)).ToArray(), 1, 16, 16, 8);
        using var tensor = frames.ToTensor();
        VideoFrames.FromTensor(tensor, 8).Pixels.ToArray().ShouldBe(frames.Pixels.ToArray());
    }
}
