using OpenSora.Preparation.Shots;

namespace OpenSora.Preparation.Tests.Shots;

public class DetectorTests
{
    public static TheoryData<IShotDetector> CutDetectors =>
        [
            new ContentDetector(),
            new AdaptiveDetector(),
            new HistogramDetector { Threshold = 0.2 },
            new HashDetector(),
            new TransitionDetector(),
            new ContentDetector
            {
                Threshold = 18,
                Weights = new(Hue: 0, Saturation: 0, Value: 1, Edges: 1),
                EdgeKernel = 3,
            },
            new ContentDetector { Weights = ContentWeights.ValueOnly, CloseCuts = CloseCuts.Suppress },
        ];

    [Theory]
    [MemberData(nameof(CutDetectors))]
    public void Cuts_are_found_at_their_frames(IShotDetector detector) =>
        new Scenes().Shot(1, 30).Shot(2, 40).Shot(3, 30).Cuts(detector).ShouldBe([30, 70]);

    [Theory]
    [MemberData(nameof(CutDetectors))]
    public void A_shot_has_no_cuts(IShotDetector detector) => new Scenes().Shot(4, 100).Cuts(detector).ShouldBeEmpty();

    [Theory]
    [MemberData(nameof(CutDetectors))]
    public void One_frame_has_no_cuts(IShotDetector detector) => new Scenes().Shot(4, 1).Cuts(detector).ShouldBeEmpty();

    [Fact]
    public void Fast_motion_is_not_a_cut_for_the_adaptive_detector()
    {
        var fast = new Scenes().Shot(5, 60, speed: 5).Shot(6, 30);

        fast.Cuts(new ContentDetector { Threshold = 12, CloseCuts = CloseCuts.Suppress }).Length.ShouldBeGreaterThan(1);
        fast.Cuts(new AdaptiveDetector()).ShouldBe([60]);
    }

    [Fact]
    public void Cuts_that_are_close_are_merged_or_suppressed()
    {
        var close = new Scenes().Shot(1, 30).Shot(2, 30).Shot(3, 5).Shot(4, 40);

        close.Cuts(new ContentDetector { MinimumLength = TimeSpan.Zero }).ShouldBe([30, 60, 65]);
        // The group of the cuts at 60 and 65 began when the shot at 60 was long enough, so that only the second of them starts a group.
        close.Cuts(new ContentDetector { CloseCuts = CloseCuts.Suppress }).ShouldBe([30, 60]);
        close.Cuts(new AdaptiveDetector()).ShouldBe([30, 60]);
        new Scenes().Shot(1, 30).Shot(2, 5).Shot(3, 20).Shot(4, 60).Cuts(new ContentDetector()).ShouldBe([30, 55]);
    }

    [Fact]
    public void The_minimum_length_counts_from_the_start_of_the_video()
    {
        var early = new Scenes().Shot(1, 10).Shot(2, 30);

        early.Cuts(new AdaptiveDetector()).ShouldBeEmpty();
        early.Cuts(new AdaptiveDetector { MinimumLength = TimeSpan.FromSeconds(0.4) }).ShouldBe([10]);
        early.Cuts(new TransitionDetector()).ShouldBeEmpty();
        early.Cuts(new HashDetector { MinimumLength = TimeSpan.FromSeconds(0.4) }).ShouldBe([10]);
    }

    [Theory]
    [InlineData(0, 55)]
    [InlineData(-1, 49)]
    [InlineData(1, 61)]
    public void Fades_are_divided_where_the_bias_says(double bias, int frame)
    {
        // Frames 40 to 49 fade out, 50 to 59 are black, 60 to 69 fade in.
        var fade = Fades(0);
        var (start, end) = (49, 61);

        var found = fade.Detect(new ThresholdDetector { Bias = bias }).ShouldHaveSingleItem();

        found.Kind.ShouldBe(TransitionKind.Fade);
        found.Start.ShouldBeInRange(start - 1, start + 1);
        found.End.ShouldBeInRange(end - 1, end + 1);
        found.Frame.ShouldBeInRange(frame - 1, frame + 1);
    }

    [Fact]
    public void Fades_to_white_and_final_fades_are_found_on_demand()
    {
        Fades(255).Cuts(new ThresholdDetector { Threshold = 240, FadesToBright = true }).ShouldHaveSingleItem().ShouldBeInRange(54, 56);
        Fades(255).Cuts(new ThresholdDetector()).ShouldBeEmpty();
        var final = new Scenes().Shot(1, 40).Blank(0, 10);
        final.Cuts(new ThresholdDetector()).ShouldBeEmpty();
        final.Cuts(new ThresholdDetector { IncludesFinalFade = true }).ShouldBe([40]);
    }

    [Fact]
    public void Settings_out_of_range_are_errors()
    {
        Should.Throw<ArgumentOutOfRangeException>(() => new ThresholdDetector { Bias = 2 }.Start()).Message.ShouldContain("Bias");
        Should.Throw<ArgumentOutOfRangeException>(() => new HistogramDetector { Bins = 1 }.Start()).Message.ShouldContain("Bins");
        Should.Throw<ArgumentOutOfRangeException>(() => new HashDetector { Size = 0 }.Start()).Message.ShouldContain("Size");
        Should.Throw<ArgumentOutOfRangeException>(() => new AdaptiveDetector { Window = 0 }.Start()).Message.ShouldContain("Window");
        Should.Throw<ArgumentException>(() => new ContentDetector { Weights = new(0, 0, 0) }.Start()).Message.ShouldContain("weight");
        Should.Throw<ArgumentOutOfRangeException>(() =>
            new Scenes().Shot(1, 2).Cuts(new ContentDetector { Weights = new(Edges: 1), EdgeKernel = 4 })
        );
    }

    private static Scenes Fades(int level) =>
        new Scenes().Shot(1, 50).Blank(level, 10).Shot(2, 50).Fade(40, 10, level, isOut: true).Fade(60, 10, level, isOut: false);
}
