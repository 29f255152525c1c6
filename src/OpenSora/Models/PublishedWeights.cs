using OpenSora.Models.Layers;
using OpenSora.Runtime;
using OpenSora.Weights;
using TorchSharp;
using static OpenSora.Runtime.TensorArithmetic;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Loads published checkpoints into <see cref="StdiT"/> and <see cref="DiT"/>: those of Open-Sora 1.0 and of the official DiT, PixArt-alpha
/// and Latte. Weights of an image model can also be loaded into a video model.</summary>
/// <remarks>
/// The parameter names of these checkpoints match those of Open-Sora. Their patch projections have no time axis and get one of length 1. Their
/// position tables (<c>pos_embed</c>, Latte's <c>temp_embed</c>) fit only one size and are ignored, because the model computes its own. A null
/// caption of a different length is truncated or extended by repeating its last row.
/// </remarks>
internal static class PublishedWeights
{
    private const string NullCaption = "y_embedder.y_embedding";

    // The position tables of the checkpoints, those of the model, and the parameters that an image model lacks.
    private static readonly string[] Dropped = ["pos_embed", "pos_embed_spatial", "pos_embed_temporal", "temp_embed"];
    private static readonly string[] Recomputed = ["pos_embed", "pos_embed_spatial", "pos_embed_temporal"];
    private const string AlongTime = ".attn_temp.";

    /// <summary>Gets the options for reading published checkpoints.</summary>
    /// <param name="fromImage">Whether the checkpoint is that of an image model and the model is a video model.</param>
    internal static LoadOptions Options(bool fromImage = false) =>
        new()
        {
            KeyMap = name => Dropped.Contains(name, StringComparer.Ordinal) ? null : name,
            KeepInitial = name =>
                Recomputed.Contains(name, StringComparer.Ordinal) || (fromImage && name.Contains(AlongTime, StringComparison.Ordinal)),
            AllowReshape = true,
        };

    /// <summary>Loads a checkpoint of the same architecture as the model.</summary>
    public static LoadReport Load(nn.Module model, string path) => Load(model, path, fromImage: false);

    /// <summary>Loads the weights of an image model into a video model.</summary>
    /// <exception cref="InvalidOperationException">The order of attention of the model is <see cref="AttentionOrder.Interleaved"/>.</exception>
    public static LoadReport LoadImage(nn.Module model, AttentionOrder order, string path)
    {
        CheckOrder(order);
        return Load(model, path, fromImage: true);
    }

    private static LoadReport Load(nn.Module model, string path, bool fromImage)
    {
        using var file = WeightsFile.Open(path);
        var target = model.modules().OfType<CaptionEmbedder>().SingleOrDefault()?.y_embedding;
        var report = Fit(model, file, OptionsOf, out var section);
        if (OtherCaption(section) is not { } caption)
        {
            return report;
        }

        // Beside averages, the original weights have a null caption too.
        var prefix = report.Unwrapped.LastOrDefault(wrapper => wrapper.EndsWith('.')) ?? "";
        caption = section.Tensors.GetValueOrDefault(prefix + NullCaption) ?? caption;

        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        target!.copy_(section.Read(caption.Name).index_select(0, Range(0, target.shape[0]).Clamp(0, caption.Shape[0] - 1)));
        return report with
        {
            Reshaped = [.. report.Reshaped, $"{NullCaption}: {Text(caption.Shape)} to {Text(target.shape)}"],
            Dropped = [.. report.Dropped.Where(name => !string.Equals(name, caption.Name, StringComparison.Ordinal))],
            Initialized = [.. report.Initialized.Where(name => name is not NullCaption)],
        };

        LoadOptions OptionsOf(WeightsFile section)
        {
            var options = Options(fromImage);
            if (OtherCaption(section) is not null)
            {
                var (map, keep) = (options.KeyMap!, options.KeepInitial!);
                options.KeyMap = name => name is NullCaption ? null : map(name);
                options.KeepInitial = name => name is NullCaption || keep(name);
            }

            return options;
        }

        // The null caption of a section if only its length differs from the model's.
        TensorEntry? OtherCaption(WeightsFile section) =>
            section.Tensors.Values.FirstOrDefault(entry => entry.Name.EndsWith(NullCaption, StringComparison.Ordinal))
                is { Shape: [> 0, var width] } entry
            && target is not null
            && width == target.shape[1]
            && entry.Shape[0] != target.shape[0]
                ? entry
                : null;

        static string Text(IEnumerable<long> shape) => $"[{string.Join(", ", shape)}]";
    }

    private static LoadReport Fit(nn.Module model, WeightsFile file, Func<WeightsFile, LoadOptions> options, out WeightsFile section)
    {
        try
        {
            return model.LoadWeights(file, options, out section);
        }
        catch (InvalidWeightsException exception) when (exception.Report is { } report && OtherFamily(report) is { } hint)
        {
            throw new InvalidWeightsException(exception.Path, $"{hint} {report}", exception, report);
        }
    }

    // Blocks of DiT and Latte have their own modulation layers; blocks of PixArt and STDiT do not.
    private static string? OtherFamily(LoadReport report)
    {
        if (report.Unexpected.Any(IsModulation))
        {
            return "the weights are those of a DiT or Latte, but the model is an STDiT or PixArt. Load them into a DiT.";
        }

        return report.Missing.Any(IsModulation)
            ? "the model is a DiT or a Latte, but the weights are not. Load weights of PixArt-alpha or STDiT into an StdiT."
            : null;

        static bool IsModulation(string name) => name.Contains("blocks.0.adaLN_modulation.", StringComparison.Ordinal);
    }

    private static void CheckOrder(AttentionOrder order)
    {
        if (order == AttentionOrder.Interleaved)
        {
            throw new InvalidOperationException(
                "The weights of an image model do not fit a model of interleaved order: every other block would attend along time with weights "
                    + "that were trained within images. Use the order Serial or Parallel."
            );
        }
    }
}
