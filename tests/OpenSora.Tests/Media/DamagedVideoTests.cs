using System.Diagnostics;
using OpenSora.Media;

namespace OpenSora.Tests.Media;

/// <summary>Videos of users that are damaged, stored in unusual ways, or too large.</summary>
public class DamagedVideoTests
{
    private static string Video(string name) => TestFiles.Data("video", name);

    // Both files say that they have 50 frames. In the first, the second half is missing; in the second, it is noise.
    [Theory]
    [InlineData("tailcut.mp4")]
    [InlineData("tailnoise.mp4")]
    public async Task Damage_is_an_error_and_the_frames_before_it_are_available_on_request(string name)
    {
        var reader = new VideoReader();
        (await reader.ProbeAsync(Video(name))).Duration.ShouldBe(TimeSpan.FromSeconds(5));

        var e = await Should.ThrowAsync<MediaException>(reader.ReadAsync(Video(name)));
        e.Message.ShouldContain("is damaged: 25 frames of the clip could be decoded");
        e.Message.ShouldContain("AllowDamage");
        await Should.ThrowAsync<MediaException>(reader.CountFramesAsync(Video(name)));
        await Should.ThrowAsync<MediaException>(reader.ReadAsync(Video(name), new ClipOptions { StartFrame = 20, Frames = 16 }));

        var allowed = new ClipOptions { AllowDamage = true };
        (await reader.CountFramesAsync(Video(name), allowed)).ShouldBe(25);
        (await reader.ReadAsync(Video(name), allowed)).Count.ShouldBe(25);
    }

    [Theory]
    [InlineData("tailcut.mp4")]
    [InlineData("tailnoise.mp4")]
    public async Task A_part_before_the_damage_is_whole(string name)
    {
        var part = await new VideoReader().ReadAsync(Video(name), new ClipOptions { StartFrame = 2, Frames = 8 });
        part.Count.ShouldBe(8);
    }

    [Fact]
    public async Task A_start_behind_the_last_frame_is_an_error_and_counts_as_no_frames()
    {
        var clip = new ClipOptions { StartFrame = 10, FrameInterval = 2 };
        var reader = new VideoReader();
        (await reader.CountFramesAsync(Video("sq1.mp4"), clip)).ShouldBe(0);
        (await Should.ThrowAsync<MediaException>(reader.ReadAsync(Video("sq1.mp4"), clip))).Message.ShouldContain("at or after frame 10");
        clip.StartFrame = 3;
        (await reader.CountFramesAsync(Video("sq1.mp4"), clip)).ShouldBe(4);
        clip.Frames = 2;
        (await reader.CountFramesAsync(Video("sq1.mp4"), clip)).ShouldBe(2);
    }

    // The same picture, stored as 80x80 square pixels and as 40x80 pixels that are twice as wide as high.
    [Theory]
    [InlineData(null, null, FrameFit.Crop)]
    [InlineData(48, 48, FrameFit.Crop)]
    [InlineData(48, 24, FrameFit.Crop)]
    [InlineData(24, 48, FrameFit.Pad)]
    [InlineData(64, 32, FrameFit.Pad)]
    [InlineData(30, 50, FrameFit.Stretch)]
    public async Task Pixels_that_are_not_square_are_read_as_they_are_shown(int? width, int? height, FrameFit fit)
    {
        var clip = new ClipOptions
        {
            Width = width,
            Height = height,
            Fit = fit,
        };
        var reader = new VideoReader();
        var square = await reader.ReadAsync(Video("sq1.mp4"), clip);
        var wide = await reader.ReadAsync(Video("sq2.mp4"), clip);

        (wide.Width, wide.Height, wide.Count).ShouldBe((square.Width, square.Height, square.Count));
        var difference = square.Pixels.ToArray().Zip(wide.Pixels.ToArray(), (a, b) => Math.Abs(a - b)).Average();
        difference.ShouldBeLessThan(10);
        (await reader.ProbeAsync(Video("sq2.mp4"))).ShouldBe(await reader.ProbeAsync(Video("sq1.mp4")));
    }

    [Theory]
    [InlineData("3/2", "sideways", 24, 36)] // 24x24 pixels, each 3:2, turned by 90 degrees
    [InlineData("1/2", "upright", 12, 24)]
    public async Task Rotation_and_the_shape_of_pixels_are_combined(string aspect, string orientation, int width, int height)
    {
        using var folder = new TemporaryFolder();
        await FFmpegAsync($"-f lavfi -i testsrc=size=24x24:rate=5:d=1 -vf setsar={aspect} -pix_fmt yuv420p {folder["a.mp4"]}");
        if (orientation is "sideways")
        {
            await FFmpegAsync(
                $"-display_rotation 90 -i {folder["a.mp4"]} -c copy {folder["turned.mp4"]}",
                orElse: $"-i {folder["a.mp4"]} -c copy -metadata:s:v:0 rotate=90 {folder["turned.mp4"]}"
            );
        }

        var path = orientation is "sideways" ? folder["turned.mp4"] : folder["a.mp4"];
        var info = await new VideoReader().ProbeAsync(path);
        (info.Width, info.Height).ShouldBe((width, height));
        var read = await new VideoReader().ReadAsync(path);
        (read.Width, read.Height).ShouldBe((width, height));
    }

    // A photo of 48x32 stored pixels, whose first 16x8 pixels are red. The red area in the upright picture, by its left and upper edge and its size:
    [Theory]
    [InlineData(1, 48, 32, 0, 0, 16, 8)]
    [InlineData(2, 48, 32, 32, 0, 16, 8)]
    [InlineData(3, 48, 32, 32, 24, 16, 8)]
    [InlineData(4, 48, 32, 0, 24, 16, 8)]
    [InlineData(5, 32, 48, 0, 0, 8, 16)]
    [InlineData(6, 32, 48, 24, 0, 8, 16)]
    [InlineData(7, 32, 48, 24, 32, 8, 16)]
    [InlineData(8, 32, 48, 0, 32, 8, 16)]
    public async Task Photos_are_read_upright(byte orientation, int width, int height, int left, int top, int across, int down)
    {
        using var folder = new TemporaryFolder();
        var path = folder["a.jpg"];
        await FFmpegAsync($"-f lavfi -i color=white:s=48x32 -vf drawbox=0:0:16:8:red:fill -frames:v 1 -q:v 2 {path}");
        var jpeg = await File.ReadAllBytesAsync(path);
        byte[] exif = [.. "Exif\0\0MM\0*"u8, .. new byte[] { 0, 0, 0, 8, 0, 1, 0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation, 0, 0, 0, 0, 0, 0 }];
        await File.WriteAllBytesAsync(path, [.. jpeg[..2], 0xFF, 0xE1, 0, (byte)(exif.Length + 2), .. exif, .. jpeg[2..]]);

        var info = await new VideoReader().ProbeAsync(path);
        (info.Width, info.Height).ShouldBe((width, height));
        var photo = await new VideoReader().ReadAsync(path);
        (photo.Width, photo.Height, photo.Count).ShouldBe((width, height, 1));
        var red = Enumerable.Range(0, width * height).Where(i => photo.Pixels.Span[(i * 3) + 1] < 128).ToList(); // little green
        (red.Min(i => i % width), red.Min(i => i / width)).ShouldBe((left, top));
        (red.Max(i => i % width) + 1, red.Max(i => i / width) + 1).ShouldBe((left + across, top + down));
        red.Count.ShouldBe(across * down);
    }

    // Files without timestamps have every frame once, whatever rate ffmpeg assumes.
    [Theory]
    [InlineData("libx264", "h264", 10)]
    [InlineData("libx264", "h264", 5)]
    [InlineData("libx264", "h264", 30)]
    [InlineData("mjpeg", "mjpeg", 10)]
    [InlineData("mpeg2video", "m2v", 24)]
    [InlineData("mpeg4", "m4v", 10)]
    [InlineData("wrapped_avframe", "y4m", 3)]
    public async Task Every_frame_of_a_raw_stream_is_read_once(string codec, string extension, int rate)
    {
        using var folder = new TemporaryFolder();
        var path = folder[$"a.{extension}"];
        await FFmpegAsync(
            $"-f lavfi -i testsrc=size=64x48:rate={rate}:d=1 -c:v {codec} -pix_fmt {(codec is "mjpeg" ? "yuvj420p" : "yuv420p")} {path}"
        );
        var reader = new VideoReader();
        (await reader.ReadAsync(path)).Count.ShouldBe(rate);
        (await reader.CountFramesAsync(path)).ShouldBe(rate);
    }

    [Fact]
    public async Task A_video_that_does_not_fit_into_memory_is_refused_before_it_is_decoded()
    {
        var clip = new ClipOptions { Width = 10_000, Height = 10_000 }; // 10 frames of 300 MB
        var before = GC.GetTotalAllocatedBytes();
        var e = await Should.ThrowAsync<MediaException>(new VideoReader().ReadAsync(Video("sq1.mp4"), clip));
        e.Message.ShouldContain("about 10 frames of 10000x10000 pixels; at most 7");
        e.Message.ShouldContain("Set Frames");
        (GC.GetTotalAllocatedBytes() - before).ShouldBeLessThan(50_000_000);
    }

    // Frames that are still in the pipe when ffmpeg exits are not lost, however late they are read.
    [Fact]
    public async Task No_frame_is_lost_when_many_videos_are_read_at_once()
    {
        var reader = new VideoReader();
        var counts = await Task.WhenAll(
            Enumerable
                .Range(0, 48)
                .Select(i =>
                    Task.Run(async () => (await reader.ReadAsync(Video("sq1.mp4"), i % 2 == 0 ? null : new ClipOptions { Frames = 10 })).Count)
                )
        );
        counts.ShouldAllBe(count => count == 10);
    }

    private static async Task FFmpegAsync(string arguments, string? orElse = null)
    {
        using var process = Process.Start(
            new ProcessStartInfo("ffmpeg", "-v error -y " + arguments) { RedirectStandardError = true, UseShellExecute = false }
        )!;
        var error = await process.StandardError.ReadToEndAsync();
        await process.WaitForExitAsync();
        if (process.ExitCode != 0 && orElse is not null)
        {
            await FFmpegAsync(orElse);
            return;
        }

        process.ExitCode.ShouldBe(0, error);
    }
}
