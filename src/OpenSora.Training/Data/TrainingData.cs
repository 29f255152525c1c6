namespace OpenSora.Training.Data;

/// <summary>Methods that combine and change sources of batches and clips, and random numbers for custom sources, which depend only on a seed and the
/// number of a batch.</summary>
public static class TrainingData
{
    private static SampleOrder? last;

    /// <summary>Gets the fractions published for Open-Sora 1.1: a quarter of the clips have a mask. The masks are equally frequent, except that masks
    /// of both the head and the tail are twice as frequent.</summary>
    public static IReadOnlyDictionary<FrameMask, double> OpenSora11FrameMasks { get; } =
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

    /// <summary>Gets the fractions published for the last stage of Open-Sora 1.2: a quarter of the clips have a mask, nearly always with the first
    /// frame as the conditioning frame.</summary>
    public static IReadOnlyDictionary<FrameMask, double> OpenSora12FrameMasks { get; } =
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

    /// <summary>Creates data that takes batches from several sources in turn, such as images and clips (joint training).</summary>
    /// <param name="turns">The sources in the order of their turns, each with its batch size as a multiple of the stage's batch size, because an
    /// image is as much work as one frame of a clip. A source can occur several times.</param>
    /// <exception cref="ArgumentException">There is no source, or a multiple is not above 0.</exception>
    public static ITrainingData Mix(params (ITrainingData Data, double Samples)[] turns) => new MixedData(turns);

    /// <summary>Creates data with clips of several sizes and lengths. Each batch comes from one bucket. In an epoch, every bucket has as many batches
    /// as its clips fill, in random order.</summary>
    /// <param name="buckets">The buckets with their clips. Their batch sizes are used instead of the stage's. Buckets without clips are
    /// ignored.</param>
    /// <exception cref="ArgumentException">No bucket contains a clip, or a batch size is not above 0.</exception>
    public static ITrainingData InBuckets(params IEnumerable<(Bucket Bucket, ITrainingData Data)> buckets) => new BucketedData(buckets);

    /// <summary>Creates data in which some clips have conditioning frames. Training on them teaches a model to animate images, extend clips and fill
    /// gaps.</summary>
    /// <remarks>Implements the masked training of Open-Sora 1.1 (report, section "Masked DiT as image/video-to-video model"). Single images are not
    /// masked.</remarks>
    /// <param name="data">The clips.</param>
    /// <param name="shares">The fraction of the clips for each mask. The fractions add up to at most 1; the remaining clips have no mask. Null for
    /// <see cref="OpenSora11FrameMasks"/>.</param>
    /// <exception cref="ArgumentException">A fraction is negative, or the fractions add up to more than 1.</exception>
    public static ITrainingData WithFrameMasks(this ITrainingData data, IReadOnlyDictionary<FrameMask, double>? shares = null) =>
        new FrameMaskedData(data, shares);

    /// <summary>Creates data of pixels without text, for training an autoencoder.</summary>
    /// <param name="clips">The clips. They must have the same number of frames and, unless they are cropped, the same size.</param>
    /// <param name="crop">The side length in pixels of a square that is cropped at a random position; null for the whole image.</param>
    public static ITrainingData AsPixels(this IClipSource clips, int? crop = null) => new PixelData(clips) { Crop = crop };

    /// <summary>Creates a source that replaces unreadable clips with other clips, always the same ones.</summary>
    /// <param name="clips">The clips.</param>
    /// <param name="badClips">Receives each unreadable clip once: its index and the reason why it could not be loaded.</param>
    /// <param name="most">The maximum fraction of unreadable clips. A larger fraction suggests another problem and causes an
    /// <see cref="InvalidDataException"/>.</param>
    public static IClipSource ReplaceBadClips(this IClipSource clips, IProgress<(int Index, string Reason)>? badClips = null, double most = 0.1) =>
        new ReplacingClips(clips, badClips, most);

    /// <summary>Returns the samples of a batch in an order that differs in each epoch. A batch can span two epochs, so that no sample is left
    /// out.</summary>
    /// <param name="count">The number of samples in an epoch, at least 1.</param>
    /// <param name="number">The zero-based number of the batch, if all batches have this size.</param>
    /// <param name="size">The number of samples in a batch.</param>
    /// <param name="seed">The seed of the order.</param>
    /// <returns>The zero-based indices of the samples.</returns>
    public static int[] ShuffledBatch(int count, long number, int size, int seed)
    {
        var order = last is { } kept && kept.Count == count ? kept : last = new SampleOrder(count); // an order keeps its last permutation
        return order.Batch(number, size, seed);
    }

    /// <summary>Creates a random number generator from a seed and any further numbers, such as the number of a batch. It returns the same numbers on
    /// every machine and in every run.</summary>
    /// <param name="seed">The seed.</param>
    /// <param name="numbers">Any further numbers.</param>
    public static Random RandomFor(long seed, params ReadOnlySpan<long> numbers) => Randomness.Of(seed, numbers);

    /// <summary>Computes a well-mixed number from a seed and any further numbers (the finalizer of SplitMix64; Steele et al., 2014). It is the same
    /// on every machine and in every run.</summary>
    /// <param name="seed">The seed.</param>
    /// <param name="numbers">Any further numbers.</param>
    public static ulong Hash(long seed, params ReadOnlySpan<long> numbers) => Randomness.Mix(seed, numbers);
}
