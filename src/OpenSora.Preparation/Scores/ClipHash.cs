using System.Globalization;
using System.Numerics;
using System.Numerics.Tensors;

namespace OpenSora.Preparation.Scores;

/// <summary>A perceptual hash of a clip: 64 bits for each of four frames. Clips that look alike differ in few bits.</summary>
/// <param name="First">The hash of the frame in the middle of the first quarter.</param>
/// <param name="Second">The hash of the frame in the middle of the second quarter.</param>
/// <param name="Third">The hash of the frame in the middle of the third quarter.</param>
/// <param name="Fourth">The hash of the frame in the middle of the fourth quarter.</param>
public readonly record struct ClipHash(ulong First, ulong Second, ulong Third, ulong Fourth)
{
    /// <summary>The number of bits.</summary>
    public const int Bits = 256;

    /// <summary>Returns the number of bits in which two hashes differ, from 0 to 256.</summary>
    /// <param name="other">The other hash.</param>
    public int Distance(ClipHash other) =>
        BitOperations.PopCount(First ^ other.First)
        + BitOperations.PopCount(Second ^ other.Second)
        + BitOperations.PopCount(Third ^ other.Third)
        + BitOperations.PopCount(Fourth ^ other.Fourth);

    /// <summary>Reads a hash from 64 hexadecimal digits, as the column <c>hash</c> contains it.</summary>
    /// <param name="text">The digits.</param>
    /// <exception cref="FormatException">The text is not a hash.</exception>
    public static ClipHash Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        return text.Length == 64 && Part(0, out var first) && Part(1, out var second) && Part(2, out var third) && Part(3, out var fourth)
            ? new(first, second, third, fourth)
            : throw new FormatException($"Expected a hash of 64 hexadecimal digits, but it is '{text}'. Compute the column 'hash' again.");

        bool Part(int index, out ulong value) =>
            ulong.TryParse(text.AsSpan(16 * index, 16), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out value);
    }

    /// <summary>Returns the hash as 64 hexadecimal digits.</summary>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{First:x16}{Second:x16}{Third:x16}{Fourth:x16}");
}

/// <summary>The perceptual hash of a clip, with which near-duplicates are found across a set.</summary>
/// <remarks>The sign of the 64 lowest frequencies of each frame, about their median ("pHash"; Zauner, "Implementation and Benchmarking of Perceptual
/// Image
/// Hash Functions", 2010). They survive another size, bit rate and brightness.</remarks>
internal sealed class HashScore : IClipScore
{
    private const int Side = 32;
    private const int Frequencies = 64;
    private const float Flat = 2f; // the mean absolute frequency of an image that shows nothing

    private static readonly (int Row, int Column)[] Lowest =
    [
        .. (
            from row in Enumerable.Range(0, Side)
            from column in Enumerable.Range(0, Side)
            where row + column > 0
            orderby (row * row) + (column * column), row
            select (row, column)
        ).Take(Frequencies),
    ];

    private static readonly int Highest = Lowest.Max(each => Math.Max(each.Row, each.Column)) + 1;

    private static readonly float[] Cosines =
    [
        .. from frequency in Enumerable.Range(0, Highest)
        from x in Enumerable.Range(0, Side)
        select MathF.Cos(MathF.PI * frequency * (x + 0.5f) / Side),
    ];

    public IReadOnlyList<ScoreColumn> Columns { get; } =
    [new("hash", "A perceptual hash of four frames, 64 hexadecimal digits. Clips that look alike differ in few bits.", IsText: true)];

    public ValueTask<IReadOnlyList<ScoreValue>> ComputeAsync(ClipFrames frames, CancellationToken cancellationToken = default)
    {
        var parts = new ulong[4];
        for (var i = 0; i < parts.Length; i++)
        {
            parts[i] = Hash(frames.Luma(((2 * i) + 1) * frames.Count / 8), frames.Width, frames.Height);
        }

        return new([new ClipHash(parts[0], parts[1], parts[2], parts[3]).ToString()]);
    }

    /// <summary>Returns the hash of an image; 0 for one that shows nothing.</summary>
    internal static ulong Hash(ReadOnlySpan<byte> luma, int width, int height)
    {
        var image = Pixels.Average(luma, width, height, 1, Side, Side);

        // A discrete cosine transform of the rows, then of the columns, for the lowest frequencies alone.
        var rows = new float[Side * Highest];
        for (var y = 0; y < Side; y++)
        {
            for (var frequency = 0; frequency < Highest; frequency++)
            {
                rows[(frequency * Side) + y] = TensorPrimitives.Dot<float>(image.AsSpan(y * Side, Side), Cosines.AsSpan(frequency * Side, Side));
            }
        }

        var values = new float[Frequencies];
        for (var i = 0; i < Frequencies; i++)
        {
            values[i] = TensorPrimitives.Dot<float>(rows.AsSpan(Lowest[i].Column * Side, Side), Cosines.AsSpan(Lowest[i].Row * Side, Side)) / Side;
        }

        if (values.Sum(MathF.Abs) < Flat * Frequencies)
        {
            return 0;
        }

        var sorted = values.Order().ToArray();
        var median = (sorted[(Frequencies / 2) - 1] + sorted[Frequencies / 2]) / 2;
        var hash = 0UL;
        for (var i = 0; i < Frequencies; i++)
        {
            hash |= values[i] > median ? 1UL << i : 0;
        }

        return hash;
    }
}
