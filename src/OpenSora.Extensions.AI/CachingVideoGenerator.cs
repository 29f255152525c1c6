using System.Runtime.CompilerServices;
using OpenSora.Generation;
using OpenSora.Media;

namespace OpenSora.Extensions.AI;

/// <summary>A generator that stores videos, and answers a request that it has answered before with the stored video. Derived classes decide where
/// videos are stored, and which requests are equal.</summary>
/// <remarks>Only complete videos are stored. Equal requests that run at the same time are each generated. A stored video is returned without
/// progress, and <see cref="GeneratedVideo.Elapsed"/> is the time that its generation took.</remarks>
public abstract class CachingVideoGenerator : DelegatingVideoGenerator
{
    /// <summary>Initializes a generator that caches.</summary>
    /// <param name="innerGenerator">The generator of videos that are not stored yet.</param>
    protected CachingVideoGenerator(IVideoGenerator innerGenerator)
        : base(innerGenerator) { }

    /// <inheritdoc/>
    public override async Task<GeneratedVideo> GenerateAsync(
        VideoRequest request,
        IProgress<GenerationProgress>? progress = null,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(request);
        cancellationToken.ThrowIfCancellationRequested();
        var copy = request.Clone(); // the caller may change the request before its video is stored
        if (GetCacheKey(copy) is not { } key)
        {
            return await base.GenerateAsync(copy, progress, cancellationToken).ConfigureAwait(false);
        }

        if (await ReadCacheAsync(key, cancellationToken).ConfigureAwait(false) is { } stored)
        {
            return stored;
        }

        var video = await base.GenerateAsync(copy, progress, cancellationToken).ConfigureAwait(false);
        await WriteCacheAsync(key, video, cancellationToken).ConfigureAwait(false);
        return video;
    }

    /// <inheritdoc/>
    /// <remarks>A stored video is returned in one piece. A video that is generated in pieces is not stored.</remarks>
    public override async IAsyncEnumerable<VideoFrames> GenerateStreamingAsync(
        VideoRequest request,
        IProgress<GenerationProgress>? progress = null,
        [EnumeratorCancellation] CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(request);
        cancellationToken.ThrowIfCancellationRequested();
        if (GetCacheKey(request) is { } key && await ReadCacheAsync(key, cancellationToken).ConfigureAwait(false) is { } stored)
        {
            yield return stored.Frames;
            yield break;
        }

        await foreach (var piece in base.GenerateStreamingAsync(request, progress, cancellationToken).ConfigureAwait(false))
        {
            yield return piece;
        }
    }

    /// <summary>Computes the key under which the video of a request is stored.</summary>
    /// <param name="request">The request.</param>
    /// <returns>The key; null if the request must not be cached, such as one that asks for a random video.</returns>
    protected abstract string? GetCacheKey(VideoRequest request);

    /// <summary>Reads a stored video.</summary>
    /// <param name="key">The key of the request.</param>
    /// <param name="cancellationToken">Cancels the operation.</param>
    /// <returns>The video; null if there is none.</returns>
    protected abstract Task<GeneratedVideo?> ReadCacheAsync(string key, CancellationToken cancellationToken);

    /// <summary>Stores a video.</summary>
    /// <param name="key">The key of the request.</param>
    /// <param name="video">The video.</param>
    /// <param name="cancellationToken">Cancels the operation.</param>
    protected abstract Task WriteCacheAsync(string key, GeneratedVideo video, CancellationToken cancellationToken);
}
