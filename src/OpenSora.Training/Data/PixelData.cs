using static TorchSharp.torch;

namespace OpenSora.Training.Data;

/// <summary>Data of pixels without text, for training an autoencoder.</summary>
internal sealed class PixelData : ITrainingData
{
    private readonly IClipSource _source;
    private readonly SampleOrder _order;

    /// <summary>Creates data from the clips of a source.</summary>
    /// <param name="source">The clips. They must have the same number of frames and, unless they are cropped, the same size.</param>
    public PixelData(IClipSource source)
    {
        ArgumentNullException.ThrowIfNull(source);
        _source = source;
        _order = new SampleOrder(source.Count);
    }

    /// <summary>The side length in pixels of a square that is cropped at a random position; null for the whole image.</summary>
    public int? Crop { get; set; }

    /// <inheritdoc/>
    public long Count => _source.Count;

    /// <inheritdoc/>
    public string Fingerprint => FormattableString.Invariant($"{_source.Fingerprint}, crop {Crop}");

    /// <inheritdoc/>
    public async ValueTask<TrainingBatch> GetBatchAsync(long number, int size, int seed, CancellationToken cancellationToken = default)
    {
        var random = Randomness.Of(seed, number);
        List<(CaptionedClip Clip, long Top, long Left)> clips = [];
        try
        {
            foreach (var index in _order.Batch(number, size, seed))
            {
                var clip = await _source.LoadAsync(index, random, cancellationToken).ConfigureAwait(false);
                clips.Add((clip, 0, 0));
                if (Crop is { } side)
                {
                    var (height, width) = (clip.Video.shape[2], clip.Video.shape[3]);
                    clips[^1] =
                        height >= side && width >= side
                            ? (clip, random.NextInt64(height - side + 1), random.NextInt64(width - side + 1))
                            : throw new InvalidDataException($"A clip of {width}x{height} pixels is too small for crops of {side}x{side}.");
                }
            }
            return Stack(clips);
        }
        finally
        {
            clips.ForEach(clip => clip.Clip.Dispose());
        }
    }

    private TrainingBatch Stack(IEnumerable<(CaptionedClip Clip, long Top, long Left)> clips)
    {
        using var scope = NewDisposeScope();
        var videos = clips.Select(clip => Crop is { } side ? clip.Clip.Video.narrow(2, clip.Top, side).narrow(3, clip.Left, side) : clip.Clip.Video);
        return new TrainingBatch(stack(videos).MoveToOuterDisposeScope());
    }
}
