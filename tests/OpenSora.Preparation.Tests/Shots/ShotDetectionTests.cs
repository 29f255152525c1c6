using OpenSora.Preparation.Media;
using OpenSora.Preparation.Shots;

namespace OpenSora.Preparation.Tests.Shots;

public class ShotDetectionTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData("mkv", false)]
    [InlineData("mp4", false)]
    [InlineData("mkv", true)]
    public async Task A_variable_frame_rate_is_recognized_by_the_times_of_frames(string extension, bool isVariable)
    {
        using var folder = new TemporaryFolder();
        var path = await Videos.MakeAsync(
            "-f",
            "lavfi",
            "-i",
            "testsrc=size=64x48:rate=25:duration=2",
            "-vf",
            isVariable ? "select='not(between(n,10,19))'" : "null",
            "-vsync",
            "passthrough",
            folder[$"a.{extension}"]
        );

        var found = await new ShotDetection(new ContentDetector()).DetectAsync(path, cancellationToken: TestContext.Current.CancellationToken);

        found.Source.HasVariableFrameRate.ShouldBe(isVariable);
    }

    [Fact]
    public async Task Shots_contain_every_frame_once_with_its_time()
    {
        using var folder = new TemporaryFolder();
        var path = await ThreeScenesAsync(folder["three.mp4"]);
        List<TimeSpan> reported = [];

        var shots = await new ShotDetection().DetectAsync(path, new Reporter(reported.Add), Token);

        shots
            .Shots.Select(shot => shot.Frames.ToString())
            .ShouldBe([
                "00:00:00.000 - 00:00:01.000 (frames 0 to 24)",
                "00:00:01.000 - 00:00:02.000 (frames 25 to 49)",
                "00:00:02.000 - 00:00:03.000 (frames 50 to 74)",
            ]);
        shots.Shots.ShouldAllBe(shot => shot.Steady == shot.Frames);
        shots.Shots.Select(shot => shot.Opening).ShouldBe([null, new ShotTransition(25), new ShotTransition(50)]);
        (shots.Frames.Count, shots.Damage, shots.Source.Path).ShouldBe((75, null, path));
        reported.ShouldBe([TimeSpan.Zero, TimeSpan.FromSeconds(1), TimeSpan.FromSeconds(2)]);
    }

    [Fact]
    public async Task The_minimum_length_is_time_whatever_the_frame_rate()
    {
        using var folder = new TemporaryFolder();
        // The same scenes, but every second frame of the second one is missing.
        var path = await ThreeScenesAsync(folder["three.mkv"], "select='not(between(n\\,25\\,49)*mod(n\\,2))',");
        var source = await SourceProbe.ReadAsync(path, cancellationToken: Token);
        ContentDetector Detector(double seconds) => new() { MinimumLength = TimeSpan.FromSeconds(seconds), CloseCuts = CloseCuts.Suppress };

        var shots = await new ShotDetection(Detector(0.9)).DetectAsync(source, cancellationToken: Token);

        shots.Shots.Select(shot => shot.Frames.Start).ShouldBe([0, 25, 37]);
        shots.Shots.Select(shot => Math.Round(shot.Frames.StartTime.TotalSeconds, 2)).ShouldBe([0, 1.04, 2]);
        (await new ShotDetection(Detector(1.01)).DetectAsync(source, cancellationToken: Token)).Shots.Count.ShouldBe(2);
    }

    [Fact]
    public async Task Several_detectors_and_those_of_users_are_combined()
    {
        using var folder = new TemporaryFolder();
        var path = await ThreeScenesAsync(folder["three.mp4"]);

        var shots = await new ShotDetection([new Every(10), new ContentDetector()]).DetectAsync(path, cancellationToken: Token);

        shots.Shots.Select(shot => shot.Frames.Start).ShouldBe([0, 10, 20, 25, 30, 40, 50, 60, 70]);
    }

    [Fact]
    public async Task A_transition_outside_the_video_is_an_error()
    {
        using var folder = new TemporaryFolder();
        var path = await ThreeScenesAsync(folder["three.mp4"]);

        var error = await Should.ThrowAsync<InvalidOperationException>(() =>
            new ShotDetection(new Every(1000)).DetectAsync(path, cancellationToken: Token)
        );

        error.Message.ShouldContain("at frame 1000");
    }

    [Fact]
    public async Task A_failing_detector_and_a_cancellation_stop_the_decoder()
    {
        using var folder = new TemporaryFolder();
        var path = await Videos.MakeAsync("-f", "lavfi", "-i", "testsrc2=size=64x36:rate=25:duration=120", folder["long.mp4"]);

        await Should.ThrowAsync<NotSupportedException>(() => new ShotDetection(new Failing()).DetectAsync(path, cancellationToken: Token));
        using var cancel = CancellationTokenSource.CreateLinkedTokenSource(Token);
        await Should.ThrowAsync<OperationCanceledException>(() =>
            new ShotDetection(new AdaptiveDetector()).DetectAsync(path, new Reporter(_ => cancel.Cancel()), cancel.Token)
        );
    }

    [Fact]
    public void Transitions_divide_a_video_and_trim_its_shots()
    {
        ShotTransition[] transitions =
        [
            new(0, TransitionKind.Fade) { End = 5 },
            new(40),
            new(38, TransitionKind.Dissolve) { Start = 30, End = 45 },
            new(70),
            new(100, TransitionKind.Fade) { Start = 90, End = 100 },
        ];

        var shots = ShotList.Divide(transitions, frame => TimeSpan.FromSeconds(frame), 100);

        shots.Select(shot => (shot.Frames.Start, shot.Frames.End)).ShouldBe([(0, 38), (38, 70), (70, 100)]);
        shots.Select(shot => (shot.Steady.Start, shot.Steady.End)).ShouldBe([(5, 30), (45, 70), (70, 90)]);
        shots.Sum(shot => shot.Frames.Duration.TotalSeconds).ShouldBe(100);
    }

    [Fact]
    public async Task Transitions_are_the_same_as_recorded()
    {
        using var folder = new TemporaryFolder();
        // A cut at 2 s, a dissolve from 4 to 4.8 s, a fade through black around 7 s, and a flash at 8.5 s.
        string[] scenes =
        [
            "testsrc2=size=128x72:rate=25:duration=2",
            "mandelbrot=size=128x72:rate=25:start_scale=0.6",
            "smptehdbars=size=128x72:rate=25",
            "testsrc=size=128x72:rate=25",
        ];
        var graph =
            "[1]trim=duration=2.8[b];[2]trim=duration=3,fade=t=out:st=2.4:d=0.5[c];"
            + "[3]trim=duration=3,fade=t=in:st=0.1:d=0.5,eq=brightness='if(between(t\\,1.5\\,1.58)\\,0.8\\,0)':eval=frame[d];"
            + "[b][c]xfade=transition=fade:duration=0.8:offset=2,settb=1/25[e];[0]settb=1/25[a];[d]settb=1/25[f];[a][e][f]concat=n=3,format=yuv420p";
        var path = await Videos.MakeAsync([
            .. scenes.SelectMany(scene => (string[])["-f", "lavfi", "-i", scene]),
            "-filter_complex",
            graph,
            "-c:v",
            "ffv1",
            folder["all.mkv"],
        ]);

        var found = await Task.WhenAll(
            Detect(new TransitionDetector()),
            Detect(new ContentDetector()),
            Detect(new AdaptiveDetector()),
            Detect(new ThresholdDetector())
        );

        found.ShouldBe([
            "TransitionDetector: Cut 50, Dissolve 111, Fade 176",
            "ContentDetector: Cut 50, Cut 173, Cut 215",
            "AdaptiveDetector: Cut 50, Cut 120, Cut 173, Cut 213",
            "ThresholdDetector: Fade 176",
        ]);

        async Task<string> Detect(IShotDetector detector)
        {
            var shots = await new ShotDetection(detector).DetectAsync(path, cancellationToken: Token);
            var openings = shots.Shots.Skip(1).Select(shot => $"{shot.Opening!.Value.Kind} {shot.Frames.Start}");
            return $"{detector.GetType().Name}: {string.Join(", ", openings)}";
        }
    }

    private static Task<string> ThreeScenesAsync(string path, string select = "") =>
        Videos.MakeAsync([
            .. (string[])["-f", "lavfi", "-i", "testsrc2=size=64x36:rate=25:duration=1"],
            .. (string[])["-f", "lavfi", "-i", "mandelbrot=size=64x36:rate=25"],
            .. (string[])["-f", "lavfi", "-i", "smptebars=size=64x36:rate=25:duration=1"],
            "-filter_complex",
            $"[1]trim=duration=1,settb=1/25[b];[0]settb=1/25[a];[2]settb=1/25[c];[a][b][c]concat=n=3,{select}format=yuv420p",
            "-vsync",
            "passthrough",
            path,
        ]);

    private sealed class Reporter(Action<TimeSpan> report) : IProgress<TimeSpan>
    {
        public void Report(TimeSpan value) => report(value);
    }

    private sealed class Every(int frames) : IShotDetector
    {
        public ShotAnalysis Start() => new Analysis(frames);

        private sealed class Analysis(int frames) : ShotAnalysis
        {
            public override IReadOnlyList<ShotTransition> Add(ShotFrame frame) =>
                frame.Index > 0 && frame.Index % frames == 0 ? [new(frame.Index)]
                : frames > 100 && frame.Index == 0 ? [new(frames)]
                : [];
        }
    }

    private sealed class Failing : IShotDetector
    {
        public ShotAnalysis Start() => new Analysis();

        private sealed class Analysis : ShotAnalysis
        {
            public override IReadOnlyList<ShotTransition> Add(ShotFrame frame) =>
                frame.Index < 5 ? [] : throw new NotSupportedException("This detector fails.");
        }
    }
}
