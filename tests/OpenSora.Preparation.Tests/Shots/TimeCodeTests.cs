using OpenSora.Preparation.Shots;

namespace OpenSora.Preparation.Tests.Shots;

public class TimeCodeTests
{
    [Theory]
    [InlineData(0, "00:00:00.000")]
    [InlineData(3723.4567, "01:02:03.457")]
    [InlineData(59.9996, "00:01:00.000")]
    [InlineData(360_000, "100:00:00.000")]
    [InlineData(-1.5, "-00:00:01.500")]
    public void Times_are_formatted(double seconds, string text) => TimeCode.Format(TimeSpan.FromSeconds(seconds)).ShouldBe(text);

    [Theory]
    [InlineData("01:02:03.5", 3723.5)]
    [InlineData("2:03", 123)]
    [InlineData("12.5", 12.5)]
    [InlineData(" 12.5s ", 12.5)]
    [InlineData("90f", 3)]
    public void Time_codes_are_parsed(string text, double seconds) =>
        TimeCode.Parse(text, framesPerSecond: 30).ShouldBe(TimeSpan.FromSeconds(seconds));

    [Theory]
    [InlineData("")]
    [InlineData("1:60")]
    [InlineData("1:2:3:4")]
    [InlineData("-1")]
    [InlineData("1.5:00")]
    [InlineData("1e5")]
    [InlineData("a")]
    [InlineData("1.5f")]
    public void Other_text_is_an_error(string text) => Should.Throw<FormatException>(() => TimeCode.Parse(text)).Message.ShouldContain("time code");
}
