using OpenSora.Runtime;
using static OpenSora.Runtime.Scopes;
using static TorchSharp.torch;

namespace OpenSora.Diffusion;

public static partial class Sampling
{
    /// <summary>The number of latent channels, from the first, that guidance applies to with IDDPM and DDIM in the published models (official DiT,
    /// PixArt, Open-Sora 1.0).</summary>
    internal const int IddpmGuidedChannels = 3;

    /// <summary>Applies classifier-free guidance, which amplifies the effect of the prompt on a denoiser's output, with one denoiser call on a
    /// doubled batch.</summary>
    /// <remarks>Ho and Salimans 2022, "Classifier-Free Diffusion Guidance", equation 6: unconditional + scale * (conditional - unconditional). The
    /// unconditional states are those of the null caption or of a negative prompt; the wrapped denoiser determines which.</remarks>
    /// <param name="denoiser">A denoiser over <c>[2 * batch, ...]</c>: the first half is conditional, the second half unconditional.</param>
    /// <param name="scale">The guidance scale. 1 returns the conditional output unchanged (calling the conditional denoiser alone is then cheaper);
    /// higher values follow the prompt more closely.</param>
    /// <param name="guidedChannels">The number of latent channels, from the first, to which guidance applies; the remaining channels and a learned
    /// variance keep the conditional output. Null applies guidance to all latent channels. See <see cref="ISampler.GuidedChannels"/>.</param>
    /// <returns>A denoiser over <c>[batch, ...]</c>.</returns>
    /// <exception cref="ArgumentOutOfRangeException">The scale is not finite, or the number of guided channels is less than 1.</exception>
    public static Denoiser ClassifierFreeGuidance(Denoiser denoiser, double scale, int? guidedChannels = null)
    {
        ArgumentNullException.ThrowIfNull(denoiser);
        CheckGuidance(scale, guidedChannels);
        return (x, t) =>
            Scoped(() =>
            {
                var output = denoiser(cat([x, x]), cat([t, t]));
                var batch = x.shape[0];
                if (output.dim() < 2 || output.shape[0] != 2 * batch)
                {
                    throw new InvalidOperationException(
                        $"Guidance doubled the batch to {2 * batch}, but the denoiser returned {Shapes.Text(output)}."
                    );
                }

                return Combine(output.narrow(0, 0, batch), output.narrow(0, batch, batch), x, scale, guidedChannels);
            });
    }

    /// <summary>Applies classifier-free guidance with two denoiser calls, which uses less memory at a time. A scale of 1
    /// skips the unconditional call.</summary>
    /// <param name="conditional">The denoiser with the prompt.</param>
    /// <param name="unconditional">The denoiser with the null caption or the negative prompt.</param>
    /// <param name="scale">The guidance scale. 1 returns the conditional output unchanged; higher values follow the prompt more closely.</param>
    /// <param name="guidedChannels">The number of latent channels, from the first, to which guidance applies; the remaining channels and a learned
    /// variance keep the conditional output. Null applies guidance to all latent channels. See <see cref="ISampler.GuidedChannels"/>.</param>
    /// <returns>A denoiser over <c>[batch, ...]</c>.</returns>
    /// <exception cref="ArgumentOutOfRangeException">The scale is not finite, or the number of guided channels is less than 1.</exception>
    public static Denoiser ClassifierFreeGuidance(Denoiser conditional, Denoiser unconditional, double scale, int? guidedChannels = null)
    {
        ArgumentNullException.ThrowIfNull(conditional);
        ArgumentNullException.ThrowIfNull(unconditional);
        CheckGuidance(scale, guidedChannels);
        if (scale == 1)
        {
            return conditional;
        }

        return (x, t) => Scoped(() => Combine(conditional(x, t), unconditional(x, t), x, scale, guidedChannels));
    }

    private static Tensor Combine(Tensor conditional, Tensor unconditional, Tensor x, double scale, int? guidedChannels)
    {
        var (latents, channels) = (x.shape[1], conditional.shape[1]);
        var guided = guidedChannels ?? latents;
        if (guided > latents || channels < latents)
        {
            throw new InvalidOperationException(
                $"Guidance needs {guided} channels, but the latents have {latents} and the denoiser returned {channels}. "
                    + "Set the number of guided channels to at most that of the latents."
            );
        }

        var (c, u) = (conditional.narrow(1, 0, guided), unconditional.narrow(1, 0, guided));
        return cat([u.Plus((c - u).Times(scale)), conditional.narrow(1, guided, channels - guided)], 1);
    }

    private static void CheckGuidance(double scale, int? guidedChannels)
    {
        if (!double.IsFinite(scale))
        {
            throw new ArgumentOutOfRangeException(nameof(scale), scale, "The guidance scale must be a finite number; typical values are 4 to 8.");
        }

        if (guidedChannels < 1)
        {
            throw new ArgumentOutOfRangeException(nameof(guidedChannels), guidedChannels, "At least one channel must be guided; null guides all.");
        }
    }
}
