using System.Buffers.Binary;
using System.Text;

namespace OpenSora.Tests.Weights;

/// <summary>Writes zip archives of entries that are not compressed, as PyTorch does, with any contents.</summary>
internal static class StoredZip
{
    public static byte[] Of(params IReadOnlyList<(string Name, byte[] Bytes)> entries)
    {
        using var file = new MemoryStream();
        using var directory = new MemoryStream();
        foreach (var (name, bytes) in entries)
        {
            var text = Encoding.UTF8.GetBytes(name);
            var local = (uint)file.Position;
            var padding = (int)(-(file.Position + 30 + text.Length) & 63);
            Write(file, 0x04034b50u, (ushort)20, (ushort)0, (ushort)0, 0u, 0u, (uint)bytes.Length, (uint)bytes.Length, (ushort)text.Length, (ushort)padding);
            file.Write(text);
            file.Write(new byte[padding]);
            file.Write(bytes);
            Write(directory, 0x02014b50u, (ushort)20, (ushort)20, (ushort)0, (ushort)0, 0u, 0u, (uint)bytes.Length, (uint)bytes.Length,
                (ushort)text.Length, (ushort)0, (ushort)0, (ushort)0, (ushort)0, 0u, local);
            directory.Write(text);
        }

        var start = (uint)file.Position;
        directory.WriteTo(file);
        Write(file, 0x06054b50u, (ushort)0, (ushort)0, (ushort)entries.Count, (ushort)entries.Count, (uint)directory.Length, start, (ushort)0);
        return file.ToArray();
    }

    private static void Write(MemoryStream stream, params object[] numbers)
    {
        Span<byte> buffer = stackalloc byte[4];
        foreach (var number in numbers)
        {
            if (number is uint wide)
                BinaryPrimitives.WriteUInt32LittleEndian(buffer, wide);
            else
                BinaryPrimitives.WriteUInt16LittleEndian(buffer, (ushort)number);
            stream.Write(buffer[..(number is uint ? 4 : 2)]);
        }
    }
}
