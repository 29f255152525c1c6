using OpenSora.Runtime;
using static TorchSharp.torch;

namespace OpenSora.Diffusion;

/// <summary>A process that turns data into noise, as used in training: creates noisy samples and computes the loss of a denoiser's
/// predictions.</summary>
public interface ITrainingProcess
{
    /// <summary>The number of time steps of the process; steps count from 0.</summary>
    int Steps { get; }

    /// <summary>Draws time steps for a batch from the process's default training distribution.</summary>
    /// <param name="x0">The clean samples, <c>[batch, channels, ...]</c>.</param>
    /// <param name="generator">The random generator, on the CPU; null uses the global generator.</param>
    /// <returns>The steps of the process and the loss weight of each sample, both <c>[batch]</c> and on the CPU, owned by the caller.</returns>
    (Tensor Timesteps, Tensor Weights) DrawTimesteps(Tensor x0, Generator? generator = null);

    /// <summary>Adds noise to clean samples, calls the denoiser and computes the losses of its prediction.</summary>
    /// <param name="denoiser">The model to train; called once, with the caller's autograd mode.</param>
    /// <param name="x0">Clean samples <c>[batch, channels, ...]</c>; types narrower than float32 are converted to float32.</param>
    /// <param name="t">Time steps, <c>[batch]</c>.</param>
    /// <param name="noise">Standard normal noise with the shape of <paramref name="x0"/>; null draws it.</param>
    /// <param name="generator">The random generator for the noise if <paramref name="noise"/> is null; null uses the global generator.</param>
    /// <param name="noisyFrames">A boolean mask <c>[batch, frames]</c> for samples <c>[batch, channels, frames, height, width]</c>. Frames with the
    /// value false stay clean and do not contribute to the loss, which trains the model to use conditioning frames. Null adds noise to all
    /// frames.</param>
    /// <returns>The loss of each sample, <c>[batch]</c>, owned by the caller. Call backward on its average, weighted by the weights of the time
    /// steps.</returns>
    /// <exception cref="ArgumentException">A shape is invalid, or a step is out of range.</exception>
    /// <exception cref="InvalidOperationException">The denoiser's output does not have the shape that the process needs.</exception>
    TrainingLoss TrainingLosses(
        Denoiser denoiser,
        Tensor x0,
        Tensor t,
        Tensor? noise = null,
        Generator? generator = null,
        Tensor? noisyFrames = null
    );

    /// <summary>Creates a sampler for models that are trained with this process.</summary>
    /// <param name="steps">The number of sampling steps; null for the published number of the sampler.</param>
    ISampler CreateSampler(int? steps = null);
}

/// <summary>A loss and its components.</summary>
/// <param name="Total">The loss to minimize, differentiable. A process computes one value for each sample, <c>[batch]</c>; an objective of
/// OpenSora.Training computes a scalar.</param>
public sealed record TrainingLoss(Tensor Total) : IDisposable
{
    internal const string Mse = "mse";

    internal const string VariationalBound = "vb";

    /// <summary>Gets the components of the loss by name, for progress reports, which show their means.</summary>
    /// <remarks>For <see cref="Iddpm"/>, <c>mse</c> is the mean squared error of the prediction, and <c>vb</c> is the step's term of the variational
    /// bound in bits per dimension, rescaled like the loss; each of them only if the loss includes it. For <see cref="RectifiedFlow"/>, <c>mse</c> is
    /// the mean squared error of the velocity.</remarks>
    public IReadOnlyDictionary<string, Tensor> Parts { get; init; } = new Dictionary<string, Tensor>(StringComparer.Ordinal);

    /// <summary>Disposes the tensors.</summary>
    public void Dispose()
    {
        Total.Dispose();
        foreach (var part in Parts.Values)
        {
            part.Dispose();
        }
    }

    internal static TrainingLoss Of(Tensor total, Tensor? mse, Tensor? variationalBound = null)
    {
        var parts = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        if (mse is not null)
        {
            parts[Mse] = mse;
        }

        if (variationalBound is not null)
        {
            parts[VariationalBound] = variationalBound;
        }

        return new TrainingLoss(total) { Parts = parts };
    }

    internal TrainingLoss MoveToOuterDisposeScope()
    {
        Total.MoveToOuterDisposeScope();
        foreach (var part in Parts.Values)
        {
            part.MoveToOuterDisposeScope();
        }

        return this;
    }
}

/// <summary>Applies a mask of noisy frames <c>[batch, frames]</c> to samples <c>[batch, channels, frames, height, width]</c>.</summary>
internal static class NoisyFrames
{
    /// <summary>Selects noisy frames from one tensor and clean frames from the other.</summary>
    public static Tensor Choose(Tensor? noisyFrames, Tensor noisy, Tensor clean) =>
        noisyFrames is null ? noisy : where(Over(noisyFrames, noisy), noisy, clean);

    /// <summary>Computes each sample's mean over its noisy frames, <c>[batch]</c>; 0 for a sample without noisy frames.</summary>
    public static Tensor Mean(Tensor x, Tensor? noisyFrames)
    {
        if (noisyFrames is null)
        {
            return x.flatten(1).mean([1]);
        }

        var mask = Over(noisyFrames, x).to_type(x.dtype).expand(x.shape).flatten(1);
        return (x.flatten(1) * mask).sum(1) / mask.sum(1).ClampMin(1);
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
                $"The mask of noisy frames is {noisyFrames.dtype} of shape {Shapes.Text(noisyFrames)}, the samples have shape {Shapes.Text(x)}; "
                    + "expected a boolean mask [batch, frames] for samples [batch, channels, frames, height, width].",
                nameof(noisyFrames)
            );
        }

        return noisyFrames.reshape(x.shape[0], 1, x.shape[2], 1, 1);
    }
}
