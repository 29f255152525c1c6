using System.Globalization;

namespace OpenSora.Training.Data;

/// <summary>A size to which clips are scaled and cropped, so that clips of the same size form a batch.</summary>
/// <param name="Frames">The number of frames of a clip; 1 for images.</param>
/// <param name="Height">The height in pixels.</param>
/// <param name="Width">The width in pixels.</param>
/// <param name="BatchSize">The number of samples in a batch, usually larger for smaller sizes.</param>
/// <param name="Share">The fraction of matching clips that the bucket accepts. The other clips are passed on to the next smaller bucket.</param>
public sealed record Bucket(int Frames, int Height, int Width, int BatchSize, double Share = 1)
{
    /// <summary>Sorts clips into buckets. Each clip goes to the bucket that keeps the largest part of it, among the buckets that it fills (Open-Sora
    /// 1.1 report, section "Support for multi-time/resolution/aspect ratio/fps training").</summary>
    /// <param name="clips">The number of frames, the height and the width of each clip.</param>
    /// <param name="buckets">The buckets.</param>
    /// <param name="seed">The seed for choosing which clips a bucket accepts (see <see cref="Share"/>).</param>
    /// <returns>The indices of the clips in each bucket, and the indices of the clips that fill no bucket or that no bucket accepted.</returns>
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

    // Returns the number of pixels, over all frames, that remain of the clip after cropping it to the aspect ratio of the bucket.
    private double Keeps((int Frames, int Height, int Width) clip)
    {
        var (vertical, horizontal) = ((double)Height / clip.Height, (double)Width / clip.Width);
        return (double)Frames * Height * Width * Math.Min(vertical, horizontal) / Math.Max(vertical, horizontal);
    }
}

/// <summary>Data with clips of several sizes and lengths. Each batch comes from one bucket. In an epoch, every bucket has as many batches as its
/// clips fill, in random order.</summary>
internal sealed class BucketedData : ITrainingData
{
    private readonly (Bucket Bucket, ITrainingData Data, int Batches)[] _buckets;
    private readonly SampleOrder _order;

    /// <summary>Creates data from buckets. The batch sizes of the buckets are used instead of the stage's.</summary>
    /// <param name="buckets">The buckets with their clips. Buckets without clips are ignored.</param>
    /// <exception cref="ArgumentException">No bucket contains a clip, or a batch size is not above 0.</exception>
    public BucketedData(params IEnumerable<(Bucket Bucket, ITrainingData Data)> buckets)
    {
        ArgumentNullException.ThrowIfNull(buckets);
        _buckets =
        [
            .. buckets
                .Where(bucket => bucket.Data.Count > 0)
                .Select(bucket =>
                    bucket.Bucket.BatchSize > 0
                        ? (bucket.Bucket, bucket.Data, checked((int)((bucket.Data.Count + bucket.Bucket.BatchSize - 1) / bucket.Bucket.BatchSize)))
                        : throw new ArgumentException($"The batch size of {bucket.Bucket} must be above 0.", nameof(buckets))
                ),
        ];
        if (_buckets.Length == 0)
        {
            throw new ArgumentException("No bucket contains a clip.", nameof(buckets));
        }

        _order = new SampleOrder(_buckets.Sum(bucket => bucket.Batches));
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
    public ValueTask<TrainingBatch> GetBatchAsync(long number, int size, int seed, CancellationToken cancellationToken = default)
    {
        var (bucket, data, own) = Find(number, seed);
        return data.GetBatchAsync(own, bucket.BatchSize, seed, cancellationToken);
    }

    /// <inheritdoc/>
    public ValueTask<TrainingBatch> GetPartAsync(long number, int size, int seed, int part, int parts, CancellationToken cancellationToken = default)
    {
        var (bucket, data, own) = Find(number, seed);
        return data.GetPartAsync(own, bucket.BatchSize, seed, part, parts, cancellationToken);
    }

    // The bucket of a batch, and the number of the batch in it.
    private (Bucket Bucket, ITrainingData Data, long Number) Find(long number, int seed)
    {
        var epoch = number / _buckets.Sum(bucket => bucket.Batches);
        var place = _order.Batch(number, 1, seed)[0];
        foreach (var (bucket, data, batches) in _buckets)
        {
            if (place < batches)
            {
                // Each batch of a bucket is used once per epoch.
                return (bucket, data, epoch * batches + place);
            }

            place -= batches;
        }
        throw new InvalidOperationException($"There is no batch {number}.");
    }
}
