namespace OpenSora.Preparation.PublicSets.Downloads;

/// <summary>The exception for a file that was not downloaded.</summary>
/// <param name="reason">The reason in a few words.</param>
/// <param name="message">The message with details.</param>
/// <param name="isFinal">true if trying again does not help.</param>
/// <param name="retryAfter">The wait that the server asks for.</param>
/// <param name="cause">The cause.</param>
internal sealed class DownloadFailure(string reason, string message, bool isFinal, TimeSpan? retryAfter = null, Exception? cause = null)
    : Exception(message, cause)
{
    internal string Reason => reason;

    internal bool IsFinal => isFinal;

    internal TimeSpan? RetryAfter => retryAfter;

    internal static DownloadFailure Final(string reason, string message) => new(reason, message, isFinal: true);

    internal static DownloadFailure Passing(string reason, string message, TimeSpan? retryAfter = null, Exception? cause = null) =>
        new(reason, message, isFinal: false, retryAfter, cause);
}
