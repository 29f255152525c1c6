using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Encodes video from pixels to the latents that diffusion models work on, and decodes latents to pixels.</summary>
/// <remarks>Implementations hold only weights and can be called from several threads at the same time.</remarks>
public interface IVideoAutoencoder : IDisposable
{
    /// <summary>The number of latent channels.</summary>
    int LatentChannels { get; }

    /// <summary>The number of pixels in height or width that one latent position covers.</summary>
    int SpatialFactor { get; }

    /// <summary>The number of frames that one latent frame covers; 1 for an image autoencoder that is applied to each frame separately.</summary>
    int TemporalFactor { get; }

    /// <summary>The maximum number of latent frames to decode in one call when memory must be saved. The default is 4 for an autoencoder that
    /// processes each frame independently and all frames for one that compresses time. An autoencoder with a decoder that mixes frames returns the
    /// number it was designed for.</summary>
    int FramesAtOnce => TemporalFactor == 1 ? 4 : int.MaxValue;

    /// <summary>Whether the pixels of a frame depend on the other frames that are decoded in the same call. The default is true only for an
    /// autoencoder that compresses time. If memory must be saved, such an autoencoder decodes tiles of a frame rather than fewer frames at a
    /// time.</summary>
    bool MixesFrames => TemporalFactor > 1;

    /// <summary>The factor that latents are multiplied by so that their standard deviation is approximately 1; 1 if the autoencoder does not scale
    /// latents.</summary>
    double ScalingFactor => 1;

    /// <summary>Encodes video to scaled latents.</summary>
    /// <param name="video">Pixels in [-1, 1], <c>[batch, 3, frames, height, width]</c>; height and width are multiples of
    /// <see cref="SpatialFactor"/>.</param>
    /// <param name="generator">The random generator for sampling the posterior; null returns the posterior's mean instead of a sample.</param>
    /// <returns>Scaled latents <c>[batch, channels, frames, height / factor, width / factor]</c>, owned by the caller.</returns>
    Tensor Encode(Tensor video, Generator? generator = null);

    /// <summary>Decodes scaled latents to pixels, which are approximately in [-1, 1] and not clamped.</summary>
    /// <param name="latents">Scaled latents, <c>[batch, channels, frames, height, width]</c>.</param>
    /// <returns>Pixels <c>[batch, 3, frames, height * factor, width * factor]</c>, owned by the caller.</returns>
    Tensor Decode(Tensor latents);
}
