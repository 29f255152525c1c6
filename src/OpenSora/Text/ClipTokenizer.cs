using System.Globalization;
using System.Net;
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization;
using System.Text.RegularExpressions;
using Microsoft.ML.Tokenizers;
using OpenSora.Runtime;

namespace OpenSora.Text;

/// <summary>CLIP's tokenizer: byte-pair encoding of the UTF-8 bytes of words, from <c>vocab.json</c> and <c>merges.txt</c>.</summary>
/// <remarks>
/// Microsoft.ML.Tokenizers merges the pairs within a word; this class handles cleaning, word splitting, bytes and special tokens. Sources: Sennrich
/// et al., "Neural Machine Translation of Rare Words with Subword Units" (2016), applied to bytes as in GPT-2 (Radford et al., 2019);
/// <c>&lt;/w&gt;</c> marks the end of a word. Text is lowercased, its entities are decoded and each run of white space becomes one space. It is also
/// normalized to Unicode form C, except in applications that use globalization-invariant mode, in which .NET has no normalization data. Instances are
/// immutable and can be used from several threads at the same time.
/// </remarks>
internal sealed class ClipTokenizer : ITokenizer
{
    private const string Bos = "<|startoftext|>",
        Eos = "<|endoftext|>",
        WordEnd = "</w>";
    private const string Expected = "CLIP's vocab.json and merges.txt";

    private static readonly string[] Suffixes = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];
    private static readonly char[] ByteSymbols = MakeByteSymbols();
    private static readonly Dictionary<char, byte> Bytes = ByteSymbols.Index().ToDictionary(pair => pair.Item, pair => (byte)pair.Index);
    private static readonly Regex Spaces = new(@"[\s\x1C-\x1F]+", RegexOptions.CultureInvariant | RegexOptions.NonBacktracking);

    private readonly string[] _pieces; // by id
    private readonly BpeTokenizer _pairs; // of one word, whose bytes are spelled as symbols

    private ClipTokenizer(string vocabPath, byte[] vocab, string mergesPath, string[] merges, string padToken)
    {
        var ids = ReadVocabulary(vocabPath, vocab);
        _pieces = new string[ids.Count];
        foreach (var (piece, id) in ids)
        {
            _pieces[id] = piece;
        }

        int IdOf(string piece, string what) =>
            ids.TryGetValue(piece, out var id) ? id : throw Invalid(vocabPath, $"it has no piece '{piece}', {what}.");
        (BosId, EosId, PadId) = (IdOf(Bos, "the start-of-text token"), IdOf(Eos, "the end-of-text token"), IdOf(padToken, "the padding token"));
        for (var value = 0; value < 256; value++)
        {
            var what = string.Create(CultureInfo.InvariantCulture, $"which represents byte {value}");
            _ = (IdOf($"{ByteSymbols[value]}", what), IdOf(ByteSymbols[value] + WordEnd, what));
        }

        var pairs = new List<string>();
        var line = 0;
        foreach (var text in merges)
        {
            line++;
            if (text.Length == 0 || (line == 1 && text.StartsWith("#version", StringComparison.Ordinal)))
            {
                continue;
            }

            if (text.Split(' ') is not [{ Length: > 0 } left, { Length: > 0 } right])
            {
                throw Invalid(
                    mergesPath,
                    string.Create(
                        CultureInfo.InvariantCulture,
                        $"its line {line} is '{(text.Length > 40 ? text[..40] + "..." : text)}'; it must be two pieces separated by a space."
                    )
                );
            }
            // CLIP's merge list contains more merges than its vocabulary has pieces for.
            if (ids.ContainsKey(left) && ids.ContainsKey(right) && ids.ContainsKey(left + right))
            {
                pairs.Add(text);
            }
        }
        _pairs = BpeTokenizer.Create(new BpeOptions(ids) { Merges = pairs.Distinct(StringComparer.Ordinal), EndOfWordSuffix = WordEnd });
    }

    /// <summary>The number of pieces in the vocabulary.</summary>
    public int Count => _pieces.Length;

    /// <inheritdoc/>
    public int PadId { get; }

    /// <summary>The id of the start-of-text token.</summary>
    public int BosId { get; }

    /// <summary>The id of the end-of-text token.</summary>
    public int EosId { get; }

    /// <summary>Loads a tokenizer from its files.</summary>
    /// <param name="folder">The folder with <c>vocab.json</c> and <c>merges.txt</c>.</param>
    /// <param name="padToken">The piece to use as the padding token. If null, the padding token in <c>special_tokens_map.json</c> is used if that
    /// file exists; otherwise, the end-of-text token.</param>
    /// <exception cref="FileNotFoundException">A file does not exist.</exception>
    /// <exception cref="InvalidDataException">The files are damaged or of another kind.</exception>
    public static ClipTokenizer Open(string folder, string? padToken = null)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        string PathOf(string name) =>
            Path.Combine(folder, name) is var path && File.Exists(path)
                ? path
                : throw new FileNotFoundException($"'{folder}' has no {name}; a CLIP tokenizer is a folder with vocab.json and merges.txt.", path);
        var (vocab, merges, special) = (PathOf("vocab.json"), PathOf("merges.txt"), Path.Combine(folder, "special_tokens_map.json"));
        padToken ??= File.Exists(special) ? ReadPadToken(special) : null;
        return new ClipTokenizer(vocab, File.ReadAllBytes(vocab), merges, File.ReadAllLines(merges), padToken ?? Eos);
    }

    /// <summary>Encodes a text, including the start-of-text and end-of-text tokens that CLIP expects.</summary>
    /// <param name="text">Any text.</param>
    /// <param name="maxTokens">The maximum number of ids to return, at least 2. Longer texts are truncated so that the end-of-text token is
    /// kept.</param>
    /// <returns>The token ids, without padding.</returns>
    public IReadOnlyList<int> Encode(string text, int maxTokens)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(maxTokens, 2);
        var ids = Encode(text);
        if (ids.Count > maxTokens - 2)
        {
            ids.RemoveRange(maxTokens - 2, ids.Count - maxTokens + 2);
        }

        return [BosId, .. ids, EosId];
    }

    /// <summary>Encodes a text without the start-of-text and end-of-text tokens.</summary>
    /// <param name="text">Any text; unpaired surrogates are treated as U+FFFD.</param>
    /// <returns>The token ids; empty if the text contains only white space.</returns>
    public List<int> Encode(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        var ids = new List<int>();
        foreach (var word in Words(Clean(text)))
        {
            if (word is Bos or Eos)
            {
                ids.Add(word is Bos ? BosId : EosId);
            }
            else
            {
                ids.AddRange(
                    _pairs.EncodeToIds(
                        string.Concat(Encoding.UTF8.GetBytes(word).Select(value => ByteSymbols[value])),
                        considerPreTokenization: false,
                        considerNormalization: false
                    )
                );
            }
        }

        return ids;
    }

    /// <summary>Decodes token ids to cleaned text, with a space after every word.</summary>
    /// <param name="ids">Ids of this vocabulary; start-of-text and end-of-text tokens are omitted from the text.</param>
    /// <exception cref="ArgumentOutOfRangeException">An id is not in the vocabulary.</exception>
    public string Decode(IEnumerable<int> ids)
    {
        ArgumentNullException.ThrowIfNull(ids);
        var bytes = new List<byte>();
        foreach (var id in ids)
        {
            if (id < 0 || id >= Count)
            {
                throw new ArgumentOutOfRangeException(nameof(ids), id, $"The ids of the vocabulary are 0 to {Count - 1}.");
            }

            if (id == BosId || id == EosId)
            {
                continue;
            }

            var piece = _pieces[id];
            var ends = piece.EndsWith(WordEnd, StringComparison.Ordinal);
            foreach (var symbol in ends ? piece[..^WordEnd.Length] : piece)
            {
                bytes.AddRange(Bytes.TryGetValue(symbol, out var value) ? [value] : Encoding.UTF8.GetBytes($"{symbol}"));
            }

            if (ends)
            {
                bytes.Add((byte)' ');
            }
        }

        return Encoding.UTF8.GetString([.. bytes]).TrimEnd(' ');
    }

    /// <summary>Cleans a text before it is split into words.</summary>
    internal static string Clean(string text)
    {
        var wellFormed = Encoding.UTF8.GetString(Encoding.UTF8.GetBytes(text));
        var decoded = WebUtility.HtmlDecode(WebUtility.HtmlDecode(wellFormed));
        return CaptionCleaner.Lower(Spaces.Replace(Encoding.UTF8.GetString(Encoding.UTF8.GetBytes(decoded)).Normalize(NormalizationForm.FormC), " "));
    }

    /// <summary>Splits a text into special tokens, English suffixes, runs of letters, single digits and runs of other characters.</summary>
    internal static IEnumerable<string> Words(string text)
    {
        for (var start = 0; start < text.Length; )
        {
            var whole = new[] { Bos, Eos }.Concat(Suffixes).FirstOrDefault(word => text.AsSpan(start).StartsWith(word, StringComparison.Ordinal));
            var (kind, end) = (KindAt(start, out var length), start + (whole?.Length ?? length));
            if (whole is null && kind is Kind.Letter or Kind.Other)
            {
                while (end < text.Length && KindAt(end, out length) == kind)
                {
                    end += length;
                }
            }

            if (whole is not null || kind != Kind.Space)
            {
                yield return text[start..end];
            }

            start = end;
        }

        Kind KindAt(int index, out int length)
        {
            Rune.DecodeFromUtf16(text.AsSpan(index), out var rune, out length);
            return Rune.IsLetter(rune) ? Kind.Letter
                : Rune.IsNumber(rune) ? Kind.Digit
                : Rune.IsWhiteSpace(rune) ? Kind.Space
                : Kind.Other;
        }
    }

    private enum Kind
    {
        Letter,
        Digit,
        Space,
        Other,
    }

    /// <summary>Creates a printable character for each byte, as in GPT-2: the byte's own character if it is printable, otherwise the next one from
    /// U+0100.</summary>
    private static char[] MakeByteSymbols()
    {
        var symbols = new char[256];
        var others = 0;
        for (var value = 0; value < 256; value++)
        {
            symbols[value] = (char)(value is >= '!' and <= '~' or >= 0xA1 and <= 0xAC or >= 0xAE ? value : 0x100 + others++);
        }

        return symbols;
    }

    private static Dictionary<string, int> ReadVocabulary(string path, byte[] bytes)
    {
        try
        {
            var ids = JsonSerializer.Deserialize(JsonBytes.Normalize(bytes), VocabularyJson.Default.DictionaryStringInt32)
                ?? throw new JsonException("It is null.");
            var seen = new bool[ids.Count];
            foreach (var (piece, id) in ids)
            {
                if (id < 0 || id >= ids.Count || seen[id])
                {
                    throw Invalid(path, $"it has {ids.Count} pieces, but '{piece}' has the id {id}; ids must be 0 to {ids.Count - 1}, each once.");
                }

                seen[id] = true;
            }

            return ids;
        }
        catch (JsonException exception)
        {
            throw Invalid(path, $"it is not a JSON object of pieces and ids: {exception.Message}");
        }
    }

    private static string? ReadPadToken(string path)
    {
        try
        {
            using var document = JsonDocument.Parse(JsonBytes.Read(path));
            if (document.RootElement.ValueKind != JsonValueKind.Object || !document.RootElement.TryGetProperty("pad_token", out var token))
            {
                return null;
            }

            return token.ValueKind == JsonValueKind.Object && token.TryGetProperty("content", out var content)
                ? content.GetString()
                : token.GetString();
        }
        catch (Exception exception) when (exception is JsonException or InvalidOperationException)
        {
            throw Invalid(path, $"its pad_token is invalid: {exception.Message}");
        }
    }

    private static InvalidDataException Invalid(string path, string reason) => InvalidTokenizer.Of(path, reason, Expected);
}

/// <summary>Generated code that reads <c>vocab.json</c>.</summary>
[JsonSerializable(typeof(Dictionary<string, int>))]
internal sealed partial class VocabularyJson : JsonSerializerContext;
