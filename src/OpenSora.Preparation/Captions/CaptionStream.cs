using System.Runtime.CompilerServices;
using System.Runtime.ExceptionServices;
using System.Threading.Channels;

namespace OpenSora.Preparation.Captions;

/// <summary>A clip with its caption, or with the reason why it has none.</summary>
/// <param name="Clip">The clip.</param>
/// <param name="Result">The caption, or the reason why there is none.</param>
public sealed record CaptionedClip(ClipToCaption Clip, CaptionResult Result);

/// <summary>Captions many clips.</summary>
public static class CaptionStream
{
    /// <summary>Describes clips, several at the same time, with bounded memory.</summary>
    /// <param name="captioner">The captioner.</param>
    /// <param name="clips">The clips.</param>
    /// <param name="report">Counts the results while they arrive; null if no report is needed.</param>
    /// <param name="window">The most clips that are read ahead of the result that is returned next. It should be several times the number of
    /// concurrent requests, so that one slow answer does not leave the server without work.</param>
    /// <param name="cancellationToken">Stops the work.</param>
    /// <returns>The results in the order of the clips.</returns>
    /// <exception cref="CaptionServerException">The server that writes the captions cannot be used at all.</exception>
    public static async IAsyncEnumerable<CaptionedClip> CaptionAllAsync(
        this ICaptioner captioner,
        IAsyncEnumerable<ClipToCaption> clips,
        CaptionReport? report = null,
        int window = 64,
        [EnumeratorCancellation] CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(captioner);
        ArgumentNullException.ThrowIfNull(clips);
        ArgumentOutOfRangeException.ThrowIfLessThan(window, 1);
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        using var places = new SemaphoreSlim(window);
        var pending = Channel.CreateUnbounded<Task<CaptionedClip>>();
        CaptionServerException? failure = null;
        report?.Begin();
        var reader = Task.Run(ReadAsync, CancellationToken.None);
        try
        {
            while (await pending.Reader.WaitToReadAsync(CancellationToken.None).ConfigureAwait(false))
            {
                while (pending.Reader.TryRead(out var next))
                {
                    yield return await next.ConfigureAwait(false);
                    places.Release();
                }
            }
        }
        finally
        {
            await stop.CancelAsync().ConfigureAwait(false);
            await reader.ConfigureAwait(false);
            while (pending.Reader.TryRead(out var next))
            {
                await ((Task)next).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            }
        }

        async Task ReadAsync()
        {
            try
            {
                await foreach (var clip in clips.WithCancellation(stop.Token).ConfigureAwait(false))
                {
                    await places.WaitAsync(stop.Token).ConfigureAwait(false);
                    // Not with the token: a task that has not begun would end as canceled instead of with the failure.
                    pending.Writer.TryWrite(Task.Run(() => RunAsync(clip), CancellationToken.None));
                }

                pending.Writer.Complete();
            }
            catch (Exception e)
            {
                pending.Writer.Complete(e is OperationCanceledException && failure is not null ? failure : e);
            }
        }

        async Task<CaptionedClip> RunAsync(ClipToCaption clip)
        {
            CaptionResult result;
            try
            {
                result = await captioner.CaptionAsync(clip, stop.Token).ConfigureAwait(false);
            }
            catch (PreparationException e)
            {
                result = CaptionResult.None(e.Reason, e.Message);
            }
            catch (CaptionServerException e)
            {
                failure ??= e;
                await stop.CancelAsync().ConfigureAwait(false); // the other clips need not try
                throw;
            }
            catch (OperationCanceledException) when (failure is not null)
            {
                ExceptionDispatchInfo.Throw(failure);
                throw;
            }

            report?.Add(result);
            return new CaptionedClip(clip, result);
        }
    }
}
