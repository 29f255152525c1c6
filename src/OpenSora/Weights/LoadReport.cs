namespace OpenSora.Weights;

/// <summary>The result of loading weights into a module. Every tensor of the module and of the file is in exactly one list.</summary>
public sealed record LoadReport
{
    /// <summary>The names of the module's tensors that were loaded with the shape in the file. Element types may have been converted.</summary>
    public IReadOnlyList<string> Loaded { get; init; } = [];

    /// <summary>The module's tensors that were loaded after reshaping, such as <c>weight: [8, 4, 2, 2] to [8, 4, 1, 2, 2]</c>.</summary>
    public IReadOnlyList<string> Reshaped { get; init; } = [];

    /// <summary>The names of the module's tensors that keep their initial values, as allowed by <see cref="LoadOptions.KeepInitial"/>.</summary>
    public IReadOnlyList<string> Initialized { get; init; } = [];

    /// <summary>The names of the module's tensors that are required but missing from the file.</summary>
    public IReadOnlyList<string> Missing { get; init; } = [];

    /// <summary>The names of the file's tensors that the module does not have.</summary>
    public IReadOnlyList<string> Unexpected { get; init; } = [];

    /// <summary>The names of the file's tensors that <see cref="LoadOptions.KeyMap"/> omits, and of those that belong to a wrapper, such as the
    /// step counter and the original weights beside moving averages, or describe the quantization of 8-bit weights.</summary>
    public IReadOnlyList<string> Dropped { get; init; } = [];

    /// <summary>The names of the file's tensors that are scales of 8-bit weights, such as <c>proj.weight_scale</c>. The weights were multiplied by
    /// them.</summary>
    public IReadOnlyList<string> Scales { get; init; } = [];

    /// <summary>The reasons why tensors of the same name do not fit, such as <c>weight: the file has [8, 4], the model [8, 5]</c>.</summary>
    public IReadOnlyList<string> Mismatched { get; init; } = [];

    /// <summary>The wrappers that the weights were extracted from: the section of a PyTorch checkpoint, such as <c>ema</c>, and a prefix of every
    /// name, such as <c>module.</c>.</summary>
    public IReadOnlyList<string> Unwrapped { get; init; } = [];

    /// <summary>The objects in the file that hold no tensors and were skipped, by the names of their classes or functions, such as
    /// <c>omegaconf.dictconfig.DictConfig</c>. If a folder with a set of shards was loaded, also the other weights files in it.</summary>
    public IReadOnlyList<string> Skipped { get; init; } = [];

    /// <summary>Indicates whether no tensor is missing, unexpected or mismatched.</summary>
    public bool IsComplete => Missing.Count == 0 && Unexpected.Count == 0 && Mismatched.Count == 0;

    /// <summary>Returns one line of counts, followed by a line for each non-empty list of problems and for skipped
    /// objects.</summary>
    public override string ToString()
    {
        var lines = new List<string>
        {
            $"{Loaded.Count} loaded, {Reshaped.Count} reshaped, {Initialized.Count} initialized, {Dropped.Count} dropped, "
                + $"{Missing.Count} missing, {Unexpected.Count} unexpected, {Mismatched.Count} with a different shape or type.",
        };
        if (Unwrapped.Count > 0)
        {
            lines.Add($"Extracted from: {string.Join(", ", Unwrapped)}");
        }

        AddProblems(lines, "Missing", Missing);
        AddProblems(lines, "Unexpected", Unexpected);
        AddProblems(lines, "Mismatched", Mismatched);
        AddProblems(lines, "Skipped objects", Skipped);
        return string.Join(Environment.NewLine, lines);
    }

    private static void AddProblems(List<string> lines, string title, IReadOnlyList<string> names)
    {
        const int shown = 10;
        if (names.Count > 0)
        {
            lines.Add($"{title}: {string.Join("; ", names.Take(shown))}{(names.Count > shown ? $"; and {names.Count - shown} more" : "")}");
        }
    }
}

/// <summary>Options for loading weights into a module.</summary>
public sealed class LoadOptions
{
    /// <summary>Indicates whether missing, unexpected and mismatched tensors are errors. If false, matching tensors are loaded and the rest are
    /// reported. The default is true.</summary>
    public bool Strict { get; set; } = true;

    /// <summary>The section (dictionary of tensors) of a PyTorch checkpoint to load. If null, the section that fits the module best; if
    /// several fit equally well, see <see cref="WeightsFile.Open(string, string?)"/>. Applies only if the weights are specified by path.</summary>
    public string? Section { get; set; }

    /// <summary>Indicates whether to copy weights even if parameters could use the memory-mapped file directly. Set it for files that are overwritten
    /// in place during the lifetime of the module.</summary>
    public bool Copy { get; set; }

    /// <summary>A function that maps a name in the file to a name in the module, or to null to omit the tensor. If the property is null, names are
    /// used unchanged.</summary>
    public Func<string, string?>? KeyMap { get; set; }

    /// <summary>A function that indicates which of the module's tensors may keep their initial values if the file does not contain them. If null, all
    /// tensors are required.</summary>
    public Func<string, bool>? KeepInitial { get; set; }

    /// <summary>Indicates whether tensors may differ in dimensions of size 1, for example a 2-D convolution loaded into a 3-D convolution of depth
    /// 1.</summary>
    public bool AllowReshape { get; set; }
}
