namespace OpenSora.Text;

/// <summary>Creates the exception for tokenizer files that are damaged, are of another kind, or use unsupported features.</summary>
internal static class InvalidTokenizer
{
    /// <summary>Creates the exception.</summary>
    /// <param name="path">The path of the file, or a name for other sources.</param>
    /// <param name="reason">The problem that was found.</param>
    /// <param name="expected">The expected kind of file; null for that of T5.</param>
    public static InvalidDataException Of(string path, string reason, string? expected = null) =>
        new($"The tokenizer in '{path}' cannot be used: {reason} Expected {expected ?? "a SentencePiece unigram model, such as T5's spiece.model"}.");
}
