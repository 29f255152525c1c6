namespace OpenSora.Training.Distributed;

/// <summary>The place of a parameter in a bucket, in values.</summary>
/// <param name="Parameter">The index of the parameter.</param>
/// <param name="Offset">Its first value in the bucket.</param>
/// <param name="Count">Its number of values.</param>
internal readonly record struct BucketEntry(int Parameter, long Offset, long Count);

/// <summary>Consecutive values of a parameter.</summary>
/// <param name="Parameter">The index of the parameter.</param>
/// <param name="From">The first of the values.</param>
/// <param name="Count">Their number.</param>
/// <param name="Offset">The place of the first of them in the bucket.</param>
internal readonly record struct ParameterSlice(int Parameter, long From, long Count, long Offset);

/// <summary>Parameters whose gradients are sent together.</summary>
/// <param name="Entries">The parameters.</param>
/// <param name="Length">The number of values, with those that make it a multiple of the number of parts.</param>
internal sealed record GradientBucket(IReadOnlyList<BucketEntry> Entries, long Length)
{
    /// <summary>Gets the number of values of the parameters.</summary>
    public long Used => Entries[^1].Offset + Entries[^1].Count;
}

/// <summary>The division of parameters into buckets, and of each bucket into equal parts, one for each process. The first bucket has the last
/// parameters, because their gradients are complete first.</summary>
internal sealed record BucketLayout(IReadOnlyList<GradientBucket> Buckets, int Parts)
{
    /// <summary>The bytes of a value: gradients and parameters are float32.</summary>
    public const int ValueBytes = 4;

    /// <summary>Divides parameters.</summary>
    /// <param name="sizes">The numbers of values of the parameters.</param>
    /// <param name="bucketBytes">The size of a bucket.</param>
    /// <param name="parts">The number of parts of each bucket; 1 to keep buckets whole.</param>
    public static BucketLayout Of(IReadOnlyList<long> sizes, long bucketBytes, int parts)
    {
        var buckets = new List<GradientBucket>();
        var entries = new List<BucketEntry>();
        var length = 0L;
        for (var i = sizes.Count - 1; i >= 0; i--)
        {
            if (entries.Count > 0 && (length + sizes[i]) * ValueBytes > bucketBytes)
            {
                Add();
            }

            entries.Add(new BucketEntry(i, length, sizes[i]));
            length += sizes[i];
        }

        Add();
        return new BucketLayout(buckets, parts);

        void Add()
        {
            if (entries.Count > 0)
            {
                buckets.Add(new GradientBucket(entries, (length + parts - 1) / parts * parts));
                (entries, length) = ([], 0);
            }
        }
    }

    /// <summary>Gets the values of parameters in one part of a bucket.</summary>
    public IEnumerable<ParameterSlice> Slices(int bucket, int part)
    {
        var share = Buckets[bucket].Length / Parts;
        var (start, end) = (share * part, share * (part + 1));
        foreach (var entry in Buckets[bucket].Entries)
        {
            var (first, last) = (Math.Max(start, entry.Offset), Math.Min(end, entry.Offset + entry.Count));
            if (first < last)
            {
                yield return new ParameterSlice(entry.Parameter, first - entry.Offset, last - first, first);
            }
        }
    }

    /// <summary>Gets the values of parameters in one part of all buckets.</summary>
    public IEnumerable<ParameterSlice> Slices(int part) => Enumerable.Range(0, Buckets.Count).SelectMany(bucket => Slices(bucket, part));

    /// <summary>Gets the number of values in all buckets.</summary>
    public long Length => Buckets.Sum(bucket => bucket.Length);
}
