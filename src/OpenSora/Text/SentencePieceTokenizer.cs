using System.Text;

namespace OpenSora.Text;

/// <summary>A SentencePiece unigram tokenizer that reads <c>.model</c> files, T5's <c>spiece.model</c> among them.</summary>
/// <remarks>
/// Kudo, Subword Regularization (2018): the pieces of a text are those whose log probabilities have the largest sum, found by Viterbi's
/// algorithm. Immutable, safe to use from several threads at once.
/// </remarks>
public sealed class SentencePieceTokenizer : ITokenizer
{
    /// <summary>How much less likely a character without a piece is than the least likely piece.</summary>
    private const float UnknownPenalty = 10;

    private readonly SentencePieceModel _model;
    private readonly SentencePieceNormalizer _normalizer;
    private readonly PieceIndex _index;
    private readonly int[] _byteIds = [];
    private readonly float _unknownScore;
    private readonly float _maxScore = 1.17549435e-38f; // the least positive normal number, from which the reference takes its maximum

    private SentencePieceTokenizer(string path, ReadOnlySpan<byte> bytes)
    {
        _model = SentencePieceModel.Parse(path, bytes);
        var pieces = _model.Pieces;
        var ids = Enumerable.Range(0, pieces.Count).ToList();
        _index = new PieceIndex(
            ids.Where(id => pieces[id].Kind is PieceKind.Normal or PieceKind.UserDefined or PieceKind.Unused).Select(id => (pieces[id].Utf8, id))
        );
        _normalizer = new SentencePieceNormalizer(
            path,
            _model,
            new PieceIndex(ids.Where(id => pieces[id].Kind == PieceKind.UserDefined).Select(id => (pieces[id].Utf8, id)))
        );

        var minScore = float.MaxValue;
        foreach (var piece in pieces.Where(piece => piece.Kind == PieceKind.Normal))
        {
            minScore = Math.Min(minScore, piece.Score);
            _maxScore = Math.Max(_maxScore, piece.Score);
        }

        _unknownScore = minScore - UnknownPenalty;
        if (_model.ByteFallback)
        {
            _byteIds = new int[256];
            foreach (var id in ids.Where(id => pieces[id].Kind == PieceKind.Byte))
            {
                _byteIds[SentencePieceModel.ByteOf(PieceText(id))] = id;
            }
        }

        UnknownId = _model.UnknownId;
        EosId = ControlId(_model.EosPiece);
        BosId = ControlId(_model.BosPiece);
        PadId = ControlId(_model.PadPiece) is var pad and >= 0 ? pad : UnknownId;

        int ControlId(string text) =>
            ids.FindIndex(id => pieces[id].Kind == PieceKind.Control && string.Equals(PieceText(id), text, StringComparison.Ordinal));
    }

    /// <summary>Pieces in the vocabulary.</summary>
    public int Count => _model.Pieces.Count;

    /// <summary>The id that fills unused places; the unknown piece's id if the model has no padding piece. T5: 0.</summary>
    public int PadId { get; }

    /// <summary>The id that closes a text, or -1 if the model has none. T5: 1.</summary>
    public int EosId { get; }

    /// <summary>The id of what the vocabulary cannot spell. T5: 2.</summary>
    public int UnknownId { get; }

    /// <summary>The id that opens a text, or -1 if the model has none, as T5's.</summary>
    public int BosId { get; }

    /// <summary>Reads a model file.</summary>
    /// <param name="path">A SentencePiece <c>.model</c> file.</param>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="InvalidTokenizerException">It is no SentencePiece unigram model, or it is damaged.</exception>
    public static SentencePieceTokenizer Open(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        if (Directory.Exists(path))
        {
            throw new InvalidTokenizerException(path, "it is a folder.");
        }

        if (!File.Exists(path))
        {
            throw new FileNotFoundException($"The tokenizer file '{path}' does not exist.", path);
        }

        return new SentencePieceTokenizer(path, File.ReadAllBytes(path));
    }

    /// <summary>Reads a model from memory.</summary>
    /// <param name="bytes">The contents of a SentencePiece <c>.model</c> file.</param>
    /// <exception cref="InvalidTokenizerException">It is no SentencePiece unigram model, or it is damaged.</exception>
    public static SentencePieceTokenizer Parse(ReadOnlySpan<byte> bytes) => new("memory", bytes);

    /// <summary>Encodes a text and closes it with the end-of-sequence token, as T5 wants it.</summary>
    /// <inheritdoc/>
    public IReadOnlyList<int> Encode(string text, int maxTokens)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(maxTokens, 1);
        var ids = Encode(text);
        if (EosId < 0)
        {
            return ids.Count > maxTokens ? ids.GetRange(0, maxTokens) : ids;
        }

        if (ids.Count >= maxTokens)
        {
            ids.RemoveRange(maxTokens - 1, ids.Count - maxTokens + 1);
        }

        ids.Add(EosId);
        return ids;
    }

    /// <summary>Encodes a text without any special token.</summary>
    /// <param name="text">Any text; unpaired surrogates count as U+FFFD.</param>
    /// <returns>The ids; none for white space only. Neighbouring unknown characters become one unknown id or, with byte fallback, their bytes'
    /// ids.</returns>
    public List<int> Encode(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        var ids = new List<int>();
        var afterUnknown = false;
        var normalized = _normalizer.Normalize(text);
        foreach (var (id, start, end) in BestPath(normalized))
        {
            var unknown = id == UnknownId;
            if (unknown && _model.ByteFallback)
            {
                foreach (var value in normalized[start..end])
                {
                    ids.Add(_byteIds[value]);
                }
            }
            else if (!unknown || !afterUnknown)
            {
                ids.Add(id);
            }

            afterUnknown = unknown;
        }

        return ids;
    }

    /// <summary>Turns ids back into text. Control tokens vanish, escaped spaces become spaces.</summary>
    /// <param name="ids">Ids of this vocabulary.</param>
    /// <exception cref="ArgumentOutOfRangeException">An id is not in the vocabulary.</exception>
    public string Decode(IEnumerable<int> ids)
    {
        ArgumentNullException.ThrowIfNull(ids);
        var bytes = new List<byte>();
        foreach (var id in ids)
        {
            if (id < 0 || id >= Count)
            {
                throw new ArgumentOutOfRangeException(nameof(ids), id, $"The vocabulary has the ids 0 to {Count - 1}.");
            }

            switch (_model.Pieces[id].Kind)
            {
                case PieceKind.Control:
                    break;
                case PieceKind.Unknown:
                    bytes.AddRange(Encoding.UTF8.GetBytes(_model.UnknownSurface));
                    break;
                case PieceKind.Byte:
                    bytes.Add((byte)SentencePieceModel.ByteOf(PieceText(id)));
                    break;
                default:
                    bytes.AddRange(_model.Pieces[id].Utf8);
                    break;
            }
        }

        var text = Encoding.UTF8.GetString([.. bytes]).Replace('\u2581', ' ');
        if (!_model.AddDummyPrefix)
        {
            return text;
        }

        if (_model.WhitespaceAsSuffix)
        {
            return text.EndsWith(' ') ? text[..^1] : text;
        }

        return text.StartsWith(' ') ? text[1..] : text;
    }

    /// <summary>Viterbi's algorithm over all pieces that the text can be cut into; a character without a piece of its own may be unknown.</summary>
    private List<(int Id, int Start, int End)> BestPath(ReadOnlySpan<byte> text)
    {
        // The best way to cut the text up to here: its score, its last piece and where that begins.
        var ends = new (float Score, int Id, int Start)[text.Length + 1];
        Array.Fill(ends, (0, -1, -1));
        for (var start = 0; start < text.Length; )
        {
            var before = ends[start].Score;
            var characterLength = Math.Min(CharacterLength(text[start]), text.Length - start);
            var hasCharacter = false;
            var walk = new PieceIndex.Walk(_index);
            while (start + walk.Length < text.Length && walk.Step(text[start + walk.Length], out var id))
            {
                if (id < 0 || _model.Pieces[id].Kind == PieceKind.Unused)
                {
                    continue;
                }
                // In double precision, as in the reference; what is kept is single.
                var score = _model.Pieces[id].Kind == PieceKind.UserDefined ? (walk.Length * _maxScore) - 0.1 : _model.Pieces[id].Score;
                Offer(ref ends[start + walk.Length], before + score, id, start);
                hasCharacter |= walk.Length == characterLength;
            }

            if (!hasCharacter)
            {
                Offer(ref ends[start + characterLength], before + _unknownScore, UnknownId, start);
            }

            start += characterLength;
        }

        var path = new List<(int, int, int)>();
        for (var end = text.Length; end > 0; end = ends[end].Start)
        {
            path.Add((ends[end].Id, ends[end].Start, end));
        }

        path.Reverse();
        return path;
    }

    private static void Offer(ref (float Score, int Id, int Start) end, double score, int id, int start)
    {
        if (end.Start < 0 || score > end.Score)
        {
            end = ((float)score, id, start);
        }
    }

    /// <summary>Bytes of the UTF-8 character that begins with this byte.</summary>
    private static int CharacterLength(byte first) =>
        first switch
        {
            < 0xC0 => 1,
            < 0xE0 => 2,
            < 0xF0 => 3,
            _ => 4,
        };

    private string PieceText(int id) => Encoding.UTF8.GetString(_model.Pieces[id].Utf8);
}
