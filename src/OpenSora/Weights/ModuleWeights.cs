using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Weights;

/// <summary>Extension methods that load and save a module's weights.</summary>
public static class ModuleWeights
{
    // Prefixes added by wrappers: DistributedDataParallel, trainers and torch.compile.
    internal static readonly string[] Wrappers = ["module.", "model.", "_orig_mod."];

    /// <summary>Loads weights from a file into a module. If the weights do not fit, the module is unchanged.</summary>
    /// <param name="module">The module, on any device. Its parameters and persistent buffers are loaded; floating-point weights are converted to the
    /// module's dtypes.</param>
    /// <param name="path">A safetensors file, a PyTorch checkpoint, the index of a sharded file, or a folder that contains one of these; see
    /// <see cref="WeightsFile.Open(string, string?)"/>.</param>
    /// <param name="options">The load options. If null, loading is strict and names are used unchanged.</param>
    /// <exception cref="FileNotFoundException">The file does not exist.</exception>
    /// <exception cref="InvalidWeightsException">The file is damaged, or loading is strict and the weights do not fit; in the latter case the
    /// exception contains the report.</exception>
    public static LoadReport LoadWeights(this nn.Module module, string path, LoadOptions? options = null)
    {
        using var file = WeightsFile.Open(path, options?.Section);
        return module.LoadWeights(file, options);
    }

    /// <summary>Loads weights from an open file into a module. If the weights do not fit, the module is unchanged.</summary>
    /// <param name="module">The module, on any device. Its parameters and persistent buffers are loaded; floating-point weights are converted to the
    /// module's dtypes.</param>
    /// <param name="file">The open weights file. It is not closed.</param>
    /// <param name="options">The load options. If null, loading is strict and names are used unchanged.</param>
    /// <remarks>Parameters on the CPU with the same dtype and shape as in the file use the memory-mapped file directly (see
    /// <see cref="WeightsFile"/>), so that data is read from disk only when it is first used. The parameter objects stay the same. Set
    /// <see cref="LoadOptions.Copy"/> to copy the weights instead.</remarks>
    /// <exception cref="InvalidWeightsException">Loading is strict and the weights do not fit. The exception contains the report.</exception>
    public static LoadReport LoadWeights(this nn.Module module, WeightsFile file, LoadOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(module);
        ArgumentNullException.ThrowIfNull(file);
        options ??= new LoadOptions();

        var targets = module.state_dict();
        var (report, fitting) = Match(targets, file, options);
        if (options.Strict && !report.IsComplete)
        {
            throw new InvalidWeightsException(file.Path, $"they do not fit the model. {report}", report: report);
        }

        // Only boolean tensors can still be damaged; check them before changing the module.
        foreach (var (_, entry) in fitting.Where(pair => pair.Value.Dtype == ScalarType.Bool))
        {
            file.Read(entry.Name).Dispose();
        }

        using (no_grad())
        using (var maps = new TensorMaps())
        {
            foreach (var (name, entry) in fitting.OrderBy(pair => pair.Value.Offset)) // the order in which overlaps are recognized
            {
                using var scope = NewDisposeScope();
                var target = targets[name];
                var source = file.Read(entry.Name, options.Copy ? null : maps);
                var isAsInFile =
                    source.dtype == target.dtype
                    && target.device_type == DeviceType.CPU
                    && source.is_contiguous()
                    && target.is_contiguous()
                    && target.shape.AsSpan().SequenceEqual(source.shape);
                if (isAsInFile && !options.Copy)
                {
                    target.set_(source);
                }
                else
                {
                    target.copy_(source.reshape(target.shape));
                }
            }
        }

        return report;
    }

    /// <summary>Returns the report that <see cref="LoadWeights(nn.Module, WeightsFile, LoadOptions?)"/> would return, without loading. The module may
    /// consist of shapes without memory.</summary>
    internal static LoadReport Compare(this nn.Module module, WeightsFile file, LoadOptions options) =>
        Match(module.state_dict(), file, options).Report;

    private static (LoadReport Report, List<KeyValuePair<string, TensorEntry>> Fitting) Match(
        Dictionary<string, Tensor> targets,
        WeightsFile file,
        LoadOptions options
    )
    {
        var wrapper = Wrapper(file.Tensors.Keys, name => Mapped(name) is { } own && targets.ContainsKey(own));
        var sources = new Dictionary<string, TensorEntry>(StringComparer.Ordinal); // by the module's name
        var mismatched = new Dictionary<string, string>(StringComparer.Ordinal);
        List<string> unexpected = [],
            dropped = [];
        foreach (var entry in file.Tensors.Values)
        {
            var name = Mapped(Unwrapped(entry.Name, wrapper));
            if (name is null)
            {
                dropped.Add(entry.Name);
            }
            else if (!targets.TryGetValue(name, out var target))
            {
                unexpected.Add(entry.Name);
            }
            else if (!sources.TryAdd(name, entry))
            {
                mismatched[name] = $"both '{sources[name].Name}' and '{entry.Name}' are mapped to this name";
            }
            else if (WhyNot(entry, target, options.AllowReshape) is { } reason)
            {
                mismatched[name] = reason;
            }
        }

        var absent = targets.Keys.Where(name => !sources.ContainsKey(name)).ToLookup(name => options.KeepInitial?.Invoke(name) ?? false);
        var fitting = sources.Where(pair => !mismatched.ContainsKey(pair.Key)).ToList();
        var sameShape = fitting.ToLookup(pair => targets[pair.Key].shape.AsSpan().SequenceEqual(pair.Value.Shape.ToArray()));
        return (
            new LoadReport
            {
                Unwrapped =
                [
                    .. file.AllSections.Where(section => section.Chosen && section.Name.Length > 0).Select(section => section.Name),
                    .. wrapper.Length > 0 ? [wrapper] : Array.Empty<string>(),
                ],
                Loaded = [.. sameShape[true].Select(pair => pair.Key)],
                Reshaped = [.. sameShape[false].Select(pair => $"{pair.Key}: {Text(pair.Value.Shape)} to {Text(targets[pair.Key].shape)}")],
                Initialised = [.. absent[true]],
                Missing = [.. absent[false]],
                Unexpected = unexpected,
                Dropped = dropped,
                Mismatched = [.. mismatched.Select(pair => $"{pair.Key}: {pair.Value}")],
            },
            fitting
        );

        string? Mapped(string name) => options.KeyMap is null ? name : options.KeyMap(name);
    }

    /// <summary>Saves a module's parameters and persistent buffers to a safetensors file. The file is written under a temporary name and then
    /// renamed.</summary>
    /// <param name="module">The module.</param>
    /// <param name="path">The path of the file to write.</param>
    /// <param name="dtype">The dtype to convert floating-point tensors to, or null to keep their dtypes.</param>
    /// <param name="metadata">Key-value pairs to store in the header.</param>
    /// <exception cref="IOException">The file could not be written. An existing file is unchanged.</exception>
    public static void SaveWeights(this nn.Module module, string path, ScalarType? dtype = null, IReadOnlyDictionary<string, string>? metadata = null)
    {
        ArgumentNullException.ThrowIfNull(module);
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        SafetensorsWriter.Write(path, module.state_dict().Select(pair => KeyValuePair.Create(pair.Key, Converted(pair.Value, dtype))), metadata);
    }

    private static Tensor Converted(Tensor tensor, ScalarType? dtype) =>
        dtype is { } type && type != tensor.dtype && tensor.is_floating_point() ? tensor.detach().to_type(type) : tensor;

    /// <summary>Returns the reason why a tensor in the file cannot be loaded into a tensor of the module, or null if it can.</summary>
    private static string? WhyNot(TensorEntry entry, Tensor target, bool allowReshape)
    {
        if (entry.Dtype is not { } dtype)
        {
            return $"the file has the dtype {entry.Type}, which is not supported";
        }

        if (dtype != target.dtype && !(IsFloating(dtype) && IsFloating(target.dtype)))
        {
            return $"the file has the dtype {entry.Type}, the model {SafetensorsHeader.NameOf(target.dtype) ?? target.dtype.ToString()}";
        }

        if (
            target.shape.AsSpan().SequenceEqual(entry.Shape.ToArray())
            || (allowReshape && WithoutOnes(target.shape).SequenceEqual(WithoutOnes(entry.Shape)))
        )
        {
            return null;
        }

        return $"the file has {Text(entry.Shape)}, the model {Text(target.shape)}";
    }

    /// <summary>Finds the prefix that every name has because the module was saved inside a wrapper; empty if names match without a prefix or do not
    /// match at all.</summary>
    private static string Wrapper(IEnumerable<string> names, Func<string, bool> fits)
    {
        var tried = new List<string> { "" };
        for (var i = 0; i < tried.Count; i++)
        {
            var inner = names.Where(name => name.StartsWith(tried[i], StringComparison.Ordinal)).ToList();
            if (inner.Exists(name => fits(name[tried[i].Length..])))
            {
                return tried[i];
            }

            var deeper = Wrappers
                .Select(wrapper => tried[i] + wrapper)
                .Where(wrapper => inner.Exists(name => name.StartsWith(wrapper, StringComparison.Ordinal)));
            tried.AddRange(tried[i].Count(c => c == '.') < Wrappers.Length ? deeper : []);
        }

        return "";
    }

    private static string Unwrapped(string name, string wrapper) =>
        name.StartsWith(wrapper, StringComparison.Ordinal) ? name[wrapper.Length..] : name;

    private static IEnumerable<long> WithoutOnes(IEnumerable<long> shape) => shape.Where(size => size != 1);

    private static string Text(IEnumerable<long> shape) => $"[{string.Join(", ", shape)}]";

    private static bool IsFloating(ScalarType dtype) =>
        dtype is ScalarType.Float16 or ScalarType.BFloat16 or ScalarType.Float32 or ScalarType.Float64;
}
