using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Runtime;

/// <summary>Arithmetic between tensors and numbers that is safe while the garbage collector runs.</summary>
/// <remarks>
/// <para>TorchSharp converts each number to a <see cref="Scalar"/>, a small object whose finalizer frees the native number. TorchSharp's methods
/// pass the native pointer to libtorch and do not keep the object alive: a garbage collection on another thread can free the number while libtorch
/// reads it. The operation then fails with "Expected false to be true", or silently uses a wrong number. <c>tensor + tensor</c> is affected too,
/// because TorchSharp adds <c>1 * tensor</c>. The methods here keep every scalar alive until the operation returns.</para>
/// <para>Differences, products and quotients of two tensors use no scalar, so their operators are safe. A test reads the compiled libraries and
/// fails if other code calls a method of TorchSharp that takes or creates a scalar.</para>
/// </remarks>
internal static class TensorArithmetic
{
    private static readonly Scalar One = 1;
    private static readonly Scalar Two = 2;

    /// <summary>x + y.</summary>
    public static Tensor Plus(this Tensor x, Tensor y) => x.add(y, One);

    /// <summary>x + y.</summary>
    public static Tensor Plus(this Tensor x, Scalar y) => Keep(y, x.add(y, One));

    /// <summary>x + a b.</summary>
    public static Tensor PlusProduct(this Tensor x, Tensor a, Tensor b) => x.addcmul(a, b, One);

    /// <summary>x - y.</summary>
    public static Tensor Minus(this Tensor x, Scalar y) => Keep(y, x.sub(y));

    /// <summary>1 - x.</summary>
    public static Tensor OneMinus(Tensor x) => x.negative().add(One, One);

    /// <summary>x y.</summary>
    public static Tensor Times(this Tensor x, Scalar y) => Keep(y, x.mul(y));

    /// <summary>x / y.</summary>
    public static Tensor Over(this Tensor x, Scalar y) => Keep(y, x.div(y));

    /// <summary>x².</summary>
    public static Tensor Squared(this Tensor x) => x.pow(Two);

    /// <summary>x to the power of an exponent.</summary>
    public static Tensor Power(this Tensor x, Scalar exponent) => Keep(exponent, x.pow(exponent));

    /// <summary>Limits values to a range.</summary>
    public static Tensor Clamp(this Tensor x, Scalar low, Scalar high) => Keep(low, Keep(high, x.clamp(low, high)));

    /// <summary>Replaces lower values by a limit.</summary>
    public static Tensor ClampMin(this Tensor x, Scalar low) => Keep(low, x.clamp_min(low));

    /// <summary>Replaces higher values by a limit.</summary>
    public static Tensor ClampMax(this Tensor x, Scalar high) => Keep(high, x.clamp_max(high));

    /// <summary>x = y, for each value.</summary>
    public static Tensor EqualTo(this Tensor x, Scalar y) => Keep(y, x.eq(y));

    /// <summary>x ≠ y, for each value.</summary>
    public static Tensor NotEqualTo(this Tensor x, Scalar y) => Keep(y, x.ne(y));

    /// <summary>x &lt; y, for each value.</summary>
    public static Tensor LessThan(this Tensor x, Scalar y) => Keep(y, x.lt(y));

    /// <summary>x &gt; y, for each value.</summary>
    public static Tensor GreaterThan(this Tensor x, Scalar y) => Keep(y, x.gt(y));

    /// <summary>x ≥ y, for each value.</summary>
    public static Tensor AtLeast(this Tensor x, Scalar y) => Keep(y, x.ge(y));

    /// <summary>Replaces the values where a mask is true.</summary>
    public static Tensor MaskedFill(this Tensor x, Tensor mask, Scalar value) => Keep(value, x.masked_fill(mask, value));

    /// <summary>Adds y to x in place.</summary>
    public static Tensor AddInPlace(this Tensor x, Tensor y) => x.add_(y, One);

    /// <summary>Adds a y to x in place.</summary>
    public static Tensor AddInPlace(this Tensor x, Tensor y, Scalar a) => Keep(a, x.add_(y, a));

    /// <summary>Adds y to x in place.</summary>
    public static Tensor AddInPlace(this Tensor x, Scalar y) => Keep(y, x.add_(y, One));

    /// <summary>Adds a b to x in place.</summary>
    public static Tensor AddProductInPlace(this Tensor x, Tensor a, Tensor b) => x.addcmul_(a, b, One);

    /// <summary>Adds c a b to x in place.</summary>
    public static Tensor AddProductInPlace(this Tensor x, Tensor a, Tensor b, Scalar c) => Keep(c, x.addcmul_(a, b, c));

    /// <summary>Adds c a / b to x in place.</summary>
    public static Tensor AddQuotientInPlace(this Tensor x, Tensor a, Tensor b, Scalar c) => Keep(c, x.addcdiv_(a, b, c));

    /// <summary>Multiplies x by y in place.</summary>
    public static Tensor MultiplyInPlace(this Tensor x, Scalar y) => Keep(y, x.mul_(y));

    /// <summary>Sets all values of x in place.</summary>
    public static Tensor FillInPlace(this Tensor x, Scalar value) => Keep(value, x.fill_(value));

    /// <summary>Creates a tensor with the same value everywhere.</summary>
    public static Tensor Full(long[] shape, Scalar value, ScalarType dtype, Device? device = null) => Keep(value, full(shape, value, dtype, device));

    /// <summary>Creates a tensor with the numbers from a first one up to, but without, a last one.</summary>
    public static Tensor Range(Scalar first, Scalar last, ScalarType? dtype = null, Device? device = null) =>
        Keep(first, Keep(last, arange(first, last, One, dtype, device)));

    // The argument of the call that follows the operation keeps the scalar alive during the operation.
    private static Tensor Keep(Scalar scalar, Tensor result)
    {
        GC.KeepAlive(scalar);
        return result;
    }
}
