using System.Buffers.Binary;

namespace OpenSora.Runtime;

/// <summary>Edits the symbol versions that an ELF library requires from other libraries.</summary>
/// <remarks>Source: the Linux Standard Base, "Symbol Versioning"; the System V ABI, "Object Files". All layouts are for 64-bit little-endian
/// files.</remarks>
internal static class ElfVersionNeeds
{
    private const uint SectionRelocations = 4,
        SectionDynamicSymbols = 11,
        SectionNeeds = 0x6ffffffe,
        SectionVersions = 0x6fffffff;
    private const ushort Weak = 2; // VER_FLG_WEAK: the loader accepts a library without this version
    private const ushort VersionMask = 0x7fff;
    private const int SectionHeaderSize = 64,
        RelocationSize = 24;

    /// <summary>Marks the required versions that no relocation uses as weak. No symbol that is looked up has such a version.</summary>
    /// <param name="library">The bytes of a shared library.</param>
    /// <returns>A changed copy of the bytes; null if there is nothing to change or the file is not a 64-bit little-endian ELF library.</returns>
    public static byte[]? Weaken(ReadOnlySpan<byte> library)
    {
        try
        {
            return library is [0x7f, (byte)'E', (byte)'L', (byte)'F', 2, 1, ..] ? WeakenChecked(library) : null;
        }
        catch (Exception exception) when (exception is ArgumentOutOfRangeException or OverflowException)
        {
            return null; // an offset is outside the file
        }
    }

    private static byte[]? WeakenChecked(ReadOnlySpan<byte> library)
    {
        var sections = Sections(library);
        var (versions, needs) = (sections.Find(section => section.Type == SectionVersions), sections.Find(section => section.Type == SectionNeeds));
        if (versions.Size == 0 || needs.Size == 0 || !sections.Exists(section => section.Type == SectionDynamicSymbols))
        {
            return null;
        }

        // Collect the versions of all symbols that are looked up, when the library is loaded or when it first calls them.
        var used = new HashSet<int>();
        foreach (var section in sections.Where(section => section.Type == SectionRelocations))
        {
            for (var at = section.Offset; at < section.Offset + section.Size; at += RelocationSize)
            {
                var symbol = (int)(U64(library, at + 8) >> 32);
                used.Add(U16(library, versions.Offset + (2 * symbol)) & VersionMask);
            }
        }

        // Verneed (version, count, file, aux, next), each with a list of Vernaux (hash, flags, version, name, next).
        byte[]? changed = null;
        for (int need = needs.Offset, next = 1; next != 0; need += next)
        {
            next = (int)U32(library, need + 12);
            var aux = need + (int)U32(library, need + 8);
            for (var left = U16(library, need + 2); left > 0; left--)
            {
                var (flags, version) = (U16(library, aux + 4), U16(library, aux + 6) & VersionMask);
                if (!used.Contains(version) && (flags & Weak) == 0)
                {
                    changed ??= library.ToArray();
                    BinaryPrimitives.WriteUInt16LittleEndian(changed.AsSpan(aux + 4), (ushort)(flags | Weak));
                }
                aux += (int)U32(library, aux + 12);
            }
        }
        return changed;
    }

    private static List<(uint Type, int Offset, int Size)> Sections(ReadOnlySpan<byte> library)
    {
        var (start, count) = (checked((int)U64(library, 0x28)), U16(library, 0x3c));
        var sections = new List<(uint, int, int)>();
        for (var i = 0; i < count; i++)
        {
            var at = start + (i * SectionHeaderSize);
            sections.Add((U32(library, at + 4), checked((int)U64(library, at + 24)), checked((int)U64(library, at + 32))));
        }
        return sections;
    }

    private static ushort U16(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt16LittleEndian(bytes[at..]);

    private static uint U32(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt32LittleEndian(bytes[at..]);

    private static ulong U64(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt64LittleEndian(bytes[at..]);
}
