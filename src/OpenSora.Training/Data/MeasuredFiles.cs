using System.Collections.Concurrent;
using OpenSora.Media;

namespace OpenSora.Training.Data;

/// <summary>Reads videos and images, and keeps the sizes and lengths that were measured.</summary>
internal sealed class MeasuredFiles
{
    private readonly VideoReader _reader;
    private readonly ConcurrentDictionary<string, VideoInfo> _infos = new(StringComparer.Ordinal);
    private readonly ConcurrentDictionary<(string Path, double? FramesPerSecond, bool AllowDamage), int> _counts = new();

    /// <summary>Begins without measurements.</summary>
    public MeasuredFiles(VideoReader reader)
    {
        ArgumentNullException.ThrowIfNull(reader);
        _reader = reader;
    }

    /// <summary>Reads the metadata of a file.</summary>
    public async ValueTask<VideoInfo> ProbeAsync(string path, CancellationToken cancellationToken) =>
        _infos.TryGetValue(path, out var info) ? info : _infos[path] = await _reader.ProbeAsync(path, cancellationToken).ConfigureAwait(false);

    /// <summary>Counts all frames of a file at the frame rate of a clip.</summary>
    public async ValueTask<int> CountAsync(string path, ClipOptions clip, CancellationToken cancellationToken)
    {
        var whole = new ClipOptions { FramesPerSecond = RateOf(path, clip), AllowDamage = clip.AllowDamage };
        var key = (path, whole.FramesPerSecond, whole.AllowDamage);
        return _counts.TryGetValue(key, out var count)
            ? count
            : _counts[key] = await _reader.CountFramesAsync(path, whole, cancellationToken).ConfigureAwait(false);
    }

    /// <summary>Decodes a clip.</summary>
    public Task<VideoFrames> ReadAsync(string path, ClipOptions clip, CancellationToken cancellationToken)
    {
        var read = clip.Clone();
        read.FramesPerSecond = RateOf(path, clip);
        return _reader.ReadAsync(path, read, cancellationToken);
    }

    // An image has one frame; at a lower frame rate than the decoder's 25 frames per second, it would have none.
    private static double? RateOf(string path, ClipOptions clip) => ClipFolder.IsStillImage(path) ? null : clip.FramesPerSecond;
}
