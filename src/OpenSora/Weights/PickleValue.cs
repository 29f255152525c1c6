namespace OpenSora.Weights;

/// <summary>A value of a pickle. Numbers stand in the value itself, so that shapes cost no objects.</summary>
/// <param name="Object">What it is: a text, a <see cref="PickleTensor"/> and so on, a mark for the kinds below, or null for None.</param>
/// <param name="Bits">A number's bits.</param>
internal readonly record struct PickleValue(object? Object, long Bits = 0)
{
    private static readonly object WholeKind = new(),
        RealKind = new(),
        TruthKind = new();

    public static PickleValue Whole(long value) => new(WholeKind, value);

    public static PickleValue Real(double value) => new(RealKind, BitConverter.DoubleToInt64Bits(value));

    public static PickleValue Truth(bool value) => new(TruthKind, value ? 1 : 0);

    public bool IsWhole => ReferenceEquals(Object, WholeKind);

    /// <summary>A text or number in words; null for everything else.</summary>
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

/// <summary>A dictionary in the order of its pickle.</summary>
internal sealed class PickleDictionary
{
    private List<KeyValuePair<PickleValue, PickleValue>>? _items;

    public IReadOnlyList<KeyValuePair<PickleValue, PickleValue>> Items => _items ?? [];

    public void Add(Allowance allowance, PickleValue key, PickleValue value) => allowance.Add(_items ??= [], KeyValuePair.Create(key, value));
}

/// <summary>A list or set.</summary>
internal sealed class PickleList
{
    private List<PickleValue>? _items;

    public IReadOnlyList<PickleValue> Items => _items ?? [];

    public void Add(Allowance allowance, PickleValue value) => allowance.Add(_items ??= [], value);
}

/// <summary>Memory of tensors: a record of the archive.</summary>
/// <param name="Type">The element type as safetensors names it; null for bytes.</param>
/// <param name="Offset">First byte in the file.</param>
/// <param name="Length">Length in bytes.</param>
internal sealed record PickleStorage(string? Type, long Offset, long Length);

/// <summary>A tensor of a pickle.</summary>
/// <param name="Type">The element type as safetensors names it.</param>
/// <param name="Shape">Its shape.</param>
/// <param name="Strides">Its strides in elements; null where the elements lie row by row without gaps.</param>
/// <param name="Offset">First byte in the file.</param>
/// <param name="Length">Bytes from the first element to the end of the last.</param>
internal sealed record PickleTensor(string Type, long[] Shape, long[]? Strides, long Offset, long Length);
