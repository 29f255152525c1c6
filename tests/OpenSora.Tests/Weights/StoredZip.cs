using System.Buffers.Binary;
using System.Text;

namespace OpenSora.Tests.Weights;

/// <summary>Writes zip archives of entries that are not compressed, as PyTorch does, with any contents.</summary>
internal static class StoredZip
{
    public static byte[] Of(params IReadOnlyList<(string Name, byte[] Bytes)> entries) => Of(entries, wide: false);

    /// <param name="entries">Names and contents.</param>
    /// <param name="wide">Whether sizes and places are in zip64's fields, as in archives beyond 4 GiB.</param>
    public static byte[] Of(IReadOnlyList<(string Name, byte[] Bytes)> entries, bool wide)
    {
        using var file = new MemoryStream();
        using var directory = new MemoryStream();
        foreach (var (name, bytes) in entries)
        {
            var text = Encoding.UTF8.GetBytes(name);
            var local = (uint)file.Position;
            var padding = (int)(-(file.Position + 30 + text.Length) & 63);
            Write(
                file,
                0x04034b50u,
                (ushort)20,
                (ushort)0,
                (ushort)0,
                0u,
                0u,
                (uint)bytes.Length,
                (uint)bytes.Length,
                (ushort)text.Length,
                (ushort)padding
            );
            file.Write(text);
            file.Write(new byte[padding]);
            file.Write(bytes);
            var (length, place, extra) = wide ? (uint.MaxValue, uint.MaxValue, (ushort)34) : ((uint)bytes.Length, local, (ushort)0);
            Write(
                directory,
                0x02014b50u,
                (ushort)20,
                (ushort)20,
                (ushort)0,
                (ushort)0,
                0u,
                0u,
                length,
                length,
                (ushort)text.Length,
                extra,
                (ushort)0,
                (ushort)0,
                (ushort)0,
                0u,
                place
            );
            directory.Write(text);
            if (wide) // after a field of another kind
            {
                Write(directory, (ushort)0x5455, (ushort)2, (ushort)7, (ushort)1, (ushort)24, (ulong)bytes.Length, (ulong)bytes.Length, (ulong)local);
            }
        }

        var start = (uint)file.Position;
        directory.WriteTo(file);
        if (wide)
        {
            var end = (ulong)file.Position;
            Write(
                file,
                0x06064b50u,
                44UL,
                (ushort)45,
                (ushort)45,
                0u,
                0u,
                (ulong)entries.Count,
                (ulong)entries.Count,
                (ulong)directory.Length,
                (ulong)start
            );
            Write(file, 0x07064b50u, 0u, end, 1u);
            Write(file, 0x06054b50u, (ushort)0, (ushort)0, ushort.MaxValue, ushort.MaxValue, uint.MaxValue, uint.MaxValue, (ushort)0);
            return file.ToArray();
        }

        Write(file, 0x06054b50u, (ushort)0, (ushort)0, (ushort)entries.Count, (ushort)entries.Count, (uint)directory.Length, start, (ushort)0);
        return file.ToArray();
    }

    private static void Write(MemoryStream stream, params object[] numbers)
    {
        Span<byte> buffer = stackalloc byte[8];
        foreach (var number in numbers)
        {
            var (value, length) = number switch
            {
                ulong whole => (whole, 8),
                uint half => (half, 4),
                _ => ((ulong)(ushort)number, 2),
            };
            BinaryPrimitives.WriteUInt64LittleEndian(buffer, value);
            stream.Write(buffer[..length]);
        }
    }
}
