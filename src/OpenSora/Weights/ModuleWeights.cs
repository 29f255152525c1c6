using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Weights;

/// <summary>Loads and saves a module's weights.</summary>
public static class ModuleWeights
{
    // Wrappers that name what they hold: DistributedDataParallel, trainers and torch.compile.
    private static readonly string[] Wrappers = ["module.", "model.", "_orig_mod."];

    /// <summary>Loads weights into a module. Weights that do not fit change nothing.</summary>
    /// <param name="module">Parameters and persistent buffers on any device; floating types are converted to the module's.</param>
    /// <param name="path">What <see cref="WeightsFile.Open(string, string?)"/> takes: safetensors, a PyTorch checkpoint, the index of shards, or a
    /// folder with one of those.</param>
    /// <param name="options">Null: strict, equal names.</param>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="InvalidWeightsException">The file is damaged or, if strict, does not fit; the report is in the exception.</exception>
    public static LoadReport LoadWeights(this nn.Module module, string path, LoadOptions? options = null)
    {
        using var file = WeightsFile.Open(path, options?.Section);
        return module.LoadWeights(file, options);
    }

    /// <summary>Loads open weights into a module. Weights that do not fit change nothing.</summary>
    /// <param name="module">Parameters and persistent buffers on any device; floating types are converted to the module's.</param>
    /// <param name="file">The weights; they stay open.</param>
    /// <param name="options">Null: strict, equal names.</param>
    /// <remarks>Parameters on the CPU that have the file's own type and shape come to lie in the mapped file (see <see cref="WeightsFile"/>): nothing
    /// is read
    /// before it is used. They are the same objects as before. <see cref="LoadOptions.Copy"/> prevents that.</remarks>
    /// <exception cref="InvalidWeightsException">The file does not fit and loading is strict; the report is in the exception.</exception>
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

        // Only booleans can still turn out to be damaged: before anything is changed.
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

    /// <summary>Says what <see cref="LoadWeights(nn.Module, WeightsFile, LoadOptions?)"/> would do, and does nothing; the module may be of shapes
    /// alone.</summary>
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
                mismatched[name] = $"both '{sources[name].Name}' and '{entry.Name}' are mapped to it";
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
                    .. file.Sections.Where(section => section.Chosen && section.Name.Length > 0).Select(section => section.Name),
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

    /// <summary>Saves a module's parameters and persistent buffers, under a temporary name first.</summary>
    /// <param name="module">The module.</param>
    /// <param name="path">The target.</param>
    /// <param name="dtype">Type to convert floating tensors to; null keeps theirs.</param>
    /// <param name="metadata">Key-value pairs for the header.</param>
    /// <exception cref="IOException">The file could not be written; the target is as it was before.</exception>
    public static void SaveWeights(this nn.Module module, string path, ScalarType? dtype = null, IReadOnlyDictionary<string, string>? metadata = null)
    {
        ArgumentNullException.ThrowIfNull(module);
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        SafetensorsWriter.Write(path, module.state_dict().Select(pair => KeyValuePair.Create(pair.Key, Converted(pair.Value, dtype))), metadata);
    }

    private static Tensor Converted(Tensor tensor, ScalarType? dtype) =>
        dtype is { } type && type != tensor.dtype && tensor.is_floating_point() ? tensor.detach().to_type(type) : tensor;

    /// <summary>Says why a file's tensor cannot fill a module's, or null if it can.</summary>
    private static string? WhyNot(TensorEntry entry, Tensor target, bool allowReshape)
    {
        if (entry.Dtype is not { } dtype)
        {
            return $"the file has the dtype {entry.Type}, for which there are no tensors here";
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

    /// <summary>What stands before every name because the module was saved inside of others; empty if names fit as they are, or in no way.</summary>
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
