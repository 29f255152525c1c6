using static TorchSharp.torch;

namespace OpenSora.Training.Data;

/// <summary>A clip and its captions. An image is a clip of one frame.</summary>
/// <param name="Video">Pixels in [-1, 1], <c>[3, frames, height, width]</c>.</param>
/// <param name="Captions">The captions, at least one. Training uses one of them at random.</param>
public sealed record CaptionedClip(Tensor Video, IReadOnlyList<string> Captions) : IDisposable
{
    /// <summary>Disposes the pixels.</summary>
    public void Dispose() => Video.Dispose();
}

/// <summary>A source of captioned clips that are accessed by index.</summary>
public interface IClipSource
{
    /// <summary>Gets the number of clips.</summary>
    int Count { get; }

    /// <summary>Gets a description of the clips that is equal for equal contents.</summary>
    string Fingerprint { get; }

    /// <summary>Loads a clip.</summary>
    /// <param name="index">The zero-based index of the clip.</param>
    /// <param name="random">The random number generator for sources that vary their clips. Implementations must use no other source of
    /// randomness.</param>
    /// <param name="cancellationToken">Stops loading.</param>
    /// <returns>The clip, owned by the caller.</returns>
    ValueTask<CaptionedClip> LoadAsync(int index, Random random, CancellationToken cancellationToken = default);
}
