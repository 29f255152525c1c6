using System.Buffers.Binary;
using System.Text.Json;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Weights;

/// <summary>Writes safetensors files.</summary>
internal static class SafetensorsWriter
{
    /// <summary>Writes tensors to a safetensors file. The file is written under a temporary name and then renamed, so that the target is either
    /// complete or unchanged. Symbolic links are followed, and a replaced file keeps its permissions.</summary>
    /// <param name="path">The path of the file to write. Its folder is created if it does not exist. A device such as <c>/dev/null</c> is written to
    /// directly.</param>
    /// <param name="tensors">The tensors by name, on any device and with any layout. The caller keeps ownership.</param>
    /// <param name="metadata">Key-value pairs to store in the header.</param>
    /// <exception cref="ArgumentException">A name occurs twice, or the format does not support the dtype of a tensor.</exception>
    /// <exception cref="IOException">The file could not be written, or the path refers to a folder, a pipe, a socket or a disk.</exception>
    public static void Write(string path, IEnumerable<KeyValuePair<string, Tensor>> tensors, IReadOnlyDictionary<string, string>? metadata = null) =>
        Write(path, tensors, metadata, open: null);

    internal static void Write(
        string path,
        IEnumerable<KeyValuePair<string, Tensor>> tensors,
        IReadOnlyDictionary<string, string>? metadata,
        Func<string, Stream>? open
    )
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        var ordered = InOrder(tensors);
        AtomicFile.Write(path, stream => Write(stream, ordered, metadata), open);
    }

    /// <summary>Writes tensors to a stream in the safetensors format.</summary>
    /// <param name="stream">The stream to write to.</param>
    /// <param name="tensors">The tensors by name, on any device and with any layout. The caller keeps ownership.</param>
    /// <param name="metadata">Key-value pairs to store in the header.</param>
    /// <exception cref="ArgumentException">A name occurs twice, or the format does not support the dtype of a tensor.</exception>
    public static void Write(Stream stream, IEnumerable<KeyValuePair<string, Tensor>> tensors, IReadOnlyDictionary<string, string>? metadata = null)
    {
        ArgumentNullException.ThrowIfNull(stream);
        Write(stream, InOrder(tensors), metadata);
    }

    private static void Write(Stream stream, List<KeyValuePair<string, Tensor>> tensors, IReadOnlyDictionary<string, string>? metadata)
    {
        var header = Header(tensors, metadata);
        Span<byte> prefix = stackalloc byte[SafetensorsHeader.PrefixLength];
        BinaryPrimitives.WriteInt64LittleEndian(prefix, header.Length);
        stream.Write(prefix);
        stream.Write(header);
        foreach (var (_, tensor) in tensors)
        {
            if (tensor.numel() == 0)
            {
                continue;
            }

            using var scope = NewDisposeScope();
            tensor.detach().cpu().contiguous().WriteBytesToStream(stream, 1 << 20);
        }
    }

    /// <summary>Orders tensors by descending element size, so that every tensor is aligned, and then by name, so that equal contents produce equal
    /// bytes.</summary>
    private static List<KeyValuePair<string, Tensor>> InOrder(IEnumerable<KeyValuePair<string, Tensor>> tensors)
    {
        ArgumentNullException.ThrowIfNull(tensors);
        var ordered = tensors.OrderByDescending(pair => SizeOf(pair.Key, pair.Value.dtype)).ThenBy(pair => pair.Key, StringComparer.Ordinal).ToList();
        var names = new HashSet<string>(StringComparer.Ordinal) { SafetensorsHeader.MetadataName };
        foreach (var (name, _) in ordered)
        {
            if (!names.Add(name))
            {
                throw new ArgumentException($"Two tensors are named '{name}', or that name is reserved.", nameof(tensors));
            }
        }

        return ordered;
    }

    private static int SizeOf(string name, ScalarType dtype) =>
        SafetensorsHeader.NameOf(dtype) is { } type
            ? SafetensorsHeader.TypeOf(type).Size
            : throw new ArgumentException($"Tensor '{name}' has the dtype {dtype}, which the safetensors format does not support.", nameof(dtype));

    private static byte[] Header(List<KeyValuePair<string, Tensor>> tensors, IReadOnlyDictionary<string, string>? metadata)
    {
        using var buffer = new MemoryStream();
        using (var json = new Utf8JsonWriter(buffer))
        {
            json.WriteStartObject();
            if (metadata is { Count: > 0 })
            {
                json.WriteStartObject(SafetensorsHeader.MetadataName);
                foreach (var (key, value) in metadata.OrderBy(pair => pair.Key, StringComparer.Ordinal))
                {
                    json.WriteString(key, value);
                }

                json.WriteEndObject();
            }

            long offset = 0;
            foreach (var (name, tensor) in tensors)
            {
                json.WriteStartObject(name);
                json.WriteString("dtype", SafetensorsHeader.NameOf(tensor.dtype));
                json.WriteStartArray("shape");
                foreach (var size in tensor.shape)
                {
                    json.WriteNumberValue(size);
                }

                json.WriteEndArray();
                json.WriteStartArray("data_offsets");
                json.WriteNumberValue(offset);
                json.WriteNumberValue(offset += tensor.numel() * SizeOf(name, tensor.dtype));
                json.WriteEndArray();
                json.WriteEndObject();
            }

            json.WriteEndObject();
        }

        while (buffer.Length % 8 != 0)
        {
            buffer.WriteByte((byte)' ');
        }

        return buffer.ToArray();
    }
}
