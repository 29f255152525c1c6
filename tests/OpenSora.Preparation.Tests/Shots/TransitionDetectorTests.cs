using OpenSora.Preparation.Shots;

namespace OpenSora.Preparation.Tests.Shots;

public class TransitionDetectorTests
{
    private static readonly TransitionDetector Detector = new();

    [Theory]
    [InlineData(8)]
    [InlineData(16)]
    [InlineData(40)]
    public void A_dissolve_is_found_with_its_extent(int length)
    {
        var found = new Scenes().Shot(1, 80).Dissolve(2, length, 60).Detect(Detector).ShouldHaveSingleItem();

        found.Kind.ShouldBe(TransitionKind.Dissolve);
        found.Frame.ShouldBeInRange(80 - (length / 2) - 3, 80 - (length / 2) + 3);
        found.Start.ShouldBeInRange(80 - length - 1, 80 - length + 4);
        found.End.ShouldBeInRange(76, 81);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(255)]
    public void A_fade_is_one_transition(int level)
    {
        var fade = new Scenes().Shot(1, 50).Blank(level, 6).Shot(2, 50).Fade(38, 12, level, isOut: true).Fade(56, 12, level, isOut: false);

        var found = fade.Detect(Detector).ShouldHaveSingleItem();

        found.Kind.ShouldBe(TransitionKind.Fade);
        found.Frame.ShouldBeInRange(51, 55);
        found.Start.ShouldBeInRange(37, 42);
        found.End.ShouldBeInRange(64, 69);
    }

    [Fact]
    public void Fading_in_and_out_at_the_ends_of_a_video_divides_nothing()
    {
        var ends = new Scenes().Blank(0, 5).Shot(1, 70).Blank(0, 5).Fade(5, 10, 0, isOut: false).Fade(65, 10, 0, isOut: true);

        var found = ends.Detect(Detector);

        var shot = ShotList.Divide(found, frame => TimeSpan.FromSeconds(frame), ends.Count).ShouldHaveSingleItem();
        (shot.Frames.Start, shot.Frames.End).ShouldBe((0, 80));
        shot.Steady.Start.ShouldBeInRange(12, 16);
        shot.Steady.End.ShouldBeInRange(64, 69);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    [InlineData(8)]
    public void A_flash_is_not_a_cut(int length)
    {
        var flash = new Scenes().Shot(1, 90);
        flash.Fade(40, length, 255, isOut: true);

        flash.Cuts(Detector).ShouldBeEmpty();
        new Scenes().Shot(1, 40).Blank(255, 2).Shot(1, 40, from: 42).Cuts(Detector).ShouldBeEmpty();
        new Scenes().Shot(1, 40).Blank(255, 2).Shot(1, 40, from: 42).Cuts(new AdaptiveDetector()).ShouldNotBeEmpty();
    }

    [Fact]
    public void A_flash_between_two_shots_is_one_boundary() =>
        new Scenes().Shot(1, 40).Blank(255, 2).Shot(2, 40).Cuts(Detector).ShouldHaveSingleItem().ShouldBeInRange(40, 42);

    [Fact]
    public void A_change_of_light_is_not_a_dissolve() =>
        new Scenes()
            .Shot(1, 90, gain: i => i < 40 ? 1
                : i < 60 ? 1 - ((i - 40) * 0.03)
                : 0.4)
            .Cuts(Detector)
            .ShouldBeEmpty();

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public void A_pan_is_not_a_dissolve(double speed) => new Scenes().Shot(7, 90, speed).Cuts(Detector).ShouldBeEmpty();

    [Fact]
    public void Cuts_next_to_dissolves_are_both_found() =>
        new Scenes()
            .Shot(1, 40)
            .Shot(2, 60)
            .Dissolve(3, 12, 50)
            .Detect(Detector)
            .Select(each => each.Kind)
            .ShouldBe([TransitionKind.Cut, TransitionKind.Dissolve]);
}
