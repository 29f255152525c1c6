using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text;

namespace OpenSora.Weights;

/// <summary>Reads the pickle of a PyTorch checkpoint. Nothing is executed: the reader knows the few calls that rebuild tensors. Other objects are
/// skipped, or rejected by name if they hold a tensor.</summary>
/// <remarks>Source: the opcodes described in CPython's pickletools, protocols 2 to 5.</remarks>
internal ref partial struct Unpickler
{
    private const int LongestName = 200,
        MemoPage = 256;

    private readonly string _path;
    private readonly ReadOnlySpan<byte> _pickle;
    private readonly Allowance _allowance;
    private readonly Func<string, (long Offset, long Length)?> _records;
    private readonly List<PickleValue> _stack = [];
    private readonly List<int> _marks = [];
    private readonly List<PickleValue[]> _memo = []; // in pages, because a growing list allocates twice its final size
    private readonly Dictionary<string, PickleGlobal> _unknown = new(StringComparer.Ordinal);
    private int _remembered;
    private int _at;

    private Unpickler(string path, ReadOnlySpan<byte> pickle, Allowance allowance, Func<string, (long Offset, long Length)?> records)
    {
        (_path, _allowance, _records) = (path, allowance, records);
        _pickle = pickle;
    }

    /// <summary>Reads a pickle and returns its root value.</summary>
    /// <param name="path">The path of the file, for error messages.</param>
    /// <param name="pickle">The bytes of the pickle.</param>
    /// <param name="allowance">The limit on allocations.</param>
    /// <param name="records">A function that returns the offset and length in bytes of a storage by its key, or null if there is none.</param>
    /// <param name="skipped">The names of the classes and functions that are not known, in the order of the pickle.</param>
    /// <exception cref="InvalidWeightsException">The pickle is damaged, or contains calls that would have to run to obtain a tensor.</exception>
    public static PickleValue Read(
        string path,
        ReadOnlySpan<byte> pickle,
        Allowance allowance,
        Func<string, (long Offset, long Length)?> records,
        out IReadOnlyList<string> skipped
    )
    {
        var reader = new Unpickler(path, pickle, allowance, records);
        while (reader.Step(reader.Byte()))
        {
            allowance.Expect();
        }

        var root = reader.Pop();
        if (root.Object is PickleGlobal { Kind: GlobalKind.Unknown } global)
        {
            throw reader.Refused(global.Name);
        }

        skipped = [.. reader._unknown.Values.Select(unknown => InvalidWeightsException.Shown(unknown.Name))];
        return root;
    }

    /// <summary>Executes one opcode. Returns false at the end of the pickle.</summary>
    private bool Step(byte opcode)
    {
        switch (opcode)
        {
            case 0x80: // PROTO
                var protocol = Byte();
                Expect(protocol is >= 2 and <= 5, $"it uses protocol {protocol}, but only protocols 2 to 5 are supported");
                break;
            case 0x95: // FRAME
                Take(8);
                break;
            case (byte)'.': // STOP
                Expect(_stack.Count == 1 && _marks.Count == 0, "values are left over at its end");
                return false;

            case (byte)'(': // MARK
                _allowance.Add(_marks, _stack.Count);
                break;
            case (byte)'0': // POP
                Pop();
                break;
            case (byte)'1': // POP_MARK
                DropToMark();
                break;
            case (byte)'2': // DUP
                Push(Top());
                break;

            case (byte)'N': // NONE
                Push(default);
                break;
            case 0x88 or 0x89: // NEWTRUE, NEWFALSE
                Push(PickleValue.Truth(opcode == 0x88));
                break;
            case (byte)'K': // BININT1
                Push(PickleValue.Whole(Byte()));
                break;
            case (byte)'M': // BININT2
                Push(PickleValue.Whole(BinaryPrimitives.ReadUInt16LittleEndian(Take(2))));
                break;
            case (byte)'J': // BININT
                Push(PickleValue.Whole(BinaryPrimitives.ReadInt32LittleEndian(Take(4))));
                break;
            case 0x8a: // LONG1
                PushLong(Take(Byte()));
                break;
            case 0x8b: // LONG4
                PushLong(Take(BinaryPrimitives.ReadInt32LittleEndian(Take(4))));
                break;
            case (byte)'G': // BINFLOAT
                Push(PickleValue.Real(BinaryPrimitives.ReadDoubleBigEndian(Take(8))));
                break;

            case (byte)'X': // BINUNICODE
                PushText(Take(BinaryPrimitives.ReadUInt32LittleEndian(Take(4))));
                break;
            case 0x8c or (byte)'U': // SHORT_BINUNICODE, SHORT_BINSTRING
                PushText(Take(Byte()));
                break;
            case 0x8d: // BINUNICODE8
                PushText(Take(BinaryPrimitives.ReadInt64LittleEndian(Take(8))));
                break;
            case (byte)'T': // BINSTRING
                PushText(Take(BinaryPrimitives.ReadInt32LittleEndian(Take(4))));
                break;
            case (byte)'C': // SHORT_BINBYTES: byte strings are not part of the weights and are skipped
                Take(Byte());
                Push(new(PickledBytes));
                break;
            case (byte)'B': // BINBYTES
                Take(BinaryPrimitives.ReadUInt32LittleEndian(Take(4)));
                Push(new(PickledBytes));
                break;
            case 0x8e or 0x96: // BINBYTES8, BYTEARRAY8
                Take(BinaryPrimitives.ReadInt64LittleEndian(Take(8)));
                Push(new(PickledBytes));
                break;

            case (byte)'}': // EMPTY_DICT
                Push(new(new PickleDictionary()));
                break;
            case (byte)'d': // DICT
                var dictionary = new PickleDictionary();
                AddPairs(dictionary, AboveMark());
                DropToMark();
                Push(new(dictionary));
                break;
            case (byte)'s': // SETITEM
                var (value, key) = (Pop(), Pop());
                AddPairs(Top().Object, [key, value]);
                break;
            case (byte)'u': // SETITEMS
                AddPairs(BelowMark(), AboveMark());
                DropToMark();
                break;
            case (byte)']' or 0x8f: // EMPTY_LIST, EMPTY_SET
                Push(new(new PickleList()));
                break;
            case (byte)'l' or 0x91: // LIST, FROZENSET
                var list = new PickleList();
                AddItems(list, AboveMark());
                DropToMark();
                Push(new(list));
                break;
            case (byte)'a': // APPEND
                var item = Pop();
                AddItems(Top().Object, [item]);
                break;
            case (byte)'e' or 0x90: // APPENDS, ADDITEMS
                AddItems(BelowMark(), AboveMark());
                DropToMark();
                break;
            case (byte)')': // EMPTY_TUPLE
                Push(PickleValue.Tuple([]));
                break;
            case (byte)'t': // TUPLE
                Push(PickleValue.Tuple(PopToMark()));
                break;
            case >= 0x85 and <= 0x87: // TUPLE1, TUPLE2, TUPLE3
                Push(PickleValue.Tuple(PopLast(opcode - 0x84)));
                break;

            case (byte)'q': // BINPUT
                Remember(Byte());
                break;
            case (byte)'r': // LONG_BINPUT
                Remember(BinaryPrimitives.ReadUInt32LittleEndian(Take(4)));
                break;
            case 0x94: // MEMOIZE
                Remember(_remembered);
                break;
            case (byte)'h': // BINGET
                Push(Recall(Byte()));
                break;
            case (byte)'j': // LONG_BINGET
                Push(Recall(BinaryPrimitives.ReadUInt32LittleEndian(Take(4))));
                break;

            case (byte)'c': // GLOBAL
                Span<char> full = stackalloc char[2 * LongestName];
                var length = Encoding.UTF8.GetChars(Line(), full);
                full[length++] = '.';
                length += Encoding.UTF8.GetChars(Line(), full[length..]);
                Push(new(Global(full[..length])));
                break;
            case 0x93: // STACK_GLOBAL
                var (last, first) = (Pop().Object as string, Pop().Object as string);
                Expect(last is { Length: < LongestName } && first is { Length: < LongestName }, "a global's name is not a string or is too long");
                Push(new(Global($"{first}.{last}")));
                break;
            case (byte)'R' or 0x81: // REDUCE, NEWOBJ
                var arguments = Pop();
                Push(Call(Pop(), arguments));
                break;
            case 0x92: // NEWOBJ_EX
                var named = Pop();
                arguments = Pop();
                ExpectNoTensor(Top().Object, named);
                Push(Call(Pop(), arguments));
                break;
            case (byte)'b': // BUILD: attributes of dictionaries and of skipped objects
                var state = Pop();
                ExpectNoTensor(Top().Object, state);
                break;
            case (byte)'Q': // BINPERSID
                Push(new(Storage(Pop().Object as PickleValue[])));
                break;

            default:
                throw Damaged($"opcode 0x{opcode:x2} at byte {_at - 1} is not one that PyTorch writes");
        }

        return true;
    }

    private readonly void AddPairs(object? target, ReadOnlySpan<PickleValue> pairs)
    {
        Expect(pairs.Length % 2 == 0, "the keys and values of a dictionary do not form pairs");
        if (target is PickleGlobal { Kind: GlobalKind.Ignored or GlobalKind.Unknown })
        {
            foreach (var pair in pairs)
            {
                ExpectNoTensor(target, pair);
            }

            return;
        }

        var dictionary = target as PickleDictionary;
        Expect(dictionary is not null, "it sets items of an object that is not a dictionary");
        for (var i = 0; i < pairs.Length; i += 2)
        {
            dictionary!.Add(_allowance, pairs[i], pairs[i + 1]);
        }
    }

    private readonly void AddItems(object? target, ReadOnlySpan<PickleValue> items)
    {
        if (target is PickleGlobal { Kind: GlobalKind.Ignored or GlobalKind.Unknown })
        {
            foreach (var item in items)
            {
                ExpectNoTensor(target, item);
            }

            return;
        }

        var list = target as PickleList;
        Expect(list is not null, "it appends to an object that is not a list");
        foreach (var item in items)
        {
            list!.Add(_allowance, item);
        }
    }

    // --- bytes --------------------------------------------------------------------------------------------------------

    private byte Byte() => Take(1)[0];

    private ReadOnlySpan<byte> Take(long length)
    {
        Expect(length >= 0 && length <= _pickle.Length - _at, "it ends unexpectedly");
        _at += (int)length;
        return _pickle.Slice(_at - (int)length, (int)length);
    }

    private ReadOnlySpan<byte> Line()
    {
        var rest = _pickle[_at..];
        var length = rest[..Math.Min(rest.Length, LongestName - 1)].IndexOf((byte)'\n');
        Expect(length >= 0, "the name of a global is not terminated");
        _at += length + 1;
        return rest[..length];
    }

    private readonly void Expect(bool condition, string otherwise)
    {
        if (!condition)
        {
            throw Damaged(otherwise);
        }
    }

    private readonly InvalidWeightsException Damaged(string how) => new(_path, $"its pickle is damaged or is not from a PyTorch checkpoint: {how}.");

    private static object PickledBytes => Ignored;

    private static readonly PickleGlobal Ignored = new("bytes", GlobalKind.Ignored);
}
