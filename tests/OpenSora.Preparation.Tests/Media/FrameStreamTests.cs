using OpenSora.Preparation.Media;

namespace OpenSora.Preparation.Tests.Media;

public class FrameStreamTests
{
    [Fact]
    public async Task Every_frame_is_read_once_with_its_time()
    {
        using var folder = new TemporaryFolder();
        var path = await Videos.MakeAsync("-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=2", folder["a ' \" b.mp4"]);
        var source = await SourceProbe.ReadAsync(path, cancellationToken: TestContext.Current.CancellationToken);
        List<TimeSpan> times = [];

        var (frames, damage) = await FrameStream.ReadAsync(
            source,
            new() { Width = 32, Height = 24 },
            frame =>
            {
                frame.Pixels.Length.ShouldBe(32 * 24 * 3);
                times.Add(frame.Time);
            },
            TestContext.Current.CancellationToken
        );

        (frames, damage).ShouldBe((20, null));
        times.ShouldBe(Enumerable.Range(0, 20).Select(i => TimeSpan.FromSeconds(i / 10.0)));
        (source.Width, source.Height, source.FramesPerSecond, source.Codec).ShouldBe((64, 48, 10, "h264"));
    }
}
