using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Weights;

/// <summary>The result of matching one section of a file with the tensors of a module.</summary>
/// <param name="Section">The file, or one section of it.</param>
/// <param name="Options">The options that were used.</param>
/// <param name="Report">The report that loading returns.</param>
/// <param name="Fitting">The tensors to load, by their names in the module.</param>
internal sealed record ModuleMatch(
    WeightsFile Section,
    LoadOptions Options,
    LoadReport Report,
    IReadOnlyList<KeyValuePair<string, TensorEntry>> Fitting
)
{
    // Prefixes added by wrappers: averages (ema-pytorch), DistributedDataParallel, trainers and torch.compile. Averages are preferred.
    private const string Average = "ema_model.",
        Original = "online_model.";
    internal static readonly string[] Wrappers = [Average, Original, "module.", "model.", "_orig_mod."];
    private const int DeepestWrapper = 3;

    // Numbers that ema-pytorch and torch.optim.swa_utils.AveragedModel store beside the weights.
    private static readonly string[] Counters = ["initted", "step", "n_averaged"];

    private int Problems => Report.Missing.Count + Report.Unexpected.Count + Report.Mismatched.Count;

    /// <summary>Matches the tensors of a module with the section of the file that fits best. If several fit equally well, the first of
    /// <see cref="WeightsFile.Choices"/> is used.</summary>
    /// <exception cref="InvalidWeightsException">Several sections fit equally well, and their names do not show which one to use.</exception>
    public static ModuleMatch Best(Dictionary<string, Tensor> targets, WeightsFile file, Func<WeightsFile, LoadOptions> optionsOf)
    {
        var matches = file.Choices().Select(section => Of(targets, section, optionsOf(section))).ToList();
        var best = Best(matches);
        var equal = matches.Where(match => match.CompareTo(best) == 0).ToList();
        var isUsual = ReferenceEquals(best, matches[0]) || best.Section.Preference != WeightsFile.NoPreference;
        var isLoaded = best.Fitting.Count > 0 && (best.Report.IsComplete || !best.Options.Strict);
        if (equal.Count > 1 && isLoaded && !isUsual)
        {
            throw new InvalidWeightsException(
                file.Path,
                $"its sections {string.Join(" and ", equal.Select(match => $"'{Shown(match)}'"))} fit the model equally well. "
                    + $"Set LoadOptions.Section to one of them, for example Section = \"{Shown(best)}\"."
            );
        }

        return best;
    }

    /// <summary>Describes how well each section of a file fits a module, for an error message. Empty if the file has only one section.</summary>
    public static string Sections(Dictionary<string, Tensor> targets, WeightsFile file, Func<WeightsFile, LoadOptions> optionsOf)
    {
        const int shown = 8;
        var matches = file.Choices(all: true).Where(section => Name(section).Length > 0).Select(section => Of(targets, section, optionsOf(section)));
        var listed = matches.OrderByDescending(match => match.Fitting.Count).ToList();
        if (listed.Count < 2)
        {
            return "";
        }

        var fits = listed
            .Take(shown)
            .Select(match => $"'{Shown(match)}' ({match.Fitting.Count} of the model's {targets.Count} tensors, {match.Section.Tensors.Count} in it)");
        var more = listed.Count > shown ? $" and {listed.Count - shown} more" : "";
        return $"{Environment.NewLine}Sections of the file: {string.Join(", ", fits)}{more}. "
            + $"To load one of them, set LoadOptions.Section, for example Section = \"{Shown(listed[0])}\".";
    }

    /// <summary>Matches the tensors of a module with those of one section.</summary>
    public static ModuleMatch Of(Dictionary<string, Tensor> targets, WeightsFile section, LoadOptions options) =>
        Best([
            .. Prefixes([.. section.Tensors.Keys], name => Mapped(name, options) is { } own && targets.ContainsKey(own))
                .Select(prefix => Of(targets, section, options, prefix)),
        ]);

    /// <summary>Gets the scale that a tensor must be multiplied by; null for none.</summary>
    public TensorEntry? ScaleOf(TensorEntry entry) =>
        WeightScales.Of(entry, Section) is { } scale && !Fitting.Any(pair => ReferenceEquals(pair.Value, scale)) ? scale : null;

    /// <summary>Reads a tensor and multiplies it by its scale, in the caller's dispose scope.</summary>
    public static Tensor Read(WeightsFile file, TensorEntry entry, TensorEntry? scale, TensorMaps? maps)
    {
        var source = file.Read(entry.Name, maps);
        return scale is null ? source : source * file.Read(scale.Name).to_type(source.dtype).reshape([-1, .. entry.Shape.Skip(1).Select(_ => 1L)]);
    }

    private static ModuleMatch Of(Dictionary<string, Tensor> targets, WeightsFile section, LoadOptions options, string prefix)
    {
        var sources = new Dictionary<string, TensorEntry>(StringComparer.Ordinal); // by the module's name
        var mismatched = new Dictionary<string, string>(StringComparer.Ordinal);
        List<string> unexpected = [],
            dropped = [],
            scales = [];
        foreach (var entry in section.Tensors.Values)
        {
            var isInside = entry.Name.StartsWith(prefix, StringComparison.Ordinal);
            var name =
                isInside ? Mapped(entry.Name[prefix.Length..], options)
                : IsBeside(entry.Name, prefix) ? null
                : Mapped(entry.Name, options);
            var target = name is null ? null : targets.GetValueOrDefault(name);
            if (target is null && WeightScales.IsScale(entry, section))
            {
                scales.Add(entry.Name);
            }
            else if (name is null || (target is null && WeightScales.IsDescription(entry, section)))
            {
                dropped.Add(entry.Name);
            }
            else if (target is null)
            {
                unexpected.Add(entry.Name);
            }
            else if (!sources.TryAdd(name, entry))
            {
                mismatched[name] = $"both '{sources[name].Name}' and '{entry.Name}' are mapped to this name";
            }
            else if ((WhyNot(entry, target, options.AllowReshape) ?? WhyNotScaled(entry)) is { } reason)
            {
                mismatched[name] = reason;
            }
        }

        var absent = targets.Keys.Where(name => !sources.ContainsKey(name)).ToLookup(name => options.KeepInitial?.Invoke(name) ?? false);
        var fitting = sources.Where(pair => !mismatched.ContainsKey(pair.Key)).ToList();
        var sameShape = fitting.ToLookup(pair => targets[pair.Key].shape.AsSpan().SequenceEqual(pair.Value.Shape.ToArray()));
        var report = new LoadReport
        {
            Unwrapped = [.. new[] { Name(section), prefix }.Where(wrapper => wrapper.Length > 0)],
            Loaded = [.. sameShape[true].Select(pair => pair.Key)],
            Reshaped = [.. sameShape[false].Select(pair => $"{pair.Key}: {Text(pair.Value.Shape)} to {Text(targets[pair.Key].shape)}")],
            Initialized = [.. absent[true]],
            Missing = [.. absent[false]],
            Unexpected = unexpected,
            Dropped = dropped,
            Scales = scales,
            Mismatched = [.. mismatched.Select(pair => $"{pair.Key}: {pair.Value}")],
            Skipped = section.Skipped,
        };
        return new ModuleMatch(section, options, report, fitting);

        string? WhyNotScaled(TensorEntry entry) => WeightScales.Of(entry, section) is { } scale ? WeightScales.WhyNot(scale, entry) : null;
    }

    /// <summary>Returns the first of the matches that fit best.</summary>
    private static ModuleMatch Best(IReadOnlyList<ModuleMatch> matches) =>
        matches.Aggregate((best, match) => match.CompareTo(best) > 0 ? match : best);

    /// <summary>Compares how well two sections fit: complete ones first, then by the number of tensors that fit and of those that do not.</summary>
    private int CompareTo(ModuleMatch other) =>
        (Report.IsComplete, Fitting.Count, -Problems).CompareTo((other.Report.IsComplete, other.Fitting.Count, -other.Problems));

    private static string Name(WeightsFile file) =>
        string.Join(", ", file.AllSections.Where(section => section.Chosen && section.Name.Length > 0).Select(section => section.Name));

    private static string Shown(ModuleMatch match) => InvalidWeightsException.Shown(Name(match.Section));

    private static string? Mapped(string name, LoadOptions options) => options.KeyMap is null ? name : options.KeyMap(name);

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

    /// <summary>Finds the prefixes that the names may have because the module was saved inside a wrapper: the shortest ones with which at least one
    /// name fits, or the empty one if no name fits.</summary>
    private static List<string> Prefixes(IReadOnlyList<string> names, Func<string, bool> fits)
    {
        List<string> tried = [""];
        for (var depth = 0; depth <= DeepestWrapper && tried.Count > 0; depth++)
        {
            var fitting = tried.FindAll(prefix => Inside(prefix).Any(name => fits(name[prefix.Length..])));
            if (fitting.Count > 0)
            {
                return fitting;
            }

            tried = [.. tried.SelectMany(_ => Wrappers, (prefix, wrapper) => prefix + wrapper).Where(prefix => Inside(prefix).Any())];
        }

        return [""];

        IEnumerable<string> Inside(string prefix) => names.Where(name => name.StartsWith(prefix, StringComparison.Ordinal));
    }

    /// <summary>Determines whether a name outside a wrapper belongs to the wrapper: a counter, or the averaged weights beside the original ones and
    /// the reverse.</summary>
    private static bool IsBeside(string name, string prefix)
    {
        for (var start = 0; start < prefix.Length && name.AsSpan().StartsWith(prefix.AsSpan(0, start)); )
        {
            var end = prefix.IndexOf('.', start) + 1;
            var (wrapper, rest) = (prefix[start..end], name[start..]);
            if (!rest.StartsWith(wrapper, StringComparison.Ordinal))
            {
                string[] siblings = wrapper is Average ? Wrappers : [Average, Original];
                return Counters.Contains(rest, StringComparer.Ordinal)
                    || Array.Exists(siblings, sibling => rest.StartsWith(sibling, StringComparison.Ordinal));
            }

            start = end;
        }

        return false;
    }

    private static IEnumerable<long> WithoutOnes(IEnumerable<long> shape) => shape.Where(size => size != 1);

    private static string Text(IEnumerable<long> shape) => $"[{string.Join(", ", shape)}]";

    /// <summary>Determines whether a dtype is one of those that weights are converted from and to.</summary>
    public static bool IsFloating(ScalarType dtype) => dtype is ScalarType.Float16 or ScalarType.BFloat16 or ScalarType.Float32 or ScalarType.Float64;
}
