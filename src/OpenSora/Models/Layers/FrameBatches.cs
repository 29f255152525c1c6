using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models.Layers;

/// <summary>Runs image networks over video and validates the shapes of their inputs.</summary>
internal static class FrameBatches
{
    /// <summary>Runs an image network over the frames of a video without gradients, one microbatch of frames at a time.</summary>
    /// <param name="video">The video, <c>[B, C, T, H, W]</c>.</param>
    /// <param name="microBatch">The maximum number of frames per microbatch.</param>
    /// <param name="network">The network. It receives frames <c>[n, C, H, W]</c> and the index of the first of them among all B T frames.</param>
    /// <returns>The output, <c>[B, C', T, H', W']</c>, owned by the caller.</returns>
    public static Tensor OneByOne(Tensor video, int microBatch, Func<Tensor, long, Tensor> network)
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var (b, t) = (video.shape[0], video.shape[2]);
        var frames = video.transpose(1, 2).flatten(0, 1);
        var parts = new List<Tensor>();
        for (var from = 0L; from < b * t; from += microBatch)
        {
            using var part = NewDisposeScope();
            parts.Add(network(frames.narrow(0, from, Math.Min(microBatch, b * t - from)), from).MoveToOuterDisposeScope());
        }
        return cat(parts).unflatten(0, b, t).transpose(1, 2).contiguous().MoveToOuterDisposeScope();
    }

    /// <summary>Converts images to the channels-last memory format, which makes convolutions faster, especially on CPUs, and which every layer
    /// preserves.</summary>
    /// <param name="images">Images, <c>[n, C, H, W]</c>.</param>
    public static Tensor ChannelsLast(Tensor images) => images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2);

    /// <summary>Checks that a tensor has the shape <c>[batch, channels, (frames,) height, width]</c> with height and width that are multiples of a
    /// factor.</summary>
    /// <exception cref="ArgumentException">The tensor has another shape.</exception>
    public static void CheckShape(Tensor tensor, int dimensions, int channels, int factor, string parameter)
    {
        var shape = tensor.shape;
        if (shape.Length == dimensions && shape[1] == channels && shape.All(size => size > 0) && shape[^1] % factor == 0 && shape[^2] % factor == 0)
        {
            return;
        }

        var sizes = dimensions == 5 ? "frames, height, width" : "height, width";
        throw new ArgumentException(
            $"The {parameter} have shape [{string.Join(", ", shape)}]; expected [batch, {channels}, {sizes}]"
                + (factor == 1 ? "." : $" with height and width that are multiples of {factor}."),
            parameter
        );
    }
}
