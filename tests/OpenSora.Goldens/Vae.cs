using OpenSora.Models;
using OpenSora.Weights;
using static TorchSharp.torch;

namespace OpenSora.Goldens;

/// <summary>Stable Diffusion's autoencoder on images, and on video in micro batches.</summary>
internal static class VaeGoldens
{
    public static IEnumerable<Comparison> Check(GoldenFile file)
    {
        using var noGradients = no_grad();
        var model = file.Load(new AutoencoderKL(file.ConfigAs<AutoencoderKLConfig>(), initialize: false));
        var (mean, logVariance) = model.EncodeImages(file["input.x"]);
        var sample = AutoencoderKL.Sample(mean, logVariance, file["input.noise"]);
        var scaling = model.Config.ScalingFactor;
        yield return file.Compare("output.mean", mean);
        yield return file.Compare("output.logvar", logVariance);
        yield return file.Compare("output.std", exp(logVariance * 0.5));
        yield return file.Compare("output.sample", sample);
        yield return file.Compare("output.scaled_latent", sample * scaling);
        yield return file.Compare("output.decoded", model.DecodeImages(sample * scaling / scaling));
        yield return file.Compare("output.decoded_mode", model.DecodeImages(mean));
        yield return file.Compare("output.kl", 0.5 * (mean.square() + exp(logVariance) - 1 - logVariance).sum([1, 2, 3]));
    }

    public static IEnumerable<Comparison> CheckVideo(GoldenFile file)
    {
        var model = file.Load(new AutoencoderKL(file.ConfigAs<AutoencoderKLConfig>(), initialize: false), "weights.module.");
        var latents = model.Encode(file["input.x"], (mean, logVariance, first) =>
            AutoencoderKL.Sample(mean, logVariance, file["input.noise"].narrow(0, first, mean.shape[0]))
        );
        yield return file.Compare("output.latent", latents);
        yield return file.Compare("output.decoded", model.Decode(latents));
    }
}
