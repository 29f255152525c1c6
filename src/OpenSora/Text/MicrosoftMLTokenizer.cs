using Microsoft.ML.Tokenizers;

namespace OpenSora.Text;

/// <summary>Adapts a tokenizer of Microsoft.ML.Tokenizers, such as byte-pair encoding for CLIP.</summary>
/// <param name="tokenizer">The tokenizer.</param>
/// <param name="padId">The id of the padding token.</param>
/// <param name="bosId">The id of the start-of-text token; null if there is none.</param>
/// <param name="eosId">The id of the end-of-text token; null if there is none.</param>
internal sealed class MicrosoftMLTokenizer(Tokenizer tokenizer, int padId, int? bosId = null, int? eosId = null) : ITokenizer
{
    /// <inheritdoc/>
    public int PadId => padId;

    /// <inheritdoc/>
    public IReadOnlyList<int> Encode(string text, int maxTokens)
    {
        ArgumentNullException.ThrowIfNull(text);
        ArgumentOutOfRangeException.ThrowIfLessThan(maxTokens, 1);
        var ids = new List<int>(tokenizer.EncodeToIds(text));
        if (bosId is { } bos)
        {
            ids.Insert(0, bos);
        }

        var room = maxTokens - (eosId is null ? 0 : 1);
        if (ids.Count > room)
        {
            ids.RemoveRange(room, ids.Count - room);
        }

        if (eosId is { } eos)
        {
            ids.Add(eos);
        }

        return ids;
    }
}
