using OpenSora.Diffusion;
using static TorchSharp.torch;

namespace OpenSora.Training.Data;

/// <summary>A batch of samples for a training step. The receiver must dispose it.</summary>
/// <param name="Video">The pixels in [-1, 1] or the latents, <c>[batch, channels, frames, height, width]</c>.</param>
/// <param name="Text">The text encoder states, <c>[batch, tokens, width]</c>, or the token IDs, <c>[batch, tokens]</c>, int64, for a text encoder
/// that is trained too.</param>
/// <param name="Mask">The token mask, <c>[batch, tokens]</c>, boolean; true marks a token and false marks padding. Null if there is no
/// padding.</param>
/// <param name="NoisyFrames">The frame mask, <c>[batch, frames]</c>, boolean; true marks a frame to learn and false marks a conditioning frame
/// without noise. Null if all frames are to be learned. See <see cref="TrainingData.WithFrameMasks"/>.</param>
public sealed record TrainingBatch(Tensor Video, Tensor? Text = null, Tensor? Mask = null, Tensor? NoisyFrames = null) : IDisposable
{
    /// <summary>Gets the position of the first sample in the whole batch; 0 unless several processes share it.</summary>
    public long Offset { get; init; }

    /// <summary>Gets the number of samples in the whole batch, which several processes may share; the number of samples in this batch if it is not
    /// set.</summary>
    public long WholeSize
    {
        get => field == 0 ? Video.shape[0] : field;
        init;
    }

    /// <summary>Gets the range of the samples of a batch that one of several processes uses. The ranges of all processes together are the whole
    /// batch.</summary>
    /// <param name="size">The number of samples in the whole batch.</param>
    /// <param name="part">The number of the process, from 0.</param>
    /// <param name="parts">The number of processes.</param>
    /// <returns>The first sample of the range, and the number of samples.</returns>
    /// <exception cref="InvalidOperationException">There are more processes than samples.</exception>
    public static (long First, long Count) RangeOf(long size, int part, int parts)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(parts, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)part, (uint)parts, nameof(part));
        var (first, end) = (size * part / parts, size * (part + 1) / parts);
        return size >= parts
            ? (first, end - first)
            : throw new InvalidOperationException(
                $"The number of samples of a batch is {size}, but {parts} processes share it. Increase the size of batches, or use fewer processes."
            );
    }

    /// <summary>Gets a range of the samples as views that belong to the current dispose scope.</summary>
    /// <param name="start">The index of the first sample.</param>
    /// <param name="count">The number of samples.</param>
    public TrainingBatch Narrow(long start, long count)
    {
        Tensor Part(Tensor tensor) => tensor.narrow(0, start, count);
        Tensor? PartOrNull(Tensor? tensor) => tensor is null ? null : Part(tensor);
        return new(Part(Video), PartOrNull(Text), PartOrNull(Mask), PartOrNull(NoisyFrames));
    }

    /// <summary>Moves the batch to a device. Tensors that are already on the device are shared with the new batch; the other tensors of this batch
    /// are disposed.</summary>
    /// <param name="device">The device of the model that is trained.</param>
    /// <returns>The batch to use in place of this one.</returns>
    public TrainingBatch MoveTo(Device device)
    {
        ArgumentNullException.ThrowIfNull(device);
        Tensor Moved(Tensor tensor)
        {
            if (tensor.device_type == device.type && tensor.device_index == device.index)
            {
                return tensor;
            }

            using (tensor)
            {
                return tensor.to(device);
            }
        }
        Tensor? MovedOrNull(Tensor? tensor) => tensor is null ? null : Moved(tensor);
        var (offset, whole) = (Offset, WholeSize);
        return new(Moved(Video), MovedOrNull(Text), MovedOrNull(Mask), MovedOrNull(NoisyFrames)) { Offset = offset, WholeSize = whole };
    }

    /// <summary>Copies the samples that one of several processes uses, and disposes of this batch.</summary>
    internal TrainingBatch TakePart(int part, int parts)
    {
        using var whole = this;
        using var scope = NewDisposeScope();
        var size = Video.shape[0];
        var (first, count) = RangeOf(size, part, parts);
        Tensor Part(Tensor tensor) => tensor.narrow(0, first, count).clone().MoveToOuterDisposeScope();
        Tensor? PartOrNull(Tensor? tensor) => tensor is null ? null : Part(tensor);
        return new(Part(Video), PartOrNull(Text), PartOrNull(Mask), PartOrNull(NoisyFrames)) { Offset = first, WholeSize = size };
    }

    /// <summary>Disposes the tensors.</summary>
    public void Dispose()
    {
        Video.Dispose();
        Text?.Dispose();
        Mask?.Dispose();
        NoisyFrames?.Dispose();
    }
}

/// <summary>A source of batches for a training stage.</summary>
/// <remarks>
/// A batch depends only on its number and a seed. This makes runs reproducible, and because a position in the data is a single number, training can
/// resume in the middle of an epoch.
/// </remarks>
public interface ITrainingData
{
    /// <summary>Gets the number of samples in one pass over the data.</summary>
    long Count { get; }

    /// <summary>Gets a short description of the data. It is written to checkpoints and compared when a run is resumed.</summary>
    string Fingerprint { get; }

    /// <summary>Creates a batch. The result must not depend on the thread that calls this method.</summary>
    /// <param name="number">The zero-based number of the batch.</param>
    /// <param name="size">The requested number of samples.</param>
    /// <param name="seed">The seed of the stage.</param>
    /// <param name="cancellationToken">Stops creating the batch.</param>
    /// <returns>The batch, owned by the caller.</returns>
    ValueTask<TrainingBatch> GetBatchAsync(long number, int size, int seed, CancellationToken cancellationToken = default);

    /// <summary>Creates the part of a batch that one of several processes uses (<see cref="TrainingBatch.RangeOf"/>). By default, the whole batch is
    /// created and the other samples are dropped; sources that can load samples separately should implement this method.</summary>
    /// <param name="number">The zero-based number of the batch.</param>
    /// <param name="size">The requested number of samples of the whole batch.</param>
    /// <param name="seed">The seed of the stage.</param>
    /// <param name="part">The number of the process, from 0.</param>
    /// <param name="parts">The number of processes.</param>
    /// <param name="cancellationToken">Stops creating the batch.</param>
    /// <returns>The part, owned by the caller: the same samples as in the whole batch, with <see cref="TrainingBatch.Offset"/> and
    /// <see cref="TrainingBatch.WholeSize"/>.</returns>
    /// <exception cref="InvalidOperationException">There are more processes than samples.</exception>
    async ValueTask<TrainingBatch> GetPartAsync(long number, int size, int seed, int part, int parts, CancellationToken cancellationToken = default)
    {
        var whole = await GetBatchAsync(number, size, seed, cancellationToken).ConfigureAwait(false);
        return whole.TakePart(part, parts);
    }
}
