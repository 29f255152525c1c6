using static TorchSharp.torch;

namespace OpenSora.Diffusion;

/// <summary>Time steps for a training batch.</summary>
/// <param name="Timesteps">Steps of the process, <c>[batch]</c>, int64, on the CPU.</param>
/// <param name="Weights">What each sample's loss counts, <c>[batch]</c>, float32, on the CPU: 1 / (steps * probability), so that the mean stays
/// unbiased.</param>
public sealed record TimestepBatch(Tensor Timesteps, Tensor Weights) : IDisposable
{
    /// <summary>Disposes of both tensors.</summary>
    public void Dispose()
    {
        Timesteps.Dispose();
        Weights.Dispose();
    }
}

/// <summary>Draws the time steps of a training batch.</summary>
public interface ITimestepSampler
{
    /// <summary>Draws one step for each sample.</summary>
    /// <param name="batch">Samples in the batch, at least 1.</param>
    /// <param name="steps">Steps of the process, at least 1.</param>
    /// <param name="generator">Source of randomness, on the CPU; null takes the global generator.</param>
    /// <returns>The steps and their weights, owned by the caller.</returns>
    TimestepBatch Sample(int batch, int steps, Generator? generator = null);
}

/// <summary>Every step is as likely as any other; all weights are 1.</summary>
public sealed class UniformTimesteps : ITimestepSampler
{
    /// <inheritdoc/>
    public TimestepBatch Sample(int batch, int steps, Generator? generator = null)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(batch, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(steps, 1);
        return new TimestepBatch(randint(0, steps, [batch], dtype: ScalarType.Int64, generator: generator), ones([batch]));
    }
}
