using System.Drawing;
using OpenSora.Media;

namespace OpenSora.Tests.Cli;

/// <summary><c>opensora generate</c> and <c>bench</c>.</summary>
public sealed class GenerateCommandTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task A_video_is_generated_with_its_settings_in_the_document()
    {
        var file = _folder["goat.gif"];
        string[] arguments = ["generate", "a (goat:1.2)", "--out", file, "--frames", "2", "--steps", "2", "--seed", "7", "--weights", "--fps", "4"];
        var result = await Opensora.RunAsync([.. arguments, "--guidance", "3", "--negative", "a cat", "--preview-every", "1", "--json"]);
        result.ExitCode.ShouldBe(0, result.Error);
        var video = result.Json.GetProperty("videos")[0];
        video.GetProperty("file").GetString().ShouldBe(file);
        video.GetProperty("seed").GetInt64().ShouldBe(7);
        video.GetProperty("frames").GetInt32().ShouldBe(2);
        video.GetProperty("guidanceScale").GetDouble().ShouldBe(3);
        video.GetProperty("negativePrompt").GetString().ShouldBe("a cat");
        video.GetProperty("framesPerSecond").GetDouble().ShouldBe(4);
        video.GetProperty("model").GetString().ShouldBe("stickers");
        File.Exists(file).ShouldBeTrue();
        File.Exists(_folder["goat-preview.png"]).ShouldBeTrue();
        result.Error.ShouldContain("Denoising");
    }

    [Fact]
    public async Task Several_videos_are_numbered_and_a_file_is_replaced()
    {
        var file = _folder["goat.png"];
        string[] arguments = ["generate", "a goat", "--out", file, "--frames", "1", "--steps", "1", "--count", "2", "--seed", "1"];
        for (var i = 0; i < 2; i++)
        {
            var result = await Opensora.RunAsync(arguments);
            result.ExitCode.ShouldBe(0, result.Error);
            result.Output.ShouldContain("goat-1.png: seed 1, 1 frames of 128x128");
            result.Output.ShouldContain("goat-2.png: seed 2");
        }

        Directory.GetFiles(_folder.Path).Length.ShouldBe(2);
    }

    [Fact]
    public async Task A_video_is_changed_within_a_mask()
    {
        var writer = new VideoWriter();
        var image = new VideoFrames(new byte[128 * 128 * 3], 1, 128, 128, 8);
        await writer.WriteAsync(image, _folder["black.png"], VideoFormat.Image);
        await writer.WriteAsync(image.Mask(new Rectangle(0, 0, 128, 64)), _folder["mask.png"], VideoFormat.Image);
        string[] arguments = ["generate", "a goat", "--edit", _folder["black.png"], "--mask", _folder["mask.png"], "--frames", "1"];
        var result = await Opensora.RunAsync([.. arguments, "--steps", "1", "--out", _folder["frames"]]);
        result.ExitCode.ShouldBe(0, result.Error);
        var frame = await new VideoReader().ReadAsync(Path.Combine(_folder["frames"], "frame_00001.png"));
        var half = frame.FrameBytes / 2;
        frame.Pixels[half..].ToArray().Max().ShouldBe((byte)0); // black is kept
        frame.Pixels[..half].ToArray().Max().ShouldBeGreaterThan((byte)0);

        var again = await Opensora.RunAsync([.. arguments, "--steps", "1", "--out", _folder["frames"]]);
        again.ExitCode.ShouldBe(1);
        again.Error.ShouldContain("is not empty");
    }

    [Theory]
    [InlineData("conditioning frames", "--image", "BLACK")]
    [InlineData("Steps is 0", "--steps", "0")]
    [InlineData("Width is 64", "--size", "64x128")]
    [InlineData("There is no backend 'tpu'", "--backend", "tpu")]
    [InlineData("no built-in model with this name", "--model", "nothing")]
    [InlineData("ends in '.avi'", "--out", "video.avi")]
    public async Task What_the_model_cannot_do_is_refused(string message, string option, string value)
    {
        if (value is "BLACK")
        {
            value = _folder["black.png"];
            await new VideoWriter().WriteAsync(new VideoFrames(new byte[128 * 128 * 3], 1, 128, 128, 8), value, VideoFormat.Image);
        }

        string[] output = option is "--out" ? [] : ["--out", _folder["video.gif"]];
        var result = await Opensora.RunAsync(["generate", "a goat", option, value, .. output]);
        result.ExitCode.ShouldBe(1);
        result.Error.ShouldContain(message);
        result.Error.ShouldNotContain("(Parameter");
    }

    [Fact]
    public async Task SIGINT_stops_cleanly()
    {
        using var process = Opensora.Start(_folder.Path, "generate", "a goat", "--model", Stickers, "--steps", "1000", "--out", "goat.gif", "--json");
        var result = await Opensora.InterruptAfterAsync(process, "Denoising");
        result.ExitCode.ShouldBe(130, result.Error);
        result.Error.ShouldContain("Stopped.");
        result.Json.GetProperty("error").GetString().ShouldBe("Stopped.");
        Directory.EnumerateFileSystemEntries(_folder.Path).ShouldBeEmpty();
    }

    [Fact]
    public async Task Bench_estimates_the_time_of_a_video()
    {
        var result = await Opensora.RunAsync("bench", "--frames", "1", "--steps", "1", "--json");
        result.ExitCode.ShouldBe(0, result.Error);
        var (step, video) = (result.Json.GetProperty("secondsPerStep").GetDouble(), result.Json.GetProperty("secondsPerVideo").GetDouble());
        step.ShouldBeGreaterThan(0);
        video.ShouldBeGreaterThan(3 * step); // the model has 3 steps
    }

    private static string Stickers => Path.GetFullPath(Path.Combine(TestFiles.Data(), "..", "..", "models", "stickers"));
}
