namespace OpenSora.Weights;

/// <summary>A weights file cannot be used: it is damaged, lies about its contents, is another kind of file, or does not fit the model.</summary>
public sealed class InvalidWeightsException : Exception
{
    /// <summary>Makes the exception.</summary>
    /// <param name="path">The file, or a name for what was read.</param>
    /// <param name="reason">What was wrong, what was expected and, where it helps, what to do.</param>
    /// <param name="innerException">The cause.</param>
    /// <param name="report">What a strict load found, if it got that far.</param>
    public InvalidWeightsException(string path, string reason, Exception? innerException = null, LoadReport? report = null)
        : base($"The weights in '{path}' cannot be used: {reason}", innerException)
    {
        Path = path;
        Reason = reason;
        Report = report;
    }

    /// <summary>The file, or a name for what was read.</summary>
    public string Path { get; }

    /// <summary>What was wrong, without the path.</summary>
    public string Reason { get; }

    /// <summary>What a strict load found; null if the file itself is invalid.</summary>
    public LoadReport? Report { get; }

    /// <summary>What a file says as messages show it: of bounded length, without control characters.</summary>
    internal static string Shown(string name, int longest = 120)
    {
        var shown = name.Length > longest ? $"{name.AsSpan(0, longest)}..." : name;
        return shown.Any(char.IsControl) ? string.Concat(shown.Select(c => char.IsControl(c) ? '\uFFFD' : c)) : shown;
    }
}
