using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using OpenSora.Models;
using OpenSora.Text;
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

    private LatentCache(WeightsFile file)
    {
        Path = file.Path;
        Key = file.Metadata[KeyName];
        Captions = JsonSerializer.Deserialize<string[][]>(file.Metadata[CaptionsName])!;
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
    public static LatentCache OpenOrCreate(
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

        using (var scope = NewDisposeScope())
        using (no_grad())
        {
            Tensor? all = null;
            var captions = new IReadOnlyList<string>[source.Count];
            for (var i = 0; i < source.Count; )
            {
                cancellationToken.ThrowIfCancellationRequested();
                using var inner = NewDisposeScope();
                List<Tensor> videos = []; // small clips are encoded together, because larger batches of frames are faster
                for (var frames = 0L; i + videos.Count < source.Count && frames < 32; )
                {
                    var clip = source.Load(i + videos.Count, Randomness.Of(seed, i + videos.Count));
                    captions[i + videos.Count] = clip.Captions;
                    if (videos.Count > 0 && !clip.Video.shape.AsSpan().SequenceEqual(videos[0].shape))
                    {
                        throw new InvalidDataException(
                            $"Clip {i + videos.Count} has shape [{string.Join(", ", clip.Video.shape)}], "
                                + $"but the clip before it has shape [{string.Join(", ", videos[0].shape)}]; "
                                + "all clips in a cache must have the same size."
                        );
                    }

                    videos.Add(clip.Video);
                    frames += clip.Video.shape[1];
                }
                var together = stack(videos);
                var encoded = vae.Encode(
                    vae is nn.Module module && module.parameters().FirstOrDefault() is { } weights ? together.to(weights.device) : together
                );
                if (all is null)
                {
                    CheckRoom(path, 2 * source.Count * encoded[0].numel(), size);
                    all = empty([source.Count, .. encoded.shape.AsSpan(1)], ScalarType.BFloat16).MoveToOuterDisposeScope();
                }
                if (!encoded.shape.AsSpan(1).SequenceEqual(all.shape.AsSpan(1)))
                {
                    throw new InvalidDataException(
                        $"Clip {i} has latents of shape [{string.Join(", ", encoded.shape)}], "
                            + $"but the clips before it have latents of shape [{string.Join(", ", all.shape)}]; "
                            + "all clips in a cache must have the same size."
                    );
                }

                all.narrow(0, i, videos.Count).copy_(encoded);
                i += videos.Count;
                progress?.Report(i);
            }
            WeightsFile.Write(
                path,
                [KeyValuePair.Create(LatentsName, all ?? throw new InvalidDataException("There are no clips to encode."))],
                new Dictionary<string, string>(StringComparer.Ordinal) { [KeyName] = key, [CaptionsName] = JsonSerializer.Serialize(captions) }
            );
        }
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

    /// <summary>Closes the cache. Tensors created from it remain valid.</summary>
    public void Dispose() => _latents.Dispose();
}

/// <summary>Data of cached latents with captions.</summary>
public sealed class LatentData : ITrainingData, IDisposable
{
    private readonly LatentCache _cache;
    private readonly int[] _clips;
    private readonly SampleOrder _order;
    private readonly Func<string, (int[]? Tokens, Tensor? States)> _textOf;
    private readonly int _maxTokens,
        _padId;
    private readonly string _prepared = "";
    private readonly Dictionary<string, Tensor> _states = new(StringComparer.Ordinal);

    /// <summary>Creates data with captions as token IDs, for a text encoder that is trained too or is small enough to run in every step.</summary>
    /// <param name="cache">The latents. The caller keeps ownership of the cache.</param>
    /// <param name="tokenizer">The tokenizer of the text encoder.</param>
    /// <param name="maxTokens">The number of tokens that captions are padded or truncated to.</param>
    /// <param name="clips">The indices of the clips to use; null for all clips.</param>
    /// <param name="cleanCaptions">true to clean captions (<see cref="CaptionCleaner.Clean"/>); false to only convert them to lowercase. Use the
    /// setting of the <see cref="T5TextEncoder"/> that will encode prompts.</param>
    public LatentData(LatentCache cache, ITokenizer tokenizer, int maxTokens, IEnumerable<int>? clips = null, bool cleanCaptions = true)
        : this(cache, clips)
    {
        ArgumentNullException.ThrowIfNull(tokenizer);
        (_maxTokens, _padId) = (maxTokens, tokenizer.PadId);
        _prepared = cleanCaptions ? ", captions cleaned" : ", captions lower-cased";
        _textOf = caption => ([.. tokenizer.Encode(cleanCaptions ? CaptionCleaner.Clean(caption) : CaptionCleaner.Lower(caption), maxTokens)], null);
    }

    /// <summary>Creates data with captions as text encoder states. Each caption is encoded when it is first needed and then cached.</summary>
    /// <param name="cache">The latents. The caller keeps ownership of the cache.</param>
    /// <param name="encoder">The text encoder. The caller keeps ownership of it.</param>
    /// <param name="clips">The indices of the clips to use; null for all clips.</param>
    public LatentData(LatentCache cache, ITextEncoder encoder, IEnumerable<int>? clips = null)
        : this(cache, clips)
    {
        ArgumentNullException.ThrowIfNull(encoder);
        _maxTokens = encoder.MaxTokens;
        _textOf = caption =>
        {
            if (!_states.TryGetValue(caption, out var kept))
            {
                using var noGradients = no_grad();
                using var encoded = encoder.Encode([caption]);
                var tokens = encoded.Mask.sum().cpu().item<long>();
                kept = encoded.States[0].narrow(0, 0, tokens).clone();
                kept.DetachFromDisposeScope();
                _states[caption] = kept;
            }
            return (null, kept);
        };
    }

    private LatentData(LatentCache cache, IEnumerable<int>? clips)
    {
        ArgumentNullException.ThrowIfNull(cache);
        _cache = cache;
        _clips = [.. clips ?? Enumerable.Range(0, cache.Captions.Count)];
        _order = new SampleOrder(_clips.Length);
        _textOf = _ => default;
    }

    /// <summary>The number of frames of a window at a random position (see <see cref="FirstFrame"/>); null for all frames.</summary>
    public int? Frames { get; set; }

    /// <summary>The zero-based first frame of every window; null for a random frame that leaves room for the rest of the window. If captions describe
    /// the course of a whole clip and only a few of its frames are used (see <see cref="FrameInterval"/>), a fixed first frame ensures that they are
    /// always the same frames, each with its characteristic content. In a shorter clip, the window starts as late as possible.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The value is negative.</exception>
    public int? FirstFrame
    {
        get;
        set
        {
            if (value is { } first)
            {
                ArgumentOutOfRangeException.ThrowIfNegative(first, nameof(value));
            }

            field = value;
        }
    }

    /// <summary>The interval between the frames of a window. A window contains every n-th frame and spans n times as many frames, so motion is
    /// learned from 1/n of the frames at 1/n of the cost. Set <see cref="StdiTConfig.TimeScale"/> of the transformer to 1/n, so that frames keep
    /// their temporal positions.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The value is below 1.</exception>
    public int FrameInterval
    {
        get;
        set
        {
            ArgumentOutOfRangeException.ThrowIfLessThan(value, 1);
            field = value;
        }
    } = 1;

    /// <inheritdoc/>
    public long Count => _clips.Length;

    /// <inheritdoc/>
    public string Fingerprint =>
        string.Create(
            CultureInfo.InvariantCulture,
            $"latents {_cache.Key}, {_clips.Length} of {_cache.Captions.Count} clips{Which()}, "
                + $"frames {Frames}{(FrameInterval == 1 ? "" : $" every {FrameInterval}")}{(FirstFrame is null ? "" : $" from {FirstFrame}")}, "
                + $"tokens {_maxTokens}{_prepared}"
        );

    // A different selection of the same size is different data.
    private string Which() =>
        _clips.Length == _cache.Captions.Count
            ? ""
            : string.Create(CultureInfo.InvariantCulture, $" ({Randomness.Mix(0, Array.ConvertAll(_clips, clip => (long)clip)):x})");

    /// <inheritdoc/>
    public TrainingBatch GetBatch(long number, int size, int seed)
    {
        using var scope = NewDisposeScope();
        var random = Randomness.Of(seed, number);
        var indices = Array.ConvertAll(_order.Batch(number, size, seed), i => _clips[i]);
        var videos = new Tensor[size];
        var texts = new (int[]? Tokens, Tensor? States)[size];
        for (var i = 0; i < size; i++)
        {
            var all = _cache.Latents.shape[2];
            var most = (all - 1) / FrameInterval + 1;
            var frames = Math.Min(Frames ?? most, most);
            var span = (frames - 1) * FrameInterval + 1;
            var from = FirstFrame is { } chosen ? Math.Min(chosen, all - span) : random.NextInt64(all - span + 1);
            videos[i] = _cache.Latents[indices[i]].slice(1, from, from + span, FrameInterval);
            var captions = _cache.Captions[indices[i]];
            texts[i] = _textOf(captions[random.Next(captions.Count)]);
        }

        var mask = zeros([size, _maxTokens], ScalarType.Bool);
        var text = texts[0].States is { } first
            ? zeros([size, _maxTokens, first.shape[1]], first.dtype)
            : full([size, _maxTokens], _padId, dtype: ScalarType.Int64);
        for (var i = 0; i < size; i++)
        {
            var row = texts[i].States ?? tensor(Array.ConvertAll(texts[i].Tokens!, id => (long)id));
            text[i].narrow(0, 0, row.shape[0]).copy_(row);
            mask[i].narrow(0, 0, row.shape[0]).fill_(true);
        }
        return new TrainingBatch(
            stack(videos).to_type(ScalarType.Float32).MoveToOuterDisposeScope(),
            text.MoveToOuterDisposeScope(),
            mask.MoveToOuterDisposeScope()
        );
    }

    /// <summary>Disposes the cached text encoder states.</summary>
    public void Dispose()
    {
        foreach (var kept in _states.Values)
        {
            kept.Dispose();
        }

        _states.Clear();
    }
}
