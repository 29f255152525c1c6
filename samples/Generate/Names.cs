using System.Globalization;

namespace OpenSora.Samples;

internal static class Names
{
    /// <summary>Creates a file name from a prompt and a seed: "A goat, jumping!" and 42 give "a-goat-jumping-42".</summary>
    public static string ForFile(string prompt, long seed)
    {
        var words = new string([.. prompt.ToLowerInvariant().Select(c => char.IsLetterOrDigit(c) ? c : ' ')]).Split(
            ' ',
            StringSplitOptions.RemoveEmptyEntries
        );
        var name = string.Join('-', words.DefaultIfEmpty("video"));
        return string.Create(CultureInfo.InvariantCulture, $"{name[..Math.Min(name.Length, 60)].TrimEnd('-')}-{seed}");
    }

    /// <summary>Parses a size such as "128x96". Returns null if the text is not a size.</summary>
    public static (int Width, int Height)? ParseSize(string? text) =>
        text?.Split('x') is [var w, var h]
        && int.TryParse(w, CultureInfo.InvariantCulture, out var width)
        && int.TryParse(h, CultureInfo.InvariantCulture, out var height)
            ? (width, height)
            : null;
}
