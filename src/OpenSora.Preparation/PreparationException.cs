namespace OpenSora.Preparation;

/// <summary>The exception that is thrown when a video cannot be prepared, for a reason that is counted in reports.</summary>
public sealed class PreparationException : IOException
{
    /// <summary>Initializes a new instance.</summary>
    /// <param name="reason">The reason in a few words, the same for all files with this problem, such as <c>no video stream</c>.</param>
    /// <param name="message">The message, which names the file and says what to do.</param>
    /// <param name="innerException">The cause.</param>
    public PreparationException(string reason, string message, Exception? innerException = null)
        : base(message, innerException) => Reason = reason;

    /// <summary>Gets the reason in a few words, the same for all files with this problem, such as <c>no video stream</c>.</summary>
    public string Reason { get; }
}
