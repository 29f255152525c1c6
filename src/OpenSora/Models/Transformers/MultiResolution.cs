using OpenSora.Models.Layers;
using OpenSora.Runtime;
using TorchSharp;
using TorchSharp.Modules;
using static OpenSora.Models.Layers.Functional;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Steps that STDiT2 and STDiT3 have in common around their blocks. In comments, B is the batch size, T the number of token frames, S the
/// number of tokens per frame and C the number of channels.</summary>
internal static class MultiResolution
{
    /// <summary>Gets the numbers of tokens along frames, height and width. Incomplete patches are padded.</summary>
    public static (long T, long H, long W) Grid(TransformerConfig config, Tensor x)
    {
        long Patches(int axis) => (x.shape[2 + axis] + config.PatchSize[axis] - 1) / config.PatchSize[axis];
        return (Patches(0), Patches(1), Patches(2));
    }

    /// <summary>Creates a row of values that apply to the whole batch, <c>[1, count]</c>.</summary>
    public static Tensor Row(Device device, params double[] values) =>
        tensor(Array.ConvertAll(values, value => (float)value), [1, values.Length], device: device);

    /// <summary>Gets the frame rates to embed, <c>[1 or B, 1]</c>.</summary>
    public static Tensor Rates(DenoiserConditions conditions, Tensor x) =>
        conditions.FrameRates is not { } rates
            ? Row(x.device, conditions.FramesPerSecond)
            : rates.In(ScalarType.Float32).repeat(x.shape[0] / rates.shape[0]).unsqueeze(1);

    /// <summary>Creates the positions within a frame, <c>[1, S, C]</c>, stretched to a square with the same number of tokens and scaled by the size
    /// of the video in pixels.</summary>
    public static Tensor Places(TransformerConfig config, int squareSize, long h, long w, DenoiserConditions conditions, Device device)
    {
        using var scope = NewDisposeScope();
        var scale = Math.Sqrt((double)conditions.Height * conditions.Width) / squareSize;
        return GridPositions(config.HiddenSize, (int)h, (int)w, scale, (int)Math.Round(Math.Sqrt(h * w))).to(device).MoveToOuterDisposeScope();
    }

    /// <summary>Computes the modulation that all blocks share, <c>[B, 1 or T, parts, C]</c>. Noisy frames get the modulation of the timestep,
    /// conditioning frames that of time 0.</summary>
    /// <param name="ofTime">The modulation of the timestep, <c>[B, parts * C]</c>.</param>
    /// <param name="ofClean">The modulation of time 0, <c>[1 or B, parts * C]</c>; required if there are conditioning frames.</param>
    /// <param name="noisyFrames">A boolean mask, <c>[B, T]</c>, true for noisy frames; null if all frames are noisy.</param>
    /// <param name="parts">The number of vectors in the modulation.</param>
    public static Tensor Modulation(Tensor ofTime, Tensor? ofClean, Tensor? noisyFrames, int parts)
    {
        using var scope = NewDisposeScope();
        var noisy = ofTime.view(ofTime.shape[0], 1, parts, -1);
        return (
            noisyFrames is null ? noisy : where(noisyFrames.unsqueeze(2).unsqueeze(3), noisy, ofClean!.view(ofClean.shape[0], 1, parts, -1))
        ).MoveToOuterDisposeScope();
    }

    /// <summary>Adds the modulation of a block to the shared one and splits the sum into parts of <c>[B, 1 or T, 1, C]</c>.</summary>
    public static Tensor[] Parts(Tensor table, Tensor shared, ScalarType type) => table.Plus(shared).unsqueeze(3).In(type).unbind(2);

    /// <summary>Converts the output of the last block to a video and removes the padding.</summary>
    public static Tensor Video(
        TransformerConfig config,
        PatchEmbedder patches,
        FinalLayer final,
        Tensor tokens,
        Tensor time,
        Tensor? clean,
        Tensor? noisyFrames,
        Tensor x
    )
    {
        using var scope = NewDisposeScope();
        var (t, h, w) = Grid(config, x);
        tokens = tokens.In(ScalarType.Float32).flatten(1, 2); // [B, T S, C]
        var output = noisyFrames is null
            ? final.call(tokens, time)
            : final.OfFrames(tokens, time, clean!, noisyFrames.repeat_interleave(h * w, 1).unsqueeze(2));
        var video = patches.Unpatchify(output, t, h, w, config.OutChannels);
        for (var axis = 2; axis < 5; axis++)
        {
            video = video.narrow(axis, 0, x.shape[axis]);
        }

        return video.contiguous().MoveToOuterDisposeScope();
    }

    /// <summary>Validates the inputs of a model.</summary>
    /// <exception cref="ArgumentException">A tensor has the wrong shape; the message says which one.</exception>
    public static void CheckInputs(TransformerConfig config, Tensor x, Tensor timestep, DenoiserConditions conditions)
    {
        ArgumentNullException.ThrowIfNull(conditions);
        ShapeCheck.Require(
            x.dim() == 5 && x.shape[1] == config.InChannels && x.numel() > 0,
            $"The latents have shape {ShapeCheck.Text(x)}; expected [batch, {config.InChannels}, frames, height, width].",
            nameof(x)
        );
        var batch = x.shape[0];
        ShapeCheck.Timesteps(timestep, batch, nameof(timestep));
        var (text, mask, noisy) = (conditions.Text, conditions.TextMask, conditions.NoisyFrames);
        ShapeCheck.Require(
            text.dim() == 3
                && text.shape[0] == batch
                && text.shape[1] > 0
                && text.shape[1] <= config.ModelMaxLength
                && text.shape[2] == config.CaptionChannels,
            $"The text states have shape {ShapeCheck.Text(text)}; "
                + $"expected [{batch}, tokens, {config.CaptionChannels}] with at most {config.ModelMaxLength} tokens.",
            nameof(conditions)
        );
        ShapeCheck.TextMask(mask, text.shape[1], batch, nameof(conditions));
        ShapeCheck.NoisyFrames(noisy, batch, Grid(config, x).T, nameof(conditions));
        var rates = conditions.FrameRates;
        ShapeCheck.Require(
            rates is null || (rates.dim() == 1 && rates.shape[0] > 0 && batch % rates.shape[0] == 0),
            $"The frame rates have shape {ShapeCheck.Text(rates)}; expected [rows] with a number of rows that divides the batch size {batch}.",
            nameof(conditions)
        );
        var drop = conditions.DroppedText;
        ShapeCheck.Require(
            drop is null || (drop.dtype == ScalarType.Bool && drop.dim() == 1 && drop.shape[0] == batch),
            $"The mask of dropped texts is {drop?.dtype} of shape {ShapeCheck.Text(drop)}; expected booleans [{batch}].",
            nameof(conditions)
        );
        ShapeCheck.Require(
            conditions is { Frames: > 0, Height: > 0, Width: > 0, FramesPerSecond: > 0 },
            $"The conditions specify {conditions.Frames} frames of {conditions.Width}x{conditions.Height} "
                + $"pixels at {conditions.FramesPerSecond} frames per second; all of these must be positive.",
            nameof(conditions)
        );
    }
}
