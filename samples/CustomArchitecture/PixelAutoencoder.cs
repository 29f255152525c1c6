using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Samples;

/// <summary>A trivial autoencoder: the latents are the pixels of a downscaled video, and decoding enlarges them.</summary>
internal sealed class PixelAutoencoder : IVideoAutoencoder
{
    public int LatentChannels => 3;

    public int SpatialFactor => 16;

    public int TemporalFactor => 1;

    public Tensor Encode(Tensor video, Generator? generator = null) => nn.functional.avg_pool3d(video, [1L, SpatialFactor, SpatialFactor]);

    public Tensor Decode(Tensor latents)
    {
        using var scope = NewDisposeScope();
        return latents.repeat_interleave(SpatialFactor, 3).repeat_interleave(SpatialFactor, 4).MoveToOuterDisposeScope();
    }

    public void Dispose() { }
}
