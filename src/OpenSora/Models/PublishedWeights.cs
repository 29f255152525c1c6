using OpenSora.Models.Layers;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Loads checkpoints as they were published into <see cref="StdiT"/>, <see cref="PixArt"/>, <see cref="DiT"/> and <see cref="Latte"/>:
/// Open-Sora 1.0's own and
/// those of the official DiT, PixArt-alpha and Latte, an image model's into a video model too.</summary>
/// <remarks>
/// The originals' names are Open-Sora's. Their patch projections have no axis of time and get one of length 1. Their position tables
/// (<c>pos_embed</c>, Latte's
/// <c>temp_embed</c>) are those of one size and are left out: the model makes its own. A null caption of another length is cut, or its last row
/// repeated.
/// </remarks>
public static class PublishedWeights
{
    private const string NullCaption = "y_embedder.y_embedding";

    // The tables of the checkpoints; the model's own; what an image model lacks.
    private static readonly string[] Dropped = ["pos_embed", "pos_embed_spatial", "pos_embed_temporal", "temp_embed"];
    private static readonly string[] Recomputed = ["pos_embed", "pos_embed_spatial", "pos_embed_temporal"];
    private const string AlongTime = ".attn_temp.";

    /// <summary>Loads a checkpoint of the model's own architecture.</summary>
    /// <param name="model">A model of the checkpoint's sizes; the size of its latents and the length of its texts may differ.</param>
    /// <param name="path">The checkpoint.</param>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="InvalidWeightsException">The file is damaged or does not fit; the model is as it was.</exception>
    public static LoadReport LoadPublishedWeights(this StdiT model, string path) => Load(model, path, fromImage: false);

    /// <inheritdoc cref="LoadPublishedWeights(StdiT, string)"/>
    public static LoadReport LoadPublishedWeights(this DiT model, string path) => Load(model, path, fromImage: false);

    /// <summary>Loads PixArt-alpha's weights into a model of videos. What attends along time keeps its starting values: where its output starts at
    /// zero
    /// (<see cref="StdiTConfig.ZeroInitTemporal"/>), the model makes of every frame what the image model makes of it.</summary>
    /// <param name="model">A model with the image model's sizes, of <see cref="AttentionOrder.Serial"/> or <see cref="AttentionOrder.Parallel"/>
    /// order; one of
    /// <see cref="AttentionOrder.Full"/> order is the image model for single frames, where these get no positions
    /// (<see cref="StdiTConfig.NoTemporalPosEmb"/>).</param>
    /// <param name="path">The checkpoint.</param>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="InvalidWeightsException">The file is damaged or does not fit; the model is as it was.</exception>
    /// <exception cref="InvalidOperationException">The model's order is <see cref="AttentionOrder.Interleaved"/>.</exception>
    public static LoadReport LoadImageWeights(this StdiT model, string path)
    {
        ArgumentNullException.ThrowIfNull(model);
        CheckOrder(model.Config.AttentionOrder);
        return Load(model, path, fromImage: true);
    }

    /// <summary>Loads the official DiT's weights into a model of videos, as for <see cref="LoadImageWeights(StdiT, string)"/>.</summary>
    /// <param name="model">A model with the image model's sizes.</param>
    /// <param name="path">The checkpoint.</param>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="InvalidWeightsException">The file is damaged or does not fit; the model is as it was.</exception>
    /// <exception cref="InvalidOperationException">The model's order is <see cref="AttentionOrder.Interleaved"/>.</exception>
    public static LoadReport LoadImageWeights(this DiT model, string path)
    {
        ArgumentNullException.ThrowIfNull(model);
        CheckOrder(model.Config.AttentionOrder);
        return Load(model, path, fromImage: true);
    }

    /// <summary>How published checkpoints are read.</summary>
    /// <param name="fromImage">Whether the checkpoint is an image model's and the model one of videos.</param>
    internal static LoadOptions Options(bool fromImage = false) =>
        new()
        {
            KeyMap = name => Dropped.Contains(name, StringComparer.Ordinal) ? null : name,
            KeepInitial = name =>
                Recomputed.Contains(name, StringComparer.Ordinal) || (fromImage && name.Contains(AlongTime, StringComparison.Ordinal)),
            AllowReshape = true,
        };

    private static LoadReport Load(nn.Module model, string path, bool fromImage)
    {
        ArgumentNullException.ThrowIfNull(model);
        using var file = WeightsFile.Open(path);
        var options = Options(fromImage);
        var caption = file.Tensors.Values.FirstOrDefault(entry => entry.Name.EndsWith(NullCaption, StringComparison.Ordinal));
        var target = model.modules().OfType<CaptionEmbedder>().SingleOrDefault()?.y_embedding;
        if (caption is not { Shape: [> 0, var width] } || target is null || width != target.shape[1] || caption.Shape[0] == target.shape[0])
        {
            return Fit(model, file, options);
        }

        var (map, keep) = (options.KeyMap!, options.KeepInitial!);
        options.KeyMap = name => name is NullCaption ? null : map(name);
        options.KeepInitial = name => name is NullCaption || keep(name);
        var report = Fit(model, file, options);
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        target.copy_(file.Read(caption.Name).index_select(0, arange(target.shape[0]).clamp(0, caption.Shape[0] - 1)));
        return report with
        {
            Reshaped = [.. report.Reshaped, $"{NullCaption}: [{caption.Shape[0]}, {width}] to [{string.Join(", ", target.shape)}]"],
            Dropped = [.. report.Dropped.Where(name => !string.Equals(name, caption.Name, StringComparison.Ordinal))],
            Initialised = [.. report.Initialised.Where(name => name is not NullCaption)],
        };
    }

    private static LoadReport Fit(nn.Module model, WeightsFile file, LoadOptions options)
    {
        try
        {
            return model.LoadWeights(file, options);
        }
        catch (InvalidWeightsException exception) when (exception.Report is { } report && OtherFamily(report) is { } hint)
        {
            throw new InvalidWeightsException(exception.Path, $"{hint} {report}", exception, report);
        }
    }

    // Blocks of DiT and Latte are modulated by layers of their own, those of PixArt and STDiT are not.
    private static string? OtherFamily(LoadReport report)
    {
        if (report.Unexpected.Any(IsModulation))
        {
            return "they are DiT's or Latte's, but the model is an STDiT or PixArt, which reads text by cross attention. Load them into a DiT or a Latte.";
        }

        return report.Missing.Any(IsModulation)
            ? "the model is a DiT or a Latte, but they are not. Load PixArt-alpha's and STDiT's into a PixArt or an StdiT."
            : null;

        static bool IsModulation(string name) => name.Contains("blocks.0.adaLN_modulation.", StringComparison.Ordinal);
    }

    private static void CheckOrder(AttentionOrder order)
    {
        if (order == AttentionOrder.Interleaved)
        {
            throw new InvalidOperationException(
                "An image model's weights do not fit an interleaved one: every other block would attend along time with what was learned within images. "
                    + "Use the order Serial or Parallel."
            );
        }
    }
}
