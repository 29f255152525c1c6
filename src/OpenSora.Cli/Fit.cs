using System.Runtime.InteropServices;
using OpenSora.Generation;
using OpenSora.Models.Layers;
using OpenSora.Weights;

namespace OpenSora.Cli;

/// <summary>How weights fit an architecture of the sizes that they seem to have.</summary>
/// <param name="Architecture">Its name, or a preset's.</param>
/// <param name="Sizes">The sizes in words.</param>
/// <param name="Report">What loading would do.</param>
internal sealed record Fit(string Architecture, string Sizes, LoadReport Report)
{
    /// <summary>Tensors that have no counterpart on the other side, or one of another shape.</summary>
    public int Problems => Report.Missing.Count + Report.Unexpected.Count + Report.Mismatched.Count;

    /// <summary>Compares weights with all architectures that they could be of, the best fit first. No model is given memory. Weights whose sizes make
    /// no model
    /// fit none; so do such as claim sizes that their bytes cannot have.</summary>
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
                // Its sizes make no model.
            }
        }

        return [.. fits.OrderBy(fit => fit.Problems).ThenBy(fit => fit.Report.Initialised.Count)];
    }

    /// <summary>A training checkpoint of this library's holds the weights of its parts as <c>weights.PART.NAME</c>, averages and optimizer beside
    /// them.</summary>
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
