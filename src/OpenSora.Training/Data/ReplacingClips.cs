using System.Collections.Concurrent;

namespace OpenSora.Training.Data;

/// <summary>A clip source that replaces unreadable clips with other clips, always the same ones. The unreadable clips are reported and
/// counted.</summary>
internal sealed class ReplacingClips : IClipSource
{
    private readonly IClipSource _source;
    private readonly IProgress<(int Index, string Reason)>? _badClips;
    private readonly double _most;
    private readonly ConcurrentDictionary<int, string> _bad = new();

    /// <summary>Creates a source that replaces unreadable clips.</summary>
    /// <param name="source">The clips.</param>
    /// <param name="badClips">Receives each unreadable clip once.</param>
    /// <param name="most">The maximum fraction of unreadable clips. A larger fraction suggests another problem and causes an exception.</param>
    public ReplacingClips(IClipSource source, IProgress<(int Index, string Reason)>? badClips = null, double most = 0.1)
    {
        ArgumentNullException.ThrowIfNull(source);
        ArgumentOutOfRangeException.ThrowIfNegative(most);
        (_source, _badClips, _most) = (source, badClips, most);
    }

    /// <inheritdoc/>
    public int Count => _source.Count;

    /// <inheritdoc/>
    public string Fingerprint => _source.Fingerprint;

    /// <inheritdoc/>
    /// <exception cref="InvalidDataException">Too many clips are unreadable. The message contains the reason for the last one.</exception>
    public async ValueTask<CaptionedClip> LoadAsync(int index, Random random, CancellationToken cancellationToken = default)
    {
        for (var (current, attempt) = (index, 1); ; attempt++)
        {
            try
            {
                return await _source.LoadAsync(current, random, cancellationToken).ConfigureAwait(false);
            }
            catch (Exception e) when (e is IOException or InvalidDataException)
            {
                if (_bad.TryAdd(current, e.Message))
                {
                    _badClips?.Report((current, e.Message));
                }

                if (_bad.Count > Math.Max(1, _most * Count) || _bad.Count == Count)
                {
                    throw new InvalidDataException(
                        $"{_bad.Count} of {Count} clips could not be loaded, which is more than the limit of {_most:P0}. "
                            + $"The last one was clip {current}: {e.Message}",
                        e
                    );
                }
            }
            current = (int)(Randomness.Mix(index, attempt) % (ulong)Count);
        }
    }
}
