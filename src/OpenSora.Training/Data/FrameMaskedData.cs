using System.Globalization;
using OpenSora.Diffusion;
using static TorchSharp.torch;

namespace OpenSora.Training.Data;

/// <summary>The choice of conditioning frames in a clip; the model learns the other frames. In the names, a quarter is any number of frames up to a
/// quarter of the clip.</summary>
public enum FrameMask
{
    /// <summary>Each frame is a conditioning frame with a probability between 0.1 and 0.9, which is drawn for the clip.</summary>
    Random,

    /// <summary>Every other frame is a conditioning frame.</summary>
    Interpolate,

    /// <summary>Up to a quarter of the clip at a random position.</summary>
    QuarterRandom,

    /// <summary>Up to a quarter of the clip at the beginning.</summary>
    QuarterHead,

    /// <summary>Up to a quarter of the clip at the end.</summary>
    QuarterTail,

    /// <summary>Up to a quarter of the clip at each end.</summary>
    QuarterHeadTail,

    /// <summary>Up to a quarter of the frames at random positions.</summary>
    ImageRandom,

    /// <summary>The first frame, for generating a video from an image.</summary>
    ImageHead,

    /// <summary>The last frame.</summary>
    ImageTail,

    /// <summary>The first and the last frame.</summary>
    ImageHeadTail,
}

/// <summary>Data in which some clips have conditioning frames. Training on them teaches a model to animate images, extend clips and fill
/// gaps.</summary>
/// <remarks>Implements the masked training of Open-Sora 1.1 (report, section "Masked DiT as image/video-to-video model"). Single images are not
/// masked.</remarks>
internal sealed class FrameMaskedData : ITrainingData
{
    private readonly ITrainingData _data;
    private readonly KeyValuePair<FrameMask, double>[] _shares;

    /// <summary>Creates data that adds masks to the batches of other data.</summary>
    /// <param name="data">The clips.</param>
    /// <param name="shares">The fraction of the clips for each mask. The fractions add up to at most 1; the remaining clips have no mask. Null for
    /// <see cref="TrainingData.OpenSora11FrameMasks"/>.</param>
    /// <exception cref="ArgumentException">A fraction is negative, or the fractions add up to more than 1.</exception>
    public FrameMaskedData(ITrainingData data, IReadOnlyDictionary<FrameMask, double>? shares = null)
    {
        ArgumentNullException.ThrowIfNull(data);
        _data = data;
        _shares = [.. (shares ?? TrainingData.OpenSora11FrameMasks).OrderBy(share => share.Key)];
        if (_shares.Any(share => !(share.Value >= 0) || !Enum.IsDefined(share.Key)) || _shares.Sum(share => share.Value) > 1 + 1e-9)
        {
            throw new ArgumentException(
                $"The fractions of masks must not be negative and must add up to at most 1; they are {string.Join(", ", _shares)}.",
                nameof(shares)
            );
        }
    }

    /// <inheritdoc/>
    public long Count => _data.Count;

    /// <inheritdoc/>
    public string Fingerprint
    {
        get
        {
            var masks = _shares.Select(share => string.Create(CultureInfo.InvariantCulture, $"{share.Key} {share.Value}"));
            return $"{_data.Fingerprint}, masks {string.Join(" ", masks)}";
        }
    }

    /// <inheritdoc/>
    public async ValueTask<TrainingBatch> GetBatchAsync(long number, int size, int seed, CancellationToken cancellationToken = default)
    {
        var batch = await _data.GetBatchAsync(number, size, seed, cancellationToken).ConfigureAwait(false);
        return WithMasks(batch, number, seed);
    }

    /// <inheritdoc/>
    public async ValueTask<TrainingBatch> GetPartAsync(
        long number,
        int size,
        int seed,
        int part,
        int parts,
        CancellationToken cancellationToken = default
    )
    {
        var batch = await _data.GetPartAsync(number, size, seed, part, parts, cancellationToken).ConfigureAwait(false);
        return WithMasks(batch, number, seed);
    }

    // Draws masks for the whole batch, so that those of a part are the same.
    private TrainingBatch WithMasks(TrainingBatch batch, long number, int seed)
    {
        var (count, frames) = ((int)batch.Video.shape[0], (int)batch.Video.shape[2]);
        var random = Randomness.Of(seed, number, 2); // independent of the random numbers that the data used
        var noisy = Enumerable.Range(0, (int)batch.WholeSize).SelectMany(_ => Draw(frames, random)).ToArray();
        return noisy.All(frame => frame)
            ? batch
            : batch with
            {
                NoisyFrames = tensor(noisy.AsSpan((int)batch.Offset * frames, count * frames).ToArray(), [count, frames]),
            };
    }

    private bool[] Draw(int frames, Random random)
    {
        var left = random.NextDouble();
        foreach (var (mask, share) in _shares)
        {
            left -= share;
            if (left < 0)
            {
                return Noisy(mask, frames, random);
            }
        }
        return Noisy(null, frames, random);
    }

    /// <summary>Creates a mask that is true for noisy frames. At least one frame is noisy.</summary>
    internal static bool[] Noisy(FrameMask? mask, int frames, Random random)
    {
        var noisy = new bool[frames];
        Array.Fill(noisy, true);
        if (frames < 2 || mask is null)
        {
            return noisy;
        }

        var quarter = random.Next(1, Math.Max(1, frames / 4) + 1);
        switch (mask)
        {
            case FrameMask.Random:
                var chance = 0.1 + 0.8 * random.NextDouble();
                for (var i = 0; i < frames; i++)
                {
                    noisy[i] = random.NextDouble() >= chance;
                }

                if (!noisy.Contains(true))
                {
                    noisy[random.Next(frames)] = true;
                }

                break;
            case FrameMask.Interpolate:
                for (var i = random.Next(2); i < frames; i += 2)
                {
                    noisy[i] = false;
                }

                break;
            case FrameMask.QuarterRandom:
                Give(random.Next(frames - quarter + 1), quarter);
                break;
            case FrameMask.ImageRandom:
                foreach (var i in random.GetItems(Enumerable.Range(0, frames).ToArray(), quarter))
                {
                    Give(i, 1);
                }

                break;
            default:
                var (head, tail) = mask switch
                {
                    FrameMask.QuarterHead => (quarter, 0),
                    FrameMask.QuarterTail => (0, quarter),
                    FrameMask.QuarterHeadTail => (quarter, quarter),
                    FrameMask.ImageHead => (1, 0),
                    FrameMask.ImageTail => (0, 1),
                    _ => (1, 1),
                };
                tail = Math.Min(tail, frames - head - 1);
                Give(0, head);
                Give(frames - tail, tail);
                break;
        }
        return noisy;

        void Give(int start, int count) => Array.Fill(noisy, false, start, count);
    }
}
