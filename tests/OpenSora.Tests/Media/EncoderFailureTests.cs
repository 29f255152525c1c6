using OpenSora.Media;

namespace OpenSora.Tests.Media;

// What depends on how ffmpeg is given frames (its standard input, not FFMpegCore's pipes), and on pictures being written by ffmpeg.
public partial class MediaFailureTests
{
    [Fact]
    public async Task A_failing_encoder_leaves_the_old_file_and_tells_its_last_words()
    {
        using var folder = new TemporaryFolder();
        var bin = folder.WithFFmpegScript("cat > /dev/null; echo half > \"$(for last; do :; done; echo \"${last#file:}\")\"; echo 'the encoder caught fire' >&2; exit 3");
        await File.WriteAllTextAsync(folder["a.mp4"], "old");
        var e = await Should.ThrowAsync<MediaException>(new VideoWriter(bin).WriteAsync(Video, folder["a.mp4"]));
        e.Message.ShouldContain("the encoder caught fire");
        e.Message.ShouldContain("exit code 3");
        (await File.ReadAllTextAsync(folder["a.mp4"])).ShouldBe("old");
        folder.Entries.ShouldBe(["a.mp4", "bin"]);
    }

    [Fact]
    public async Task A_disk_that_is_full_leaves_no_picture()
    {
        using var folder = new TemporaryFolder();
        var noise = new byte[128 * 128 * 3];
        new Random(1).NextBytes(noise);
        var bin = folder.WithFFmpegScript("trap '' XFSZ; ulimit -f 8; exec $FFMPEG \"$@\"");
        await Should.ThrowAsync<MediaException>(new ImageCodec(bin).WriteAsync(new VideoFrames(noise, 1, 128, 128, 8), folder["a.png"]));
        folder.Entries.ShouldBe(["bin"]);
    }

    [Fact]
    public async Task An_encoder_that_stops_reading_is_no_riddle()
    {
        using var folder = new TemporaryFolder();
        var bin = folder.WithFFmpegScript("echo 'no such codec' >&2; exit 1");
        var large = new VideoFrames(new byte[64 * 128 * 128 * 3], 64, 128, 128, 8); // more than a pipe holds
        (await Should.ThrowAsync<MediaException>(new VideoWriter(bin).WriteAsync(large, folder["a.mp4"]))).Message.ShouldContain("no such codec");
    }
}
