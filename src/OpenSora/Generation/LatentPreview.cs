using OpenSora.Media;
using OpenSora.Models;
using OpenSora.Runtime;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>Turns latents into small videos quickly, while they are denoised.</summary>
internal abstract class LatentPreview : IDisposable
{
    /// <summary>Creates a preview for an autoencoder: the linear map from latents to colors that fits it best. Without an autoencoder, latents are
    /// pixels.</summary>
    internal static LatentPreview For(IVideoAutoencoder? autoencoder, Device device) =>
        autoencoder is null ? new Pixels() : new LatentColors(autoencoder, device);

    /// <summary>Creates a preview that decodes latents with a small autoencoder, which is disposed with it.</summary>
    internal static LatentPreview Of(IVideoAutoencoder small) => new SmallDecoder(small);

    /// <summary>Computes a preview.</summary>
    /// <param name="latents">Latents of one video, <c>[1, channels, frames, height, width]</c>; not modified.</param>
    /// <param name="framesPerSecond">The frame rate of the video that they decode to.</param>
    /// <param name="frames">The number of frames of that video.</param>
    internal abstract VideoFrames Show(Tensor latents, double framesPerSecond, int frames);

    /// <inheritdoc/>
    public abstract void Dispose();

    private sealed class Pixels : LatentPreview
    {
        internal override VideoFrames Show(Tensor latents, double framesPerSecond, int frames) => VideoFrames.FromTensor(latents, framesPerSecond);

        public override void Dispose() { }
    }

    private sealed class SmallDecoder(IVideoAutoencoder autoencoder) : LatentPreview
    {
        internal override VideoFrames Show(Tensor latents, double framesPerSecond, int frames)
        {
            using var noGradients = no_grad();
            using var scope = NewDisposeScope();
            var count = latents.shape[2] * autoencoder.TemporalFactor;
            return new LatentDecoder(autoencoder).Decode(latents, framesPerSecond * count / frames)[0];
        }

        public override void Dispose() => autoencoder.Dispose();
    }

    /// <summary>A linear map from the channels of a latent position to the mean color of its pixels.</summary>
    private sealed class LatentColors : LatentPreview
    {
        private const int Samples = 16; // images
        private const int Places = 8; // latent positions in height and width
        private const int Patches = 3; // random colors in height and width, between which colors are interpolated
        private readonly Tensor _map; // [channels + 1, 3]; the last row is the color of zero latents

        /// <summary>Fits the map by least squares to images of smooth random colors.</summary>
        internal LatentColors(IVideoAutoencoder autoencoder, Device device)
        {
            using var noGradients = no_grad();
            using var scope = NewDisposeScope();
            using var generator = new Generator(0, CPU);
            var (time, size) = (autoencoder.TemporalFactor, Places * autoencoder.SpatialFactor);
            var colors = rand([Samples, 3, Patches, Patches], generator: generator);
            colors[..(Samples / 2)] = colors[..(Samples / 2), ..1]; // half of the images are gray, because white and black are frequent
            colors = colors.Times(4).Minus(2).Clamp(-1, 1);
            var images = nn.functional.interpolate(colors, [size, size], mode: InterpolationMode.Bilinear, align_corners: true);
            var videos = images.unsqueeze(2).expand(Samples, 3, time, size, size).contiguous().to(device);
            List<Tensor> latents = [];
            foreach (var video in videos.split(1))
            {
                latents.Add(autoencoder.Encode(video).to_type(ScalarType.Float32).cpu());
            }

            var seen = nn.functional.avg_pool2d(images, autoencoder.SpatialFactor).permute(0, 2, 3, 1).reshape(-1, 3); // [places, 3]
            var channels = cat(latents).mean([2]).permute(0, 2, 3, 1).reshape(seen.shape[0], -1); // [places, channels]
            _map = linalg.lstsq(cat([channels, ones(channels.shape[0], 1)], 1), seen).Solution.to(device).DetachFromDisposeScope();
        }

        internal override VideoFrames Show(Tensor latents, double framesPerSecond, int frames)
        {
            using var noGradients = no_grad();
            using var scope = NewDisposeScope();
            var places = latents.to_type(ScalarType.Float32).permute(0, 2, 3, 4, 1); // [1, frames, height, width, channels]
            var channels = latents.shape[1];
            var colors = places.matmul(_map.narrow(0, 0, channels)).Plus(_map[channels]);
            return VideoFrames.FromTensor(colors.permute(0, 4, 1, 2, 3), framesPerSecond * latents.shape[2] / frames);
        }

        public override void Dispose() => _map.Dispose();
    }
}
