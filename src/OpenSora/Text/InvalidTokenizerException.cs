namespace OpenSora.Text;

/// <summary>The exception that is thrown when tokenizer files are damaged, are of another kind, or use unsupported features.</summary>
/// <param name="path">The path of the file, or a name for other sources.</param>
/// <param name="reason">The problem and the expected content.</param>
/// <param name="expected">The expected kind of file; null for that of T5.</param>
public sealed class InvalidTokenizerException(string path, string reason, string? expected = null)
    : Exception(
        $"The tokenizer in '{path}' cannot be used: {reason} Expected {expected ?? "a SentencePiece unigram model, such as T5's spiece.model"}."
    )
{
    /// <summary>The path of the file, or a name for other sources.</summary>
    public string Path { get; } = path;

    /// <summary>The problem that was found.</summary>
    public string Reason { get; } = reason;
}
