using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Models;

/// <summary>Tests that apply to every autoencoder.</summary>
internal static class AutoencoderContract
{
    public static void CallsLeaveOneTensorAndNoGradients(IVideoAutoencoder model, Tensor video)
    {
        var before = TensorCount.Now;
        using (var latents = model.Encode(video))
        {
            latents.requires_grad.ShouldBeFalse();
            TensorCount.ShouldBe(before + 1);
            using var decoded = model.Decode(latents);
            decoded.requires_grad.ShouldBeFalse();
            TensorCount.ShouldBe(before + 2);
        }
        TensorCount.ShouldBe(before);
    }
}
