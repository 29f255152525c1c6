using Microsoft.ML.Tokenizers;

namespace OpenSora.Text;

/// <summary>Creates tokenizers, and prepares captions for them.</summary>
public static class Tokenizers
{
    /// <summary>Loads a SentencePiece unigram model, such as that of T5. Its tokenizer appends the end-of-sequence token.</summary>
    /// <param name="path">A SentencePiece <c>.model</c> file.</param>
    /// <exception cref="FileNotFoundException">The file does not exist.</exception>
    /// <exception cref="InvalidDataException">The file is damaged or is not a SentencePiece unigram model.</exception>
    public static ITokenizer SentencePiece(string path) => SentencePieceTokenizer.Open(path);

    /// <summary>Loads CLIP's tokenizer, which adds the start-of-text and end-of-text tokens.</summary>
    /// <param name="folder">The folder with <c>vocab.json</c> and <c>merges.txt</c>.</param>
    /// <param name="padToken">The piece to use as the padding token. If null, the padding token in <c>special_tokens_map.json</c> is used if that
    /// file exists; otherwise, the end-of-text token.</param>
    /// <exception cref="FileNotFoundException">A file does not exist.</exception>
    /// <exception cref="InvalidDataException">The files are damaged or of another kind.</exception>
    public static ITokenizer Clip(string folder, string? padToken = null) => ClipTokenizer.Open(folder, padToken);

    /// <summary>Adapts a tokenizer of Microsoft.ML.Tokenizers.</summary>
    /// <param name="tokenizer">The tokenizer.</param>
    /// <param name="padId">The id of the padding token.</param>
    /// <param name="bosId">The id of the start-of-text token; null if there is none.</param>
    /// <param name="eosId">The id of the end-of-text token; null if there is none.</param>
    public static ITokenizer MicrosoftML(Tokenizer tokenizer, int padId, int? bosId = null, int? eosId = null) =>
        new MicrosoftMLTokenizer(tokenizer, padId, bosId, eosId);

    /// <summary>Prepares a caption for the tokenizer of T5 with the rules that were used for the published models.</summary>
    /// <param name="caption">The caption.</param>
    /// <param name="clean">Whether to remove web artifacts, such as addresses and markup, and to leave plain lowercase words. If false, the caption
    /// is only converted to lowercase and trimmed.</param>
    /// <returns>The prepared caption.</returns>
    public static string PrepareCaption(string caption, bool clean = true) => clean ? CaptionCleaner.Clean(caption) : CaptionCleaner.Lower(caption);
}
