using OpenSora.Preparation.Scores;

namespace OpenSora.Preparation.Tests.Scores;

public class ClipFilterTests
{
    private static readonly ScoreColumn[] Columns =
    [
        new("motion", "m"),
        new("sharpness", "s"),
        new("my score", "a name with a space"),
        new("kind", "k", IsText: true),
    ];

    private static Dictionary<string, ScoreValue> Row(ScoreValue motion = default, ScoreValue sharpness = default, string? kind = null) =>
        new()
        {
            ["motion"] = motion,
            ["sharpness"] = sharpness,
            ["kind"] = kind,
        };

    [Theory]
    [InlineData("motion > 5", true)]
    [InlineData("motion > 6", false)]
    [InlineData("motion >= 6 and sharpness <= 20", true)]
    [InlineData("motion < 6 || sharpness == 20", true)]
    [InlineData("not (motion < 7)", false)]
    [InlineData("kind == 'pan'", true)]
    [InlineData("kind = 'Pan'", false)]
    [InlineData("kind != 'tilt'", true)]
    [InlineData("kind in ('tilt', 'pan')", true)]
    [InlineData("kind not in ('tilt', 'pan')", false)]
    [InlineData("motion in (1, 2, 6)", true)]
    [InlineData("motion / 4 == 1.5", true)]
    [InlineData("1 / 2 == 0.5", true)]
    [InlineData("-motion + 2 * 3 == 0", true)]
    [InlineData("sharpness % 7 == 6", true)]
    [InlineData("motion - sharpness - 1 == -15", true)]
    [InlineData("(motion > 5) == true", true)]
    [InlineData("motion / 0 > 1e300", true)]
    [InlineData("sharpness != null", true)]
    [InlineData("[my score] == null", true)]
    public void Expressions_are_evaluated(string expression, bool expected) =>
        ClipFilter.Parse(expression, Columns).Check(Row(6, 20, "pan")).IsKept.ShouldBe(expected);

    [Theory]
    [InlineData("motion >", "cannot be read")]
    [InlineData("", "cannot be read")]
    [InlineData("moton > 1", "unknown column 'moton'. The columns are motion, sharpness, my score, kind")]
    [InlineData("kind == \"pan\" && Sin(motion) > 1", "calls the function 'Sin'")]
    [InlineData("motion + 1", "is not a condition")]
    [InlineData("motion == 'pan'", "a number ('motion') and a text (''pan'')")]
    [InlineData("kind > 'a'", "applies '>' to a text")]
    [InlineData("kind == pan", "unknown column 'pan'")]
    [InlineData("1 < motion < 3", "a condition ('(1 < motion)') and a number")]
    [InlineData("motion ? kind : 1", "something other than")]
    [InlineData("motion & 1 == 1", "BitwiseAnd")]
    [InlineData("motion ** 2 > 1", "Exponentiation")]
    [InlineData("!motion", "operator")]
    [InlineData("(motion > 1) == null", "null")]
    public void Invalid_expressions_are_errors_that_say_what_is_wrong(string expression, string message) =>
        Should.Throw<FormatException>(() => ClipFilter.Parse(expression, Columns)).Message.ShouldContain(message);

    [Fact]
    public void A_missing_value_removes_a_clip_and_is_counted_or_keeps_it()
    {
        var remove = ClipFilter.Parse("motion > 5 && sharpness > 10", Columns);
        var keep = ClipFilter.Parse("motion > 5 && sharpness > 10", Columns, MissingScores.Keep);

        remove.Check(Row(6)).ShouldBe(new FilterDecision(1, IsMissing: true));
        keep.Check(Row(6)).IsKept.ShouldBeTrue();
        keep.Check(Row(default, 5)).ShouldBe(new FilterDecision(1, IsMissing: false));
        ClipFilter.Parse("motion > 5 || sharpness > 10", Columns).Check(Row(6)).IsKept.ShouldBeTrue(); // decided without the missing value
        ClipFilter.Parse("sharpness == null || sharpness > 10", Columns).Check(Row(6)).IsKept.ShouldBeTrue();
        ClipFilter.Parse("!(sharpness > 10)", Columns).Check(Row(6)).ShouldBe(new FilterDecision(0, IsMissing: true));
        ClipFilter.Parse("0 / 0 == 1", Columns).Check(Row(6)).IsMissing.ShouldBeTrue();
    }

    [Fact]
    public void The_report_counts_in_order_what_each_condition_removed()
    {
        var filter = ClipFilter.Parse(["motion > 5 && sharpness >= 20", "kind != 'static'"], Columns);
        var report = new FilterReport(filter);

        Parallel.For(0, 1000, i => report.Add(filter.Check(Row(i % 10, i % 4 == 0 ? ScoreValue.Missing : 20, i % 3 == 0 ? "static" : "pan"))));

        filter.Conditions.ShouldBe(["motion > 5", "sharpness >= 20", "kind != 'static'"]);
        var left = Enumerable.Range(0, 1000).Where(i => i % 10 > 5).ToArray();
        var sharp = left.Count(i => i % 4 == 0);
        var still = left.Count(i => i % 4 != 0 && i % 3 == 0);
        report.Steps.ShouldBe([
            new("motion > 5", 1000, 600, 0),
            new("sharpness >= 20", 400, sharp, sharp),
            new("kind != 'static'", 400 - sharp, still, 0),
        ]);
        (report.Total, report.Kept).ShouldBe((1000, 400 - sharp - still));
        report.ToString().ShouldContain($"{sharp} of 400 removed by sharpness >= 20 ({sharp} without a value)");
    }

    [Theory]
    [InlineData("(motion>5)and(sharpness<3)", "motion > 5", "sharpness < 3")]
    [InlineData("(motion + 1) * 2 > 5 || (kind == 'a' && kind != 'b')", "((motion + 1) * 2) > 5", "")]
    [InlineData("not (motion > 5)", "!(motion > 5)", null)]
    [InlineData("[my score] in (1, 2)", "[my score] in (1, 2)", null)]
    public void Conditions_are_shown_as_they_are_understood(string expression, string first, string? second)
    {
        var conditions = ClipFilter.Parse(expression, Columns).Conditions;
        conditions[0].ShouldStartWith(first.Length > 20 ? "(" + first : first);
        conditions.Count.ShouldBe(string.IsNullOrEmpty(second) ? 1 : 2);
        ClipFilter.Parse(conditions, Columns).Conditions.ShouldBe(conditions);
    }

    [Fact]
    public void Values_survive_a_manifest()
    {
        ScoreValue number = 0.1 + 0.2;
        ScoreValue.Parse(number.ToString(), Columns[0]).ShouldBe(number);
        ScoreValue.Parse("pan", Columns[3]).Text.ShouldBe("pan");
        ScoreValue.Parse("", Columns[0]).IsMissing.ShouldBeTrue();
        ((ScoreValue)double.NaN).IsMissing.ShouldBeTrue();
        ScoreValue.Rounded(1.23456).ToString().ShouldBe("1.2346");
        ScoreValue.Rounded(-0.00001).ToString().ShouldBe("0");
        Should.Throw<FormatException>(() => ScoreValue.Parse("fast", Columns[0])).Message.ShouldContain("'motion'");
    }
}
