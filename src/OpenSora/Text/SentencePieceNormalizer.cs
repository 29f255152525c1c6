using System.Buffers;
using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text;

namespace OpenSora.Text;

/// <summary>
/// Normalizes text for a SentencePiece model: applies the longest matching rule of its character map at every position, collapses white space and
/// escapes it as U+2581.
/// </summary>
internal sealed class SentencePieceNormalizer
{
    private static readonly byte[] Space = [(byte)' '];
    private static readonly byte[] EscapedSpace = [0xE2, 0x96, 0x81]; // U+2581

    private readonly SentencePieceModel _model;
    private readonly PieceIndex _userDefined;

    // The character map: a double-array trie (in the layout of Darts-clone) that maps byte sequences to offsets of zero-terminated strings in
    // _replacements.
    private readonly uint[] _trie = [];
    private readonly byte[] _replacements = [];

    /// <exception cref="InvalidDataException">The character map is damaged.</exception>
    public SentencePieceNormalizer(string path, SentencePieceModel model, PieceIndex userDefined)
    {
        _model = model;
        _userDefined = userDefined;
        if (model.Charsmap.Length == 0)
        {
            return;
        }

        var damaged = InvalidTokenizer.Of(path, "its character map is damaged.");
        var blob = model.Charsmap.AsSpan();
        if (blob.Length < 4)
        {
            throw damaged;
        }

        var trieBytes = BinaryPrimitives.ReadUInt32LittleEndian(blob);
        if (trieBytes == 0 || trieBytes % 4 != 0 || trieBytes >= (uint)blob.Length - 4 || blob[^1] != 0)
        {
            throw damaged;
        }

        _trie = MemoryMarshal.Cast<byte, uint>(blob.Slice(4, (int)trieBytes)).ToArray();
        _replacements = blob[(4 + (int)trieBytes)..].ToArray();
        foreach (var unit in _trie)
        {
            if (unit >> 31 == 1 && (unit & 0x7FFF_FFFF) >= _replacements.Length)
            {
                throw damaged;
            }
        }
    }

    /// <summary>Normalizes text to UTF-8. The result is empty if the text contains only white space.</summary>
    public ReadOnlySpan<byte> Normalize(string text)
    {
        ReadOnlySpan<byte> input = Encoding.UTF8.GetBytes(text);
        var output = new ArrayBufferWriter<byte>(Math.Max(16, input.Length * 2));
        var space = _model.EscapeWhitespaces ? EscapedSpace : Space;
        var collapse = _model.RemoveExtraWhitespaces;

        while (collapse && !input.IsEmpty && Rewrite(input, out var consumed).SequenceEqual(Space))
        {
            input = input[consumed..];
        }

        if (input.IsEmpty)
        {
            return [];
        }

        if (_model.AddDummyPrefix && !_model.WhitespaceAsSuffix)
        {
            output.Write(space);
        }

        var afterSpace = collapse;
        while (!input.IsEmpty)
        {
            var rewritten = Rewrite(input, out var consumed);
            input = input[consumed..];
            if (afterSpace)
            {
                rewritten = rewritten.TrimStart((byte)' ');
            }

            foreach (var value in rewritten)
            {
                if (value == ' ')
                {
                    output.Write(space);
                }
                else
                {
                    output.Write([value]);
                }
            }

            afterSpace = collapse && (rewritten.IsEmpty ? afterSpace : rewritten[^1] == ' ');
        }

        var result = output.WrittenSpan;
        while (collapse && result.EndsWith(space))
        {
            result = result[..^space.Length];
        }

        if (!_model.AddDummyPrefix || !_model.WhitespaceAsSuffix)
        {
            return result;
        }

        return (byte[])[.. result, .. space];
    }

    /// <summary>Rewrites the beginning of the input with the longest matching rule; a character without a rule is kept.</summary>
    private ReadOnlySpan<byte> Rewrite(ReadOnlySpan<byte> input, out int consumed)
    {
        consumed = _userDefined.LongestPrefix(input);
        if (consumed > 0)
        {
            return input[..consumed];
        }

        var replacement = 0;
        uint position = 0;
        for (var i = 0; position < _trie.Length; i++)
        {
            // A unit contains its own label (low byte), whether a value follows (bit 8) and the offset of its children (from bit 10; bit 9 scales
            // it).
            var unit = _trie[position];
            if (i > 0 && (unit & 0x8000_00FF) != input[i - 1])
            {
                break;
            }

            position ^= (unit >> 10) << (int)((unit & (1u << 9)) >> 6);
            if (i > 0 && (unit & (1u << 8)) != 0 && position < _trie.Length)
            {
                replacement = (int)(_trie[position] & 0x7FFF_FFFF);
                consumed = i;
            }

            if (i == input.Length)
            {
                break;
            }

            position ^= input[i];
        }

        if (consumed > 0 && replacement < _replacements.Length)
        {
            var rest = _replacements.AsSpan(replacement);
            return rest[..rest.IndexOf((byte)0)];
        }

        Rune.DecodeFromUtf8(input, out _, out consumed);
        return input[..consumed];
    }
}
