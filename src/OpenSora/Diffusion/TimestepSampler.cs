using static TorchSharp.torch;

namespace OpenSora.Diffusion;

/// <summary>Draws the time steps of a training batch.</summary>
public interface ITimestepSampler
{
    /// <summary>Draws one time step for each sample.</summary>
    /// <param name="batch">The number of samples in the batch, at least 1.</param>
    /// <param name="steps">The number of steps of the process, at least 1.</param>
    /// <param name="generator">The random generator, on the CPU; null uses the global generator.</param>
    /// <returns>The steps of the process, <c>[batch]</c>, int64, and the loss weight of each sample, <c>[batch]</c>, float32: 1 / (steps *
    /// probability), so that the mean is unbiased. Both are on the CPU and owned by the caller.</returns>
    (Tensor Timesteps, Tensor Weights) Sample(int batch, int steps, Generator? generator = null);
}

/// <summary>Draws time steps from a uniform distribution; all weights are 1.</summary>
internal sealed class UniformTimesteps : ITimestepSampler
{
    /// <inheritdoc/>
    public (Tensor Timesteps, Tensor Weights) Sample(int batch, int steps, Generator? generator = null)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(batch, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(steps, 1);
        return (randint(0, steps, [batch], dtype: ScalarType.Int64, generator: generator), ones([batch]));
    }
}
