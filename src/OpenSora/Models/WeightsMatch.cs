using System.Runtime.InteropServices;
using OpenSora.Models.Layers;
using OpenSora.Weights;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>The result of comparing weights with an architecture with sizes inferred from the weights.</summary>
/// <param name="Architecture">The name of the architecture in <c>model.json</c>.</param>
/// <param name="Title">The name of a published model with these sizes, or of the architecture.</param>
/// <param name="Sizes">A description of the sizes; may be empty.</param>
/// <param name="Config">The configuration that was inferred. Values that the shapes do not determine have their defaults.</param>
/// <param name="Report">The report that loading would return.</param>
public sealed record WeightsMatch(string Architecture, string Title, string Sizes, object Config, LoadReport Report)
{
    /// <summary>The number of missing, unexpected and mismatched tensors.</summary>
    public int Problems => Report.Missing.Count + Report.Unexpected.Count + Report.Mismatched.Count;
}

/// <summary>A network that weights may belong to, with the sizes inferred from their shapes.</summary>
/// <param name="Config">The configuration.</param>
/// <param name="Title">The name of a published model with these sizes, or of the architecture.</param>
/// <param name="Sizes">A description of the sizes.</param>
/// <param name="Options">The options for loading such weights; null for those of the architecture.</param>
internal sealed record Candidate(object Config, string Title, string Sizes, LoadOptions? Options = null)
{
    private const string InTraining = "weights.";

    /// <summary>Calls a function that recognizes names and shapes, with and without the wrappers around them.</summary>
    public static IEnumerable<Candidate> Of<TConfig>(
        WeightsFile file,
        string title,
        Func<IReadOnlyDictionary<string, IReadOnlyList<long>>, TConfig?> recognize
    )
        where TConfig : class
    {
        string[] prefixes = [Part(file) ?? "", .. ModuleMatch.Wrappers];
        var config = prefixes
            .Select(prefix =>
                recognize(
                    file.Tensors.Values.Where(entry => entry.Name.StartsWith(prefix, StringComparison.Ordinal))
                        .ToDictionary(entry => entry.Name[prefix.Length..], entry => entry.Shape, StringComparer.Ordinal)
                )
            )
            .FirstOrDefault(config => config is not null);
        return config is null ? [] : [new(config, title, "")];
    }

    /// <summary>Returns a plausible number of heads. Without query-key normalization, the weights do not determine it.</summary>
    public static int Divisor(int hidden) => hidden % 64 == 0 ? hidden / 64 : 1;

    /// <summary>Returns a description of a transformer's size.</summary>
    public static string Width(int hidden, int depth) => $"width {hidden}, {depth} blocks";

    /// <summary>Compares the weights with the network; null if the sizes are not valid for a network.</summary>
    public WeightsMatch? Match(string architecture, WeightsFile file, Func<object, object?> create, LoadOptions? options)
    {
        using var shapesOnly = Parameters.ShapesOnly();
        try
        {
            using var module = create(Config) as nn.Module;
            return module is null
                ? null
                : new WeightsMatch(architecture, Title, Sizes, Config, module.Compare(file, InCheckpoint(file, options ?? new LoadOptions())));
        }
        catch (Exception exception) when (exception is ArgumentException or InvalidOperationException or ExternalException or ArithmeticException)
        {
            return null;
        }
    }

    /// <summary>Adapts load options to a training checkpoint of this library, which stores the weights of its parts as <c>weights.PART.NAME</c>,
    /// together with moving averages and the optimizer state.</summary>
    private static LoadOptions InCheckpoint(WeightsFile file, LoadOptions options) =>
        Part(file) is not { } part
            ? options
            : new LoadOptions
            {
                KeyMap = name =>
                    !name.StartsWith(part, StringComparison.Ordinal) ? null
                    : options.KeyMap is { } map ? map(name[part.Length..])
                    : name[part.Length..],
                KeepInitial = options.KeepInitial,
                AllowReshape = options.AllowReshape,
            };

    /// <summary>Gets the prefix of the first part of a training checkpoint; null for another file.</summary>
    private static string? Part(WeightsFile file) =>
        file.Metadata.ContainsKey("opensora.training")
        && file.Tensors.Keys.FirstOrDefault(name => name.StartsWith(InTraining, StringComparison.Ordinal)) is { } first
            ? first[..(first.IndexOf('.', InTraining.Length) + 1)]
            : null;
}
