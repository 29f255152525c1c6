using System.Buffers.Binary;
using System.Text;

namespace OpenSora.Text;

/// <summary>The kind of a piece. The values are those of the SentencePiece file format.</summary>
internal enum PieceKind
{
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// <summary>A piece of the vocabulary: its UTF-8 bytes, its log probability and its kind.</summary>
internal readonly record struct Piece(byte[] Utf8, float Score, PieceKind Kind);

/// <summary>The contents of a SentencePiece <c>.model</c> file: a protocol buffer with pieces, trainer settings and normalizer settings.</summary>
internal sealed class SentencePieceModel
{
    private const int Unigram = 1;

    private static readonly UTF8Encoding StrictUtf8 = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);

    private readonly string _path;

    private SentencePieceModel(string path) => _path = path;

    public List<Piece> Pieces { get; } = [];

    public int UnknownId { get; private set; } = -1;

    public bool ByteFallback { get; private set; }

    public bool WhitespaceAsSuffix { get; private set; }

    public string BosPiece { get; private set; } = "<s>";

    public string EosPiece { get; private set; } = "</s>";

    public string PadPiece { get; private set; } = "<pad>";

    public string UnknownSurface { get; private set; } = " \u2047 ";

    public byte[] Charsmap { get; private set; } = [];

    public bool AddDummyPrefix { get; private set; } = true;

    public bool RemoveExtraWhitespaces { get; private set; } = true;

    public bool EscapeWhitespaces { get; private set; } = true;

    public static SentencePieceModel Parse(string path, ReadOnlySpan<byte> bytes)
    {
        var model = new SentencePieceModel(path);
        try
        {
            var modelType = Unigram;
            var message = new ProtoReader(bytes);
            while (message.Next())
            {
                switch (message.Field)
                {
                    case 1:
                        model.Pieces.Add(ReadPiece(message.Bytes()));
                        break;
                    case 2:
                        modelType = model.ReadTrainer(message.Bytes());
                        break;
                    case 3:
                        model.ReadNormalizer(message.Bytes());
                        break;
                    default:
                        message.Skip();
                        break;
                }
            }

            model.Check(modelType);
        }
        catch (Exception exception) when (exception is InvalidDataException or DecoderFallbackException)
        {
            throw InvalidTokenizer.Of(path, exception.Message.TrimEnd('.') + ".");
        }

        return model;
    }

    private static Piece ReadPiece(ReadOnlySpan<byte> bytes)
    {
        byte[] utf8 = [];
        var score = 0f;
        var kind = PieceKind.Normal;
        var message = new ProtoReader(bytes);
        while (message.Next())
        {
            switch (message.Field)
            {
                case 1:
                    utf8 = message.Bytes().ToArray();
                    break;
                case 2:
                    score = message.Float();
                    break;
                case 3:
                    kind = (PieceKind)message.Int();
                    break;
                default:
                    message.Skip();
                    break;
            }
        }

        return new Piece(utf8, score, kind);
    }

    private int ReadTrainer(ReadOnlySpan<byte> bytes)
    {
        var modelType = Unigram;
        var message = new ProtoReader(bytes);
        while (message.Next())
        {
            switch (message.Field)
            {
                case 3:
                    modelType = message.Int();
                    break;
                case 24:
                    WhitespaceAsSuffix = message.Int() != 0;
                    break;
                case 35:
                    ByteFallback = message.Int() != 0;
                    break;
                case 44:
                    UnknownSurface = message.Text();
                    break;
                case 46:
                    BosPiece = message.Text();
                    break;
                case 47:
                    EosPiece = message.Text();
                    break;
                case 48:
                    PadPiece = message.Text();
                    break;
                default:
                    message.Skip();
                    break;
            }
        }

        return modelType;
    }

    private void ReadNormalizer(ReadOnlySpan<byte> bytes)
    {
        var message = new ProtoReader(bytes);
        while (message.Next())
        {
            switch (message.Field)
            {
                case 2:
                    Charsmap = message.Bytes().ToArray();
                    break;
                case 3:
                    AddDummyPrefix = message.Int() != 0;
                    break;
                case 4:
                    RemoveExtraWhitespaces = message.Int() != 0;
                    break;
                case 5:
                    EscapeWhitespaces = message.Int() != 0;
                    break;
                default:
                    message.Skip();
                    break;
            }
        }
    }

    private void Check(int modelType)
    {
        if (Pieces.Count == 0)
        {
            throw new InvalidDataException("it has no vocabulary");
        }

        if (modelType != Unigram)
        {
            throw new InvalidDataException($"it is a model of type {modelType} (2 = BPE, 3 = word, 4 = character), not a unigram model");
        }

        var seen = new HashSet<string>(StringComparer.Ordinal);
        var bytes = 0;
        for (var id = 0; id < Pieces.Count; id++)
        {
            var (utf8, score, kind) = Pieces[id];
            var text = StrictUtf8.GetString(utf8);
            if (text.Length == 0 || !seen.Add(text))
            {
                throw new InvalidDataException($"piece {id} is empty or a duplicate");
            }

            if (!float.IsFinite(score) || !Enum.IsDefined(kind))
            {
                throw new InvalidDataException($"piece {id} ('{text}') has the score {score} and the kind {(int)kind}");
            }

            if (kind == PieceKind.Unknown && UnknownId >= 0)
            {
                throw new InvalidDataException("it has two unknown pieces");
            }

            if (kind == PieceKind.Unknown)
            {
                UnknownId = id;
            }

            if (kind == PieceKind.Byte && ByteOf(text) < 0)
            {
                throw new InvalidDataException($"piece {id} ('{text}') is not a byte");
            }

            bytes += kind == PieceKind.Byte ? 1 : 0;
        }

        if (UnknownId < 0)
        {
            throw new InvalidDataException("it has no unknown piece");
        }

        if (bytes != (ByteFallback ? 256 : 0))
        {
            throw new InvalidDataException($"it has {bytes} byte pieces, with byte fallback {(ByteFallback ? "on" : "off")}");
        }
    }

    /// <summary>Returns the byte represented by a piece such as <c>&lt;0x0A&gt;</c>, or -1.</summary>
    public static int ByteOf(string piece) =>
        piece is ['<', '0', 'x', _, _, '>']
        && byte.TryParse(
            piece.AsSpan(3, 2),
            System.Globalization.NumberStyles.AllowHexSpecifier,
            System.Globalization.CultureInfo.InvariantCulture,
            out var value
        )
            ? value
            : -1;

    /// <summary>Reads the fields of a protocol buffer in sequence. Throws <see cref="InvalidDataException"/> if the bytes are not a valid protocol
    /// buffer.</summary>
    private ref struct ProtoReader(ReadOnlySpan<byte> bytes)
    {
        private ReadOnlySpan<byte> _rest = bytes;
        private int _wire;

        public int Field { get; private set; }

        public bool Next()
        {
            if (_rest.IsEmpty)
            {
                return false;
            }

            var key = Varint();
            Field = key >> 3 is > 0 and < 1 << 29 ? (int)(key >> 3) : throw Damaged();
            _wire = (int)(key & 7);
            return true;
        }

        public ReadOnlySpan<byte> Bytes()
        {
            Expect(2);
            var length = Varint();
            return length <= (ulong)_rest.Length ? Take((int)length) : throw Damaged();
        }

        public string Text() => StrictUtf8.GetString(Bytes());

        public int Int()
        {
            Expect(0);
            return unchecked((int)Varint());
        }

        public float Float()
        {
            Expect(5);
            return BinaryPrimitives.ReadSingleLittleEndian(Take(4));
        }

        public void Skip()
        {
            switch (_wire)
            {
                case 0:
                    Varint();
                    break;
                case 1:
                    Take(8);
                    break;
                case 2:
                    Bytes();
                    break;
                case 5:
                    Take(4);
                    break;
                default:
                    throw Damaged();
            }
        }

        private readonly void Expect(int wire)
        {
            if (_wire != wire)
            {
                throw Damaged();
            }
        }

        private ulong Varint()
        {
            ulong value = 0;
            for (var shift = 0; shift < 70; shift += 7)
            {
                var next = Take(1)[0];
                value |= shift < 64 ? (ulong)(next & 0x7F) << shift : 0;
                if (next < 0x80)
                {
                    return value;
                }
            }

            throw Damaged();
        }

        private ReadOnlySpan<byte> Take(int count)
        {
            if (count > _rest.Length)
            {
                throw Damaged();
            }

            var taken = _rest[..count];
            _rest = _rest[count..];
            return taken;
        }

        private static InvalidDataException Damaged() => new("it is not a SentencePiece file, or it is damaged or truncated");
    }
}
