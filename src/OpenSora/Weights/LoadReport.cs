namespace OpenSora.Weights;

/// <summary>What loading weights into a module did. Every tensor of the module and of the file is in exactly one list.</summary>
public sealed record LoadReport
{
    /// <summary>The module's tensors that were filled from the file as they are there (element types may have been converted).</summary>
    public IReadOnlyList<string> Loaded { get; init; } = [];

    /// <summary>The module's tensors that were filled after a change of shape with the same elements, such as <c>weight: [8, 4, 2, 2] to [8, 4, 1, 2,
    /// 2]</c>.</summary>
    public IReadOnlyList<string> Reshaped { get; init; } = [];

    /// <summary>The module's tensors that keep their initial values, as <see cref="LoadOptions.KeepInitial"/> allows.</summary>
    public IReadOnlyList<string> Initialised { get; init; } = [];

    /// <summary>The module's tensors that the file lacks although it should have them.</summary>
    public IReadOnlyList<string> Missing { get; init; } = [];

    /// <summary>The file's tensors that have no place in the module.</summary>
    public IReadOnlyList<string> Unexpected { get; init; } = [];

    /// <summary>The file's tensors that <see cref="LoadOptions.KeyMap"/> leaves out.</summary>
    public IReadOnlyList<string> Dropped { get; init; } = [];

    /// <summary>Why tensors of the same name do not fit, such as <c>weight: the file has [8, 4], the model [8, 5]</c>.</summary>
    public IReadOnlyList<string> Mismatched { get; init; } = [];

    /// <summary>What the weights were taken out of: the section of a PyTorch checkpoint, such as <c>ema</c>, and wrappers before every name, such as
    /// <c>module.</c>.</summary>
    public IReadOnlyList<string> Unwrapped { get; init; } = [];

    /// <summary>Whether nothing is missing, unexpected or mismatched.</summary>
    public bool IsComplete => Missing.Count == 0 && Unexpected.Count == 0 && Mismatched.Count == 0;

    /// <summary>One line of counts, then a line for each list of problems.</summary>
    public override string ToString()
    {
        var lines = new List<string>
        {
            $"{Loaded.Count} loaded, {Reshaped.Count} reshaped, {Initialised.Count} initialised, {Dropped.Count} dropped, "
                + $"{Missing.Count} missing, {Unexpected.Count} unexpected, {Mismatched.Count} of another shape or type.",
        };
        if (Unwrapped.Count > 0)
        {
            lines.Add($"Taken out of: {string.Join(", ", Unwrapped)}");
        }

        AddProblems(lines, "Missing", Missing);
        AddProblems(lines, "Unexpected", Unexpected);
        AddProblems(lines, "Mismatched", Mismatched);
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

/// <summary>How weights are loaded into a module.</summary>
public sealed class LoadOptions
{
    /// <summary>Whether missing, unexpected and mismatched tensors are errors. If not, what fits is loaded and the rest is reported.</summary>
    public bool Strict { get; set; } = true;

    /// <summary>Which of several dictionaries of tensors in a PyTorch checkpoint to take; see <see cref="WeightsFile.Open(string, string?)"/>.
    /// Applies to weights given by path.</summary>
    public string? Section { get; set; }

    /// <summary>Whether to copy weights even where parameters could lie in the mapped file, for files that are overwritten in place while the module
    /// lives.</summary>
    public bool Copy { get; set; }

    /// <summary>Gives the module's name for a name in the file, or null for tensors to leave out; null: names are equal.</summary>
    public Func<string, string?>? KeyMap { get; set; }

    /// <summary>Says which of the module's tensors may keep their initial values if the file lacks them; null: none.</summary>
    public Func<string, bool>? KeepInitial { get; set; }

    /// <summary>Whether a tensor is taken that has more or fewer axes of length 1, for example a 2-D convolution for a 3-D one of depth 1.</summary>
    public bool AllowReshape { get; set; }
}
