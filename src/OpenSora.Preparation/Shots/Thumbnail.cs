using System.Numerics.Tensors;

namespace OpenSora.Preparation.Shots;

/// <summary>A frame as <see cref="TransitionDetector"/> remembers it: a small picture and its contrast.</summary>
internal sealed class Thumbnail
{
    private const int Side = 20;
    private const int Plane = Side * Side;
    private readonly float[] _pixels = new float[3 * Plane]; // red, green, blue
    private readonly float[] _gray = new float[Plane]; // without its mean

    internal int Frame { get; private set; }

    internal TimeSpan Time { get; private set; }

    /// <summary>Gets the content score of the frame.</summary>
    internal double Content { get; private set; }

    /// <summary>Gets the mean brightness, from 0 to 255.</summary>
    internal double Mean { get; private set; }

    /// <summary>Gets the standard deviation of the brightness.</summary>
    internal double Contrast { get; private set; }

    /// <summary>Gets a value that indicates whether the picture is dark or bright all over.</summary>
    internal bool IsBlank => Contrast < 5 && Mean is < 22 or > 238;

    internal static AreaScale Scale(int width, int height) => new(width, height, Side, Side);

    internal void Set(ShotFrame frame, AreaScale scale, double content)
    {
        (Frame, Time, Content) = (frame.Index, frame.Time, content);
        var red = _pixels.AsSpan(0, Plane);
        var green = _pixels.AsSpan(Plane, Plane);
        var blue = _pixels.AsSpan(2 * Plane, Plane);
        scale.Apply(frame.Red, red);
        scale.Apply(frame.Green, green);
        scale.Apply(frame.Blue, blue);
        TensorPrimitives.Add(red, green, _gray);
        TensorPrimitives.Add(_gray, blue, _gray);
        TensorPrimitives.Multiply(_gray, 1 / 3f, _gray);
        Mean = TensorPrimitives.Sum<float>(_gray) / Plane;
        TensorPrimitives.Subtract(_gray, (float)Mean, _gray);
        Contrast = Math.Sqrt(TensorPrimitives.SumOfSquares<float>(_gray) / Plane);
    }

    /// <summary>Computes the root mean square of the difference from another picture.</summary>
    internal double DistanceTo(Thumbnail other) => TensorPrimitives.Distance<float>(_pixels, other._pixels) / Math.Sqrt(_pixels.Length);

    /// <summary>Computes the mean of the absolute differences from another picture divided by their root mean square.</summary>
    internal double SpreadTo(Thumbnail other)
    {
        Span<float> difference = stackalloc float[_pixels.Length];
        TensorPrimitives.Subtract(_pixels, other._pixels, difference);
        var square = TensorPrimitives.SumOfSquares<float>(difference) / difference.Length;
        return square > 0 ? TensorPrimitives.SumOfMagnitudes<float>(difference) / difference.Length / Math.Sqrt(square) : 0;
    }

    /// <summary>Computes the correlation of the brightness with that of another picture; 0 if one of them has no contrast.</summary>
    internal double CorrelationWith(Thumbnail other) =>
        Contrast < 3 || other.Contrast < 3 ? 0 : TensorPrimitives.Dot<float>(_gray, other._gray) / (Plane * Contrast * other.Contrast);

    /// <summary>Computes the picture as a mixture of two others.</summary>
    /// <returns>The part of the second picture, and the distance from the best mixture divided by that of the two pictures.</returns>
    internal (double Part, double Residual) Mixture(Thumbnail first, Thumbnail second, double distance)
    {
        // By the sides of the triangle of the three pictures.
        var (a, b) = (DistanceTo(first), DistanceTo(second));
        var part = ((a * a) - (b * b) + (distance * distance)) / (2 * distance * distance);
        return (part, Math.Sqrt(Math.Max(0, (a * a) - (part * part * distance * distance))) / distance);
    }
}
