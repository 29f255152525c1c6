using OpenSora.Models;
using OpenSora.Runtime;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>Decodes the latents of a video in pieces of a few frames, so that the memory does not grow with the length of the video.</summary>
internal static class LatentDecoder
{
    /// <summary>Decodes latents to pixels.</summary>
    /// <param name="autoencoder">The autoencoder; null if the latents are pixels.</param>
    /// <param name="latents">Scaled latents, <c>[batch, channels, frames, height, width]</c>.</param>
    /// <param name="progress">Receives the number of decoded latent frames.</param>
    /// <param name="cancellationToken">Checked before each piece.</param>
    /// <param name="decoded">Receives the pixels of each piece and the index of its first frame.</param>
    /// <returns>Pixels <c>[batch, 3, frames, height, width]</c>, in the caller's dispose scope.</returns>
    internal static Tensor Decode(
        IVideoAutoencoder? autoencoder,
        Tensor latents,
        IProgress<GenerationProgress>? progress,
        CancellationToken cancellationToken,
        Action<Tensor, int>? decoded = null
    )
    {
        if (autoencoder is null)
        {
            decoded?.Invoke(latents, 0);
            return latents;
        }
        var frames = (int)latents.shape[2];
        var atOnce = Math.Clamp(autoencoder.FramesAtOnce, 1, frames);
        List<Tensor> pieces = [];
        for (var frame = 0; frame < frames; frame += atOnce)
        {
            cancellationToken.ThrowIfCancellationRequested();
            progress?.Report(new(GenerationStage.Decoding, frame, frames));
            using var scope = NewDisposeScope();
            var part = latents.narrow(2, frame, Math.Min(atOnce, frames - frame));
            var pixels = autoencoder.Decode(part);
            CheckPixels(pixels, part, autoencoder);
            decoded?.Invoke(pixels, frame * autoencoder.TemporalFactor);
            pieces.Add(pixels.MoveToOuterDisposeScope());
        }
        progress?.Report(new(GenerationStage.Decoding, frames, frames));
        cancellationToken.ThrowIfCancellationRequested();
        return cat(pieces, 2);
    }

    private static void CheckPixels(Tensor pixels, Tensor latents, IVideoAutoencoder autoencoder)
    {
        var shape = latents.shape;
        long[] expected =
        [
            shape[0],
            3,
            shape[2] * autoencoder.TemporalFactor,
            shape[3] * autoencoder.SpatialFactor,
            shape[4] * autoencoder.SpatialFactor,
        ];
        if (!pixels.shape.AsSpan().SequenceEqual(expected))
        {
            throw new InvalidOperationException(
                $"The autoencoder {autoencoder.GetType().Name} decoded latents of shape {Shapes.Text(shape)} to pixels of shape "
                    + $"{Shapes.Text(pixels)}; by its factors, {Shapes.Text(expected)} is expected."
            );
        }
    }
}
