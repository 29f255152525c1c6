namespace OpenSora.Text;

/// <summary>Turns text into token ids.</summary>
public interface ITokenizer
{
    /// <summary>The id that fills unused places.</summary>
    int PadId { get; }

    /// <summary>Encodes one text, special tokens included (T5: a closing end-of-sequence token).</summary>
    /// <param name="text">The text; may be empty.</param>
    /// <param name="maxTokens">The most ids to return. Longer texts are cut so that the closing token is kept.</param>
    IReadOnlyList<int> Encode(string text, int maxTokens);
}
