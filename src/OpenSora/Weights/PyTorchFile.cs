using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Weights;

/// <summary>A PyTorch checkpoint: a zip archive that contains a pickle and the tensors' data. The data is not compressed and can therefore be
/// memory-mapped.</summary>
internal sealed class PyTorchFile : WeightsFile
{
    private const string PickleName = "data.pkl";
    private const int DeepestSection = 4;
    private static readonly string[] Averages = ["ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "params_ema"];
    private static readonly string[] Usual = ["state_dict", "model", "model_state_dict", "module", "params", "net", "weights"];
    private static readonly byte[] LegacyMagic = [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

    private const int MostChoices = 16; // an optimizer's state has a section for each parameter

    private readonly MappedFile _file;
    private readonly bool _isView;
    private readonly string? _requested;
    private readonly PickleDictionary? _chosen;
    private readonly List<(string Name, PickleDictionary Items, int Count)> _sections = [];

    public PyTorchFile(MappedFile file, string? section)
        : base(file.Path)
    {
        (_file, _requested) = (file, section);
        try
        {
            RefuseLegacy(file);
            var allowance = new Allowance(file.Path, file.Length);
            var root = ReadPickle(file, allowance, out var skipped);
            Skipped = skipped;
            Find(root.Object as PickleDictionary, "", 0, allowance, _sections, new(ReferenceEqualityComparer.Instance));
            if (_sections.Count == 0)
            {
                throw new InvalidWeightsException(Path, $"it contains no dictionary of tensors{Beside(root)}.");
            }

            _chosen = Choose(_sections, section);
            Tensors = Entries(_chosen, _sections, allowance);
            Metadata = Values(root, allowance);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>Creates a view of a section of an open file.</summary>
    private PyTorchFile(PyTorchFile file, PickleDictionary section)
        : base(file.Path)
    {
        (_file, _isView, _sections, _chosen, Metadata, Skipped) = (file._file, true, file._sections, section, file.Metadata, file.Skipped);
        Tensors = Entries(section, _sections, new Allowance(Path, _file.Length));
    }

    /// <inheritdoc/>
    public override string Format => "PyTorch checkpoint";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, string> Metadata { get; }

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, TensorEntry> Tensors { get; }

    internal override IReadOnlyList<WeightsSection> AllSections =>
        [.. _sections.Select(found => new WeightsSection(found.Name, found.Count, ReferenceEquals(found.Items, _chosen)))];

    /// <inheritdoc/>
    public override IReadOnlyList<string> Skipped { get; } = [];

    internal override int Preference =>
        _chosen is null ? NoPreference : PreferenceOf(_sections.Find(section => ReferenceEquals(section.Items, _chosen)).Name);

    internal override IEnumerable<WeightsFile> Choices(bool all = false)
    {
        if (_sections.Count == 1 || (!all && (_isView || _requested is not null)))
        {
            return [this];
        }

        var others = _sections
            .Where(section => !ReferenceEquals(section.Items, _chosen))
            .OrderBy(section => PreferenceOf(section.Name) == NoPreference)
            .ThenByDescending(section => section.Count)
            .Take(MostChoices)
            .OrderBy(section => PreferenceOf(section.Name));
        return others.Select(section => new PyTorchFile(this, section.Items)).Prepend(this);
    }

    /// <summary>Determines whether a file begins like a checkpoint, including those written before PyTorch 1.6. A safetensors file can begin with the
    /// same bytes, because its first bytes are the length of its header: 640 is 0x80 0x02.</summary>
    public static bool IsOne(MappedFile file) =>
        file.Bytes(0, 4) is [(byte)'P', (byte)'K', 3, 4]
        || ((file.Bytes(0, 4) is [0x80, >= 1 and <= 5, ..] || IsTar(file)) && !SafetensorsHeader.Begins(file));

    private protected override Tensor Read(TensorEntry entry, TensorMaps? maps) => _file.Tensor(entry, maps);

    internal override MappedFile FileOf(TensorEntry entry) => _file;

    private protected override void Close()
    {
        if (!_isView)
        {
            _file.Dispose();
        }
    }

    private static bool IsTar(MappedFile file) => file.Length > 512 && file.Bytes(257, 5).SequenceEqual("ustar"u8);

    private static void RefuseLegacy(MappedFile file)
    {
        const string hint = " Load the file in Python and save it again: torch.save(torch.load('old.pth', map_location='cpu'), 'new.pth').";
        if (IsTar(file))
        {
            throw new InvalidWeightsException(
                file.Path,
                "it is a tar archive, the checkpoint format of PyTorch before version 0.1.10; expected a zip archive." + hint
            );
        }

        if (file.Bytes(0, 4)[0] != 0x80)
        {
            return;
        }

        var isLegacy = file.Length >= LegacyMagic.Length && file.Bytes(0, LegacyMagic.Length).SequenceEqual(LegacyMagic);
        throw new InvalidWeightsException(
            file.Path,
            (
                isLegacy
                    ? "it is in the format that PyTorch wrote before version 1.6; expected a zip archive."
                    : "it is a plain Python pickle; expected a zip archive written by torch.save."
            ) + hint
        );
    }

    private static PickleValue ReadPickle(MappedFile file, Allowance allowance, out IReadOnlyList<string> skipped)
    {
        var records = ZipDirectory.Read(file, allowance);
        var names = records.Keys.Where(name => name is PickleName || name.EndsWith("/" + PickleName, StringComparison.Ordinal)).Take(2).ToList();
        if (names.Count != 1)
        {
            throw new InvalidWeightsException(
                file.Path,
                $"it is a zip archive {(names.Count == 0 ? "without" : "with more than one")} {PickleName}; "
                    + "expected a PyTorch checkpoint written by torch.save."
                    + (records.Keys.Any(name => name.EndsWith(".npy", StringComparison.Ordinal)) ? " It appears to be a NumPy .npz file." : "")
            );
        }

        var folder = names[0][..^PickleName.Length];
        if (records.ContainsKey(folder + "constants.pkl"))
        {
            throw new InvalidWeightsException(
                file.Path,
                "it is a TorchScript program, not a checkpoint. Load it in Python with torch.jit.load and save its state dict: "
                    + "torch.save(program.state_dict(), 'weights.pt')."
            );
        }

        if (records.TryGetValue(folder + "byteorder", out var order) && order.Length == 3 && file.Bytes(order.Offset, 3).SequenceEqual("big"u8))
        {
            throw new InvalidWeightsException(
                file.Path,
                "its numbers are big-endian; expected little-endian. Load it in Python on the machine that wrote it and save it as safetensors."
            );
        }

        if (records.FirstOrDefault(record => record.Value.Length == ZipDirectory.Packed).Key is { } packed)
        {
            throw new InvalidWeightsException(
                file.Path,
                $"its entry '{InvalidWeightsException.Shown(packed)}' is compressed or encrypted; PyTorch stores entries uncompressed, "
                    + "and only such archives can be memory-mapped. Save the file again with torch.save, or repack it with 'zip -0'."
            );
        }

        var (offset, length) = records[names[0]];
        if (length > SafetensorsHeader.MaxLength)
        {
            throw new InvalidWeightsException(
                file.Path,
                $"its pickle is {length} bytes long, which exceeds the limit of {SafetensorsHeader.MaxLength} bytes."
            );
        }

        var byName = records.GetAlternateLookup<ReadOnlySpan<char>>();
        return Unpickler.Read(file.Path, file.Bytes(offset, (int)length), allowance, Record, out skipped);

        (long Offset, long Length)? Record(string key)
        {
            Span<char> name = stackalloc char[500];
            return name.TryWrite($"{folder}data/{key}", out var written) && byName.TryGetValue(name[..written], out var record) ? record : null;
        }
    }

    /// <summary>Finds the dictionaries that directly contain tensors, each once.</summary>
    private static void Find(
        PickleDictionary? dictionary,
        string name,
        int depth,
        Allowance allowance,
        List<(string Name, PickleDictionary Items, int Count)> sections,
        HashSet<object> seen
    )
    {
        if (dictionary is null || depth > DeepestSection)
        {
            return;
        }

        allowance.Expect(256);
        if (!seen.Add(dictionary))
        {
            return;
        }

        var count = dictionary.Items.Count(item => item.Key.Object is string && item.Value.Object is PickleTensor);
        if (count > 0)
        {
            sections.Add((name, dictionary, count));
        }

        foreach (var (key, value) in dictionary.Items)
        {
            if (key.Object is not string part || value.Object is not PickleDictionary inner)
            {
                continue;
            }

            allowance.Expect(2L * (name.Length + part.Length));
            Find(inner, name.Length == 0 ? part : $"{name}.{part}", depth + 1, allowance, sections, seen);
        }
    }

    /// <summary>Returns the requested section or the default one; null if all sections are used, with the section as a prefix of each name.</summary>
    private PickleDictionary? Choose(List<(string Name, PickleDictionary Items, int Count)> sections, string? asked)
    {
        if (asked is not null)
        {
            var found = sections.FirstOrDefault(section => string.Equals(section.Name, asked, StringComparison.Ordinal));
            return found.Items
                ?? throw new InvalidWeightsException(
                    Path,
                    $"it has no section '{asked}'. "
                        + $"It has: {string.Join(", ", sections.Take(8).Select(section => $"'{InvalidWeightsException.Shown(section.Name)}'"))}."
                );
        }

        if (sections.Count == 1)
        {
            return sections[0].Items;
        }

        foreach (var known in new[] { Averages, Usual })
        {
            var usual = sections.Where(section => section.Name.Split('.').Any(known.Contains)).ToList();
            if (usual.Count > 0)
            {
                return usual.MinBy(section => (Array.FindIndex(known, name => section.Name.Split('.').Contains(name)), -section.Count)).Items;
            }
        }

        return sections.Find(section => section.Name.Length == 0).Items;
    }

    private static int PreferenceOf(string section)
    {
        var parts = section.Split('.');
        var index = Array.FindIndex([.. Averages, .. Usual], name => parts.Contains(name, StringComparer.Ordinal));
        return index < 0 ? NoPreference : index;
    }

    private static Dictionary<string, TensorEntry> Entries(
        PickleDictionary? chosen,
        List<(string Name, PickleDictionary Items, int Count)> sections,
        Allowance allowance
    )
    {
        var taken = sections.Where(section => chosen is null || ReferenceEquals(section.Items, chosen)).ToList();
        var count = taken.Sum(section => section.Count);
        allowance.Expect(40L * count);
        var entries = new Dictionary<string, TensorEntry>(count, StringComparer.Ordinal);
        foreach (var section in taken)
        {
            foreach (var (key, value) in section.Items.Items)
            {
                if (key.Object is not string name || value.Object is not PickleTensor tensor)
                {
                    continue;
                }

                allowance.Expect(128 + (chosen is null ? 2L * (section.Name.Length + name.Length) : 0));
                var full = chosen is null ? $"{section.Name}.{name}" : name;
                entries[full] = new TensorEntry(full, tensor.Type, tensor.Shape, tensor.Offset, tensor.Length) { Strides = tensor.Strides };
            }
        }

        return entries;
    }

    /// <summary>Gets the numbers and short strings stored next to the tensors.</summary>
    private static Dictionary<string, string> Values(PickleValue root, Allowance allowance)
    {
        var values = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach (var (key, value) in ((PickleDictionary)root.Object!).Items)
        {
            allowance.Expect(256);
            if (key.Object is string name && value.Words is { Length: <= 1000 } words)
            {
                values[name] = words;
            }
        }

        return values;
    }

    private static string Beside(PickleValue root) =>
        root.Object switch
        {
            PickleDictionary { Items.Count: > 0 } dictionary => "; it contains "
                + string.Join(", ", dictionary.Items.Take(8).Select(item => $"'{InvalidWeightsException.Shown(item.Key.Words ?? "?")}'")),
            PickleTensor => ", only a single tensor",
            _ => "",
        };
}
