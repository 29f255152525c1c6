using FsCheck;
using FsCheck.Fluent;
using OpenSora.Goldens;
using OpenSora.Text;

namespace OpenSora.Tests.Text;

public sealed class CaptionCleanerTests
{
    [Fact]
    public void Captions_are_cleaned_as_the_original_does()
    {
        var comparisons = GoldenCase.Check(TestFiles.Data("goldens", "t5_text_preprocessing.json")).ShouldNotBeNull();
        comparisons.Count.ShouldBeGreaterThanOrEqualTo(42);
        comparisons.Where(comparison => !comparison.Ok).ShouldBeEmpty();
    }

    [Theory]
    [InlineData("A goat.", "a goat.")]
    [InlineData("   ", "")]
    [InlineData("see www.example.org/a?b=c or ask @me", "see or ask")]
    [InlineData("snake_case and kebab-case", "snake_case and kebab-case")]
    [InlineData("“curly” ‘quotes’ – and dashes", "\"curly\" 'quotes' - and dashes")]
    [InlineData("山羊 und Ziege", "山羊 und ziege")]
    public void Words_stay_and_debris_goes(string caption, string expected) => CaptionCleaner.Clean(caption).ShouldBe(expected);

    [Fact]
    public void Any_text_is_cleaned()
    {
        Check.One(Config.QuickThrowOnFailure.WithMaxTest(500), Prop.ForAll((string? caption) =>
        {
            var cleaned = CaptionCleaner.Clean(caption ?? "");
            return !cleaned.Contains("  ", StringComparison.Ordinal) && !cleaned.Contains('\n', StringComparison.Ordinal);
        }));
    }

    [Theory]
    [InlineData("a")]
    [InlineData("a.")]
    [InlineData("<a ")]
    [InlineData("&amp;")]
    [InlineData("1.")]
    [InlineData("\"")]
    [InlineData(" . ")]
    public void Long_repetitions_end(string part) => CaptionCleaner.Clean(string.Concat(Enumerable.Repeat(part, 10_000))).Length.ShouldBeLessThan(70_000);
}
