using System.Runtime.CompilerServices;
using OpenSora.Media;

namespace OpenSora.Extensions.AI;

/// <summary>Observes streams of frames.</summary>
internal static class FrameStreams
{
    /// <summary>Passes a stream on, and reports how it ended.</summary>
    /// <param name="start">Starts the stream, when it is enumerated.</param>
    /// <param name="end">Receives the number of frames, and the exception that ended the stream: an <see cref="OperationCanceledException"/> if the
    /// reader stopped before the end; null if the stream is complete.</param>
    /// <param name="cancellationToken">Cancels the operation.</param>
    internal static async IAsyncEnumerable<VideoFrames> Observe(
        Func<IAsyncEnumerable<VideoFrames>> start,
        Action<int, Exception?> end,
        [EnumeratorCancellation] CancellationToken cancellationToken
    )
    {
        var frames = 0;
        Exception? exception = new OperationCanceledException();
        try
        {
            var pieces = start().GetAsyncEnumerator(cancellationToken);
            await using (pieces.ConfigureAwait(false))
            {
                while (true)
                {
                    try
                    {
                        if (!await pieces.MoveNextAsync().ConfigureAwait(false))
                        {
                            exception = null;
                            yield break;
                        }
                    }
                    catch (Exception caught)
                    {
                        exception = caught;
                        throw;
                    }

                    frames += pieces.Current.Count;
                    yield return pieces.Current;
                }
            }
        }
        finally
        {
            end(frames, exception);
        }
    }
}
