using OpenSora.Runtime;
using static TorchSharp.torch;

namespace OpenSora.Models.Layers;

/// <summary>Checks the shapes of a network's inputs and describes them in error messages.</summary>
internal static class ShapeCheck
{
    /// <summary>A shape in brackets; nothing for null.</summary>
    public static string Text(Tensor? tensor) => Shapes.Text(tensor);

    /// <summary>Throws an <see cref="ArgumentException"/> if a condition does not hold.</summary>
    public static void Require(bool condition, string message, string parameter)
    {
        if (!condition)
        {
            throw new ArgumentException(message, parameter);
        }
    }

    /// <summary>Requires latents <c>[batch, channels, frames, height, width]</c> whose sizes are multiples of the patch.</summary>
    public static void Latents(Tensor x, int channels, IReadOnlyList<int> patch, string parameter) =>
        Require(
            x.dim() == 5 && x.shape[1] == channels && Enumerable.Range(0, 3).All(i => x.shape[2 + i] > 0 && x.shape[2 + i] % patch[i] == 0),
            $"The latents have shape {Text(x)}; expected [batch, {channels}, frames, height, width] with sizes that are multiples of the patch "
                + $"[{string.Join(", ", patch)}].",
            parameter
        );

    /// <summary>Requires timesteps <c>[batch]</c>.</summary>
    public static void Timesteps(Tensor t, long batch, string parameter) =>
        Require(t.dim() == 1 && t.shape[0] == batch, $"The timesteps have shape {Text(t)}; expected [{batch}], one per sample.", parameter);

    /// <summary>Requires text states <c>[batch, 1, tokens, width]</c> of at most <paramref name="most"/> tokens.</summary>
    public static void TextStates(Tensor y, long batch, int most, int width, string parameter) =>
        Require(
            y.shape is [_, 1, > 0, _] && y.shape[0] == batch && y.shape[2] <= most && y.shape[3] == width,
            $"The text states have shape {Text(y)}; expected [{batch}, 1, tokens, {width}] with at most {most} tokens.",
            parameter
        );

    /// <summary>Requires a mask <c>[rows, tokens]</c> with a number of rows that divides the batch size; null is allowed.</summary>
    public static void TextMask(Tensor? mask, long tokens, long batch, string parameter) =>
        Require(
            mask is null || (mask.dim() == 2 && mask.shape[1] == tokens && mask.shape[0] > 0 && batch % mask.shape[0] == 0),
            $"The text mask has shape {Text(mask)}; expected [rows, {tokens}] with a number of rows that divides the batch size {batch}.",
            parameter
        );

    /// <summary>Requires booleans <c>[batch, frames]</c>; null is allowed.</summary>
    public static void NoisyFrames(Tensor? noisy, long batch, long frames, string parameter) =>
        Require(
            noisy is null || (noisy.dtype == ScalarType.Bool && noisy.shape.AsSpan().SequenceEqual([batch, frames])),
            $"The mask of noisy frames is {noisy?.dtype} of shape {Text(noisy)}; expected booleans [{batch}, {frames}].",
            parameter
        );
}
