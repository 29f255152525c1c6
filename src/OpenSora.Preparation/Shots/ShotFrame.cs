namespace OpenSora.Preparation.Shots;

/// <summary>A frame of a video as shot detectors see it: at reduced size, with color planes that are computed when they are first used.</summary>
/// <remarks>A frame and its planes are valid until the detector returns; <see cref="Previous"/> is valid as long as the frame is. Detectors that need
/// pixels for longer must copy them.</remarks>
public sealed class ShotFrame
{
    private readonly byte[] _red;
    private readonly byte[] _green;
    private readonly byte[] _blue;
    private readonly byte[] _luma;
    private readonly byte[] _gray;
    private readonly byte[] _hue;
    private readonly byte[] _saturation;
    private readonly byte[] _value;
    private bool _hasLuma;
    private bool _hasHsv;
    private FrameDifference? _difference;

    internal ShotFrame(int width, int height)
    {
        (Width, Height) = (width, height);
        (_red, _green, _blue, _luma, _gray) = (Plane(), Plane(), Plane(), Plane(), Plane());
        (_hue, _saturation, _value) = (Plane(), Plane(), Plane());

        byte[] Plane() => Planes.Allocate(width * height);
    }

    /// <summary>Gets the index of the frame in the video, from 0.</summary>
    public int Index { get; private set; }

    /// <summary>Gets the presentation time, relative to the first frame of the video.</summary>
    public TimeSpan Time { get; private set; }

    /// <summary>Gets the width of the planes in pixels.</summary>
    public int Width { get; }

    /// <summary>Gets the height of the planes in pixels.</summary>
    public int Height { get; }

    /// <summary>Gets the frame before this one; null for the first frame of a video.</summary>
    public ShotFrame? Previous { get; private set; }

    /// <summary>Gets the red of the pixels, row by row.</summary>
    public ReadOnlySpan<byte> Red => _red.AsSpan(0, Pixels);

    /// <summary>Gets the green of the pixels, row by row.</summary>
    public ReadOnlySpan<byte> Green => _green.AsSpan(0, Pixels);

    /// <summary>Gets the blue of the pixels, row by row.</summary>
    public ReadOnlySpan<byte> Blue => _blue.AsSpan(0, Pixels);

    /// <summary>Gets the hue of the pixels in steps of two degrees (0 to 179), row by row.</summary>
    public ReadOnlySpan<byte> Hue => Hsv(_hue);

    /// <summary>Gets the saturation of the pixels (0 to 255), row by row.</summary>
    public ReadOnlySpan<byte> Saturation => Hsv(_saturation);

    /// <summary>Gets the value of the pixels, which is the largest of red, green and blue (0 to 255), row by row.</summary>
    public ReadOnlySpan<byte> Value => Hsv(_value);

    /// <summary>Gets the luma of the pixels (BT.601, 0 to 255), row by row.</summary>
    public ReadOnlySpan<byte> Luma
    {
        get
        {
            if (!_hasLuma)
            {
                Planes.ToLuma(_red, _green, _blue, _luma);
                _hasLuma = true;
            }

            return _luma.AsSpan(0, Pixels);
        }
    }

    /// <summary>Gets the gray picture that hashes are made of, which hardly differs from <see cref="Luma"/>.</summary>
    internal ReadOnlySpan<byte> Gray
    {
        get
        {
            Planes.ToGray(_red, _green, _blue, _gray);
            return _gray.AsSpan(0, Pixels);
        }
    }

    /// <summary>Gets the planes of red, green and blue with the margin that <see cref="Planes"/> needs, to fill them.</summary>
    internal (byte[] Red, byte[] Green, byte[] Blue) Color => (_red, _green, _blue);

    /// <summary>Gets the mean absolute differences of hue, saturation and value from the previous frame; zeros for the first frame.</summary>
    public FrameDifference Difference =>
        _difference ??= Previous is null
            ? default
            : new(Planes.Difference(Hue, Previous.Hue), Planes.Difference(Saturation, Previous.Saturation), Planes.Difference(Value, Previous.Value));

    private int Pixels => Width * Height;

    private ReadOnlySpan<byte> Hsv(byte[] plane)
    {
        if (!_hasHsv)
        {
            Planes.ToHsv(_red, _green, _blue, _hue, _saturation, _value);
            _hasHsv = true;
        }

        return plane.AsSpan(0, Pixels);
    }

    /// <summary>Starts to describe the next frame, after <see cref="Color"/> was filled with its pixels.</summary>
    internal void Set(int index, TimeSpan time, ShotFrame? previous)
    {
        (Index, Time, Previous) = (index, time, previous);
        (_hasHsv, _hasLuma, _difference) = (false, false, null);
        if (previous is not null)
        {
            previous.Previous = null;
        }
    }
}

/// <summary>The mean absolute differences of two frames in the HSV color space.</summary>
/// <param name="Hue">The difference of hue in steps of two degrees. Hues of 0 and 179 count as different, as in PySceneDetect.</param>
/// <param name="Saturation">The difference of saturation, from 0 to 255.</param>
/// <param name="Value">The difference of value, from 0 to 255.</param>
public readonly record struct FrameDifference(double Hue, double Saturation, double Value);
