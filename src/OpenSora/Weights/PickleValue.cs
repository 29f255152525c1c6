namespace OpenSora.Weights;

/// <summary>A value in a pickle. Numbers are stored in the value itself, so that shapes allocate no objects.</summary>
/// <param name="Object">The object: a string, a <see cref="PickleTensor"/> or another object, a marker for one of the number kinds, or null for
/// None.</param>
/// <param name="Bits">The bits of a number.</param>
internal readonly record struct PickleValue(object? Object, long Bits = 0)
{
    private static readonly object WholeKind = new(),
        RealKind = new(),
        TruthKind = new();

    public static PickleValue Whole(long value) => new(WholeKind, value);

    public static PickleValue Real(double value) => new(RealKind, BitConverter.DoubleToInt64Bits(value));

    public static PickleValue Truth(bool value) => new(TruthKind, value ? 1 : 0);

    /// <summary>Creates a tuple. Its bits record whether it holds a tensor.</summary>
    public static PickleValue Tuple(PickleValue[] items) => new(items, Array.Exists(items, item => item.HoldsTensor) ? 1 : 0);

    /// <summary>Indicates whether the value is, or contains, a tensor or the storage of a tensor.</summary>
    public bool HoldsTensor =>
        Object switch
        {
            PickleTensor or PickleStorage => true,
            PickleValue[] => Bits != 0,
            PickleDictionary dictionary => dictionary.HoldsTensor,
            PickleList list => list.HoldsTensor,
            _ => false,
        };

    public bool IsWhole => ReferenceEquals(Object, WholeKind);

    /// <summary>The value as text if it is a string or a number; otherwise null.</summary>
    public string? Words =>
        Object switch
        {
            string text => text,
            _ when IsWhole => FormattableString.Invariant($"{Bits}"),
            _ when ReferenceEquals(Object, RealKind) => FormattableString.Invariant($"{BitConverter.Int64BitsToDouble(Bits)}"),
            _ when ReferenceEquals(Object, TruthKind) => Bits != 0 ? "true" : "false",
            _ => null,
        };
}

/// <summary>A dictionary with its items in the order of the pickle.</summary>
internal sealed class PickleDictionary
{
    private List<KeyValuePair<PickleValue, PickleValue>>? _items;

    public IReadOnlyList<KeyValuePair<PickleValue, PickleValue>> Items => _items ?? [];

    /// <summary>Indicates whether an item held a tensor when it was added.</summary>
    public bool HoldsTensor { get; private set; }

    public void Add(Allowance allowance, PickleValue key, PickleValue value)
    {
        allowance.Add(_items ??= [], KeyValuePair.Create(key, value));
        HoldsTensor |= key.HoldsTensor || value.HoldsTensor;
    }
}

/// <summary>A list or a set in a pickle.</summary>
internal sealed class PickleList
{
    private List<PickleValue>? _items;

    public IReadOnlyList<PickleValue> Items => _items ?? [];

    /// <summary>Indicates whether an item held a tensor when it was added.</summary>
    public bool HoldsTensor { get; private set; }

    public void Add(Allowance allowance, PickleValue value)
    {
        allowance.Add(_items ??= [], value);
        HoldsTensor |= value.HoldsTensor;
    }
}

/// <summary>A storage, the memory of one or more tensors: a record in the archive.</summary>
/// <param name="Type">The element type by its safetensors name, or null for bytes.</param>
/// <param name="Offset">The offset of the first byte in the file.</param>
/// <param name="Length">The length in bytes.</param>
internal sealed record PickleStorage(string? Type, long Offset, long Length);

/// <summary>A tensor in a pickle.</summary>
/// <param name="Type">The element type by its safetensors name.</param>
/// <param name="Shape">The shape.</param>
/// <param name="Strides">The strides in elements, or null if the tensor is contiguous.</param>
/// <param name="Offset">The offset of the first byte in the file.</param>
/// <param name="Length">The number of bytes from the first element to the end of the last element.</param>
internal sealed record PickleTensor(string Type, long[] Shape, long[]? Strides, long Offset, long Length);
