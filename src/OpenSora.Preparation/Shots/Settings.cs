namespace OpenSora.Preparation.Shots;

/// <summary>Checks settings of detectors.</summary>
internal static class Settings
{
    internal static void RequireRange(string name, double value, double min, double max)
    {
        if (!(value >= min && value <= max))
        {
            throw new ArgumentOutOfRangeException(nameof(value), value, $"{name} must be from {min} to {max}.");
        }
    }
}

/// <summary>Compares lengths of shots with a minimum.</summary>
internal static class MinimumLengths
{
    // Times are rounded.
    private static readonly TimeSpan Tolerance = TimeSpan.FromMilliseconds(0.1);

    internal static bool IsMet(TimeSpan length, TimeSpan minimum) => length + Tolerance >= minimum;
}
