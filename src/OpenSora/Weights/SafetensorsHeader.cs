using System.Collections.Frozen;
using System.Text.Json;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Weights;

/// <summary>One tensor of a weights file.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Type">The file's own name of the element type, such as <c>F32</c>.</param>
/// <param name="Shape">Its shape; empty for a scalar.</param>
/// <param name="Offset">First byte, counted from the start of the file.</param>
/// <param name="Length">Length in bytes.</param>
public sealed record TensorEntry(string Name, string Type, IReadOnlyList<long> Shape, long Offset, long Length)
{
    /// <summary>The element type, or null if tensors of this type do not exist here.</summary>
    public ScalarType? Dtype => SafetensorsHeader.TypeOf(Type).Dtype;

    /// <summary>How many elements it has.</summary>
    public long Elements => Shape.Aggregate(1L, (product, size) => product * size);
}

/// <summary>The header of a safetensors file: 8 bytes of length, then JSON that names every tensor's type, shape and place.</summary>
internal static class SafetensorsHeader
{
    public const int PrefixLength = 8;

    /// <summary>The format's own limit for the JSON part.</summary>
    public const int MaxLength = 100_000_000;

    /// <summary>The entry that holds key-value pairs instead of a tensor.</summary>
    public const string MetadataName = "__metadata__";

    private const int MaxDimensions = 64;

    private static readonly FrozenDictionary<string, (int Size, ScalarType? Dtype)> Types = new Dictionary<string, (int, ScalarType?)>(StringComparer.Ordinal)
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
    }.ToFrozenDictionary(StringComparer.Ordinal);

    /// <summary>The size of an element in bytes (0 for a type that does not exist) and the tensor type that holds it.</summary>
    public static (int Size, ScalarType? Dtype) TypeOf(string name) => Types.GetValueOrDefault(name);

    /// <summary>The file's name for a tensor type, or null if the format has none.</summary>
    public static string? NameOf(ScalarType dtype) => Types.FirstOrDefault(type => type.Value.Dtype == dtype).Key;

    /// <summary>Reads and checks a header against the length of its file.</summary>
    /// <param name="path">For messages.</param>
    /// <param name="json">The JSON part.</param>
    /// <param name="fileLength">Length of the file in bytes.</param>
    /// <param name="metadata">The file's own key-value pairs.</param>
    /// <returns>The tensors in the order of their bytes.</returns>
    public static IReadOnlyList<TensorEntry> Parse(string path, ReadOnlySpan<byte> json, long fileLength, out IReadOnlyDictionary<string, string> metadata)
    {
        var entries = new List<TensorEntry>();
        var names = new HashSet<string>(StringComparer.Ordinal);
        var pairs = new Dictionary<string, string>(StringComparer.Ordinal);
        var dataStart = PrefixLength + (long)json.Length;
        try
        {
            var reader = new Utf8JsonReader(json, new JsonReaderOptions { MaxDepth = 4 });
            Expect(reader.Read() && reader.TokenType == JsonTokenType.StartObject, "the header must be one JSON object");
            while (Next(ref reader) == JsonTokenType.PropertyName)
            {
                var name = reader.GetString()!;
                Expect(names.Add(name), $"the header names '{name}' twice");
                if (string.Equals(name, MetadataName, StringComparison.Ordinal))
                    ReadMetadata(ref reader, pairs);
                else
                    entries.Add(ReadEntry(ref reader, name, dataStart, fileLength));
            }

            Expect(!reader.Read(), "text follows the header's JSON object");
        }
        catch (Exception exception) when (exception is JsonException or InvalidOperationException or FormatException)
        {
            throw new InvalidWeightsException(path, $"the header is not valid: {exception.Message}", exception);
        }

        entries.Sort((a, b) => a.Offset != b.Offset ? a.Offset.CompareTo(b.Offset) : a.Length.CompareTo(b.Length));
        var end = dataStart;
        foreach (var entry in entries)
        {
            if (entry.Offset < end)
                throw new InvalidWeightsException(path, $"tensor '{entry.Name}' overlaps the tensor before it: it starts at byte {entry.Offset}, which is taken up to byte {end}.");
            if (entry.Offset > end)
                throw new InvalidWeightsException(path, $"there is a hole of {entry.Offset - end} bytes before tensor '{entry.Name}'.");
            end = entry.Offset + entry.Length;
        }

        if (end != fileLength)
            throw new InvalidWeightsException(path, $"the file is {fileLength} bytes long, but its tensors end at byte {end}.");
        metadata = pairs;
        return entries;
    }

    private static TensorEntry ReadEntry(ref Utf8JsonReader reader, string name, long dataStart, long fileLength)
    {
        string? type = null;
        List<long>? shape = null, offsets = null;
        Expect(Next(ref reader) == JsonTokenType.StartObject, $"tensor '{name}' must be described by a JSON object");
        while (Next(ref reader) == JsonTokenType.PropertyName)
        {
            switch (reader.GetString())
            {
                case "dtype" when type is null:
                    Expect(Next(ref reader) == JsonTokenType.String, $"the dtype of tensor '{name}' must be a string");
                    type = reader.GetString()!;
                    break;
                case "shape" when shape is null:
                    shape = ReadNumbers(ref reader, name, MaxDimensions);
                    break;
                case "data_offsets" when offsets is null:
                    offsets = ReadNumbers(ref reader, name, 2);
                    break;
                case var key:
                    throw new FormatException($"tensor '{name}' has an unknown or repeated property '{key}'.");
            }
        }

        Expect(type is not null && shape is not null && offsets is { Count: 2 }, $"tensor '{name}' needs a dtype, a shape and two data_offsets");
        var size = TypeOf(type!).Size;
        Expect(size > 0, $"tensor '{name}' has the unknown dtype '{type}'");
        var (begin, end) = (offsets![0], offsets[1]);
        Expect(begin <= end && end <= fileLength - dataStart,
            $"tensor '{name}' claims bytes {begin} to {end}, but the file holds {fileLength - dataStart} bytes of data; it is truncated or damaged");
        Expect(TryCount(shape!, size, out var bytes),
            $"the shape [{string.Join(", ", shape!)}] of tensor '{name}' is too large");
        Expect(bytes == end - begin,
            $"tensor '{name}' of shape [{string.Join(", ", shape!)}] and dtype {type} needs {bytes} bytes, but its data_offsets give {end - begin}");
        return new TensorEntry(name, type!, shape!, dataStart + begin, bytes);
    }

    private static void ReadMetadata(ref Utf8JsonReader reader, Dictionary<string, string> pairs)
    {
        Expect(Next(ref reader) == JsonTokenType.StartObject, "__metadata__ must be a JSON object");
        while (Next(ref reader) == JsonTokenType.PropertyName)
        {
            var key = reader.GetString()!;
            Expect(Next(ref reader) == JsonTokenType.String, $"__metadata__ '{key}' must be a string");
            Expect(pairs.TryAdd(key, reader.GetString()!), $"__metadata__ names '{key}' twice");
        }
    }

    private static List<long> ReadNumbers(ref Utf8JsonReader reader, string name, int most)
    {
        var numbers = new List<long>();
        Expect(Next(ref reader) == JsonTokenType.StartArray, $"shape and data_offsets of tensor '{name}' must be arrays");
        while (Next(ref reader) == JsonTokenType.Number)
        {
            Expect(reader.TryGetInt64(out var number) && number >= 0, $"shape and data_offsets of tensor '{name}' must be whole numbers from 0");
            Expect(numbers.Count < most, $"shape or data_offsets of tensor '{name}' has more than {most} entries");
            numbers.Add(number);
        }

        Expect(reader.TokenType == JsonTokenType.EndArray, $"shape and data_offsets of tensor '{name}' must hold numbers only");
        return numbers;
    }

    /// <summary>Bytes of a tensor; false if that, or a stride within it, does not fit in 63 bits.</summary>
    private static bool TryCount(List<long> shape, int size, out long bytes)
    {
        bytes = size;
        var extent = (Int128)size;
        foreach (var length in shape)
        {
            extent *= Math.Max(length, 1);
            if (extent > long.MaxValue)
                return false;
            bytes *= length;
        }

        return true;
    }

    private static JsonTokenType Next(ref Utf8JsonReader reader)
    {
        Expect(reader.Read(), "the header ends early");
        return reader.TokenType;
    }

    private static void Expect(bool condition, string otherwise)
    {
        if (!condition)
            throw new FormatException(otherwise + ".");
    }
}
