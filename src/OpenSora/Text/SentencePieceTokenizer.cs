using System.Text;

namespace OpenSora.Text;

/// <summary>A SentencePiece unigram tokenizer that reads <c>.model</c> files, such as T5's <c>spiece.model</c>.</summary>
/// <remarks>
/// Kudo, Subword Regularization (2018): a text is segmented into the pieces with the largest sum of log probabilities, found by the Viterbi
/// algorithm. Instances are immutable and can be used from several threads at the same time.
/// </remarks>
internal sealed class SentencePieceTokenizer : ITokenizer
{
    /// <summary>The difference between the lowest log probability of a piece and that of an unknown character.</summary>
    private const float UnknownPenalty = 10;

    private readonly SentencePieceModel _model;
    private readonly SentencePieceNormalizer _normalizer;
    private readonly PieceIndex _index;
    private readonly int[] _byteIds = [];
    private readonly float _unknownScore;
    private readonly float _maxScore = 1.17549435e-38f; // smallest positive normal float, with which the reference initializes its maximum

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

    /// <summary>The number of pieces in the vocabulary.</summary>
    public int Count => _model.Pieces.Count;

    /// <summary>The id of the padding token, or of the unknown token if the model has no padding token. T5: 0.</summary>
    public int PadId { get; }

    /// <summary>The id of the end-of-sequence token, or -1 if the model has none. T5: 1.</summary>
    public int EosId { get; }

    /// <summary>The id of the unknown token, which represents text that the vocabulary cannot express. T5: 2.</summary>
    public int UnknownId { get; }

    /// <summary>The id of the beginning-of-sequence token, or -1 if the model has none, as in T5.</summary>
    public int BosId { get; }

    /// <summary>Loads a tokenizer from a model file.</summary>
    /// <param name="path">A SentencePiece <c>.model</c> file.</param>
    /// <exception cref="FileNotFoundException">The file does not exist.</exception>
    /// <exception cref="InvalidDataException">The file is damaged or is not a SentencePiece unigram model.</exception>
    public static SentencePieceTokenizer Open(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        if (Directory.Exists(path))
        {
            throw InvalidTokenizer.Of(path, "it is a folder.");
        }

        if (!File.Exists(path))
        {
            throw new FileNotFoundException($"The tokenizer file '{path}' does not exist.", path);
        }

        return new SentencePieceTokenizer(path, File.ReadAllBytes(path));
    }

    /// <summary>Loads a tokenizer from memory.</summary>
    /// <param name="bytes">The contents of a SentencePiece <c>.model</c> file.</param>
    /// <exception cref="InvalidDataException">The bytes are damaged or are not a SentencePiece unigram model.</exception>
    public static SentencePieceTokenizer Parse(ReadOnlySpan<byte> bytes) => new("memory", bytes);

    /// <summary>Encodes a text and appends the end-of-sequence token that T5 expects.</summary>
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

    /// <summary>Encodes a text without special tokens.</summary>
    /// <param name="text">Any text; unpaired surrogates are treated as U+FFFD.</param>
    /// <returns>The token ids; empty if the text contains only white space. Adjacent unknown characters are encoded as one unknown token or, with
    /// byte fallback, as the tokens of their bytes.</returns>
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

    /// <summary>Decodes token ids to text. Control tokens are omitted and escaped spaces become spaces.</summary>
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
                throw new ArgumentOutOfRangeException(nameof(ids), id, $"The ids of the vocabulary are 0 to {Count - 1}.");
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

    /// <summary>Runs the Viterbi algorithm over all segmentations of the text into pieces; a character without a piece can be unknown.</summary>
    private List<(int Id, int Start, int End)> BestPath(ReadOnlySpan<byte> text)
    {
        // The best segmentation of the text up to each position: its score, its last piece and the start of that piece.
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
                // Computed in double precision, as in the reference, and stored in single precision.
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

    /// <summary>Returns the number of bytes of the UTF-8 character that begins with this byte.</summary>
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
