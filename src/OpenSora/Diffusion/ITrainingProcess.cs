using static TorchSharp.torch;

namespace OpenSora.Diffusion;

/// <summary>A process that turns data into noise, as training sees it: it makes noisy samples and rates what a denoiser makes of them.</summary>
public interface ITrainingProcess
{
    /// <summary>Time steps of the model's clock; they count from 0.</summary>
    int Steps { get; }

    /// <summary>Draws time steps for a batch, the way that the process is trained by itself.</summary>
    /// <param name="x0">The clean samples, <c>[batch, channels, ...]</c>.</param>
    /// <param name="generator">Source of randomness, on the CPU; null takes the global generator.</param>
    /// <returns>The steps and their weights, owned by the caller.</returns>
    TimestepBatch DrawTimesteps(Tensor x0, Generator? generator = null);

    /// <summary>Adds noise to clean samples, lets the denoiser predict and rates the prediction.</summary>
    /// <param name="denoiser">The model under training; called once, with autograd as the caller has it.</param>
    /// <param name="x0">Clean samples <c>[batch, channels, ...]</c>; types below float32 are widened to it.</param>
    /// <param name="t">Time steps, <c>[batch]</c>.</param>
    /// <param name="noise">Standard normal noise of the shape of <paramref name="x0"/>; null draws it.</param>
    /// <param name="generator">Source of the noise if none is given; null takes the global generator.</param>
    /// <param name="noisyFrames"><c>[batch, frames]</c>, boolean, of samples <c>[batch, channels, frames, height, width]</c>: frames that are false
    /// stay clean and
    /// count for nothing in the loss, which a model learns from to continue given frames; null: all frames are noisy.</param>
    /// <returns>The losses, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A shape does not fit, or a step is out of range.</exception>
    /// <exception cref="InvalidOperationException">The denoiser's output has another shape than the process needs.</exception>
    TrainingLosses TrainingLosses(
        Denoiser denoiser,
        Tensor x0,
        Tensor t,
        Tensor? noise = null,
        Generator? generator = null,
        Tensor? noisyFrames = null
    );
}

/// <summary>What training minimises and what it is made of, one value a sample: <c>[batch]</c>.</summary>
/// <param name="Loss">The loss, differentiable; average it, with the weights of the time steps, and go backward from that.</param>
/// <param name="Mse">The mean squared error of the prediction; null for the KL losses.</param>
/// <param name="VariationalBound">The step's term of the variational bound in bits per dimension (rescaled as the loss is); null where the loss has
/// none.</param>
public sealed record TrainingLosses(Tensor Loss, Tensor? Mse, Tensor? VariationalBound) : IDisposable
{
    /// <summary>Disposes of the tensors.</summary>
    public void Dispose()
    {
        Loss.Dispose();
        Mse?.Dispose();
        VariationalBound?.Dispose();
    }

    internal TrainingLosses MoveToOuterDisposeScope()
    {
        Loss.MoveToOuterDisposeScope();
        Mse?.MoveToOuterDisposeScope();
        VariationalBound?.MoveToOuterDisposeScope();
        return this;
    }
}

/// <summary>What a mask of noisy frames, <c>[batch, frames]</c>, means for samples <c>[batch, channels, frames, height, width]</c>.</summary>
internal static class NoisyFrames
{
    /// <summary>Noisy frames of one, clean frames of the other.</summary>
    public static Tensor Choose(Tensor? noisyFrames, Tensor noisy, Tensor clean) =>
        noisyFrames is null ? noisy : where(Over(noisyFrames, noisy), noisy, clean);

    /// <summary>Each sample's mean over its noisy frames, <c>[batch]</c>; 0 for a sample that has none.</summary>
    public static Tensor Mean(Tensor x, Tensor? noisyFrames)
    {
        if (noisyFrames is null)
        {
            return x.flatten(1).mean([1]);
        }

        var mask = Over(noisyFrames, x).to_type(x.dtype).expand(x.shape).flatten(1);
        return (x.flatten(1) * mask).sum(1) / mask.sum(1).clamp_min(1);
    }

    private static Tensor Over(Tensor noisyFrames, Tensor x)
    {
        if (
            x.dim() != 5
            || noisyFrames.dtype != ScalarType.Bool
            || noisyFrames.dim() != 2
            || noisyFrames.shape[0] != x.shape[0]
            || noisyFrames.shape[1] != x.shape[2]
        )
        {
            throw new ArgumentException(
                $"The mask of noisy frames is {noisyFrames.dtype} of shape {Iddpm.Shape(noisyFrames)}, the samples have {Iddpm.Shape(x)}; "
                    + "expected a boolean mask [batch, frames] for samples [batch, channels, frames, height, width].",
                nameof(noisyFrames)
            );
        }

        return noisyFrames.reshape(x.shape[0], 1, x.shape[2], 1, 1);
    }
}
