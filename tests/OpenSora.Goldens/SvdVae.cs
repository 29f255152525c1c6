using OpenSora.Models;
using OpenSora.Weights;
using static TorchSharp.torch;

namespace OpenSora.Goldens;

/// <summary>Stable Video Diffusion's autoencoder, with a decoder that processes frames together.</summary>
internal static class SvdVaeGoldens
{
    public static IEnumerable<Comparison> Check(GoldenFile file)
    {
        using var noGradients = no_grad();
        var model = file.Load(new AutoencoderKLTemporalDecoder(file.ConfigAs<AutoencoderKLConfig>(), initialize: false));
        var scaling = model.Config.ScalingFactor;
        yield return file.Compare("output.mean", model.Encode(file["input.x"]) / scaling);
        yield return file.Compare("output.decoded", model.Decode(file["input.latents"] * scaling));
        model.DecodeChunkSize = 3;
        yield return file.Compare("output.decoded_in_threes", model.Decode(file["input.latents"] * scaling));
    }
}
