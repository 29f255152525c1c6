using System.Globalization;

namespace OpenSora.Runtime;

/// <summary>Describes amounts of memory in messages.</summary>
internal static class Sizes
{
    /// <summary>Formats a number of bytes in MB or GB.</summary>
    public static string Text(double bytes) =>
        bytes < 1e9
            ? string.Create(CultureInfo.InvariantCulture, $"{bytes / 1e6:F0} MB")
            : string.Create(CultureInfo.InvariantCulture, $"{bytes / 1e9:F1} GB");
}
