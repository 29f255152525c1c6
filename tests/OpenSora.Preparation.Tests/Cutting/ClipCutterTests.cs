using System.Globalization;
using OpenSora.Preparation.Cutting;
using OpenSora.Preparation.Media;

namespace OpenSora.Preparation.Tests.Cutting;

public class ClipCutterTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(0.5, "")]
    [InlineData(1.19, "")] // 0.1 s are trimmed at both ends
    [InlineData(1.2, "0.1-1.1")]
    [InlineData(5.2, "0.1-5.1")]
    [InlineData(5.9, "0.1-5.1")] // the remainder of 0.7 s is too short
    [InlineData(6.3, "0.1-5.1 5.1-6.2")]
    public void A_shot_is_divided_into_clips(double seconds, string expected) =>
        string.Join(
                ' ',
                new ClipCutter()
                    .Divide(new(TimeSpan.Zero, TimeSpan.FromSeconds(seconds)))
                    .Select(clip => string.Create(CultureInfo.InvariantCulture, $"{clip.Start.TotalSeconds}-{clip.End.TotalSeconds}"))
            )
            .ShouldBe(expected);

    [Fact]
    public void Invalid_options_are_all_reported()
    {
        var problems = Should
            .Throw<ArgumentException>(() =>
                new ClipCutter(
                    new()
                    {
                        Quality = 52,
                        ShortSide = 1,
                        Preset = "best",
                    }
                )
            )
            .Message;
        problems.ShouldContain("Quality is 52");
        problems.ShouldContain("ShortSide is 1");
        problems.ShouldContain("Preset is 'best'; it must be one of ultrafast");
    }

    /// <summary>Every frame shows its number as a gray level, so a clip proves which frames it has.</summary>
    [Theory]
    [InlineData("a.mp4", "-c:v", "libx264", "-g", "50", "-bf", "3")]
    [InlineData("a.mkv", "-c:v", "libx264", "-g", "250")]
    [InlineData("a.ts", "-c:v", "mpeg2video", "-q:v", "2", "-g", "40")]
    [InlineData("a.avi", "-c:v", "mpeg4", "-q:v", "2")]
    [InlineData("late.mp4", "-c:v", "libx264", "-output_ts_offset", "3.7")]
    public async Task Clips_are_exact_to_the_frame(string name, params string[] encoder)
    {
        using var folder = new TemporaryFolder();
        var path = await Videos.MakeAsync([
            "-f",
            "lavfi",
            "-i",
            "color=black:size=64x64:rate=25:duration=4,geq=lum='16+2*N':cb=128:cr=128",
            .. encoder,
            folder[name],
        ]);
        var source = await SourceProbe.ReadAsync(path, cancellationToken: Token);

        foreach (var (first, end) in new[] { (0, 25), (7, 30), (60, 100), (75, 99) })
        {
            var clip = await new ClipCutter(new() { Quality = 4 }).CutAsync(
                source,
                new(TimeSpan.FromSeconds(first / 25.0), TimeSpan.FromSeconds(end / 25.0)),
                folder["clip.mp4"],
                cancellationToken: Token
            );
            var levels = await LevelsAsync(clip.Path);
            clip.Frames.ShouldBe(end - first, $"frames {first} to {end}: {string.Join(' ', levels)}");
            for (var i = 0; i < levels.Count; i++)
            {
                levels[i].ShouldBe(2 * (first + i) * 255 / 219.0, 2.4, $"frame {i} of {first} to {end}: {string.Join(' ', levels)}");
            }
        }
    }

    [Fact]
    public async Task Clips_are_scaled_and_resampled_and_the_same_every_time()
    {
        using var folder = new TemporaryFolder();
        var path = await Videos.MakeAsync("-f", "lavfi", "-i", "testsrc=size=130x98:rate=30:duration=3,setsar=2", folder["a.mp4"]);
        var source = await SourceProbe.ReadAsync(path, cancellationToken: Token);
        var cutter = new ClipCutter(new() { ShortSide = 48, FramesPerSecond = 10 });
        var range = new TimeRange(TimeSpan.FromSeconds(0.5), TimeSpan.FromSeconds(2.5));

        var clip = await cutter.CutAsync(source, range, folder["1.mp4"], cancellationToken: Token);
        await cutter.CutAsync(source, range, folder["2.mp4"], cancellationToken: Token);

        (clip.Width, clip.Height, clip.Frames, clip.FramesPerSecond).ShouldBe((128, 48, 20, 10));
        (await File.ReadAllBytesAsync(folder["1.mp4"], Token)).ShouldBe(await File.ReadAllBytesAsync(folder["2.mp4"], Token));
        Directory.GetFiles(folder.Path).Length.ShouldBe(3);
    }

    [Fact]
    public async Task A_range_after_the_end_is_an_error_and_leaves_no_file()
    {
        using var folder = new TemporaryFolder();
        var path = await Videos.MakeAsync("-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=1", folder["a.mp4"]);
        var source = await SourceProbe.ReadAsync(path, cancellationToken: Token);

        var error = await Should.ThrowAsync<PreparationException>(() =>
            new ClipCutter().CutAsync(source, new(TimeSpan.FromSeconds(5), TimeSpan.FromSeconds(7)), folder["b.mp4"], cancellationToken: Token)
        );

        error.Reason.ShouldBe("no frames");
        Directory.GetFiles(folder.Path).Length.ShouldBe(1);
    }

    private static async Task<List<double>> LevelsAsync(string path)
    {
        List<double> levels = [];
        await FrameStream.ReadAsync(
            await SourceProbe.ReadAsync(path, cancellationToken: Token),
            new() { Layout = PixelLayout.Gray },
            frame =>
            {
                long sum = 0;
                foreach (var value in frame.Pixels.Span)
                {
                    sum += value;
                }

                levels.Add((double)sum / frame.Pixels.Length);
            },
            Token
        );
        return levels;
    }
}
