using OpenSora.Preparation.Scores;

namespace OpenSora.Preparation.Tests.Scores;

public class MotionTests
{
    private const double Rate = 10;
    private static readonly Func<double, double, double> Scene = Clips.Texture(1);

    // Pixels in a frame -> percent of the shorter side in a second.
    private static double Percent(double pixels) => 100 * pixels * Rate / Clips.Height;

    [Theory]
    [InlineData(3, 0, "pan")]
    [InlineData(-3, 0, "pan")]
    [InlineData(0.5, 0, "pan")]
    [InlineData(14, 0, "pan")]
    [InlineData(0, 2, "tilt")]
    [InlineData(0, -6, "tilt")]
    [InlineData(4, 1, "pan")]
    public async Task A_turning_camera_is_measured_to_a_tenth_of_a_pixel(double right, double up, string kind)
    {
        var clip = Clips.Make(6, (frame, x, y) => Scene(x + (right * frame), y - (up * frame)), Rate);

        var scores = await Clips.ScoreAsync(clip, "motion");

        scores["pan"].Number!.Value.ShouldBe(Percent(right), Percent(0.1));
        scores["tilt"].Number!.Value.ShouldBe(Percent(up), Percent(0.1));
        scores["motion"].Number!.Value.ShouldBe(Percent(Math.Sqrt((right * right) + (up * up))), Percent(0.3));
        scores["zoom"].Number!.Value.ShouldBe(0, 1);
        scores["motion_kind"].Text.ShouldBe(kind);
    }

    [Theory]
    [InlineData(1.02)]
    [InlineData(1 / 1.03)]
    public async Task A_zoom_is_measured(double factor)
    {
        var clip = Clips.Make(6, (frame, x, y) => Scene(x / Math.Pow(factor, frame), y / Math.Pow(factor, frame)), Rate);

        var scores = await Clips.ScoreAsync(clip, "zoom");

        scores["zoom"].Number!.Value.ShouldBe(100 * (factor - 1) * Rate, 1);
        scores["pan"].Number!.Value.ShouldBe(0, Percent(0.1));
        scores["motion_kind"].Text.ShouldBe("zoom");
    }

    [Fact]
    public async Task A_rotation_is_recognized()
    {
        var clip = Clips.Make(
            6,
            (frame, x, y) =>
            {
                var (sin, cos) = Math.SinCos(0.02 * frame);
                return Scene((cos * x) + (sin * y), (cos * y) - (sin * x));
            },
            Rate
        );

        (await Clips.ScoreAsync(clip, "motion"))["motion_kind"].Text.ShouldBe("roll");
    }

    [Fact]
    public async Task Noise_before_a_still_camera_is_not_motion()
    {
        var random = new Random(2);
        var clip = Clips.Make(6, (_, x, y) => Scene(x, y) + (random.NextDouble() * 8) - 4, Rate);

        var scores = await Clips.ScoreAsync(clip, "motion");

        scores["motion_kind"].Text.ShouldBe("static");
        scores["motion"].Number!.Value.ShouldBeLessThan(Percent(0.15));
    }

    [Fact]
    public async Task An_object_that_moves_before_a_still_camera_is_local_motion()
    {
        var thing = Clips.Texture(3);
        var clip = Clips.Make(
            6,
            (frame, x, y) =>
            {
                var (left, top) = (x + 60 - (5 * frame), y);
                return Math.Abs(left) < 24 && Math.Abs(top) < 24 ? thing(left, top) : Scene(x, y);
            },
            Rate
        );

        var scores = await Clips.ScoreAsync(clip, "motion");

        scores["motion_kind"].Text.ShouldBe("local");
        scores["pan"].Number!.Value.ShouldBe(0, Percent(0.1));
        scores["motion"].Number!.Value.ShouldBeInRange(Percent(0.15), Percent(0.8)); // the object covers 8 % of the image
    }

    [Fact]
    public async Task An_object_does_not_hide_a_turning_camera()
    {
        var thing = Clips.Texture(3);
        var clip = Clips.Make(6, (frame, x, y) => Math.Abs(x) < 30 && Math.Abs(y) < 30 ? thing(x - (2 * frame), y) : Scene(x + (4 * frame), y), Rate);

        var scores = await Clips.ScoreAsync(clip, "motion");

        scores["pan"].Number!.Value.ShouldBe(Percent(4), Percent(0.2));
        scores["motion_kind"].Text.ShouldBe("pan");
    }

    [Fact]
    public async Task Images_without_texture_or_a_second_frame_have_no_motion_value()
    {
        (await Clips.ScoreAsync(Clips.Make(4, (_, _, _) => 90), "motion"))["motion"].IsMissing.ShouldBeTrue();
        var image = await Clips.ScoreAsync(Clips.Make(1, (_, x, y) => Scene(x, y)), "motion", "cut", "frozen", "black");
        (image["motion"].IsMissing, image["motion_kind"].IsMissing, image["cut"].IsMissing, image["frozen"].IsMissing).ShouldBe(
            (true, true, true, true)
        );
        image["black"].Number.ShouldBe(0);
    }
}
