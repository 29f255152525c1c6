using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Takes video between pixels and the latents in which diffusion happens.</summary>
/// <remarks>Implementations hold weights only and are safe to call from several threads at once.</remarks>
public interface IVideoAutoencoder : IDisposable
{
    /// <summary>Channels of a latent.</summary>
    int LatentChannels { get; }

    /// <summary>How many pixels of height or width one latent position covers.</summary>
    int SpatialFactor { get; }

    /// <summary>How many frames one latent frame covers; 1 for an image autoencoder applied frame by frame.</summary>
    int TemporalFactor { get; }

    /// <summary>The most latent frames that are decoded in one call where memory is to be saved: 4 of an autoencoder whose frames know nothing of
    /// each other, all where frames go together.
    /// One whose decoder mixes frames names the number that it was made for.</summary>
    int FramesAtOnce => TemporalFactor == 1 ? 4 : int.MaxValue;

    /// <summary>What latents are multiplied with, so that they have a deviation of about 1; 1 where an autoencoder does not scale.</summary>
    double ScalingFactor => 1;

    /// <summary>Encodes video to scaled latents.</summary>
    /// <param name="video">Pixels in [-1, 1], <c>[batch, 3, frames, height, width]</c>; height and width are multiples of
    /// <see cref="SpatialFactor"/>.</param>
    /// <param name="generator">Source of the posterior's noise; null takes the posterior's mean instead of a sample.</param>
    /// <returns>Latents <c>[batch, channels, frames, height / factor, width / factor]</c>, owned by the caller.</returns>
    Tensor Encode(Tensor video, Generator? generator = null);

    /// <summary>Decodes scaled latents to pixels, about in [-1, 1] and not clamped.</summary>
    /// <param name="latents"><c>[batch, channels, frames, height, width]</c>.</param>
    /// <returns><c>[batch, 3, frames, height * factor, width * factor]</c>, owned by the caller.</returns>
    Tensor Decode(Tensor latents);
}
