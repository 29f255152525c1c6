using System.Buffers.Binary;
using System.IO.Compression;
using System.Text;
using OpenSora.Weights;

namespace OpenSora.Tests.Weights;

/// <summary>Creates damaged and malicious files from valid ones, reproducibly for each seed.</summary>
internal sealed class Mutations
{
    private static readonly string[] SeedNames =
    [
        "types.pt",
        "views.pt",
        "training.pt",
        "wrapped.ckpt",
        "state_dict.pth",
        "parameters.pth",
        "command.pth",
        "legacy.pth",
        "script.pt",
        "objects2.pth",
        "objects4.pth",
        "misc.pth",
        "holds_tensor_deep.pth",
        "makes_tensor.pth",
        "ema_alone.pt",
        "lucid.pt",
        "float8.pt",
    ];

    private static readonly string[] Dangers =
    [
        "os system",
        "posix system",
        "builtins eval",
        "builtins exec",
        "__builtin__ eval",
        "subprocess Popen",
        "builtins getattr",
        "importlib import_module",
        "torch load",
        "torch.hub load",
        "nt system",
        "runpy _run_code",
        "collections namedtuple",
        "operator attrgetter",
        "functools partial",
        "shutil rmtree",
        "omegaconf.dictconfig DictConfig",
        "my.layers rebuild",
        "torch float8_e4m3fn",
        "torch float8_e8m0fnu",
        "torch int4",
        "torch QInt8Storage",
        "torch.storage UntypedStorage",
        "torch._utils _rebuild_tensor_v3",
    ];

    private static readonly byte[] Opcodes =
    [
        .. "().012NKMJGXTUCB}]dsulaetqrhjcRbQFILSVgpPio"u8,
        .. Enumerable.Range(0x80, 0x19).Select(code => (byte)code),
    ];

    private static readonly ulong[] Extremes =
    [
        0,
        1,
        0x7f,
        0xff,
        0x7fff,
        0xffff,
        0x7fffffff,
        0x80000000,
        0xffffffff,
        0x7fffffffffffffff,
        0x8000000000000000,
        ulong.MaxValue,
        1UL << 40,
    ];

    /// <summary>Small descriptions that claim much memory, each at least 400,000 bytes of pickle.</summary>
    public static IReadOnlyDictionary<string, Func<byte[]>> Bombs { get; } =
        new Dictionary<string, Func<byte[]>>
        {
            ["empty lists"] = () => Repeat("]"u8, 500_000),
            ["empty dictionaries"] = () => Repeat("}"u8, 500_000),
            ["empty tuples"] = () => Repeat(")"u8, 500_000),
            ["marks"] = () => Repeat("("u8, 500_000),
            ["nested tuples"] = () => [.. ")"u8, .. Repeat([0x85], 500_000)],
            ["nested lists"] = () => [.. Repeat("]"u8, 250_000), .. Repeat("a"u8, 249_999)],
            ["nested dictionaries"] = () => [.. "}"u8, .. Repeat([(byte)'K', 0, (byte)'}'], 150_000), .. Repeat("s"u8, 149_999)],
            ["doubled tuples"] = () => [.. ")"u8, .. Repeat([(byte)'2', 0x86], 250_000)],
            ["tuples of all that is there"] = () =>
                [.. Repeat([(byte)'(', (byte)'K', 0, (byte)'t', (byte)'(', (byte)'2', (byte)'2', (byte)'t'], 60_000)],
            ["memo"] = () => [.. "N"u8, .. Repeat([0x94], 500_000)],
            ["memo far away"] = () => [(byte)'N', (byte)'r', 0xff, 0xff, 0xff, 0xff, .. Repeat("N"u8, 500_000)],
            ["text of length beyond the file"] = () => [(byte)'X', 0xff, 0xff, 0xff, 0xff, .. Repeat("x"u8, 500_000)],
            ["text of 2^62 bytes"] = () => [0x8d, 0, 0, 0, 0, 0, 0, 0, 0x40, .. Repeat("x"u8, 500_000)],
            ["long text as a name"] = () => [.. "c"u8, .. Repeat("x"u8, 500_000)],
            ["ordered dictionaries"] = () => [.. Repeat("ccollections\nOrderedDict\n)R"u8, 20_000)],
            ["a dictionary of nothing many times over"] = () =>
                [
                    .. "("u8,
                    .. Repeat(")"u8, 10_000),
                    .. "tq\0"u8,
                    .. "ccollections\nOrderedDict\nq\u0001"u8, // 10,000 empty pairs, and what makes a dictionary of them
                    .. Repeat([(byte)'h', 1, (byte)'h', 0, 0x85, (byte)'R', (byte)'0'], 60_000),
                ],
            ["shared items many times over"] = () =>
                [.. "]q\0("u8, .. Repeat("]"u8, 2), .. "e0"u8, .. Repeat([(byte)'h', 0, (byte)'h', 0, (byte)'a'], 100_000)],
            ["many unknown names"] = () => [.. Enumerable.Range(0, 50_000).SelectMany(i => Encoding.ASCII.GetBytes($"cmy\nx{i}\n0")), (byte)'N'],
            ["one unknown object many times over"] = () => [.. Repeat("cmy.settings\nConfig\n)\u0081"u8, 1), .. Repeat("2)R"u8, 150_000)],
            ["a deep tensor given to many unknown objects"] = () =>
                [.. Pickle.Tensor("0", 1), .. Repeat([0x85], 1000), .. "q\0"u8, .. Repeat("cmy\nx\nh\0\u0085R0"u8, 50_000)],
            ["a dictionary of itself"] = () => [.. "}q\0"u8, .. Repeat([(byte)'K', 1, (byte)'h', 0, (byte)'s'], 100_000)],
        };

    private readonly Random _random;
    private readonly byte[] _safetensors;
    private readonly List<byte[]> _files = [];
    private readonly List<(byte[] Pickle, List<(string Name, byte[] Bytes)> Entries)> _pickles = [];

    public Mutations(int seed, byte[] safetensors)
    {
        _random = new Random(seed);
        _safetensors = safetensors;
        foreach (var name in SeedNames)
        {
            _files.Add(File.ReadAllBytes(CheckpointTests.Checkpoint(name)));
            if (_files[^1][0] != 'P' || name is "script.pt")
            {
                continue;
            }

            using var zip = ZipFile.OpenRead(CheckpointTests.Checkpoint(name));
            var entries = zip
                .Entries.Select(entry =>
                {
                    using var stream = entry.Open();
                    var bytes = new byte[entry.Length];
                    stream.ReadExactly(bytes);
                    return (entry.FullName, bytes);
                })
                .ToList();
            var pickle = entries.FindIndex(entry => entry.FullName.EndsWith("data.pkl", StringComparison.Ordinal));
            var (path, contents) = entries[pickle];
            entries.RemoveAt(pickle);
            entries.Insert(0, (path, []));
            _pickles.Add((contents, entries));
        }
    }

    /// <summary>The next file, and how it was made.</summary>
    public (string Kind, byte[] Bytes) Next()
    {
        switch (_random.Next(10))
        {
            case 0 or 1:
                return ("safetensors header", Header());
            case 2:
                return ("safetensors bytes", Damage(_safetensors, _random.Next(2) == 0 ? 16 : 300));
            case 3 or 4:
                return ("zip bytes", Damage(Any(_files), int.MaxValue));
            default:
                var (pickle, rest) = Any(_pickles);
                var changed = pickle.ToList();
                for (var changes = _random.Next(1, 4); changes > 0; changes--)
                {
                    Change(changed);
                }
                // Some are of a size at which twice the file's length is all that may be allocated.
                var padding = _random.Next(16) == 0 ? new[] { ("padding", new byte[Allowance.Least / 2]) } : [];
                return ("pickle", StoredZip.Of([(rest[0].Name, [.. changed]), .. rest.Skip(1), .. padding]));
        }
    }

    /// <summary>Changes a pickle at its opcodes, or anywhere.</summary>
    private void Change(List<byte> pickle)
    {
        if (pickle.Count == 0)
        {
            pickle.Add((byte)'.');
        }

        var starts = Pickle.Starts([.. pickle]);
        var at = Any(starts);
        var next = starts.FirstOrDefault(start => start > at, pickle.Count);
        switch (_random.Next(12))
        {
            case 0: // another opcode
                pickle[at] = Any(Opcodes);
                break;
            case 1: // leave one out
                pickle.RemoveRange(at, next - at);
                break;
            case 2: // repeat one
                pickle.InsertRange(at, Times(pickle.GetRange(at, next - at)));
                break;
            case 3: // an extreme argument
                Extreme(pickle, at + 1);
                break;
            case 4: // any opcodes
                pickle.InsertRange(at, Enumerable.Range(0, _random.Next(1, 6)).Select(_ => Any(Opcodes)));
                break;
            case 5: // another global's name
                pickle.InsertRange(
                    at,
                    [.. Encoding.ASCII.GetBytes($"c{Any(Dangers).Replace(' ', '\n')}\n"), .. _random.Next(2) == 0 ? "(X\x02\0\0\0idtR"u8 : ""u8]
                );
                break;
            case 6: // nesting
                pickle.InsertRange(
                    at,
                    Repeat(
                        Any<byte[]>([
                            [(byte)'('],
                            [(byte)']'],
                            [(byte)'}'],
                            [(byte)')', 0x85],
                            [(byte)'2', 0x86],
                        ]),
                        _random.Next(1, 5000)
                    )
                );
                break;
            case 7: // memo
                pickle.InsertRange(at, [(byte)Any("hq"u8.ToArray()), (byte)_random.Next(256)]);
                break;
            case 8: // another number
                var numbers = starts.Where(start => start < pickle.Count - 2 && (pickle[start] is (byte)'K' or (byte)'M' or (byte)'J')).ToList();
                if (numbers.Count > 0)
                {
                    pickle[Any(numbers) + 1] = (byte)_random.Next(256);
                }

                break;
            case 9: // a large number in place of a small one
                numbers = [.. starts.Where(start => start < pickle.Count - 2 && pickle[start] == (byte)'K')];
                if (numbers.Count > 0)
                {
                    var number = Any(numbers);
                    pickle.RemoveRange(number, 2);
                    pickle.InsertRange(number, [0x8a, 8, .. BitConverter.GetBytes(Any(Extremes))]);
                }

                break;
            case 10: // two opcodes change places
                var other = Any(starts);
                (pickle[at], pickle[other]) = (pickle[other], pickle[at]);
                break;
            default:
                var damaged = Damage([.. pickle], int.MaxValue);
                pickle.Clear();
                pickle.AddRange(damaged);
                break;
        }
    }

    private byte[] Header()
    {
        var length = (int)BitConverter.ToInt64(_safetensors);
        var header = Encoding.UTF8.GetString(_safetensors, 8, length);
        for (var changes = _random.Next(1, 3); changes > 0; changes--)
        {
            var at = _random.Next(header.Length);
            header = _random.Next(7) switch
            {
                0 => header.Insert(at, new string(Any("[{\"0:, 9".ToCharArray()), _random.Next(1, 3000))),
                1 => header.Remove(at, Math.Min(header.Length - at, _random.Next(1, 20))),
                2 => Replaced(header, "0123456789", Any(Extremes).ToString(System.Globalization.CultureInfo.InvariantCulture)),
                3 => header.Replace(
                    Any<string>(["F32", "I64", "BOOL", "BF16"]),
                    Any<string>(["F64", "F16", "C64", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "U8", "x", ""]),
                    StringComparison.Ordinal
                ),
                4 => header.Replace(
                    Any<string>(["one", "two", "three", "__metadata__"]),
                    Any<string>(["one", "two", "__metadata__", "\\u0000", "\\ud800", ""]),
                    StringComparison.Ordinal
                ),
                5 => Replaced(header, "[]{},:\"", Any<string>(["[", "]", "{", "}", ",", ":", "\"", "[[", "]]", "null", "-1", "1e9", "0.5"])),
                _ => header.Insert(at, header[.._random.Next(header.Length)]),
            };
            if (header.Length == 0)
            {
                header = "{}";
            }
        }

        var bytes = Encoding.UTF8.GetBytes(header);
        return
        [
            .. BitConverter.GetBytes((long)bytes.Length + (_random.Next(10) == 0 ? _random.Next(-9, 9) : 0)),
            .. bytes,
            .. _safetensors[(8 + length)..],
        ];
    }

    /// <summary>Replaces one character of some by a text.</summary>
    private string Replaced(string text, string characters, string by)
    {
        var places = Enumerable.Range(0, text.Length).Where(i => characters.Contains(text[i])).ToList();
        if (places.Count == 0)
        {
            return text;
        }

        var at = Any(places);
        return text.Remove(at, 1).Insert(at, by);
    }

    /// <summary>Bits, bytes and spans changed, put in, taken out or cut off, among the first bytes.</summary>
    private byte[] Damage(byte[] original, int reach)
    {
        var bytes = original.ToList();
        for (var changes = _random.Next(1, 5); changes > 0 && bytes.Count > 0; changes--)
        {
            // The end of a zip archive says where everything is: it is hit as often as the rest.
            var at =
                _random.Next(3) == 0 && reach == int.MaxValue
                    ? Math.Max(0, bytes.Count - 1 - _random.Next(200))
                    : _random.Next(Math.Min(bytes.Count, reach));
            var span = Math.Min(bytes.Count - at, _random.Next(1, 40));
            switch (_random.Next(7))
            {
                case 0:
                    bytes[at] ^= (byte)(1 << _random.Next(8));
                    break;
                case 1:
                    bytes[at] = (byte)_random.Next(256);
                    break;
                case 2:
                    bytes.RemoveRange(at, span);
                    break;
                case 3:
                    bytes.InsertRange(at, bytes.GetRange(_random.Next(bytes.Count - span + 1), span));
                    break;
                case 4:
                    bytes.InsertRange(at, Enumerable.Range(0, _random.Next(1, 20)).Select(_ => (byte)_random.Next(256)));
                    break;
                case 5:
                    Extreme(bytes, at);
                    break;
                default:
                    if (_random.Next(3) == 0)
                    {
                        bytes.RemoveRange(at, bytes.Count - at);
                    }

                    break;
            }
        }

        return [.. bytes];
    }

    private void Extreme(List<byte> bytes, int at)
    {
        var number = new byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(number, Any(Extremes));
        for (var i = 0; i < Any<int>([1, 2, 4, 8]) && at + i < bytes.Count; i++)
        {
            bytes[at + i] = number[i];
        }
    }

    private byte[] Times(List<byte> span) => Repeat([.. span], _random.Next(1, 400));

    private T Any<T>(IReadOnlyList<T> values) => values[_random.Next(values.Count)];

    private static byte[] Repeat(ReadOnlySpan<byte> span, int times)
    {
        var bytes = new byte[span.Length * times];
        for (var i = 0; i < times; i++)
        {
            span.CopyTo(bytes.AsSpan(i * span.Length));
        }

        return bytes;
    }
}

/// <summary>Pieces of pickles.</summary>
internal static class Pickle
{
    /// <summary>Finds the positions of opcodes, as far as the bytes are a pickle.</summary>
    public static List<int> Starts(ReadOnlySpan<byte> pickle)
    {
        var starts = new List<int> { 0 };
        for (long at = 0; at < pickle.Length; )
        {
            starts.Add((int)at);
            var rest = pickle[((int)at + 1)..];
            at +=
                1
                + (
                    pickle[(int)at] switch
                    {
                        0x80 or (byte)'K' or (byte)'q' or (byte)'h' => 1,
                        (byte)'M' => 2,
                        (byte)'J' or (byte)'r' or (byte)'j' => 4,
                        (byte)'G' or 0x95 => 8,
                        (byte)'X' or (byte)'B' or (byte)'T' when rest.Length >= 4 => 4L + BinaryPrimitives.ReadUInt32LittleEndian(rest),
                        0x8a or 0x8c or (byte)'U' or (byte)'C' when rest.Length >= 1 => 1 + rest[0],
                        (byte)'c' => Lines(rest),
                        _ => 0,
                    }
                );
        }

        return starts;

        static int Lines(ReadOnlySpan<byte> rest)
        {
            var first = rest.IndexOf((byte)'\n');
            return first < 0 ? rest.Length : first + 1 + Math.Max(0, rest[(first + 1)..].IndexOf((byte)'\n') + 1);
        }
    }

    public static byte[] Text(string text) =>
        [(byte)'X', .. BitConverter.GetBytes(Encoding.UTF8.GetByteCount(text)), .. Encoding.UTF8.GetBytes(text)];

    /// <summary>A float32 tensor of up to 255 elements over the whole of a record, as torch.save writes it.</summary>
    public static byte[] Tensor(string record, byte count) =>
        [
            .. "ctorch._utils\n_rebuild_tensor_v2\n(("u8,
            .. Text("storage"),
            .. "ctorch\nFloatStorage\n"u8,
            .. Text(record),
            .. Text("cpu"),
            (byte)'K',
            count,
            .. "tQK\0K"u8,
            count,
            0x85,
            (byte)'K',
            1,
            0x85,
            0x89,
            .. "ccollections\nOrderedDict\n)RtR"u8,
        ];
}
