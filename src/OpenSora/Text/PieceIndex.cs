namespace OpenSora.Text;

/// <summary>Finds the pieces that a text begins with: the pieces sorted by their bytes, narrowed byte by byte.</summary>
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

    /// <summary>The length of the longest piece that the text begins with, or 0.</summary>
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

    /// <summary>A walk along a text: the range of pieces that begin with the bytes seen.</summary>
    public struct Walk(PieceIndex index)
    {
        private int _low = 0;
        private int _high = index._pieces.Length;

        /// <summary>Bytes seen.</summary>
        public int Length { get; private set; } = 0;

        /// <summary>Takes one more byte; false if no piece goes on like this.</summary>
        /// <param name="next">The byte.</param>
        /// <param name="id">The piece that ends here, or -1.</param>
        public bool Step(byte next, out int id)
        {
            (_low, _high) = (Bound(next), Bound(next + 1));
            Length++;
            id = _low < _high && index._pieces[_low].Length == Length ? index._ids[_low] : -1;
            return _low < _high;
        }

        /// <summary>The first piece in the range whose next byte is at least <paramref name="value"/>.</summary>
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
