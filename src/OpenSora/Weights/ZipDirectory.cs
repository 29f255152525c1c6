using System.Buffers.Binary;
using System.Text;

namespace OpenSora.Weights;

/// <summary>Reads the positions of the entries in a zip archive with uncompressed entries, such as those written by PyTorch.</summary>
/// <remarks>Source: PKWARE's APPNOTE 6.3, sections 4.3 and 4.5.3 (zip64). Checksums are not verified, because that would require reading the entire
/// file.</remarks>
internal static class ZipDirectory
{
    public const long Packed = -1;

    private const uint LocalSignature = 0x04034b50,
        EntrySignature = 0x02014b50,
        EndSignature = 0x06054b50,
        End64Signature = 0x06064b50,
        Locator64Signature = 0x07064b50;
    private const int LocalLength = 30,
        EntryLength = 46,
        EndLength = 22,
        End64Length = 56,
        Locator64Length = 20,
        MaxComment = 0xffff;

    /// <summary>Reads the central directory.</summary>
    /// <returns>The offset and length in bytes of every entry, by name. The length is <see cref="Packed"/> if the entry is compressed or
    /// encrypted.</returns>
    public static Dictionary<string, (long Offset, long Length)> Read(MappedFile file, Allowance allowance)
    {
        var (start, length, count) = Locate(file);
        if (start < 0 || length < 0 || start > file.Length - length || length > int.MaxValue || count < 0 || count > length / EntryLength)
        {
            throw Damaged(file, "its directory lies outside the file");
        }

        allowance.Expect(64 * count);
        var entries = new Dictionary<string, (long, long)>((int)count, StringComparer.Ordinal);
        var directory = file.Bytes(start, (int)length);
        for (; count > 0; count--)
        {
            if (directory.Length < EntryLength || BinaryPrimitives.ReadUInt32LittleEndian(directory) != EntrySignature)
            {
                throw Damaged(file, "an entry in its directory is damaged");
            }

            var (flags, method) = (U16(directory, 8), U16(directory, 10));
            long packed = U32(directory, 20),
                plain = U32(directory, 24),
                local = U32(directory, 42);
            int nameLength = U16(directory, 28),
                extraLength = U16(directory, 30),
                commentLength = U16(directory, 32);
            if (directory.Length - EntryLength < nameLength + extraLength + commentLength)
            {
                throw Damaged(file, "an entry in its directory is truncated");
            }

            allowance.Expect(32 + (2 * nameLength));
            var name = Encoding.UTF8.GetString(directory.Slice(EntryLength, nameLength));
            Wide(directory.Slice(EntryLength + nameLength, extraLength), ref plain, ref packed, ref local);
            directory = directory[(EntryLength + nameLength + extraLength + commentLength)..];
            var isStored = method == 0 && (flags & 1) == 0;
            if ((isStored && packed != plain) || !entries.TryAdd(name, (DataStart(file, name, local, packed), isStored ? plain : Packed)))
            {
                throw Damaged(file, $"the entry '{InvalidWeightsException.Shown(name)}' occurs twice or is inconsistent");
            }
        }

        return entries;
    }

    /// <summary>Finds the central directory from the end-of-directory record or its zip64 form.</summary>
    private static (long Start, long Length, long Count) Locate(MappedFile file)
    {
        var tailLength = (int)Math.Min(file.Length, EndLength + MaxComment);
        var tail = file.Bytes(file.Length - tailLength, tailLength);
        for (var at = tailLength - EndLength; at >= 0; at--)
        {
            var end = tail[at..];
            if (BinaryPrimitives.ReadUInt32LittleEndian(end) != EndSignature || U16(end, 20) != end.Length - EndLength)
            {
                continue;
            }

            var position = file.Length - tailLength + at;
            if (
                position < Locator64Length
                || BinaryPrimitives.ReadUInt32LittleEndian(file.Bytes(position - Locator64Length, 4)) != Locator64Signature
            )
            {
                return (U32(end, 16), U32(end, 12), U16(end, 10));
            }

            var wide = BinaryPrimitives.ReadInt64LittleEndian(file.Bytes(position - Locator64Length + 8, 8));
            if (wide < 0 || wide > file.Length - End64Length)
            {
                break;
            }

            var end64 = file.Bytes(wide, End64Length);
            if (BinaryPrimitives.ReadUInt32LittleEndian(end64) != End64Signature)
            {
                break;
            }

            return (I64(end64, 48), I64(end64, 40), I64(end64, 32));
        }

        throw Damaged(file, "it has no directory at its end");
    }

    /// <summary>Reads sizes and the offset from the zip64 extra field. It contains only values that do not fit in 32 bits, in this order.</summary>
    private static void Wide(ReadOnlySpan<byte> extra, ref long plain, ref long packed, ref long local)
    {
        while (extra.Length >= 4)
        {
            var (id, length) = (U16(extra, 0), U16(extra, 2));
            extra = extra[4..];
            if (length > extra.Length)
            {
                return;
            }

            if (id == 1)
            {
                var field = extra[..length];
                Take(ref plain, ref field);
                Take(ref packed, ref field);
                Take(ref local, ref field);
                return;
            }

            extra = extra[length..];
        }

        static void Take(ref long value, ref ReadOnlySpan<byte> field)
        {
            if (value != uint.MaxValue || field.Length < 8)
            {
                return;
            }

            value = I64(field, 0);
            field = field[8..];
        }
    }

    private static long DataStart(MappedFile file, string name, long local, long length)
    {
        if (local >= 0 && local <= file.Length - LocalLength)
        {
            var header = file.Bytes(local, LocalLength);
            var start = local + LocalLength + U16(header, 26) + U16(header, 28);
            if (BinaryPrimitives.ReadUInt32LittleEndian(header) == LocalSignature && length >= 0 && start <= file.Length - length)
            {
                return start;
            }
        }

        throw Damaged(file, $"the entry '{InvalidWeightsException.Shown(name)}' lies outside the file");
    }

    private static InvalidWeightsException Damaged(MappedFile file, string how) =>
        new(file.Path, $"the zip archive is damaged or truncated: {how}. Download or save it again.");

    private static int U16(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt16LittleEndian(bytes[at..]);

    private static long U32(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt32LittleEndian(bytes[at..]);

    private static long I64(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadInt64LittleEndian(bytes[at..]);
}
