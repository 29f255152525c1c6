using static TorchSharp.torch;

namespace OpenSora.Diffusion;

/// <summary>Classifier-free guidance: a denoiser that exaggerates what the prompt changes.</summary>
/// <remarks>
/// Ho and Salimans 2022, "Classifier-Free Diffusion Guidance", equation 6: unconditional + scale * (conditional - unconditional). The
/// unconditional states are the model's null caption or a negative prompt's; which ones is up to the denoiser that is wrapped.
/// </remarks>
public static class Guidance
{
    /// <summary>The latent channels that guidance acts on with IDDPM and DDIM as published (official DiT, PixArt, Open-Sora 1.0): the first
    /// three.</summary>
    public const int IddpmChannels = 3;

    /// <summary>Guidance by one call with a doubled batch.</summary>
    /// <param name="denoiser">A denoiser over <c>[2 * batch, ...]</c>: the first half conditional, the second unconditional.</param>
    /// <param name="scale">1 takes the conditional output as it is (then the plain conditional denoiser is cheaper), more follows the prompt
    /// more.</param>
    /// <param name="guidedChannels">How many of the latent channels are guided, from the first on; the rest, and a learned variance, stay
    /// conditional.
    /// Null guides all. See <see cref="ISampler.GuidedChannels"/>.</param>
    /// <returns>A denoiser over <c>[batch, ...]</c>.</returns>
    /// <exception cref="ArgumentOutOfRangeException">The scale is no number, or there are fewer than 1 guided channels.</exception>
    public static Denoiser ClassifierFree(Denoiser denoiser, double scale, int? guidedChannels = null)
    {
        ArgumentNullException.ThrowIfNull(denoiser);
        Check(scale, guidedChannels);
        return (x, t) =>
        {
            using var scope = NewDisposeScope();
            var output = denoiser(cat([x, x]), cat([t, t]));
            var batch = x.shape[0];
            if (output.dim() < 2 || output.shape[0] != 2 * batch)
            {
                throw new InvalidOperationException($"Guidance doubled the batch to {2 * batch}, but the denoiser gave {Iddpm.Shape(output)}.");
            }

            return Combine(output.narrow(0, 0, batch), output.narrow(0, batch, batch), x, scale, guidedChannels).MoveToOuterDisposeScope();
        };
    }

    /// <summary>Guidance by two calls: less memory at a time. A scale of 1 skips the unconditional one.</summary>
    /// <param name="conditional">The denoiser with the prompt.</param>
    /// <param name="unconditional">The denoiser with the null caption or the negative prompt.</param>
    /// <param name="scale">1 takes the conditional output as it is, more follows the prompt more.</param>
    /// <param name="guidedChannels">As for guidance by one call.</param>
    /// <returns>A denoiser over <c>[batch, ...]</c>.</returns>
    /// <exception cref="ArgumentOutOfRangeException">The scale is no number, or there are fewer than 1 guided channels.</exception>
    public static Denoiser ClassifierFree(Denoiser conditional, Denoiser unconditional, double scale, int? guidedChannels = null)
    {
        ArgumentNullException.ThrowIfNull(conditional);
        ArgumentNullException.ThrowIfNull(unconditional);
        Check(scale, guidedChannels);
        if (scale == 1)
        {
            return conditional;
        }

        return (x, t) =>
        {
            using var scope = NewDisposeScope();
            return Combine(conditional(x, t), unconditional(x, t), x, scale, guidedChannels).MoveToOuterDisposeScope();
        };
    }

    private static Tensor Combine(Tensor conditional, Tensor unconditional, Tensor x, double scale, int? guidedChannels)
    {
        var (latents, channels) = (x.shape[1], conditional.shape[1]);
        var guided = guidedChannels ?? latents;
        if (guided > latents || channels < latents)
        {
            throw new InvalidOperationException(
                $"{guided} channels are to be guided, but the latents have {latents} and the denoiser gave {channels}. "
                    + "Set the guided channels to at most those of the latents."
            );
        }

        var (c, u) = (conditional.narrow(1, 0, guided), unconditional.narrow(1, 0, guided));
        return cat([u + scale * (c - u), conditional.narrow(1, guided, channels - guided)], 1);
    }

    private static void Check(double scale, int? guidedChannels)
    {
        if (!double.IsFinite(scale))
        {
            throw new ArgumentOutOfRangeException(nameof(scale), scale, "The guidance scale must be a finite number; usual are 4 to 8.");
        }

        if (guidedChannels < 1)
        {
            throw new ArgumentOutOfRangeException(nameof(guidedChannels), guidedChannels, "At least one channel must be guided; null guides all.");
        }
    }
}
