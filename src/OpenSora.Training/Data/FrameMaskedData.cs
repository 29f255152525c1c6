using System.Globalization;
using OpenSora.Diffusion;
using static TorchSharp.torch;

namespace OpenSora.Training.Data;

/// <summary>Which frames of a clip are given while the others are learned. A quarter is any number of frames up to a fourth of the clip.</summary>
public enum FrameMask
{
    /// <summary>Each frame is given with a chance that is drawn for the clip, between 0.1 and 0.9.</summary>
    Random,

    /// <summary>Every other frame is given.</summary>
    Interpolate,

    /// <summary>A quarter somewhere in the clip.</summary>
    QuarterRandom,

    /// <summary>A quarter at the beginning.</summary>
    QuarterHead,

    /// <summary>A quarter at the end.</summary>
    QuarterTail,

    /// <summary>A quarter at either end.</summary>
    QuarterHeadTail,

    /// <summary>Up to a quarter of the frames, scattered.</summary>
    ImageRandom,

    /// <summary>The first frame: from an image to a video.</summary>
    ImageHead,

    /// <summary>The last frame.</summary>
    ImageTail,

    /// <summary>The first and the last frame.</summary>
    ImageHeadTail,
}

/// <summary>Data of which some clips come with frames that are given: training on them teaches a model to animate images, to continue clips and to
/// fill gaps.</summary>
/// <remarks>Masked training of Open-Sora 1.1 (report, section "Masked DiT as image/video-to-video model"). Single images get no mask.</remarks>
public sealed class FrameMaskedData : ITrainingData
{
    private readonly ITrainingData _data;
    private readonly KeyValuePair<FrameMask, double>[] _shares;

    /// <summary>Adds masks to batches.</summary>
    /// <param name="data">The clips.</param>
    /// <param name="shares">Which share of the clips gets which mask; together at most 1, the rest gets none. Null: <see cref="OpenSora11"/>.</param>
    /// <exception cref="ArgumentException">A share is negative, or they are more than 1 together.</exception>
    public FrameMaskedData(ITrainingData data, IReadOnlyDictionary<FrameMask, double>? shares = null)
    {
        ArgumentNullException.ThrowIfNull(data);
        this._data = data;
        this._shares = [.. (shares ?? OpenSora11).OrderBy(share => share.Key)];
        if (this._shares.Any(share => !(share.Value >= 0) || !Enum.IsDefined(share.Key)) || this._shares.Sum(share => share.Value) > 1 + 1e-9)
        {
            throw new ArgumentException(
                $"The shares of masks must not be negative and be at most 1 together; they are {string.Join(", ", this._shares)}.",
                nameof(shares)
            );
        }
    }

    /// <summary>The shares published for Open-Sora 1.1: a quarter of the clips, all kinds alike but head and tail together, which comes twice as
    /// often.</summary>
    public static IReadOnlyDictionary<FrameMask, double> OpenSora11 { get; } =
        new Dictionary<FrameMask, double>
        {
            [FrameMask.QuarterRandom] = 0.025,
            [FrameMask.QuarterHead] = 0.025,
            [FrameMask.QuarterTail] = 0.025,
            [FrameMask.QuarterHeadTail] = 0.05,
            [FrameMask.ImageRandom] = 0.025,
            [FrameMask.ImageHead] = 0.025,
            [FrameMask.ImageTail] = 0.025,
            [FrameMask.ImageHeadTail] = 0.05,
        };

    /// <summary>The shares published for the last stage of Open-Sora 1.2: a quarter of the clips, nearly always their first frame.</summary>
    public static IReadOnlyDictionary<FrameMask, double> OpenSora12 { get; } =
        new Dictionary<FrameMask, double>
        {
            [FrameMask.Random] = 0.01,
            [FrameMask.Interpolate] = 0.002,
            [FrameMask.QuarterRandom] = 0.002,
            [FrameMask.QuarterHead] = 0.002,
            [FrameMask.QuarterTail] = 0.002,
            [FrameMask.QuarterHeadTail] = 0.002,
            [FrameMask.ImageHead] = 0.22,
            [FrameMask.ImageTail] = 0.005,
            [FrameMask.ImageHeadTail] = 0.005,
        };

    /// <inheritdoc/>
    public long Count => _data.Count;

    /// <inheritdoc/>
    public string Fingerprint =>
        $"{_data.Fingerprint}, masks {string.Join(" ", _shares.Select(share => string.Create(CultureInfo.InvariantCulture, $"{share.Key} {share.Value}")))}";

    /// <inheritdoc/>
    public TrainingBatch GetBatch(long number, int size, int seed)
    {
        var batch = _data.GetBatch(number, size, seed);
        var (count, frames) = ((int)batch.Video.shape[0], (int)batch.Video.shape[2]);
        var random = Randomness.Of(seed, number, 2); // apart from the numbers that the data drew
        var noisy = Enumerable.Range(0, count).SelectMany(_ => Draw(frames, random)).ToArray();
        return noisy.All(frame => frame) ? batch : batch with { NoisyFrames = tensor(noisy, [count, frames]) };
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

    /// <summary>A mask: true where a frame is noisy. At least one is.</summary>
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
