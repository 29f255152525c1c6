using System.Runtime.Intrinsics;

namespace OpenSora.Preparation.Scores;

/// <summary>The fractions of a clip that are black, and that repeat the frame before.</summary>
internal sealed class EmptyScore : IClipScore
{
    private const int DarkLuma = 25; // a tenth of white, and 98 % of the pixels: the values of ffmpeg's blackdetect
    private const double DarkPixels = 0.98;
    private const int Block = 16;
    private const double SameLuma = 2.5; // a re-encoded frozen image differs by less in every block, an object that moves by more in one

    public IReadOnlyList<ScoreColumn> Columns { get; } =
    [
        new("black", "The fraction of frames that are black, from 0 to 1."),
        new("frozen", "The fraction of frames in which nothing changes from the frame before, from 0 to 1."),
    ];

    public ValueTask<IReadOnlyList<ScoreValue>> ComputeAsync(ClipFrames frames, CancellationToken cancellationToken = default)
    {
        var (black, frozen) = (0, 0);
        for (var i = 0; i < frames.Count; i++)
        {
            cancellationToken.ThrowIfCancellationRequested();
            black += IsBlack(frames.Luma(i)) ? 1 : 0;
            frozen += i > 0 && IsSame(frames.Luma(i - 1), frames.Luma(i), frames.Width, frames.Height) ? 1 : 0;
        }

        return new([
            ScoreValue.Rounded((double)black / frames.Count),
            frames.Count < 2 ? ScoreValue.Missing : ScoreValue.Rounded((double)frozen / (frames.Count - 1)),
        ]);
    }

    private static bool IsBlack(ReadOnlySpan<byte> luma)
    {
        var allowed = (int)((1 - DarkPixels) * luma.Length);
        var i = 0;
        for (var bright = 0; ; i += Vector128<byte>.Count)
        {
            if (bright > allowed)
            {
                return false;
            }

            if (i > luma.Length - Vector128<byte>.Count)
            {
                foreach (var value in luma[i..])
                {
                    bright += value > DarkLuma ? 1 : 0;
                }

                return bright <= allowed;
            }

            var isBright = Vector128.GreaterThan(Vector128.Create(luma.Slice(i, Vector128<byte>.Count)), Vector128.Create((byte)DarkLuma));
            bright += int.PopCount((int)isBright.ExtractMostSignificantBits());
        }
    }

    // Columns at the right and rows at the bottom that do not fill a block are compared as part of one that overlaps its neighbor.
    private static bool IsSame(ReadOnlySpan<byte> before, ReadOnlySpan<byte> after, int width, int height)
    {
        if (width < Block || height < Block)
        {
            var sum = 0;
            for (var i = 0; i < before.Length; i++)
            {
                sum += Math.Abs(before[i] - after[i]);
            }

            return sum < SameLuma * before.Length;
        }

        for (var top = 0; top < height; top += Block)
        {
            for (var left = 0; left < width; left += Block)
            {
                var start = (Math.Min(top, height - Block) * width) + Math.Min(left, width - Block);
                var sums = Vector128<ushort>.Zero;
                for (var y = 0; y < Block; y++, start += width)
                {
                    var a = Vector128.Create(before.Slice(start, Block));
                    var b = Vector128.Create(after.Slice(start, Block));
                    var difference = Vector128.Max(a, b) - Vector128.Min(a, b);
                    sums += Vector128.WidenLower(difference) + Vector128.WidenUpper(difference);
                }

                var total = Vector128.Sum(Vector128.WidenLower(sums) + Vector128.WidenUpper(sums));
                if (total >= SameLuma * Block * Block)
                {
                    return false;
                }
            }
        }

        return true;
    }
}
