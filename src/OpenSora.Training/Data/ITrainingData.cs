using OpenSora.Diffusion;
using static TorchSharp.torch;

namespace OpenSora.Training.Data;

/// <summary>What a training step sees. The receiver disposes of it.</summary>
/// <param name="Video">Pixels in [-1, 1] or latents, <c>[batch, channels, frames, height, width]</c>.</param>
/// <param name="Text">Text states <c>[batch, tokens, width]</c>, or token ids <c>[batch, tokens]</c> (int64) for a text encoder that is trained
/// too.</param>
/// <param name="Mask">Real tokens, <c>[batch, tokens]</c>, boolean; null where every token counts.</param>
/// <param name="NoisyFrames">Which frames are to be learned, <c>[batch, frames]</c>, boolean; the others are given, without noise. Null: all. See
/// <see cref="FrameMaskedData"/>.</param>
public sealed record TrainingBatch(Tensor Video, Tensor? Text = null, Tensor? Mask = null, Tensor? NoisyFrames = null) : IDisposable
{
    /// <summary>Some of the samples, as views that belong to the current dispose scope.</summary>
    /// <param name="start">The first.</param>
    /// <param name="count">How many.</param>
    public TrainingBatch Narrow(long start, long count)
    {
        Tensor Part(Tensor tensor) => tensor.narrow(0, start, count);
        Tensor? PartOrNull(Tensor? tensor) => tensor is null ? null : Part(tensor);
        return new(Part(Video), PartOrNull(Text), PartOrNull(Mask), PartOrNull(NoisyFrames));
    }

    /// <summary>The same on a device. Tensors that are there already are in both batches; the others of this one are disposed of.</summary>
    /// <param name="device">Where the model under training is.</param>
    /// <returns>The batch to go on with, in place of this one.</returns>
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
        return new(Moved(Video), MovedOrNull(Text), MovedOrNull(Mask), MovedOrNull(NoisyFrames));
    }

    /// <summary>Disposes of the tensors.</summary>
    public void Dispose()
    {
        Video.Dispose();
        Text?.Dispose();
        Mask?.Dispose();
        NoisyFrames?.Dispose();
    }
}

/// <summary>Where a stage's batches come from.</summary>
/// <remarks>
/// A batch is a function of its number and a seed and of nothing else. That makes every run repeatable, and a position in the data is one
/// number, so that training goes on in the middle of an epoch.
/// </remarks>
public interface ITrainingData
{
    /// <summary>Samples in one pass over the data.</summary>
    long Count { get; }

    /// <summary>What the data are, in a few words and numbers: written into checkpoints and compared when a run is resumed.</summary>
    string Fingerprint { get; }

    /// <summary>Makes a batch.</summary>
    /// <param name="number">Batches before this one.</param>
    /// <param name="size">Samples wanted.</param>
    /// <param name="seed">The stage's seed.</param>
    /// <returns>The batch, owned by the caller.</returns>
    TrainingBatch GetBatch(long number, int size, int seed);
}

/// <summary>Batches in turns from several sources, such as images and clips (joint training).</summary>
public sealed class MixedData : ITrainingData
{
    private readonly (ITrainingData Data, double Samples)[] _turns;

    /// <summary>Takes turns.</summary>
    /// <param name="turns">The sources in the order of their turns, each with the size of its batches as a multiple of the stage's batch size:
    /// an image is as much work as one frame of a clip. A source may come several times.</param>
    /// <exception cref="ArgumentException">There is no source, or a multiple is not above 0.</exception>
    public MixedData(params (ITrainingData Data, double Samples)[] turns)
    {
        ArgumentNullException.ThrowIfNull(turns);
        if (turns.Length == 0 || turns.Any(turn => turn.Data is null || turn.Samples <= 0))
        {
            throw new ArgumentException("Mixed data need at least one source, each with a batch size above 0.", nameof(turns));
        }

        this._turns = turns;
    }

    /// <inheritdoc/>
    public long Count => _turns.Select(turn => turn.Data).Distinct().Sum(data => data.Count);

    /// <inheritdoc/>
    public string Fingerprint =>
        string.Join(" + ", _turns.Select(turn => FormattableString.Invariant($"{turn.Samples} x ({turn.Data.Fingerprint})")));

    /// <inheritdoc/>
    public TrainingBatch GetBatch(long number, int size, int seed)
    {
        var (data, samples) = _turns[number % _turns.Length];
        // Batches of one source are numbered without gaps, over all its turns.
        var own = _turns.Count(turn => ReferenceEquals(turn.Data, data));
        var before = _turns.Take((int)(number % _turns.Length)).Count(turn => ReferenceEquals(turn.Data, data));
        return data.GetBatch(number / _turns.Length * own + before, Math.Max(1, (int)Math.Round(size * samples)), seed);
    }
}
