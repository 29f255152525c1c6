using OpenSora.Diffusion;

namespace OpenSora.Tests.Diffusion;

public sealed class IddpmScheduleTests
{
    [Fact]
    public void Linear_betas_go_from_0_0001_to_0_02()
    {
        var schedule = IddpmSchedule.Linear();
        schedule.Steps.ShouldBe(1000);
        schedule.Betas[0].ShouldBe(1e-4, 1e-15);
        schedule.Betas[^1].ShouldBe(0.02, 1e-15);
        IddpmSchedule.Linear(500).Betas[0].ShouldBe(2e-4, 1e-15);
    }

    [Fact]
    public void Cosine_betas_follow_the_squared_cosine()
    {
        var schedule = IddpmSchedule.SquaredCosine(100);
        var at50 = Math.Pow(Math.Cos((0.5 + 0.008) / 1.008 * Math.PI / 2) / Math.Cos(0.008 / 1.008 * Math.PI / 2), 2);
        schedule.AlphasCumprod[49].ShouldBe(at50, 1e-12);
        schedule.Betas[^1].ShouldBe(0.999);
    }

    [Fact]
    public void Respacing_rounds_half_to_even_on_an_accumulated_stride()
    {
        var full = IddpmSchedule.Linear();
        full.Respace(20).TimestepMap.ToArray()[..4].ShouldBe([0, 53, 105, 158]);
        full.Respace(10).TimestepMap.ShouldBe([0, 111, 222, 333, 444, 555, 666, 777, 888, 999]);
        full.Respace(100).TimestepMap[^1].ShouldBe(999);
        full.Respace(1).TimestepMap.ShouldBe([0]);
        IddpmSchedule.Linear(22).Respace(15).TimestepMap.ToArray()[1].ShouldBe(2); // exactly 1.5, and 2 is even
    }

    [Fact]
    public void Respacing_keeps_what_is_left_of_the_data()
    {
        var full = IddpmSchedule.Linear();
        foreach (var schedule in new[] { full.Respace(20), full.Respace(250), full.Respace(100).Respace(7) })
        {
            for (var i = 0; i < schedule.Steps; i++)
            {
                schedule.AlphasCumprod[i].ShouldBe(full.AlphasCumprod[schedule.TimestepMap[i]], 1e-12);
            }
        }
    }

    [Theory]
    [InlineData(1000)]
    [InlineData(50)]
    [InlineData(3)]
    [InlineData(1)]
    public void Tables_are_consistent(int steps)
    {
        var s = IddpmSchedule.Linear().Respace(steps);
        for (var t = 0; t < steps; t++)
        {
            // The posterior's mean takes a noiseless sample to the noiseless sample of the step before.
            var mean = s.PosteriorMeanCoef1[t] + s.PosteriorMeanCoef2[t] * s.SqrtAlphasCumprod[t];
            mean.ShouldBe(Math.Sqrt(s.AlphasCumprodPrev[t]), 1e-12);
            (s.SqrtAlphasCumprod[t] * s.SqrtAlphasCumprod[t] + s.SqrtOneMinusAlphasCumprod[t] * s.SqrtOneMinusAlphasCumprod[t]).ShouldBe(1, 1e-12);
            s.PosteriorVariance[t].ShouldBeLessThanOrEqualTo(s.Betas[t]);
            s.PosteriorLogVarianceClipped[t].ShouldBeLessThanOrEqualTo(s.LogBetas[t] + 1e-12);
            double.IsFinite(s.PosteriorLogVarianceClipped[t]).ShouldBeTrue();
            if (t > 0)
            {
                s.AlphasCumprod[t].ShouldBeLessThan(s.AlphasCumprod[t - 1]);
            }
        }

        s.PosteriorVariance[0].ShouldBe(0);
    }

    [Fact]
    public void Invalid_respacings_are_rejected()
    {
        var full = IddpmSchedule.Linear();
        Should.Throw<ArgumentOutOfRangeException>(() => full.Respace(0));
        Should.Throw<ArgumentOutOfRangeException>(() => full.Respace(1001));
    }

    [Fact]
    public void Invalid_betas_are_rejected()
    {
        Should.Throw<ArgumentException>(() => IddpmSchedule.FromBetas([]));
        Should.Throw<ArgumentException>(() => IddpmSchedule.FromBetas([0.1, 1.5])).Message.ShouldContain("beta 1 is 1.5");
        Should.Throw<ArgumentException>(() => IddpmSchedule.FromBetas([double.NaN]));
        Should.Throw<ArgumentOutOfRangeException>(() => IddpmSchedule.Linear(20));
        Should.Throw<ArgumentOutOfRangeException>(() => IddpmSchedule.SquaredCosine(0));
    }
}
