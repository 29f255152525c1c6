using System.Runtime.CompilerServices;
using System.Threading.Channels;
using OpenSora.Media;
using OpenSora.Models;
using OpenSora.Runtime;
using static TorchSharp.torch;

namespace OpenSora.Generation;

public sealed partial class VideoGenerator
{
    /// <summary>Generates a video, and returns its frames in pieces as soon as they are decoded.</summary>
    /// <param name="request">The request. The generator copies it and does not change it.</param>
    /// <param name="progress">Receives every stage and step, on the thread that runs the computation.</param>
    /// <param name="cancellationToken">Cancels the generation. To stop enumerating cancels it too.</param>
    /// <returns>The frames in order: videos of one or more frames, which together are the whole video.</returns>
    /// <exception cref="ArgumentException">The model does not support the request; the message lists all problems.</exception>
    /// <exception cref="InvalidOperationException">As for <see cref="GenerateAsync"/>.</exception>
    /// <exception cref="OperationCanceledException">The operation was canceled. The generator remains usable.</exception>
    /// <exception cref="ObjectDisposedException">The generator was disposed.</exception>
    public IAsyncEnumerable<VideoFrames> GenerateStreamingAsync(
        VideoRequest request,
        IProgress<GenerationProgress>? progress = null,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(request);
        return StreamAsync(request.Clone(), progress, cancellationToken);
    }

    private async IAsyncEnumerable<VideoFrames> StreamAsync(
        VideoRequest request,
        IProgress<GenerationProgress>? progress,
        [EnumeratorCancellation] CancellationToken cancellationToken
    )
    {
        using var abandoned = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        var pieces = Channel.CreateUnbounded<VideoFrames>(new() { SingleReader = true, SingleWriter = true });
        var generation = CompleteAsync();
        try
        {
            await foreach (var piece in pieces.Reader.ReadAllAsync(CancellationToken.None).ConfigureAwait(false))
            {
                yield return piece;
            }

            await generation.ConfigureAwait(false); // throws what ended the generation
        }
        finally
        {
            await abandoned.CancelAsync().ConfigureAwait(false);
            await generation.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }

        async Task CompleteAsync()
        {
            try
            {
                await RunAsync(request, progress, piece => pieces.Writer.TryWrite(piece), abandoned.Token).ConfigureAwait(false);
            }
            finally
            {
                pieces.Writer.Complete();
            }
        }
    }

    /// <summary>Encodes a prompt, to use it in several requests (<see cref="VideoRequest.PromptStates"/>) or to change it before.</summary>
    /// <param name="prompt">The prompt.</param>
    /// <param name="weighted">Whether <c>(words:1.4)</c> in the prompt gives words a weight; see
    /// <see cref="GenerationSettings.PromptWeighting"/>.</param>
    /// <param name="cancellationToken">Checked before encoding, and while the model is loaded.</param>
    /// <returns>The states <c>[1, tokens, width]</c> and their mask, owned by the caller.</returns>
    /// <exception cref="FormatException">A weight is not valid; the message quotes it.</exception>
    /// <exception cref="NotSupportedException">The states of the model's text encoder do not belong to words, so that they have no
    /// weights.</exception>
    /// <exception cref="ObjectDisposedException">The generator was disposed.</exception>
    public Task<TextStates> EncodePromptAsync(string prompt, bool weighted = false, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(prompt);
        return UseAsync(async () =>
        {
            var model = await GetModelAsync(null, cancellationToken).ConfigureAwait(false);
            return await LongRunning
                .RunAsync(
                    () =>
                    {
                        using var noGradients = no_grad();
                        using var scope = NewDisposeScope();
                        var (states, mask) = model.EncodeText([prompt], weighted);
                        return new TextStates(states.DetachFromDisposeScope(), mask.DetachFromDisposeScope());
                    },
                    cancellationToken
                )
                .ConfigureAwait(false);
        });
    }
}
