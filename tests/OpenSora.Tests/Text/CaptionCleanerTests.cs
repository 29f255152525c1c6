using FsCheck;
using FsCheck.Fluent;
using OpenSora.Goldens;
using OpenSora.Text;

namespace OpenSora.Tests.Text;

public sealed class CaptionCleanerTests
{
    [Theory]
    [InlineData("t5_text_preprocessing.json", 14)]
    [InlineData("caption_cleaning_measured.json", 64)]
    public void Captions_are_cleaned_as_the_original_does(string recorded, int cases)
    {
        var comparisons = GoldenCase.Check(TestFiles.Data("goldens", recorded));
        comparisons.Count.ShouldBe(3 * cases);
        comparisons.Where(comparison => !comparison.Ok).ShouldBeEmpty();
    }

    [Theory]
    [InlineData("A goat.", "a goat.")]
    [InlineData("   ", "")]
    [InlineData("see www.example.org/a?b=c or ask @me", "see ?b=c or ask")]
    [InlineData("snake_case and kebab-case", "snake_case and kebab-case")]
    [InlineData("“curly” ‘quotes’ – and dashes", "\"curly\" 'quotes' - and dashes")]
    [InlineData("山羊 und Ziege", "und ziege")]
    public void Words_stay_and_debris_goes(string caption, string expected) => CaptionCleaner.Clean(caption).ShouldBe(expected);

    [Fact]
    public void Any_text_is_cleaned()
    {
        Check.One(
            Config.QuickThrowOnFailure.WithMaxTest(500),
            Prop.ForAll(
                (string? caption) =>
                {
                    var cleaned = CaptionCleaner.Clean(caption ?? "");
                    return !cleaned.Contains("  ", StringComparison.Ordinal) && !cleaned.Contains('\n', StringComparison.Ordinal);
                }
            )
        );
    }

    [Theory]
    [InlineData("a")]
    [InlineData("a.")]
    [InlineData("<a ")]
    [InlineData("&amp;")]
    [InlineData("1.")]
    [InlineData("\"")]
    [InlineData(" . ")]
    [InlineData("<!--<b>")]
    [InlineData("a.com@")]
    public void Long_repetitions_end(string part) =>
        CaptionCleaner.Clean(string.Concat(Enumerable.Repeat(part, 10_000))).Length.ShouldBeLessThan(70_000);
}
