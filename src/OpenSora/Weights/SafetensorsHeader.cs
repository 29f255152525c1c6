using System.Buffers;
using System.Buffers.Binary;
using System.Collections.Frozen;
using System.Text;
using System.Text.Json;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Weights;

/// <summary>A description of one tensor in a weights file.</summary>
/// <param name="Name">The name of the tensor.</param>
/// <param name="Type">The element type by its safetensors name, such as <c>F32</c>.</param>
/// <param name="Shape">The shape of the tensor; empty for a scalar.</param>
/// <param name="Offset">The offset of the first byte from the start of the file.</param>
/// <param name="Length">The length in bytes, from the first element to the end of the last element.</param>
public sealed record TensorEntry(string Name, string Type, IReadOnlyList<long> Shape, long Offset, long Length)
{
    /// <summary>The stride of each dimension in elements, or null if the tensor is contiguous.</summary>
    public IReadOnlyList<long>? Strides { get; init; }

    /// <summary>The shard that contains the tensor, or null if the weights are in a single file.</summary>
    public string? Shard { get; init; }

    /// <summary>The dtype that the tensor is read with, or null if the element type is not supported. The 8-bit floating-point types
    /// <c>F8_E4M3</c> and <c>F8_E5M2</c> are read as float32.</summary>
    public ScalarType? Dtype => Float8.ValuesOf(Type) is null ? SafetensorsHeader.TypeOf(Type).Dtype : ScalarType.Float32;

    /// <summary>The number of elements.</summary>
    public long Elements => Shape.Aggregate(1L, (product, size) => product * size);
}

/// <summary>The header of a safetensors file: an 8-byte length, followed by JSON with the type, shape and position of every tensor.</summary>
internal static class SafetensorsHeader
{
    public const int PrefixLength = 8;

    /// <summary>The limit that the format sets for the length of the JSON part, in bytes.</summary>
    public const int MaxLength = 100_000_000;

    /// <summary>The name of the entry that contains key-value pairs instead of a tensor.</summary>
    public const string MetadataName = "__metadata__";

    public const int MaxDimensions = 64;

    private static readonly FrozenDictionary<string, (int Size, ScalarType? Dtype)> Types = new Dictionary<string, (int, ScalarType?)>(
        StringComparer.Ordinal
    )
    {
        ["BOOL"] = (1, ScalarType.Bool),
        ["U8"] = (1, ScalarType.Byte),
        ["I8"] = (1, ScalarType.Int8),
        ["I16"] = (2, ScalarType.Int16),
        ["I32"] = (4, ScalarType.Int32),
        ["I64"] = (8, ScalarType.Int64),
        ["F16"] = (2, ScalarType.Float16),
        ["BF16"] = (2, ScalarType.BFloat16),
        ["F32"] = (4, ScalarType.Float32),
        ["F64"] = (8, ScalarType.Float64),
        ["U16"] = (2, null),
        ["U32"] = (4, null),
        ["U64"] = (8, null),
        ["F8_E4M3"] = (1, null),
        ["F8_E5M2"] = (1, null),
        ["F8_E8M0"] = (1, null),
        ["F8_E4M3FNUZ"] = (1, null),
        ["F8_E5M2FNUZ"] = (1, null),
        ["C32"] = (4, null),
        ["C64"] = (8, null),
        ["C128"] = (16, null),
    }.ToFrozenDictionary(StringComparer.Ordinal);

    private static readonly SearchValues<byte> TypeCharacters = SearchValues.Create(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_"u8
    );

    /// <summary>Gets the size of an element in bytes (0 for an unknown type, and for types that share bytes, such as F4) and the corresponding tensor
    /// dtype (null if not supported).</summary>
    public static (int Size, ScalarType? Dtype) TypeOf(string name) => Types.GetValueOrDefault(name);

    /// <summary>Gets the safetensors name of a dtype, or null if the format does not support it.</summary>
    public static string? NameOf(ScalarType dtype) => Types.FirstOrDefault(type => type.Value.Dtype == dtype).Key;

    /// <summary>Determines whether a file begins with a safetensors header: a length that fits in the file, followed by an opening brace.</summary>
    public static bool Begins(MappedFile file) =>
        file.Length > PrefixLength
        && BinaryPrimitives.ReadUInt64LittleEndian(file.Bytes(0, PrefixLength)) <= (ulong)(file.Length - PrefixLength)
        && file.Bytes(PrefixLength, 1)[0] == (byte)'{';

    /// <summary>Parses a header and validates it against the length of the file.</summary>
    /// <param name="path">The path of the file, for error messages.</param>
    /// <param name="json">The JSON part of the header, in UTF-8.</param>
    /// <param name="fileLength">The length of the file in bytes.</param>
    /// <param name="allowance">The limit on allocations.</param>
    /// <param name="metadata">The key-value pairs stored in the header.</param>
    /// <returns>The tensors, ordered by their position in the file.</returns>
    public static OrderedDictionary<string, TensorEntry> Parse(
        string path,
        ReadOnlySpan<byte> json,
        long fileLength,
        Allowance allowance,
        out IReadOnlyDictionary<string, string> metadata
    )
    {
        var entries = new List<TensorEntry>();
        var pairs = new Dictionary<string, string>(StringComparer.Ordinal);
        var dataStart = PrefixLength + (long)json.Length;
        try
        {
            var reader = new Utf8JsonReader(json, new JsonReaderOptions { MaxDepth = 4 });
            Expect(reader.Read() && reader.TokenType == JsonTokenType.StartObject, "the header must be one JSON object");
            while (Next(ref reader) == JsonTokenType.PropertyName)
            {
                var name = Text(ref reader, allowance);
                if (string.Equals(name, MetadataName, StringComparison.Ordinal))
                {
                    ReadMetadata(ref reader, allowance, pairs);
                }
                else
                {
                    allowance.Add(entries, ReadEntry(ref reader, name, dataStart, fileLength));
                }
            }

            Expect(!reader.Read(), "the header's JSON object is followed by other text");
        }
        catch (Exception exception) when (exception is JsonException or InvalidOperationException or FormatException)
        {
            throw new InvalidWeightsException(path, $"the header is not valid: {InvalidWeightsException.Shown(exception.Message, 1500)}", exception);
        }

        entries.Sort((a, b) => a.Offset != b.Offset ? a.Offset.CompareTo(b.Offset) : a.Length.CompareTo(b.Length));
        allowance.Expect(48L * entries.Count);
        var byName = new OrderedDictionary<string, TensorEntry>(entries.Count, StringComparer.Ordinal);
        var end = dataStart;
        foreach (var entry in entries)
        {
            if (!byName.TryAdd(entry.Name, entry))
            {
                throw new InvalidWeightsException(path, $"the header is not valid: it names '{InvalidWeightsException.Shown(entry.Name)}' twice.");
            }

            if (entry.Offset < end)
            {
                throw new InvalidWeightsException(
                    path,
                    $"tensor '{InvalidWeightsException.Shown(entry.Name)}' overlaps the previous tensor: "
                        + $"it starts at byte {entry.Offset}, but the previous tensor ends at byte {end}."
                );
            }

            if (entry.Offset > end)
            {
                throw new InvalidWeightsException(
                    path,
                    $"there is a gap of {entry.Offset - end} bytes before tensor '{InvalidWeightsException.Shown(entry.Name)}'."
                );
            }

            end = entry.Offset + entry.Length;
        }

        if (end != fileLength)
        {
            throw new InvalidWeightsException(path, $"the file is {fileLength} bytes long, but its tensors end at byte {end}.");
        }

        metadata = pairs;
        return byName;
    }

    /// <summary>Computes the number of bytes that a tensor of this shape and these strides spans. Returns false if that number, or a contiguous
    /// stride of the shape, does not fit in 63 bits.</summary>
    public static bool TrySpan(ReadOnlySpan<long> shape, ReadOnlySpan<long> strides, int size, out long bytes)
    {
        Int128 last = 0;
        var isEmpty = false;
        for (var i = 0; i < shape.Length; i++)
        {
            isEmpty |= shape[i] == 0;
            last += (Int128)strides[i] * Math.Max(shape[i] - 1, 0);
        }

        var fits = TryCount(shape, size, out _) && (last + 1) * size <= long.MaxValue;
        bytes = isEmpty || !fits ? 0 : (long)(last + 1) * size;
        return fits;
    }

    private static TensorEntry ReadEntry(ref Utf8JsonReader reader, string name, long dataStart, long fileLength)
    {
        string? type = null;
        Span<long> shape = stackalloc long[MaxDimensions],
            offsets = stackalloc long[2];
        var (dimensions, ends) = (-1, -1);
        Expect(Next(ref reader) == JsonTokenType.StartObject, "a tensor must be described by a JSON object", name);
        while (Next(ref reader) == JsonTokenType.PropertyName)
        {
            if (type is null && reader.ValueTextEquals("dtype"u8))
            {
                Expect(Next(ref reader) == JsonTokenType.String, "its dtype must be a string", name);
                type = Type(ref reader);
                if (type is null)
                {
                    throw new FormatException($"the dtype of '{InvalidWeightsException.Shown(name)}' is not a name: '{Start(ref reader)}'.");
                }
            }
            else if (dimensions < 0 && reader.ValueTextEquals("shape"u8))
            {
                dimensions = ReadNumbers(ref reader, name, shape);
            }
            else if (ends < 0 && reader.ValueTextEquals("data_offsets"u8))
            {
                ends = ReadNumbers(ref reader, name, offsets);
            }
            else
            {
                throw new FormatException(
                    $"tensor '{InvalidWeightsException.Shown(name)}' has an unknown or repeated property '{Start(ref reader)}'."
                );
            }
        }

        Expect(type is not null && dimensions >= 0 && ends == 2, "it needs a dtype, a shape and two data_offsets", name);
        shape = shape[..dimensions];
        var (begin, end) = (offsets[0], offsets[1]);
        if (begin > end || end > fileLength - dataStart)
        {
            throw new FormatException(
                $"tensor '{InvalidWeightsException.Shown(name)}' declares bytes {begin} to {end}, "
                    + $"but the file contains {fileLength - dataStart} bytes of data; it is truncated or damaged."
            );
        }

        var size = TypeOf(type!).Size;
        Expect(TryCount(shape, Math.Max(size, 1), out var bytes), "its shape is too large", name);
        if (size == 0)
        {
            bytes = end - begin; // not known; such a tensor can be listed, but not read
        }
        else if (bytes != end - begin)
        {
            throw new FormatException(
                $"tensor '{InvalidWeightsException.Shown(name)}' of shape [{string.Join(", ", shape.ToArray())}] and dtype {type} "
                    + $"needs {bytes} bytes, but its data_offsets give {end - begin}."
            );
        }

        return new TensorEntry(name, type!, shape.ToArray(), dataStart + begin, bytes);
    }

    private static void ReadMetadata(ref Utf8JsonReader reader, Allowance allowance, Dictionary<string, string> pairs)
    {
        Expect(pairs.Count == 0 && Next(ref reader) == JsonTokenType.StartObject, "__metadata__ must be one JSON object");
        while (Next(ref reader) == JsonTokenType.PropertyName)
        {
            var key = Text(ref reader, allowance);
            Expect(Next(ref reader) == JsonTokenType.String, "a value of __metadata__ must be a string", key);
            allowance.Expect(96L + (64L * pairs.Count)); // the dictionary may need to grow
            Expect(pairs.TryAdd(key, Text(ref reader, allowance)), "__metadata__ contains this key twice", key);
        }
    }

    private static int ReadNumbers(ref Utf8JsonReader reader, string name, scoped Span<long> numbers)
    {
        var count = 0;
        Expect(Next(ref reader) == JsonTokenType.StartArray, "its shape and data_offsets must be arrays", name);
        while (Next(ref reader) == JsonTokenType.Number)
        {
            Expect(reader.TryGetInt64(out var number) && number >= 0, "its shape and data_offsets must be non-negative integers", name);
            Expect(count < numbers.Length, "its shape or data_offsets are too long", name);
            numbers[count++] = number;
        }

        Expect(reader.TokenType == JsonTokenType.EndArray, "its shape and data_offsets must contain only numbers", name);
        return count;
    }

    /// <summary>Reads a string in the header.</summary>
    private static string Text(ref Utf8JsonReader reader, Allowance allowance)
    {
        allowance.Expect(64 + (2L * reader.ValueSpan.Length));
        return reader.GetString()!;
    }

    /// <summary>Gets the start of the current string, for error messages.</summary>
    private static string Start(ref Utf8JsonReader reader) =>
        InvalidWeightsException.Shown(Encoding.UTF8.GetString(reader.ValueSpan[..Math.Min(reader.ValueSpan.Length, 200)]));

    /// <summary>Gets the name of an element type, without allocating a string for known types. Returns null if the text cannot be such a
    /// name.</summary>
    private static string? Type(ref Utf8JsonReader reader)
    {
        const int longest = 32;
        foreach (var name in Types.Keys)
        {
            if (reader.ValueTextEquals(name))
            {
                return name;
            }
        }

        var text = reader.ValueSpan;
        return text.Length is > 0 and <= longest && !text.ContainsAnyExcept(TypeCharacters) ? Encoding.ASCII.GetString(text) : null;
    }

    /// <summary>Computes the number of bytes of a tensor. Returns false if that number, or a stride of the tensor, does not fit in 63 bits.</summary>
    private static bool TryCount(ReadOnlySpan<long> shape, int size, out long bytes)
    {
        bytes = size;
        var extent = (Int128)size;
        foreach (var length in shape)
        {
            extent *= Math.Max(length, 1);
            if (extent > long.MaxValue)
            {
                return false;
            }

            bytes *= length;
        }

        return true;
    }

    private static JsonTokenType Next(ref Utf8JsonReader reader)
    {
        Expect(reader.Read(), "the header ends unexpectedly");
        return reader.TokenType;
    }

    private static void Expect(bool condition, string otherwise, string? name = null)
    {
        if (!condition)
        {
            throw new FormatException(name is null ? $"{otherwise}." : $"of '{InvalidWeightsException.Shown(name)}', {otherwise}.");
        }
    }
}
