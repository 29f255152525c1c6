using System.Runtime.InteropServices;
using OpenSora.Generation;
using OpenSora.Models.Layers;
using OpenSora.Weights;

namespace OpenSora.Cli;

/// <summary>The result of comparing weights with an architecture with sizes inferred from the weights.</summary>
/// <param name="Architecture">The name of the architecture or of a preset.</param>
/// <param name="Sizes">A description of the sizes.</param>
/// <param name="Report">The report that loading would return.</param>
internal sealed record Fit(string Architecture, string Sizes, LoadReport Report)
{
    /// <summary>The number of missing, unexpected and mismatched tensors.</summary>
    public int Problems => Report.Missing.Count + Report.Unexpected.Count + Report.Mismatched.Count;

    /// <summary>Compares weights with all architectures that they may belong to and returns the results, best fit first. No memory is allocated for
    /// the models. The list is empty if the sizes are not valid for any model, or are too large for the size of the tensors in the file.</summary>
    public static IReadOnlyList<Fit> Of(WeightsFile file)
    {
        var fits = new List<Fit>();
        if (file.Tensors.Values.Any(entry => entry.Shape.Any(size => size > Math.Max(entry.Length, 1 << 20))))
        {
            return fits;
        }

        foreach (var candidate in Architectures.Candidates(file))
        {
            using var shapesOnly = Parameters.ShapesOnly();
            try
            {
                using var module = candidate.Make();
                fits.Add(new Fit(candidate.Name, candidate.Sizes, module.Compare(file, InCheckpoint(file, candidate.Options))));
            }
            catch (Exception exception) when (exception is ArgumentException or InvalidOperationException or ExternalException or ArithmeticException)
            {
                // The sizes are not valid for a model.
            }
        }

        return [.. fits.OrderBy(fit => fit.Problems).ThenBy(fit => fit.Report.Initialised.Count)];
    }

    /// <summary>Adapts load options to a training checkpoint of this library, which stores the weights of its parts as <c>weights.PART.NAME</c>,
    /// together with moving averages and the optimizer state.</summary>
    private static LoadOptions InCheckpoint(WeightsFile file, LoadOptions options)
    {
        const string weights = "weights.";
        if (
            !file.Metadata.ContainsKey("opensora.training")
            || file.Tensors.Keys.FirstOrDefault(name => name.StartsWith(weights, StringComparison.Ordinal)) is not { } first
        )
        {
            return options;
        }

        var part = first[..(first.IndexOf('.', weights.Length) + 1)];
        return new LoadOptions
        {
            KeyMap = name =>
                !name.StartsWith(part, StringComparison.Ordinal) ? null
                : options.KeyMap is { } map ? map(name[part.Length..])
                : name[part.Length..],
            KeepInitial = options.KeepInitial,
            AllowReshape = options.AllowReshape,
        };
    }
}
