using OpenSora.Models.Layers;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>What STDiT2 and STDiT3 do alike around their blocks. Shapes in comments: B batch, T frames and S places of tokens, C channels.</summary>
internal static class MultiResolution
{
    /// <summary>Tokens along frames, height and width; what does not fill a patch is padded.</summary>
    public static (long T, long H, long W) Grid(MultiResolutionConfig config, Tensor x)
    {
        long Patches(int axis) => (x.shape[2 + axis] + config.PatchSize[axis] - 1) / config.PatchSize[axis];
        return (Patches(0), Patches(1), Patches(2));
    }

    /// <summary>Numbers that are the same for the whole batch, <c>[1, count]</c>.</summary>
    public static Tensor Row(Device device, params double[] values) =>
        tensor(Array.ConvertAll(values, value => (float)value), [1, values.Length], device: device);

    /// <summary>The frame rates to embed, <c>[1 or B, 1]</c>.</summary>
    public static Tensor Rates(DenoiserConditions conditions, Tensor x) =>
        conditions.FrameRates is not { } rates
            ? Row(x.device, conditions.FramesPerSecond)
            : rates.In(ScalarType.Float32).repeat(x.shape[0] / rates.shape[0]).unsqueeze(1);

    /// <summary>Positions within a frame, <c>[1, S, C]</c>: stretched to a square of as many tokens, and scaled by the video's size in
    /// pixels.</summary>
    public static Tensor Places(MultiResolutionConfig config, long h, long w, DenoiserConditions conditions, Device device)
    {
        using var scope = NewDisposeScope();
        var scale = Math.Sqrt((double)conditions.Height * conditions.Width) / config.InputSqSize;
        return Positions.Grid(config.HiddenSize, (int)h, (int)w, scale, (int)Math.Round(Math.Sqrt(h * w))).to(device).MoveToOuterDisposeScope();
    }

    /// <summary>Which captions training drops, <c>[B]</c>; null = none.</summary>
    public static Tensor? Drop(nn.Module model, MultiResolutionConfig config, Tensor text, Generator? generator) =>
        model.training && config.ClassDropoutProb > 0
            ? rand(text.shape[0], device: text.device, generator: generator) < config.ClassDropoutProb
            : null;

    /// <summary>What the blocks share of the time, <c>[B, 1 or T, parts, C]</c>: noisy frames get the time's, given ones that of time 0.</summary>
    /// <param name="ofTime"><c>[B, parts * C]</c></param>
    /// <param name="ofClean"><c>[1 or B, parts * C]</c>, where some frames are given.</param>
    /// <param name="noisyFrames"><c>[B, T]</c></param>
    /// <param name="parts">How many vectors it holds.</param>
    public static Tensor Modulation(Tensor ofTime, Tensor? ofClean, Tensor? noisyFrames, int parts)
    {
        using var scope = NewDisposeScope();
        var noisy = ofTime.view(ofTime.shape[0], 1, parts, -1);
        return (
            noisyFrames is null ? noisy : where(noisyFrames.unsqueeze(2).unsqueeze(3), noisy, ofClean!.view(ofClean.shape[0], 1, parts, -1))
        ).MoveToOuterDisposeScope();
    }

    /// <summary>A block's own modulation added to the shared one: parts of <c>[B, 1 or T, 1, C]</c>.</summary>
    public static Tensor[] Parts(Tensor table, Tensor shared, ScalarType type) => (table + shared).unsqueeze(3).In(type).unbind(2);

    /// <summary>The output of the last block as video, what was padded cut away.</summary>
    public static Tensor Video(
        MultiResolutionConfig config,
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

    /// <summary>Starting values that do not depend on the kind of block: Xavier-uniform matrices, small normal embeddings, gains of 1, an output of
    /// nothing.</summary>
    public static void Initialize(nn.Module model, MultiResolutionConfig config, Generator? generator, FinalLayer final)
    {
        foreach (var dense in model.modules().OfType<Linear>())
        {
            Parameters.Xavier(dense.weight, generator);
            Parameters.Constant(dense.bias!, 0);
        }
        foreach (var norm in model.modules().OfType<RMSNorm>())
        {
            Parameters.Constant(norm.weight, 1);
        }

        foreach (
            var dense in model.modules().Where(m => m is TimestepEmbedder or SizeEmbedder or Sequential).SelectMany(m => m.modules().OfType<Linear>())
        )
        {
            Parameters.Normal(dense.weight, 0.02, generator);
        }
        // 0.02 for T5-v1.1-XXL's 4096 channels; a narrow text encoder would be too faint with it for cross attention to learn from.
        foreach (var captions in model.modules().OfType<CaptionEmbedder>())
        {
            foreach (var dense in captions.modules().OfType<Linear>())
            {
                Parameters.Normal(dense.weight, Math.Max(0.02, 1 / Math.Sqrt(config.CaptionChannels)), generator);
            }

            Parameters.Normal(captions.y_embedding, 1 / Math.Sqrt(config.CaptionChannels), generator);
        }
        Parameters.Normal(final.scale_shift_table, 1 / Math.Sqrt(config.HiddenSize), generator);
        Parameters.Constant(final.linear.weight, 0);
    }

    /// <summary>Checks what a model is given.</summary>
    /// <exception cref="ArgumentException">A shape does not fit; the message says which.</exception>
    public static void CheckInputs(MultiResolutionConfig config, Tensor x, Tensor timestep, DenoiserConditions conditions)
    {
        static string Shape(Tensor? tensor) => tensor is null ? "null" : $"[{string.Join(", ", tensor.shape)}]";
        static void Check(bool right, string message, string parameter)
        {
            if (!right)
            {
                throw new ArgumentException(message, parameter);
            }
        }

        ArgumentNullException.ThrowIfNull(conditions);
        Check(
            x.dim() == 5 && x.shape[1] == config.InChannels && x.numel() > 0,
            $"The latents have shape {Shape(x)}; expected [batch, {config.InChannels}, frames, height, width].",
            nameof(x)
        );
        var batch = x.shape[0];
        Check(
            timestep.dim() == 1 && timestep.shape[0] == batch,
            $"The time steps have shape {Shape(timestep)}; expected [{batch}], one a sample.",
            nameof(timestep)
        );
        var (text, mask, noisy) = (conditions.Text, conditions.TextMask, conditions.NoisyFrames);
        Check(
            text.dim() == 3
                && text.shape[0] == batch
                && text.shape[1] > 0
                && text.shape[1] <= config.ModelMaxLength
                && text.shape[2] == config.CaptionChannels,
            $"The text states have shape {Shape(text)}; expected [{batch}, tokens, {config.CaptionChannels}] with at most {config.ModelMaxLength} tokens.",
            nameof(conditions)
        );
        Check(
            mask is null || (mask.dim() == 2 && mask.shape[1] == text.shape[1] && mask.shape[0] > 0 && batch % mask.shape[0] == 0),
            $"The text mask has shape {Shape(mask)}; expected [rows, {text.shape[1]}], where the batch {batch} is a multiple of the rows.",
            nameof(conditions)
        );
        var frames = Grid(config, x).T;
        Check(
            noisy is null || (noisy.dtype == ScalarType.Bool && noisy.shape.AsSpan().SequenceEqual([batch, frames])),
            $"The mask of noisy frames is {noisy?.dtype} of shape {Shape(noisy)}; expected booleans [{batch}, {frames}].",
            nameof(conditions)
        );
        var rates = conditions.FrameRates;
        Check(
            rates is null || (rates.dim() == 1 && rates.shape[0] > 0 && batch % rates.shape[0] == 0),
            $"The frame rates have shape {Shape(rates)}; expected [rows], of which the batch {batch} is a multiple.",
            nameof(conditions)
        );
        var drop = conditions.DroppedText;
        Check(
            drop is null || (drop.dtype == ScalarType.Bool && drop.dim() == 1 && drop.shape[0] == batch),
            $"The mask of dropped texts is {drop?.dtype} of shape {Shape(drop)}; expected booleans [{batch}].",
            nameof(conditions)
        );
        Check(
            conditions is { Frames: > 0, Height: > 0, Width: > 0, FramesPerSecond: > 0 },
            $"The video is told to have {conditions.Frames} frames of {conditions.Width}x{conditions.Height} "
                + $"pixels at {conditions.FramesPerSecond} frames a second; these models need all of them, above 0.",
            nameof(conditions)
        );
    }
}
