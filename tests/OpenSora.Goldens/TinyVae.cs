using OpenSora.Models;
using OpenSora.Weights;
using static TorchSharp.torch;

namespace OpenSora.Goldens;

/// <summary>Tiny autoencoders, random and trained.</summary>
internal static class TinyVaeGoldens
{
    public static IEnumerable<Comparison> Check(GoldenFile file)
    {
        using var noGradients = no_grad();
        var model = file.Load(new TinyAutoencoder(file.ConfigAs<TinyAutoencoderConfig>(), initialize: false));
        var latents = model.EncodeImages(file["input.x"]);
        yield return file.Compare("output.latent", latents);
        yield return file.Compare("output.decoded", model.DecodeImages(latents));
    }

    /// <summary>A trained autoencoder on a photo. Its weights are beside the case; its pixels are in [0, 1].</summary>
    public static IEnumerable<Comparison> CheckPhoto(GoldenFile file)
    {
        using var noGradients = no_grad();
        using var model = new TinyAutoencoder(TinyAutoencoderConfig.Preset("TAEF2"), initialize: false);
        var state = model.state_dict();
        using (var encoder = WeightsFile.Open(Path.Combine(file.Folder, "taef2_encoder.safetensors")))
        using (var decoder = WeightsFile.Open(Path.Combine(file.Folder, "taef2_decoder.safetensors")))
        {
            foreach (var name in encoder.Tensors.Keys)
            {
                state[$"encoder.layers.{name}"].copy_(encoder.Read(name));
            }

            foreach (var name in decoder.Tensors.Keys)
            {
                state[$"decoder.{TinyAutoencoder.DecoderName(name)}"].copy_(decoder.Read(name));
            }
        }

        var photo = file["input.x"];
        Tensor Decoded(Tensor latents) => (model.Decode(latents.unsqueeze(2)).squeeze(2) + 1) / 2;
        Tensor Psnr(Tensor decoded) => -10 * log10((decoded.clamp(0, 1) - photo).square().mean()).view(1);

        var latents = model.Encode((photo * 2 - 1).unsqueeze(2)).squeeze(2);
        yield return file.Compare("output.latent", latents);
        var decoded = Decoded(latents);
        yield return file.Compare("output.reconstruction_raw", decoded);
        yield return file.Compare("output.reconstruction", decoded.clamp(0, 1));
        yield return file.Compare("output.psnr", Psnr(decoded));
        // latents as bytes, 0 to 255 for -3 to 3
        yield return file.Compare("output.psnr_quantized", Psnr(Decoded(file["mid.latent_quantized"] / 255 * 6 - 3)));
    }
}
