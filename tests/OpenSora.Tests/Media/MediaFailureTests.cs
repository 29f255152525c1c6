using System.Diagnostics;
using OpenSora.Media;

namespace OpenSora.Tests.Media;

public partial class MediaFailureTests
{
    private static readonly VideoFrames Video = new(new byte[4 * 16 * 16 * 3], 4, 16, 16, 8);

    [Fact]
    public async Task Missing_ffmpeg_is_reported_with_what_to_install()
    {
        using var folder = new TemporaryFolder();
        var e = await Should.ThrowAsync<MediaException>(new VideoWriter(folder.Path).WriteAsync(Video, folder["a.mp4"]));
        e.Message.ShouldContain($"ffmpeg is required to write '{folder["a.mp4"]}'");
        e.Message.ShouldContain("apt install ffmpeg");
        folder.Entries.ShouldBeEmpty();

        await File.WriteAllBytesAsync(folder["b.mp4"], [1]);
        (await Should.ThrowAsync<MediaException>(new VideoReader(folder.Path).ReadAsync(folder["b.mp4"]))).Message.ShouldContain(
            "ffprobe is required"
        );
    }

    [Fact]
    public async Task Missing_and_damaged_files_have_different_errors()
    {
        using var folder = new TemporaryFolder();
        (await Should.ThrowAsync<FileNotFoundException>(new VideoReader().ReadAsync(folder["none.mp4"]))).Message.ShouldContain("none.mp4");
        await File.WriteAllTextAsync(folder["text.mp4"], "this is no video");
        (await Should.ThrowAsync<MediaException>(new VideoReader().ReadAsync(folder["text.mp4"]))).Message.ShouldContain("Invalid data");
        await File.WriteAllBytesAsync(folder["empty.mp4"], []);
        await Should.ThrowAsync<MediaException>(new VideoReader().ReadAsync(folder["empty.mp4"]));
    }

    // A limit on the size of files stands for the full disk: at once, and in the last bytes.
    [Fact]
    public async Task A_disk_that_is_full_leaves_nothing()
    {
        const VideoFormat format = VideoFormat.Mp4;
        using var folder = new TemporaryFolder();
        var noise = new byte[16 * 128 * 128 * 3];
        new Random(1).NextBytes(noise);
        var video = new VideoFrames(noise, 16, 128, 128, 8);
        await new VideoWriter().WriteAsync(video, folder["whole"], format);
        var size = new FileInfo(folder["whole"]).Length;
        foreach (var blocks in new[] { 1, size / 512 / 2, (size - 1) / 512 })
        {
            var bin = folder.WithFFmpegScript($"trap '' XFSZ; ulimit -f {blocks}; exec $FFMPEG \"$@\"");
            (await Should.ThrowAsync<MediaException>(new VideoWriter(bin).WriteAsync(video, folder["cut"], format))).Message.ShouldContain(
                "File too large"
            );
            folder.Entries.ShouldBe(["bin", "whole"]);
        }
    }

    [Fact]
    public async Task Canceling_ends_the_child_process_and_leaves_nothing()
    {
        using var folder = new TemporaryFolder();
        // FFMpegCore asks the first ffmpeg that it meets for its version, which the next would not answer.
        await new VideoWriter().WriteAsync(Video, folder["first.mp4"]);
        var bin = folder.WithFFmpegScript($"echo $$ > '{folder["pid"]}'; exec sleep 1000");
        using var cancel = new CancellationTokenSource();
        var writing = new VideoWriter(bin).WriteAsync(Video, folder["a.mp4"], VideoFormat.Mp4, cancel.Token);
        string? pid = null;
        while (string.IsNullOrWhiteSpace(pid))
        {
            await Task.Delay(10);
            pid = File.Exists(folder["pid"]) ? await File.ReadAllTextAsync(folder["pid"]) : null;
        }
        await cancel.CancelAsync();
        await Should.ThrowAsync<OperationCanceledException>(writing);
        Should.Throw<ArgumentException>(() => Process.GetProcessById(int.Parse(pid)));
        folder.Entries.ShouldBe(["bin", "first.mp4", "pid"]);
    }

    [Fact]
    public async Task Canceling_while_ffmpeg_is_ending_throws_nothing_at_who_cancels()
    {
        using var folder = new TemporaryFolder();
        await new VideoWriter().WriteAsync(Video, folder["first.mp4"]);
        var bin = folder.WithFFmpegScript($"exec <&-; echo $$ > '{folder["pid"]}'; exec sleep 1"); // an ending process closes its input
        using var cancel = new CancellationTokenSource();
        var writing = new VideoWriter(bin).WriteAsync(Video, folder["a.mp4"], VideoFormat.Mp4, cancel.Token);
        while (!File.Exists(folder["pid"]))
        {
            await Task.Delay(10);
        }

        await Should.NotThrowAsync(cancel.CancelAsync());
        await Should.ThrowAsync<OperationCanceledException>(writing);
        folder.Entries.ShouldBe(["bin", "first.mp4", "pid"]);
    }

    [Fact]
    public async Task Cancellation_before_the_start_starts_nothing()
    {
        using var folder = new TemporaryFolder();
        await Should.ThrowAsync<OperationCanceledException>(
            new VideoWriter().WriteAsync(Video, folder["a.mp4"], VideoFormat.Mp4, new CancellationToken(true))
        );
        folder.Entries.ShouldBeEmpty();
    }

    [Fact]
    public async Task Invalid_arguments_are_rejected_with_the_valid_values()
    {
        Should.Throw<ArgumentException>(() => new VideoFrames(new byte[10], 1, 2, 2, 8)).Message.ShouldContain("12 bytes, but 10");
        Should.Throw<ArgumentException>(() => new VideoFrames(new byte[12], 1, 2, 2, 0));
        var reader = new VideoReader();
        (await Should.ThrowAsync<ArgumentException>(reader.ReadAsync("x", new ClipOptions { Width = 3 }))).Message.ShouldContain("together");
        (await Should.ThrowAsync<ArgumentException>(reader.ReadAsync("x", new ClipOptions { FrameInterval = 0 }))).Message.ShouldContain(
            "FrameInterval is 0"
        );
        (await Should.ThrowAsync<ArgumentException>(reader.ReadAsync("x", new ClipOptions(), new byte[9]))).Message.ShouldContain("Width and Height");
        (
            await Should.ThrowAsync<ArgumentException>(reader.ReadAsync("x", new ClipOptions { Width = 2, Height = 2 }, new byte[9]))
        ).Message.ShouldContain("12");
        Should
            .Throw<ArgumentException>(() =>
            {
                _ = new VideoWriter().WriteAsync(Video, "a.png");
            })
            .Message.ShouldContain("has 4");
    }
}
