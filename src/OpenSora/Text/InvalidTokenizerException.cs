namespace OpenSora.Text;

/// <summary>A tokenizer's files are damaged, of another kind, or hold what is not supported.</summary>
/// <param name="path">The file, or a name for what was read.</param>
/// <param name="reason">What was wrong and what was expected.</param>
/// <param name="expected">The kind of file that belongs there; null: T5's.</param>
public sealed class InvalidTokenizerException(string path, string reason, string? expected = null)
    : Exception(
        $"The tokenizer in '{path}' cannot be used: {reason} Expected {expected ?? "a SentencePiece unigram model, such as T5's spiece.model"}."
    )
{
    /// <summary>The file, or a name for what was read.</summary>
    public string Path { get; } = path;

    /// <summary>What was wrong.</summary>
    public string Reason { get; } = reason;
}
