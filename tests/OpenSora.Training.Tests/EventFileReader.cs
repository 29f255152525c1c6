using System.Text;

namespace OpenSora.Training.Tests;

/// <summary>Reads event files without any of the code that writes them: checksums bit by bit, messages by hand.</summary>
internal static class EventFileReader
{
    public sealed record Value(string Tag, float? Scalar, (long Height, long Width, byte[] Data)? Image);

    public sealed record Event(double WallTime, long Step, string? Version, long? SessionStatus, IReadOnlyList<Value> Values);

    /// <summary>All events of a folder's files, in the order of their names; what is cut short at a file's end is passed over.</summary>
    public static IReadOnlyList<Event> ReadFolder(string folder) =>
        [.. Directory.GetFiles(folder, "*tfevents*").Order(StringComparer.Ordinal).SelectMany(path => Read(File.ReadAllBytes(path)))];

    public static IReadOnlyList<Event> Read(byte[] bytes)
    {
        List<Event> events = [];
        for (var at = 0; at + 12 <= bytes.Length; )
        {
            var length = BitConverter.ToInt64(bytes, at);
            BitConverter.ToUInt32(bytes, at + 8).ShouldBe(Masked(bytes.AsSpan(at, 8)));
            if (at + 16 + length > bytes.Length)
            {
                break;
            }

            var data = bytes.AsSpan(at + 12, (int)length);
            BitConverter.ToUInt32(bytes, at + 12 + (int)length).ShouldBe(Masked(data));
            events.Add(ToEvent(data.ToArray()));
            at += 16 + (int)length;
        }
        return events;
    }

    public static uint Crc32C(ReadOnlySpan<byte> data)
    {
        var crc = 0xffffffffu;
        foreach (var value in data)
        {
            crc ^= value;
            for (var bit = 0; bit < 8; bit++)
            {
                crc = (crc & 1) != 0 ? (crc >> 1) ^ 0x82f63b78u : crc >> 1;
            }
        }
        return crc ^ 0xffffffffu;
    }

    private static uint Masked(ReadOnlySpan<byte> data)
    {
        var crc = Crc32C(data);
        return unchecked(((crc >> 15) | (crc << 17)) + 0xa282ead8u);
    }

    private static Event ToEvent(byte[] data)
    {
        var (time, step, version, status) = (0.0, 0L, (string?)null, (long?)null);
        List<Value> values = [];
        foreach (var (field, number, bytes) in Fields(data))
        {
            switch (field)
            {
                case 1:
                    time = BitConverter.UInt64BitsToDouble(number);
                    break;
                case 2:
                    step = (long)number;
                    break;
                case 3:
                    version = Encoding.UTF8.GetString(bytes);
                    break;
                case 5:
                    values.AddRange(Fields(bytes).Select(value => ToValue(value.Bytes)));
                    break;
                case 7:
                    status = (long)Fields(bytes).Single().Number;
                    break;
                default:
                    throw new InvalidDataException($"field {field}");
            }
        }
        return new Event(time, step, version, status, values);
    }

    private static Value ToValue(byte[] data)
    {
        var fields = Fields(data).ToDictionary(field => field.Field);
        (long, long, byte[])? image = null;
        if (fields.TryGetValue(4, out var picture))
        {
            var parts = Fields(picture.Bytes).ToDictionary(field => field.Field);
            parts[3].Number.ShouldBe(3ul);
            image = ((long)parts[1].Number, (long)parts[2].Number, parts[4].Bytes);
        }
        return new Value(
            Encoding.UTF8.GetString(fields[1].Bytes),
            fields.TryGetValue(2, out var scalar) ? BitConverter.UInt32BitsToSingle((uint)scalar.Number) : null,
            image
        );
    }

    private static IEnumerable<(int Field, ulong Number, byte[] Bytes)> Fields(byte[] data)
    {
        for (var at = 0; at < data.Length; )
        {
            var tag = Varint(data, ref at);
            var field = (int)(tag >> 3);
            switch (tag & 7)
            {
                case 0:
                    yield return (field, Varint(data, ref at), []);
                    break;
                case 1:
                    yield return (field, BitConverter.ToUInt64(data, at), []);
                    at += 8;
                    break;
                case 5:
                    yield return (field, BitConverter.ToUInt32(data, at), []);
                    at += 4;
                    break;
                case 2:
                    var length = (int)Varint(data, ref at);
                    yield return (field, 0, data[at..(at + length)]);
                    at += length;
                    break;
                default:
                    throw new InvalidDataException($"wire type {tag & 7}");
            }
        }
    }

    private static ulong Varint(byte[] data, ref int at)
    {
        var (value, shift) = (0ul, 0);
        for (; ; shift += 7)
        {
            var next = data[at++];
            value |= (ulong)(next & 127) << shift;
            if (next < 128)
            {
                return value;
            }
        }
    }
}
