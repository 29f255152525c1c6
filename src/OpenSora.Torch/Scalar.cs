using OpenSora.Torch;

namespace TorchSharp;

/// <summary>A number or truth value as an operator's argument.</summary>
public sealed class Scalar : IDisposable
{
    private readonly Argument argument;

    internal Scalar(long value) => argument = value;

    internal Scalar(double value) => argument = value;

    internal Scalar(bool value) => argument = value;

    public torch.ScalarType Type => argument.Tag switch
    {
        Native.Tag.Int => torch.ScalarType.Int64,
        Native.Tag.Bool => torch.ScalarType.Bool,
        _ => torch.ScalarType.Float64,
    };

    public static implicit operator Scalar(byte value) => new((long)value);

    public static implicit operator Scalar(sbyte value) => new((long)value);

    public static implicit operator Scalar(short value) => new((long)value);

    public static implicit operator Scalar(int value) => new((long)value);

    public static implicit operator Scalar(long value) => new(value);

    public static implicit operator Scalar(float value) => new((double)value);

    public static implicit operator Scalar(double value) => new(value);

    public static implicit operator Scalar(bool value) => new(value);

    public void Dispose()
    {
    }

    internal Argument ToArgument() => argument;

    internal double AsDouble() => argument.Tag == Native.Tag.Double ? argument.D : argument.I;

    internal long AsLong() => argument.Tag == Native.Tag.Double ? (long)argument.D : argument.I;
}

public static class ScalarExtensionMethods
{
    public static Scalar ToScalar(this byte value) => value;

    public static Scalar ToScalar(this short value) => value;

    public static Scalar ToScalar(this int value) => value;

    public static Scalar ToScalar(this long value) => value;

    public static Scalar ToScalar(this float value) => value;

    public static Scalar ToScalar(this double value) => value;

    public static Scalar ToScalar(this bool value) => value;

    public static bool ToBoolean(this Scalar value) => value.AsDouble() != 0;

    public static int ToInt32(this Scalar value) => (int)value.AsLong();

    public static long ToInt64(this Scalar value) => value.AsLong();

    public static float ToSingle(this Scalar value) => (float)value.AsDouble();

    public static double ToDouble(this Scalar value) => value.AsDouble();
}
