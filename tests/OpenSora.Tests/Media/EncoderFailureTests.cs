using OpenSora.Media;

namespace OpenSora.Tests.Media;

// Encoders that fail.
public partial class MediaFailureTests
{
    [Fact]
    public async Task A_failing_encoder_leaves_the_old_file_and_tells_its_last_words()
    {
        using var folder = new TemporaryFolder();
        var bin = folder.WithFFmpegScript(
            "for file; do case \"$file\" in */a.mp4*) echo half > \"$file\";; esac; done; echo 'the encoder caught fire' >&2; exit 3"
        );
        await File.WriteAllTextAsync(folder["a.mp4"], "old");
        var e = await Should.ThrowAsync<MediaException>(new VideoWriter(bin).WriteAsync(Video, folder["a.mp4"]));
        e.Message.ShouldContain("the encoder caught fire");
        (await File.ReadAllTextAsync(folder["a.mp4"])).ShouldBe("old");
        folder.Entries.ShouldBe(["a.mp4", "bin"]);
    }

    [Fact]
    public async Task An_image_that_cannot_be_written_leaves_nothing()
    {
        using var folder = new TemporaryFolder();
        Directory.CreateDirectory(folder["a.png"]); // a folder where the file should go
        await Should.ThrowAsync<Exception>(new VideoWriter().WriteAsync(Video.Slice(0, 1), folder["a.png"]));
        folder.Entries.ShouldBe(["a.png"]);
        Directory.EnumerateFileSystemEntries(folder["a.png"]).ShouldBeEmpty();
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
