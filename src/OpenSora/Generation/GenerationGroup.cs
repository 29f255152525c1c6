using System.Buffers.Binary;
using System.Globalization;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using OpenSora.Diffusion;
using OpenSora.Distributed;
using OpenSora.Media;
using OpenSora.Models;
using OpenSora.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>The processes that generate a video together: all make the same request, and their transformer divides its tokens
/// (<see cref="ModelExtensions.UseSequenceParallel"/>). They agree on the seed and on cancellation, and each decodes some of the frames.</summary>
internal sealed class GenerationGroup
{
    private readonly ICollectives _group;
    private readonly Device _device;

    private GenerationGroup(ICollectives group, Device device) => (_group, _device) = (group, device);

    /// <summary>Gets the group of a transformer; null if it computes in this process only.</summary>
    public static GenerationGroup? Of(IVideoTransformer transformer) =>
        transformer is IDivisible { Group: { Size: > 1 } group } ? new(group, ((nn.Module)transformer).parameters().First().device) : null;

    /// <summary>Uses the seed of the first process, because each process draws its own if the request has none.</summary>
    public ResolvedSettings WithSameSeed(ResolvedSettings settings) => settings with { Seed = AllGather([settings.Seed])[0] };

    /// <summary>Checks that all processes make the same request.</summary>
    /// <exception cref="InvalidOperationException">They do not.</exception>
    public void RequireSame(PipelineInputs inputs, ISampler sampler)
    {
        var settings = inputs.Settings;
        string?[] parts =
        [
            .. inputs.Prompts,
            .. inputs.Windows?.Prompts ?? [],
            settings.ToString(),
            sampler.GetType().Name,
            string.Create(CultureInfo.InvariantCulture, $"{settings.WindowFrames} {settings.WindowOverlap} {settings.PromptWeighting}"),
            string.Create(CultureInfo.InvariantCulture, $"{inputs.Given.Count} {inputs.Edit?.Strength} {inputs.PromptStates is null}"),
        ];
        var hash = SHA256.HashData(Encoding.UTF8.GetBytes(string.Join('\0', parts)));
        var all = AllGather([BinaryPrimitives.ReadInt64LittleEndian(hash)]);
        if (Array.FindIndex(all, other => other != all[0]) is > 0 and var different)
        {
            throw new InvalidOperationException(
                $"Process {different} of {_group.Size} makes another request than process 0. Processes that generate a video together must make the "
                    + "same requests in the same order, with the same prompts, settings and sampler."
            );
        }
    }

    /// <summary>Makes a denoiser stop in all processes if the token of one of them was canceled.</summary>
    public Func<Tensor, Tensor, Tensor?, Tensor> Cancelable(Func<Tensor, Tensor, Tensor?, Tensor> denoiser, CancellationToken cancellationToken) =>
        (x, t, noisy) =>
        {
            ThrowIfCanceled(cancellationToken);
            return denoiser(x, t, noisy);
        };

    /// <summary>Throws in all processes if the token of one of them was canceled.</summary>
    public void ThrowIfCanceled(CancellationToken cancellationToken)
    {
        if (First(cancellationToken.IsCancellationRequested) is { } process)
        {
            cancellationToken.ThrowIfCancellationRequested();
            throw new OperationCanceledException($"Process {process} of {_group.Size} canceled the request.");
        }
    }

    /// <summary>Decodes latents: each process some of the frames, if the autoencoder decodes every frame separately, or else all of them. All
    /// processes receive all frames.</summary>
    /// <param name="decoder">Decodes latents in this process.</param>
    /// <param name="autoencoder">The autoencoder; null if the latents are pixels.</param>
    /// <param name="latents">Scaled latents, <c>[batch, channels, frames, height, width]</c>.</param>
    /// <param name="framesPerSecond">The frame rate of the videos.</param>
    /// <param name="check">Checks the pixels of each piece.</param>
    /// <param name="progress">Receives the number of latent frames that this process has decoded.</param>
    /// <param name="decoded">Receives each video, and 0 as the index of its first frame.</param>
    public IReadOnlyList<VideoFrames> Decode(
        LatentDecoder decoder,
        IVideoAutoencoder? autoencoder,
        Tensor latents,
        double framesPerSecond,
        Action<Tensor> check,
        IProgress<GenerationProgress>? progress,
        Action<VideoFrames, int> decoded
    )
    {
        var frames = latents.shape[2];
        if (autoencoder is null or { MixesFrames: true } || frames < _group.Size)
        {
            return decoder.Decode(latents, framesPerSecond, check, progress, default, decoded);
        }

        var (start, count) = SequenceParallel.Share(frames, _group.Rank, _group.Size);
        IReadOnlyList<VideoFrames> own = [];
        Exception? failure = null;
        try
        {
            own = decoder.Decode(latents.narrow(2, start, count), framesPerSecond, check, progress);
        }
        catch (Exception exception)
        {
            failure = exception is DecodingException ? new DecodingException(exception.Message, exception.InnerException!, latents) : exception;
        }

        if (First(failure is not null) is { } process)
        {
            ExceptionDispatchInfo.Throw(failure ?? new CollectiveException($"Process {process} of {_group.Size} could not decode its frames."));
        }

        List<VideoFrames> videos = [.. own.Select(video => Join(video, frames, autoencoder.TemporalFactor))];
        videos.ForEach(video => decoded(video, 0));
        return videos;
    }

    // Joins the frames of all processes. Collective operations have no bytes, so pixels are sent eight at a time.
    private VideoFrames Join(VideoFrames own, long latentFrames, int factor)
    {
        (int Start, int Count) Pixels(int process)
        {
            var (start, count) = SequenceParallel.Share(latentFrames, process, _group.Size);
            return ((int)start * factor, (int)count * factor);
        }

        var video = LatentDecoder.Empty((int)latentFrames * factor, own.Height, own.Width, own.FramesPerSecond);
        var sent = new long[(SequenceParallel.Largest(latentFrames, _group.Size) * factor * own.FrameBytes + sizeof(long) - 1) / sizeof(long)];
        own.Pixels.Span.CopyTo(MemoryMarshal.AsBytes(sent.AsSpan()));
        var all = AllGather(sent);
        for (var process = 0; process < _group.Size; process++)
        {
            var (start, count) = Pixels(process);
            var pixels = video.Slice(start, count).Pixels.Span;
            MemoryMarshal.AsBytes(all.AsSpan(process * sent.Length, sent.Length))[..pixels.Length].CopyTo(pixels);
        }

        return video;
    }

    // The first process for which a condition holds; null if it holds for none.
    private int? First(bool condition)
    {
        var first = Array.FindIndex(AllGather([condition ? 1 : 0]), value => value > 0);
        return first < 0 ? null : first;
    }

    private long[] AllGather(long[] values)
    {
        using var scope = NewDisposeScope();
        var all = empty(_group.Size * values.LongLength, dtype: ScalarType.Int64, device: _device);
        _group.AllGather(all, tensor(values).to(_device)).Wait();
        return all.cpu().data<long>().ToArray();
    }
}
