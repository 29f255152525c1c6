using System.Globalization;

namespace OpenSora.Training.Data;

/// <summary>A size that clips are brought to, so that clips of one size make a batch.</summary>
/// <param name="Frames">Frames of a clip; 1: images.</param>
/// <param name="Height">Pixels.</param>
/// <param name="Width">Pixels.</param>
/// <param name="BatchSize">Samples in a batch: more of what is small.</param>
/// <param name="Share">Of the clips that would come into this bucket, the share that does; the rest goes on to the next smaller one.</param>
public sealed record Bucket(int Frames, int Height, int Width, int BatchSize, double Share = 1)
{
    /// <summary>Sorts clips into buckets: each into the one that keeps most of it, among those that it fills (Open-Sora 1.1 report, section "Support
    /// for
    /// multi-time/resolution/aspect ratio/fps training").</summary>
    /// <param name="clips">What the clips are: frames, height and width.</param>
    /// <param name="buckets">The buckets.</param>
    /// <param name="seed">Seed of the shares.</param>
    /// <returns>The clips of every bucket by their numbers, and those that fill no bucket or were left over by the shares.</returns>
    public static (IReadOnlyList<int[]> Clips, int[] LeftOut) Sort(
        IReadOnlyList<(int Frames, int Height, int Width)> clips,
        IReadOnlyList<Bucket> buckets,
        int seed = 0
    )
    {
        ArgumentNullException.ThrowIfNull(clips);
        ArgumentNullException.ThrowIfNull(buckets);
        var chosen = clips
            .Select(
                (clip, i) =>
                {
                    var random = Randomness.Of(seed, i);
                    return buckets
                        .Index()
                        .Where(bucket => bucket.Item.IsFilledBy(clip))
                        .OrderByDescending(bucket => bucket.Item.Keeps(clip))
                        .Where(bucket => random.NextDouble() < bucket.Item.Share)
                        .Select(bucket => bucket.Index)
                        .FirstOrDefault(-1);
                }
            )
            .ToArray();
        int[] In(int bucket) => [.. chosen.Index().Where(clip => clip.Item == bucket).Select(clip => clip.Index)];
        return ([.. Enumerable.Range(0, buckets.Count).Select(In)], In(-1));
    }

    private bool IsFilledBy((int Frames, int Height, int Width) clip) => clip.Frames >= Frames && clip.Height >= Height && clip.Width >= Width;

    // Pixels of all frames that are left of the clip, after what another aspect ratio cuts off.
    private double Keeps((int Frames, int Height, int Width) clip)
    {
        var (vertical, horizontal) = ((double)Height / clip.Height, (double)Width / clip.Width);
        return (double)Frames * Height * Width * Math.Min(vertical, horizontal) / Math.Max(vertical, horizontal);
    }
}

/// <summary>Batches of clips of several sizes and lengths, a batch from one bucket. In an epoch every bucket has as many batches as its clips fill,
/// in mixed order.</summary>
public sealed class BucketedData : ITrainingData
{
    private readonly (Bucket Bucket, ITrainingData Data, int Batches)[] _buckets;
    private readonly SampleOrder _order;

    /// <summary>Takes batches from buckets. The buckets' batch sizes count, not the stage's.</summary>
    /// <param name="buckets">The buckets with their clips; of those without clips nothing is taken.</param>
    /// <exception cref="ArgumentException">There is no clip in any bucket, or a batch size is not above 0.</exception>
    public BucketedData(params IEnumerable<(Bucket Bucket, ITrainingData Data)> buckets)
    {
        ArgumentNullException.ThrowIfNull(buckets);
        this._buckets =
        [
            .. buckets
                .Where(bucket => bucket.Data.Count > 0)
                .Select(bucket =>
                    bucket.Bucket.BatchSize > 0
                        ? (bucket.Bucket, bucket.Data, checked((int)((bucket.Data.Count + bucket.Bucket.BatchSize - 1) / bucket.Bucket.BatchSize)))
                        : throw new ArgumentException($"{bucket.Bucket} has no batch size above 0.", nameof(buckets))
                ),
        ];
        if (this._buckets.Length == 0)
        {
            throw new ArgumentException("No bucket holds a clip.", nameof(buckets));
        }

        _order = new SampleOrder(this._buckets.Sum(bucket => bucket.Batches));
    }

    /// <inheritdoc/>
    public long Count => _buckets.Sum(bucket => bucket.Data.Count);

    /// <inheritdoc/>
    public string Fingerprint =>
        string.Join(
            " + ",
            _buckets.Select(bucket => string.Create(CultureInfo.InvariantCulture, $"{bucket.Bucket.BatchSize} of ({bucket.Data.Fingerprint})"))
        );

    /// <inheritdoc/>
    public TrainingBatch GetBatch(long number, int size, int seed)
    {
        var epoch = number / _buckets.Sum(bucket => bucket.Batches);
        var place = _order.Batch(number, 1, seed)[0];
        foreach (var (bucket, data, batches) in _buckets)
        {
            if (place < batches)
            {
                return data.GetBatch(epoch * batches + place, bucket.BatchSize, seed); // each of a bucket's batches once an epoch
            }

            place -= batches;
        }
        throw new InvalidOperationException($"There is no batch {number}.");
    }
}
