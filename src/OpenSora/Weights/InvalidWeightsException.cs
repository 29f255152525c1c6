namespace OpenSora.Weights;

/// <summary>The exception that is thrown when a weights file cannot be used: it is damaged, describes its contents incorrectly, has an unsupported
/// format, or does not fit the model.</summary>
public sealed class InvalidWeightsException : Exception
{
    /// <summary>Initializes a new instance of the <see cref="InvalidWeightsException"/> class.</summary>
    /// <param name="path">The path of the file, or a name for the source of the weights.</param>
    /// <param name="reason">A description of the problem, what was expected and, if helpful, how to fix it.</param>
    /// <param name="innerException">The exception that caused this one.</param>
    /// <param name="report">The report of a strict load, if loading got that far.</param>
    public InvalidWeightsException(string path, string reason, Exception? innerException = null, LoadReport? report = null)
        : base($"The weights in '{path}' cannot be used: {reason}", innerException)
    {
        Path = path;
        Reason = reason;
        Report = report;
    }

    /// <summary>The path of the file, or a name for the source of the weights.</summary>
    public string Path { get; }

    /// <summary>The description of the problem, without the path.</summary>
    public string Reason { get; }

    /// <summary>The report of a strict load, or null if the file itself is invalid.</summary>
    public LoadReport? Report { get; }

    /// <summary>Formats text from a file for messages: limits its length and replaces control characters.</summary>
    internal static string Shown(string name, int longest = 120)
    {
        var shown = name.Length > longest ? $"{name.AsSpan(0, longest)}..." : name;
        return shown.Any(char.IsControl) ? string.Concat(shown.Select(c => char.IsControl(c) ? '\uFFFD' : c)) : shown;
    }
}
