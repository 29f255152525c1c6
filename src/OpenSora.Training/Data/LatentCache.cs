using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using OpenSora.Models;
using OpenSora.Text;
using OpenSora.Training.Stages;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Data;

/// <summary>A cache of clips that are encoded to latents once and stored in a memory-mapped safetensors file.</summary>
public sealed class LatentCache : IDisposable
{
    private const string KeyName = "opensora.latents.key",
        CaptionsName = "opensora.latents.captions",
        LatentsName = "latents";
    private readonly Tensor _latents;
    private readonly Dictionary<(ITextEncoder Encoder, string Caption), Tensor> _states = [];

    private LatentCache(WeightsFile file)
    {
        Path = file.Path;
        Key = file.Metadata[KeyName];
        Captions = JsonSerializer.Deserialize(file.Metadata[CaptionsName], TrainingJson.Default.IReadOnlyListIReadOnlyListString)!;
        _latents = file.Read(LatentsName);
        _latents.DetachFromDisposeScope();
        if (_latents.dim() != 5 || _latents.shape[0] != Captions.Count)
        {
            throw new InvalidWeightsException(
                file.Path,
                $"it contains latents of shape [{string.Join(", ", _latents.shape)}] but captions for {Captions.Count} clips. "
                    + "Delete the file and create it again."
            );
        }
    }

    /// <summary>Gets the path of the file.</summary>
    public string Path { get; }

    /// <summary>Gets the key of the cache, which is derived from the contents of the clips, the weights and scaling factor of the autoencoder, and
    /// the seed.</summary>
    public string Key { get; }

    /// <summary>Gets the captions of every clip.</summary>
    public IReadOnlyList<IReadOnlyList<string>> Captions { get; }

    /// <summary>Gets the scaled latents of all clips, <c>[clips, channels, frames, height, width]</c>, bfloat16. The cache owns them.</summary>
    public Tensor Latents => _latents;

    /// <summary>Computes the key for the latents of clips that an autoencoder encodes.</summary>
    /// <param name="source">The clips.</param>
    /// <param name="vae">The autoencoder. The key depends on its weights and its <see cref="IVideoAutoencoder.ScalingFactor"/>.</param>
    public static string KeyOf(IClipSource source, nn.Module vae)
    {
        ArgumentNullException.ThrowIfNull(source);
        ArgumentNullException.ThrowIfNull(vae);
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        hash.AppendData(Encoding.UTF8.GetBytes(source.Fingerprint));
        if (vae is IVideoAutoencoder { ScalingFactor: var factor })
        {
            hash.AppendData(BitConverter.GetBytes(factor));
        }

        foreach (var (name, tensor) in vae.state_dict().OrderBy(pair => pair.Key, StringComparer.Ordinal))
        {
            using var scope = NewDisposeScope();
            hash.AppendData(Encoding.UTF8.GetBytes(name));
            hash.AppendData(tensor.detach().cpu().contiguous().bytes);
        }
        return Convert.ToHexStringLower(hash.GetHashAndReset())[..32];
    }

    /// <summary>Computes the size of a cache in bytes.</summary>
    /// <param name="clips">The number of clips.</param>
    /// <param name="frames">The number of frames of a clip.</param>
    /// <param name="height">The height of a clip in pixels.</param>
    /// <param name="width">The width of a clip in pixels.</param>
    /// <param name="vae">The autoencoder.</param>
    public static long SizeOf(long clips, int frames, int height, int width, IVideoAutoencoder vae)
    {
        ArgumentNullException.ThrowIfNull(vae);
        return 2
            * clips
            * vae.LatentChannels
            * ((frames + vae.TemporalFactor - 1) / vae.TemporalFactor)
            * (height / vae.SpatialFactor)
            * (width / vae.SpatialFactor);
    }

    /// <summary>Opens the cache of the specified clips, or creates it if the file does not exist or belongs to other clips or weights.</summary>
    /// <param name="path">The path of the file.</param>
    /// <param name="key">The key that <see cref="KeyOf"/> returns.</param>
    /// <param name="source">The clips, which must all have the same size.</param>
    /// <param name="vae">The autoencoder.</param>
    /// <param name="seed">The seed for sources that vary their clips. A cache with another seed is a different cache.</param>
    /// <param name="progress">Receives the number of clips encoded so far.</param>
    /// <param name="cancellationToken">Stops encoding. No file is created in this case.</param>
    /// <param name="size">Receives the size of the file in bytes when the first clips are encoded. The same amount of memory is needed until the file
    /// is written.</param>
    /// <exception cref="IOException">The disk does not have enough free space.</exception>
    public static async Task<LatentCache> OpenOrCreateAsync(
        string path,
        string key,
        IClipSource source,
        IVideoAutoencoder vae,
        int seed = 0,
        IProgress<int>? progress = null,
        CancellationToken cancellationToken = default,
        IProgress<long>? size = null
    )
    {
        ArgumentNullException.ThrowIfNull(source);
        ArgumentNullException.ThrowIfNull(vae);
        key = seed == 0 ? key : string.Create(CultureInfo.InvariantCulture, $"{key}-{seed}");
        if (File.Exists(path))
        {
            using var file = WeightsFile.Open(path);
            if (file.Metadata.TryGetValue(KeyName, out var found) && string.Equals(found, key, StringComparison.Ordinal))
            {
                return new LatentCache(file);
            }
        }

        if (source.Count == 0)
        {
            throw new InvalidDataException("There are no clips to encode.");
        }

        using var latents = new EncodedClips(path, source.Count, vae, size);
        var captions = new List<IReadOnlyList<string>>(source.Count);
        List<CaptionedClip> clips = [];
        try
        {
            while (captions.Count < source.Count)
            {
                cancellationToken.ThrowIfCancellationRequested();
                var index = captions.Count;
                var clip = await source.LoadAsync(index, Randomness.Of(seed, index), cancellationToken).ConfigureAwait(false);
                clips.Add(clip);
                captions.Add(clip.Captions);
                if (!clip.Video.shape.AsSpan().SequenceEqual(clips[0].Video.shape))
                {
                    throw new InvalidDataException(
                        $"Clip {index} has shape [{string.Join(", ", clip.Video.shape)}], "
                            + $"but the clip before it has shape [{string.Join(", ", clips[0].Video.shape)}]; "
                            + "all clips in a cache must have the same size."
                    );
                }

                // Small clips are encoded together, because larger batches of frames are faster.
                if (captions.Count == source.Count || clips.Sum(one => one.Video.shape[1]) >= 32)
                {
                    latents.Add(clips);
                    clips.ForEach(one => one.Dispose());
                    clips.Clear();
                    progress?.Report(captions.Count);
                }
            }
        }
        finally
        {
            clips.ForEach(clip => clip.Dispose());
        }

        WeightsFile.Write(
            path,
            [KeyValuePair.Create(LatentsName, latents.All!)],
            new Dictionary<string, string>(StringComparer.Ordinal)
            {
                [KeyName] = key,
                [CaptionsName] = JsonSerializer.Serialize(captions, TrainingJson.Default.IReadOnlyListIReadOnlyListString),
            }
        );
        using var written = WeightsFile.Open(path);
        return new LatentCache(written);
    }

    // Reports the size of a cache, and fails immediately if the disk does not have enough free space.
    private static void CheckRoom(string path, long bytes, IProgress<long>? progress)
    {
        progress?.Report(bytes);
        var folder = Directory.CreateDirectory(System.IO.Path.GetDirectoryName(System.IO.Path.GetFullPath(path))!);
        long free;
        try
        {
            free = new DriveInfo(folder.FullName).AvailableFreeSpace;
        }
        catch (ArgumentException)
        {
            return; // a network folder has no drive to query
        }
        if (bytes > free)
        {
            throw new IOException(
                $"The latents need {bytes >> 20} MiB in '{path}', but only {free >> 20} MiB are free on the disk. "
                    + "Free up space, or use fewer or smaller clips."
            );
        }
    }

    /// <summary>Creates data with captions as text encoder states. Each caption is encoded when it is first needed; the cache keeps its
    /// states.</summary>
    /// <param name="encoder">The text encoder. The caller keeps ownership of it.</param>
    /// <param name="clips">The indices of the clips to use; null for all clips.</param>
    /// <param name="frames">The number of frames of a window at a random position (see <paramref name="firstFrame"/>); null for all frames.</param>
    /// <param name="firstFrame">The zero-based first frame of every window; null for a random frame that leaves room for the rest of the window. If
    /// captions describe the course of a whole clip and only a few of its frames are used, a fixed first frame ensures that they are always the same
    /// frames. In a shorter clip, the window starts as late as possible.</param>
    /// <param name="frameInterval">The interval between the frames of a window. A window contains every n-th frame and spans n times as many frames,
    /// so motion is learned from 1/n of the frames at 1/n of the cost. Set <see cref="StdiTConfig.TimeScale"/> of the transformer to 1/n, so that
    /// frames keep their temporal positions.</param>
    /// <returns>The data, which are valid until the cache is disposed.</returns>
    public ITrainingData AsData(
        ITextEncoder encoder,
        IEnumerable<int>? clips = null,
        int? frames = null,
        int? firstFrame = null,
        int frameInterval = 1
    ) =>
        new LatentData(this, encoder, clips)
        {
            Frames = frames,
            FirstFrame = firstFrame,
            FrameInterval = frameInterval,
        };

    /// <summary>Creates data with captions as token IDs, for a text encoder that is trained too or is small enough to run in every step.</summary>
    /// <param name="tokenizer">The tokenizer of the text encoder.</param>
    /// <param name="maxTokens">The number of tokens that captions are padded or truncated to.</param>
    /// <param name="clips">The indices of the clips to use; null for all clips.</param>
    /// <param name="frames">The number of frames of a window; null for all frames.</param>
    /// <param name="firstFrame">The zero-based first frame of every window; null for a random frame.</param>
    /// <param name="frameInterval">The interval between the frames of a window.</param>
    /// <param name="cleanCaptions">true to clean captions (<see cref="Tokenizers.PrepareCaption"/>); false to only convert them to lowercase. Use the
    /// setting of the <see cref="T5TextEncoder"/> that will encode prompts.</param>
    /// <returns>The data, which are valid until the cache is disposed.</returns>
    public ITrainingData AsData(
        ITokenizer tokenizer,
        int maxTokens,
        IEnumerable<int>? clips = null,
        int? frames = null,
        int? firstFrame = null,
        int frameInterval = 1,
        bool cleanCaptions = true
    ) =>
        new LatentData(this, tokenizer, maxTokens, clips, cleanCaptions)
        {
            Frames = frames,
            FirstFrame = firstFrame,
            FrameInterval = frameInterval,
        };

    /// <summary>Returns the states of a caption, <c>[tokens, width]</c>, without padding. The cache owns them.</summary>
    internal Tensor StatesOf(string caption, ITextEncoder encoder)
    {
        lock (_states) // batches are prefetched while callbacks use the same data
        {
            if (!_states.TryGetValue((encoder, caption), out var states))
            {
                using var scope = NewDisposeScope();
                using var noGradients = no_grad();
                using var encoded = encoder.Encode([caption]);
                var tokens = encoded.Mask.sum().cpu().item<long>();
                _states[(encoder, caption)] = states = encoded.States[0].narrow(0, 0, tokens).clone().DetachFromDisposeScope();
            }
            return states;
        }
    }

    /// <summary>Closes the cache and the data that were created from it. Their batches remain valid.</summary>
    public void Dispose()
    {
        _latents.Dispose();
        foreach (var states in _states.Values)
        {
            states.Dispose();
        }

        _states.Clear();
    }

    /// <summary>The latents of the clips that were encoded so far.</summary>
    private sealed class EncodedClips(string path, int count, IVideoAutoencoder vae, IProgress<long>? size) : IDisposable
    {
        private long _done;

        public Tensor? All { get; private set; }

        /// <summary>Encodes clips of the same size.</summary>
        public void Add(IEnumerable<CaptionedClip> clips)
        {
            using var scope = NewDisposeScope();
            using var noGradients = no_grad();
            var videos = stack(clips.Select(clip => clip.Video));
            var encoded = vae.Encode(
                vae is nn.Module module && module.parameters().FirstOrDefault() is { } weights ? videos.to(weights.device) : videos
            );
            if (All is null)
            {
                CheckRoom(path, 2 * count * encoded[0].numel(), size);
                All = empty([count, .. encoded.shape.AsSpan(1)], ScalarType.BFloat16).DetachFromDisposeScope();
            }
            if (!encoded.shape.AsSpan(1).SequenceEqual(All.shape.AsSpan(1)))
            {
                throw new InvalidDataException(
                    $"Clip {_done} has latents of shape [{string.Join(", ", encoded.shape)}], "
                        + $"but the clips before it have latents of shape [{string.Join(", ", All.shape)}]; "
                        + "all clips in a cache must have the same size."
                );
            }

            All.narrow(0, _done, encoded.shape[0]).copy_(encoded);
            _done += encoded.shape[0];
        }

        public void Dispose() => All?.Dispose();
    }
}
