namespace OpenSora.Text;

/// <summary>Finds the pieces that are prefixes of a text. The pieces are sorted by their bytes and the candidate range is narrowed byte by
/// byte.</summary>
internal sealed class PieceIndex
{
    private readonly byte[][] _pieces;
    private readonly int[] _ids;

    public PieceIndex(IEnumerable<(byte[] Utf8, int Id)> pieces)
    {
        var sorted = pieces.ToList();
        sorted.Sort((a, b) => a.Utf8.AsSpan().SequenceCompareTo(b.Utf8));
        _pieces = [.. sorted.Select(piece => piece.Utf8)];
        _ids = [.. sorted.Select(piece => piece.Id)];
    }

    /// <summary>Returns the length of the longest piece that is a prefix of the text, or 0.</summary>
    public int LongestPrefix(ReadOnlySpan<byte> text)
    {
        var longest = 0;
        var walk = new Walk(this);
        while (walk.Length < text.Length && walk.Step(text[walk.Length], out var id))
        {
            longest = id >= 0 ? walk.Length : longest;
        }

        return longest;
    }

    /// <summary>A traversal of a text that keeps the range of pieces that begin with the bytes read so far.</summary>
    public struct Walk(PieceIndex index)
    {
        private int _low = 0;
        private int _high = index._pieces.Length;

        /// <summary>The number of bytes read so far.</summary>
        public int Length { get; private set; } = 0;

        /// <summary>Reads one more byte. Returns false if no piece begins with the bytes read so far.</summary>
        /// <param name="next">The byte.</param>
        /// <param name="id">The id of the piece that ends at this byte, or -1.</param>
        public bool Step(byte next, out int id)
        {
            (_low, _high) = (Bound(next), Bound(next + 1));
            Length++;
            id = _low < _high && index._pieces[_low].Length == Length ? index._ids[_low] : -1;
            return _low < _high;
        }

        /// <summary>Returns the first piece in the range with a next byte of at least <paramref name="value"/>.</summary>
        private readonly int Bound(int value)
        {
            var (low, high) = (_low, _high);
            while (low < high)
            {
                var middle = (low + high) >>> 1;
                var piece = index._pieces[middle];
                if (piece.Length > Length && piece[Length] >= value)
                {
                    high = middle;
                }
                else
                {
                    low = middle + 1;
                }
            }

            return low;
        }
    }
}
