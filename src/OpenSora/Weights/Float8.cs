namespace OpenSora.Weights;

/// <summary>The 8-bit floating-point types that are converted to float32 when they are read.</summary>
/// <remarks>Source: Micikevicius et al., "FP8 Formats for Deep Learning" (2022), table 1. Every value is exact in float32.</remarks>
internal static class Float8
{
    private static readonly float[] E4M3 = [.. Enumerable.Range(0, 256).Select(OfE4M3)];
    private static readonly float[] E5M2 = [.. Enumerable.Range(0, 256).Select(code => (float)BitConverter.UInt16BitsToHalf((ushort)(code << 8)))];

    /// <summary>Gets the values of all 256 codes of a type by its safetensors name, or null if it is not one of these types.</summary>
    public static float[]? ValuesOf(string type) =>
        type switch
        {
            "F8_E4M3" => E4M3,
            "F8_E5M2" => E5M2,
            _ => null,
        };

    // 4 bits of exponent with a bias of 7 and 3 bits of fraction. The largest magnitude is NaN; there are no infinities.
    private static float OfE4M3(int code)
    {
        var (sign, exponent, fraction) = (code < 128 ? 1f : -1f, (code >> 3) & 15, code & 7);
        return (exponent, fraction) switch
        {
            (15, 7) => float.NaN,
            (0, _) => sign * fraction * MathF.ScaleB(1, -9), // subnormal: fraction / 8 * 2^-6
            _ => sign * MathF.ScaleB(8 + fraction, exponent - 10), // (1 + fraction / 8) * 2^(exponent - 7)
        };
    }
}
