using System.Runtime.CompilerServices;
using OpenSora.Runtime;
using OpenSora.Weights;
using TorchSharp;
using TorchSharp.Modules;
using static OpenSora.Runtime.TensorArithmetic;
using static TorchSharp.torch;

namespace OpenSora.Models.Layers;

/// <summary>The large weights of a network, or of one of its blocks, that are in memory only while they are used (<see cref="Residency.Release"/> and
/// <see cref="Residency.Stream"/>). Small tensors stay in memory.</summary>
/// <remarks>
/// <para>While nothing uses them, parameters have their shape, data type and device, but no memory: all elements are the same NaN. Weights that the
/// file contains as the network needs them become views of a mapping of the file, which is unmapped afterwards, so that its pages leave the resident
/// memory. All others (another data type, another device, 8-bit numbers, unaligned tensors) are converted or copied each time.</para>
/// <para>Users are counted, so requests that run at the same time share the weights.</para>
/// </remarks>
internal sealed class TransientWeights
{
    // Smaller tensors are not worth the calls. In bytes.
    private const long Smallest = 1 << 16;

    // The weights of networks and blocks. The table does not keep these in memory.
    private static readonly ConditionalWeakTable<object, TransientWeights> Owned = [];

    private readonly WeightsFile _file;
    private readonly WeightsFile _section;
    private readonly IReadOnlyList<Weight> _weights;
    private readonly OnDemand _users;
    private (int All, int Copied) _count;

    private TransientWeights(WeightsFile file, WeightsFile section, IReadOnlyList<Weight> weights)
    {
        (_file, _section, _weights) = (file, section, weights);
        _users = new OnDemand(Load, Unload);
        Unload();
    }

    /// <summary>Has the weights of a network or block in memory until the result is disposed. Nothing happens if they are there anyway.</summary>
    /// <param name="owner">The network or block.</param>
    /// <param name="next">The block that runs next; its weights are read from disk in the meantime.</param>
    public static OnDemand.Lease Use(object? owner, object? next = null)
    {
        var lease = owner is not null && Owned.TryGetValue(owner, out var weights) ? weights._users.Use() : default;
        if (next is not null && Owned.TryGetValue(next, out var following))
        {
            following.ReadAhead();
        }

        return lease;
    }

    /// <summary>Counts the large weights of a network with its blocks, and those that are converted or copied for each use because they cannot be
    /// views of the file; null if the weights stay in memory.</summary>
    public static (int All, int Copied)? Count(object? network) =>
        network is not null && Owned.TryGetValue(network, out var weights) ? weights._count : null;

    /// <summary>Closes the weights file of a network that is disposed.</summary>
    public static void Close(object? network)
    {
        if (network is not null && Owned.TryGetValue(network, out var weights))
        {
            weights._file.Dispose();
        }
    }

    /// <summary>Loads the small weights of a network, moves it to a device, and prepares it to load the large weights when they are used.</summary>
    /// <param name="network">The network, which consists of the module or is the module.</param>
    /// <param name="module">The module, on the CPU.</param>
    /// <param name="path">The path of the weights. The file is open until <see cref="Close"/>.</param>
    /// <param name="options">Gets the load options for a section of the file.</param>
    /// <param name="device">The device of the network.</param>
    /// <param name="byBlock">Whether the blocks of the module have weights of their own.</param>
    /// <exception cref="InvalidOperationException">The module has no blocks.</exception>
    /// <exception cref="InvalidWeightsException">The weights do not fit.</exception>
    public static void Attach(object network, nn.Module module, string path, Func<WeightsFile, LoadOptions> options, Device device, bool byBlock)
    {
        var file = WeightsFile.Open(path);
        try
        {
            Attach(network, module, file, options, device, byBlock);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    private static void Attach(
        object network,
        nn.Module module,
        WeightsFile file,
        Func<WeightsFile, LoadOptions> options,
        Device device,
        bool byBlock
    )
    {
        string[] blocks = byBlock ? [.. BlocksOf(module)] : [];
        if (byBlock && blocks.Length == 0)
        {
            throw new InvalidOperationException(
                $"{module.GetType().Name} cannot be streamed, because it has no list of blocks. Use the residency {nameof(Residency.Release)} or "
                    + $"{nameof(Residency.Keep)}, or hold the blocks of the network in a {nameof(BlockList<>)}."
            );
        }

        var match = module.Match(file, options);
        var targets = module.state_dict();
        var large = match
            .Fitting.Where(pair =>
                targets[pair.Key] is var target && target.is_floating_point() && target.numel() * target.element_size() >= Smallest
            )
            .ToDictionary(pair => pair.Key, pair => (Entry: pair.Value, Shape: targets[pair.Key].shape), StringComparer.Ordinal);
        module.Assign(match, name => !large.ContainsKey(name));
        foreach (var (_, entry) in match.Fitting.Where(pair => !large.ContainsKey(pair.Key)))
        {
            match.Section.Drop(entry); // copying a small tensor can have mapped 2 MB
        }

        using (no_grad())
        {
            foreach (var name in large.Keys)
            {
                var target = targets[name];
                using var nothing = empty(0, target.dtype);
                target.set_(nothing); // so that nothing large moves to the device
            }
        }

        module.eval();
        module.to(device);

        targets = module.state_dict();
        var tables = module
            .named_modules()
            .Where(pair => pair.module is Embedding)
            .ToDictionary(pair => $"{pair.name}.{nameof(Embedding.weight)}", pair => (Embedding)pair.module, StringComparer.Ordinal);
        var modules = module.named_modules().ToDictionary(pair => pair.name, pair => pair.module, StringComparer.Ordinal);
        List<Weight> all = [];
        var groups = large.GroupBy(
            pair => Array.FindLast(blocks, block => pair.Key.StartsWith($"{block}.", StringComparison.Ordinal)),
            StringComparer.Ordinal
        );
        foreach (var group in groups)
        {
            var weights = group
                .OrderBy(pair => pair.Value.Entry.Offset) // the order in which overlaps are recognized
                .Select(pair => new Weight(
                    pair.Value.Entry,
                    match.ScaleOf(pair.Value.Entry),
                    targets[pair.Key],
                    pair.Value.Shape,
                    tables.GetValueOrDefault(pair.Key)
                ))
                .ToList();
            all.AddRange(weights);
            Owned.Add(group.Key is null ? module : modules[group.Key], new TransientWeights(file, match.Section, weights));
        }

        if (!Owned.TryGetValue(module, out var own))
        {
            Owned.Add(module, own = new TransientWeights(file, match.Section, []));
        }

        own._count = (all.Count, all.Count(weight => weight.IsCopied));

        if (!ReferenceEquals(network, module))
        {
            Owned.Add(network, own);
        }
    }

    // The names of the blocks; inner blocks follow those that contain them.
    private static IEnumerable<string> BlocksOf(nn.Module module) =>
        module
            .named_modules()
            .Where(pair => pair.module is IBlockList)
            .SelectMany(pair => pair.module.named_children().Select(child => $"{pair.name}.{child.name}"));

    private void Load()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var maps = new TensorMaps();
        try
        {
            ReadAhead();
            foreach (var weight in _weights)
            {
                weight.Load(_section, maps);
            }
        }
        catch
        {
            Unload();
            throw;
        }
    }

    private void Unload()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        foreach (var weight in _weights)
        {
            weight.Unload();
        }
    }

    private void ReadAhead()
    {
        foreach (var weight in _weights)
        {
            weight.ReadAhead(_section);
        }
    }

    /// <summary>A parameter or buffer of a network, and the tensor of the file that is its value.</summary>
    private sealed class Weight
    {
        private readonly TensorEntry _entry;
        private readonly TensorEntry? _scale;
        private readonly Tensor _target;
        private readonly Embedding? _table;
        private readonly long[] _shape;
        private readonly bool _isAsInFile;

        public Weight(TensorEntry entry, TensorEntry? scale, Tensor target, long[] shape, Embedding? table)
        {
            (_entry, _scale, _target, _shape) = (entry, scale, target, shape);
            _isAsInFile =
                scale is null
                && entry.Strides is null
                && entry.Dtype == target.dtype
                && target.device_type == DeviceType.CPU
                && Float8.ValuesOf(entry.Type) is null;
            // The rows that are looked up are converted; the table is not.
            _table = !_isAsInFile && scale is null && target.device_type == DeviceType.CPU ? table : null;
        }

        public bool IsCopied => !_isAsInFile && _table is null;

        public void Load(WeightsFile file, TensorMaps maps)
        {
            using var scope = NewDisposeScope();
            using var own = new TensorMaps(); // so that the pages of a converted tensor are unmapped at once
            var source = ModuleMatch.Read(file, _entry, _scale, IsCopied ? own : maps);
            if (_table is not null)
            {
                _table.Table = source.DetachFromDisposeScope();
            }
            else
            {
                _target.set_(_isAsInFile ? source.reshape(_shape) : source.to(_target.device).to_type(_target.dtype).reshape(_shape).contiguous());
            }

            file.Drop(_entry);
        }

        public void Unload()
        {
            if (_table is not null)
            {
                _table.Table?.Dispose();
                _table.Table = null;
            }

            using var scope = NewDisposeScope();
            _target.set_(Full([1], double.NaN, _target.dtype, _target.device).expand(_shape));
        }

        public void ReadAhead(WeightsFile file) => file.ReadAhead(_entry);
    }
}
