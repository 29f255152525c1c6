using OpenSora.Generation;
using OpenSora.Media;

namespace OpenSora.Tests.Media;

/// <summary>Formats and places that videos are written to.</summary>
public class OutputFormatTests
{
    private static readonly VideoFrames Video = Make(6, 12);

    public static TheoryData<double> Rates =>
        [1, 2.5, 5, 7, 8, 10, 12, 15, 16, 23.976, 24, 25, 29.97, 30, 33, 40, 48, 50, 51, 59.94, 60, 72, 90, 100, 120, 144, 200, 240];

    [Theory]
    [MemberData(nameof(Rates))]
    public async Task A_gif_lasts_as_long_as_the_video(double rate)
    {
        using var folder = new TemporaryFolder();
        var video = Make((int)Math.Ceiling(rate * 1.3), rate);
        await new VideoWriter().WriteAsync(video, folder["a.gif"]);

        var (frames, delays) = Delays(await File.ReadAllBytesAsync(folder["a.gif"]));
        frames.ShouldBe(rate <= 50 ? video.Count : delays.Sum() / 2);
        delays.Min().ShouldBeGreaterThanOrEqualTo(2);
        (delays.Sum() / 100.0).ShouldBe(video.Duration.TotalSeconds, 0.0051);
        (await new VideoReader().ReadAsync(folder["a.gif"])).Count.ShouldBe(frames);
        (await new VideoReader().ProbeAsync(folder["a.gif"])).Duration!.Value.TotalSeconds.ShouldBe(video.Duration.TotalSeconds, 0.011);
    }

    [Fact]
    public void A_gif_of_many_frames_a_second_shows_them_evenly()
    {
        var frames = GifFile.Schedule(240, 120).Select(each => each.Frame).ToList();
        frames.Count.ShouldBe(100);
        frames.Zip(frames.Skip(1), (a, b) => b - a).ShouldAllBe(step => step == 2 || step == 3);
        GifFile.Schedule(1, 240).ShouldBe([(0, 2)]);
        Should.Throw<MediaException>(() => GifFile.Schedule(1, 0.001).ToList()).Message.ShouldContain("655.35 s");
    }

    [Theory]
    [InlineData(VideoFormat.Gif)]
    [InlineData(VideoFormat.PngSequence)]
    [InlineData(VideoFormat.Image)]
    public async Task Only_mp4_requires_ffmpeg(VideoFormat format)
    {
        using var folder = new TemporaryFolder();
        var writer = new VideoWriter(folder.Path); // a folder without ffmpeg
        writer.RequireSupport(format);
        await writer.WriteAsync(Of(format), folder["out"], format);
        folder.Entries.ShouldBe(["out"]);

        Should.Throw<MediaException>(() => writer.RequireSupport(VideoFormat.Mp4)).Message.ShouldContain("apt install ffmpeg");
        new VideoWriter().RequireSupport(VideoFormat.Mp4);
    }

    [Fact]
    public async Task A_generated_video_can_be_saved_in_another_format_after_a_failure()
    {
        using var folder = new TemporaryFolder();
        var video = new GeneratedVideo(Video, new VideoWriter(folder.Path)); // a folder without ffmpeg
        await Should.ThrowAsync<MediaException>(video.SaveMp4Async(folder["a.mp4"]));
        await video.SaveGifAsync(folder["a.gif"]);
        await video.SavePngSequenceAsync(folder["frames"]);
        folder.Entries.ShouldBe(["a.gif", "frames"]);
    }

    [Theory]
    [InlineData(VideoFormat.Mp4)]
    [InlineData(VideoFormat.Gif)]
    [InlineData(VideoFormat.Image)]
    public async Task A_stream_receives_what_a_file_would(VideoFormat format)
    {
        using var folder = new TemporaryFolder();
        var video = Of(format);
        using var stream = new ForwardStream();
        await new VideoWriter().WriteAsync(video, stream, format);
        await new VideoWriter().WriteAsync(video, folder["file"], format);
        stream.ToArray().ShouldBe(await File.ReadAllBytesAsync(folder["file"]));
    }

    [Fact]
    public async Task A_sequence_of_files_is_not_written_to_a_stream() =>
        await Should.ThrowAsync<ArgumentException>(new VideoWriter().WriteAsync(Video, new MemoryStream(), VideoFormat.PngSequence));

    [Theory]
    [InlineData(VideoFormat.Mp4)]
    [InlineData(VideoFormat.Gif)]
    [InlineData(VideoFormat.Image)]
    public async Task A_link_is_followed(VideoFormat format)
    {
        using var folder = new TemporaryFolder();
        Directory.CreateDirectory(folder["real"]);
        await File.WriteAllTextAsync(folder["real/a"], "old");
        File.CreateSymbolicLink(folder["link"], "real/a");
        await new VideoWriter().WriteAsync(Of(format), folder["link"], format);
        new FileInfo(folder["link"]).LinkTarget.ShouldBe("real/a");
        new FileInfo(folder["real/a"]).Length.ShouldBeGreaterThan(100);
        Directory.GetFiles(folder["real"]).Length.ShouldBe(1);
    }

    [Theory]
    [InlineData(VideoFormat.Mp4)]
    [InlineData(VideoFormat.Gif)]
    [InlineData(VideoFormat.Image)]
    public async Task A_device_stays_a_device(VideoFormat format)
    {
        if (OperatingSystem.IsWindows())
        {
            return;
        }

        await new VideoWriter().WriteAsync(Of(format), "/dev/null", format);
        (File.GetAttributes("/dev/null") & FileAttributes.Normal).ShouldBe(FileAttributes.Normal);
        (await File.ReadAllBytesAsync("/dev/null")).ShouldBeEmpty();
        await Should.ThrowAsync<IOException>(new VideoWriter().WriteAsync(Of(format), "/dev/full", format));
    }

    private static VideoFrames Of(VideoFormat format) => format == VideoFormat.Image ? Video.Slice(0, 1) : Video;

    private static VideoFrames Make(int count, double rate)
    {
        var pixels = new byte[count * 12 * 16 * 3];
        new Random(1).NextBytes(pixels);
        return new VideoFrames(pixels, count, 12, 16, rate);
    }

    // The delays of the graphic control extensions (GIF89a, section 23).
    private static (int Frames, List<int> Delays) Delays(byte[] gif)
    {
        List<int> delays = [];
        for (var i = 0; i + 8 < gif.Length; i++)
        {
            if (gif[i] == 0x21 && gif[i + 1] == 0xF9 && gif[i + 2] == 4 && gif[i + 7] == 0)
            {
                delays.Add(gif[i + 4] | gif[i + 5] << 8);
            }
        }

        return (delays.Count, delays);
    }

    private sealed class ForwardStream : MemoryStream
    {
        public override bool CanSeek => false;

        public override long Position
        {
            get => throw new NotSupportedException();
            set => throw new NotSupportedException();
        }
    }
}
