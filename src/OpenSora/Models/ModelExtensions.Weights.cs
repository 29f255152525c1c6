using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

// Loads and saves the weights of a module.
public static partial class ModelExtensions
{
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

    /// <summary>Loads weights from an open file into a module. If the weights do not fit, the module is unchanged. If the file has several sections
    /// and none was requested, the section that fits the module best is loaded.</summary>
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
        options ??= new LoadOptions();
        return module.LoadWeights(file, _ => options, out _);
    }

    /// <summary>Loads weights with options that depend on the section of the file, and returns the section that was loaded.</summary>
    internal static LoadReport LoadWeights(this nn.Module module, WeightsFile file, Func<WeightsFile, LoadOptions> optionsOf, out WeightsFile section)
    {
        ArgumentNullException.ThrowIfNull(module);
        ArgumentNullException.ThrowIfNull(file);
        var match = module.Match(file, optionsOf);
        module.Assign(match, _ => true);
        section = match.Section;
        return match.Report;
    }

    /// <summary>Finds the section of a file that fits a module best, and checks that it can be loaded.</summary>
    /// <exception cref="InvalidWeightsException">Loading is strict and the weights do not fit. The exception contains the report.</exception>
    internal static ModuleMatch Match(this nn.Module module, WeightsFile file, Func<WeightsFile, LoadOptions> optionsOf)
    {
        var targets = module.state_dict();
        var match = ModuleMatch.Best(targets, file, optionsOf);
        if (match.Options.Strict && !match.Report.IsComplete)
        {
            throw new InvalidWeightsException(
                match.Section.Path,
                $"they do not fit the model. {match.Report}{ModuleMatch.Sections(targets, match.Section, optionsOf)}",
                report: match.Report
            );
        }

        // Only boolean tensors can still be damaged; check them before changing the module.
        foreach (var (_, entry) in match.Fitting.Where(pair => pair.Value.Dtype == ScalarType.Bool))
        {
            match.Section.Read(entry.Name).Dispose();
        }

        return match;
    }

    /// <summary>Loads the fitting tensors with the specified names into a module.</summary>
    internal static void Assign(this nn.Module module, ModuleMatch match, Func<string, bool> selects)
    {
        var (targets, options) = (module.state_dict(), match.Options);
        using var noGradients = no_grad();
        using var maps = new TensorMaps();
        var selected = match.Fitting.Where(pair => selects(pair.Key));
        foreach (var (name, entry) in selected.OrderBy(pair => pair.Value.Offset)) // the order in which overlaps are recognized
        {
            using var scope = NewDisposeScope();
            var target = targets[name];
            var source = ModuleMatch.Read(match.Section, entry, match.ScaleOf(entry), options.Copy ? null : maps);
            var isAsInFile =
                source.dtype == target.dtype
                && target.device_type == DeviceType.CPU
                && source.is_contiguous()
                && target.is_contiguous()
                && target.shape.AsSpan().SequenceEqual(source.shape);
            if (isAsInFile && !options.Copy)
            {
                target.set_(source);
                NetworkCost.MarkMapped(target);
            }
            else
            {
                target.copy_(source.reshape(target.shape));
            }
        }
    }

    /// <summary>Returns the report that <see cref="LoadWeights(nn.Module, WeightsFile, LoadOptions?)"/> would return, without loading. The module may
    /// consist of shapes without memory.</summary>
    internal static LoadReport Compare(this nn.Module module, WeightsFile file, LoadOptions options) =>
        ModuleMatch.Of(module.state_dict(), file, options).Report;

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
}
