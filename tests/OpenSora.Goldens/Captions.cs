using OpenSora.Text;

namespace OpenSora.Goldens;

/// <summary>Caption cleaning: once, twice and not at all. An error is 0 or infinite.</summary>
internal static class CaptionGoldens
{
    public static IEnumerable<Comparison> Check(GoldenFile file)
    {
        foreach (var recorded in file.Json.GetProperty("cases").EnumerateArray())
        {
            string Recorded(string name) => recorded.GetProperty(name).GetString()!;
            var input = Recorded("input");
            yield return Compare("once", CaptionCleaner.CleanOnce(input));
            yield return Compare("output", CaptionCleaner.Clean(input));
            yield return Compare("no_preprocessing", CaptionCleaner.Lower(input));

            Comparison Compare(string name, string actual) =>
                new(
                    $"{name} of '{input}': '{actual}'",
                    string.Equals(actual, Recorded(name), StringComparison.Ordinal) ? 0 : double.PositiveInfinity,
                    1
                );
        }
    }
}
