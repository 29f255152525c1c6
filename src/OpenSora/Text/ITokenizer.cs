namespace OpenSora.Text;

/// <summary>Converts text to token ids.</summary>
public interface ITokenizer
{
    /// <summary>The id of the padding token.</summary>
    int PadId { get; }

    /// <summary>Encodes a text, including special tokens (for T5, a final end-of-sequence token).</summary>
    /// <param name="text">The text; may be empty.</param>
    /// <param name="maxTokens">The maximum number of ids to return. Longer texts are truncated so that the final special token is kept.</param>
    /// <returns>The token ids, without padding.</returns>
    IReadOnlyList<int> Encode(string text, int maxTokens);
}
