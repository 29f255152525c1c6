using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Data;

/// <summary>A clip and what it may be called. An image is a clip of one frame.</summary>
/// <param name="Video">Pixels in [-1, 1], <c>[3, frames, height, width]</c>.</param>
/// <param name="Captions">At least one text; training takes one of them at random.</param>
public sealed record CaptionedClip(Tensor Video, IReadOnlyList<string> Captions) : IDisposable
{
    /// <summary>Disposes of the pixels.</summary>
    public void Dispose() => Video.Dispose();
}

/// <summary>Numbered clips with captions.</summary>
public interface IClipSource
{
    /// <summary>How many there are.</summary>
    int Count { get; }

    /// <summary>What the clips are: equal for equal contents.</summary>
    string Fingerprint { get; }

    /// <summary>Loads a clip.</summary>
    /// <param name="index">From 0.</param>
    /// <param name="random">For sources that vary what they give; the only source of randomness to be used.</param>
    /// <returns>The clip, owned by the caller.</returns>
    CaptionedClip Load(int index, Random random);
}

/// <summary>Pixels as they are, without text: the data of an autoencoder.</summary>
public sealed class PixelData : ITrainingData
{
    private readonly IClipSource _source;
    private readonly SampleOrder _order;

    /// <summary>Batches of a source's clips.</summary>
    /// <param name="source">The clips; they must have the same size if they are not cropped, and the same number of frames.</param>
    public PixelData(IClipSource source)
    {
        ArgumentNullException.ThrowIfNull(source);
        this._source = source;
        _order = new SampleOrder(source.Count);
    }

    /// <summary>Side of a square that is cut out at a random place; null: all of the picture.</summary>
    public int? Crop { get; set; }

    /// <inheritdoc/>
    public long Count => _source.Count;

    /// <inheritdoc/>
    public string Fingerprint => FormattableString.Invariant($"{_source.Fingerprint}, crop {Crop}");

    /// <inheritdoc/>
    public TrainingBatch GetBatch(long number, int size, int seed)
    {
        using var scope = NewDisposeScope();
        var random = Randomness.Of(seed, number);
        var videos = new List<Tensor>(size);
        foreach (var index in _order.Batch(number, size, seed))
        {
            var video = _source.Load(index, random).Video;
            videos.Add(Crop is { } side ? Cut(video, side, random) : video);
        }
        return new TrainingBatch(stack(videos).MoveToOuterDisposeScope());
    }

    private static Tensor Cut(Tensor video, int side, Random random)
    {
        var (height, width) = (video.shape[2], video.shape[3]);
        if (height < side || width < side)
        {
            throw new InvalidDataException($"A clip of {width}x{height} pixels is too small for crops of {side}x{side}.");
        }

        return video.narrow(2, random.NextInt64(height - side + 1), side).narrow(3, random.NextInt64(width - side + 1), side);
    }
}
