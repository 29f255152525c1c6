using System.Collections.Concurrent;

namespace OpenSora.Training.Data;

/// <summary>A clip that could not be loaded, and another one that took its place.</summary>
/// <param name="Index">The clip.</param>
/// <param name="Reason">What was wrong with it.</param>
public sealed record BadClip(int Index, string Reason);

/// <summary>Clips of which some cannot be read: others take their places, each time the same ones, and the bad ones are told and counted.</summary>
public sealed class ReplacingClips : IClipSource
{
    private readonly IClipSource _source;
    private readonly IProgress<BadClip>? _told;
    private readonly double _most;
    private readonly ConcurrentDictionary<int, string> _bad = new();

    /// <summary>Replaces what cannot be read.</summary>
    /// <param name="source">The clips.</param>
    /// <param name="told">Told of every bad clip once.</param>
    /// <param name="most">The share of clips that may be bad; more, and something else is wrong.</param>
    public ReplacingClips(IClipSource source, IProgress<BadClip>? told = null, double most = 0.1)
    {
        ArgumentNullException.ThrowIfNull(source);
        ArgumentOutOfRangeException.ThrowIfNegative(most);
        (this._source, this._told, this._most) = (source, told, most);
    }

    /// <inheritdoc/>
    public int Count => _source.Count;

    /// <inheritdoc/>
    public string Fingerprint => _source.Fingerprint;

    /// <summary>The bad clips seen so far.</summary>
    public IReadOnlyCollection<BadClip> Bad => [.. _bad.OrderBy(clip => clip.Key).Select(clip => new BadClip(clip.Key, clip.Value))];

    /// <inheritdoc/>
    /// <exception cref="InvalidDataException">Too many clips are bad; the message names the last one's reason.</exception>
    public CaptionedClip Load(int index, Random random)
    {
        for (var (current, attempt) = (index, 1); ; attempt++)
        {
            try
            {
                return _source.Load(current, random);
            }
            catch (Exception e) when (e is IOException or InvalidDataException)
            {
                if (_bad.TryAdd(current, e.Message))
                {
                    _told?.Report(new BadClip(current, e.Message));
                }

                if (_bad.Count > Math.Max(1, _most * Count) || _bad.Count == Count)
                {
                    throw new InvalidDataException(
                        $"{_bad.Count} of {Count} clips could not be loaded, more than the {_most:P0} that are replaced. The last one, clip {current}: {e.Message}",
                        e
                    );
                }
            }
            current = (int)(Randomness.Mix(index, attempt) % (ulong)Count);
        }
    }
}
