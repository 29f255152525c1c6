using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>The exception that is thrown when a video was generated, but its latents could not be decoded to frames, for example because memory ran
/// out. The exception keeps the latents in managed memory, so that only the decoding has to be repeated.</summary>
/// <example><code>
/// try
/// {
///     video = await generator.GenerateAsync(request);
/// }
/// catch (DecodingException failed)
/// {
///     // Free memory here, for example by waiting for other requests.
///     video = await failed.DecodeAsync();
/// }
/// </code></example>
public sealed class DecodingException : InvalidOperationException
{
    private readonly float[] _latents;
    private readonly long[] _shape;

    internal DecodingException(string message, Exception inner, Tensor latents)
        : base(message, inner)
    {
        using var scope = NewDisposeScope();
        _latents = latents.to(ScalarType.Float32).cpu().contiguous().data<float>().ToArray();
        _shape = latents.shape;
    }

    /// <summary>Decodes latents again; set by the generator.</summary>
    internal Func<DecodingException, IProgress<GenerationProgress>?, CancellationToken, Task<GeneratedVideo>>? Again { get; set; }

    /// <summary>Decodes the video again. This can be repeated until it succeeds, as long as the generator is not disposed.</summary>
    /// <param name="progress">Receives the progress of <see cref="GenerationStage.Decoding"/>.</param>
    /// <param name="cancellationToken">Checked between the pieces in which the video is decoded.</param>
    /// <returns>The video that <see cref="IVideoGenerator.GenerateAsync"/> would have returned.</returns>
    /// <exception cref="DecodingException">Decoding failed again.</exception>
    /// <exception cref="ObjectDisposedException">The generator was disposed.</exception>
    public Task<GeneratedVideo> DecodeAsync(IProgress<GenerationProgress>? progress = null, CancellationToken cancellationToken = default) =>
        Again is { } again
            ? again(this, progress, cancellationToken)
            : throw new NotSupportedException("The latents are not those of a video generator, so they cannot be decoded again.");

    /// <summary>Creates a tensor with the latents, owned by the caller.</summary>
    internal Tensor Latents(Device device) => tensor(_latents, _shape, device: device);
}
