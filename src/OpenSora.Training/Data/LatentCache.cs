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

/// <summary>Clips as latents, encoded once and kept in a safetensors file that is mapped into memory.</summary>
public sealed class LatentCache : IDisposable
{
    private const string KeyName = "opensora.latents.key",
        CaptionsName = "opensora.latents.captions",
        LatentsName = "latents";
    private readonly Tensor _latents;

    private LatentCache(SafetensorsFile file)
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
                $"it holds latents of shape [{string.Join(", ", _latents.shape)}] and captions for {Captions.Count} clips. Make it anew."
            );
        }
    }

    /// <summary>The file.</summary>
    public string Path { get; }

    /// <summary>Made of the clips' contents, of the autoencoder's weights and factor, and of the seed.</summary>
    public string Key { get; }

    /// <summary>Every clip's captions.</summary>
    public IReadOnlyList<IReadOnlyList<string>> Captions { get; }

    /// <summary>All latents, scaled, <c>[clips, channels, frames, height, width]</c>, in 16 bits. They belong to this object.</summary>
    public Tensor Latents => _latents;

    /// <summary>The key under which latents of these clips by these weights are kept.</summary>
    /// <param name="source">The clips.</param>
    /// <param name="vae">The autoencoder: its weights and its <see cref="IVideoAutoencoder.ScalingFactor"/>.</param>
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

    /// <summary>Bytes that a cache will take.</summary>
    /// <param name="clips">Number of clips.</param>
    /// <param name="frames">Frames of one.</param>
    /// <param name="height">Pixels.</param>
    /// <param name="width">Pixels.</param>
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

    /// <summary>Opens the cache of these clips, or makes it where it is missing or belongs to other clips or weights.</summary>
    /// <param name="path">The file.</param>
    /// <param name="key">What <see cref="KeyOf"/> says.</param>
    /// <param name="source">The clips, all of one size.</param>
    /// <param name="vae">The autoencoder.</param>
    /// <param name="seed">Seed of what the source varies; a cache of another seed is another one.</param>
    /// <param name="progress">Told the number of encoded clips.</param>
    /// <param name="cancellationToken">Stops encoding; no file is left.</param>
    /// <param name="size">Told the bytes that the file and, until it is written, memory will take, when the first clips are encoded.</param>
    /// <exception cref="IOException">The disk has no room for it.</exception>
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
            using var file = SafetensorsFile.Open(path);
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
                List<Tensor> videos = []; // small clips together: many frames at once are faster
                for (var frames = 0L; i + videos.Count < source.Count && frames < 32; )
                {
                    var clip = source.Load(i + videos.Count, Randomness.Of(seed, i + videos.Count));
                    captions[i + videos.Count] = clip.Captions;
                    if (videos.Count > 0 && !clip.Video.shape.AsSpan().SequenceEqual(videos[0].shape))
                    {
                        throw new InvalidDataException(
                            $"Clip {i + videos.Count} has shape [{string.Join(", ", clip.Video.shape)}], the one before it [{string.Join(", ", videos[0].shape)}]: a cache holds clips of one size."
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
                        $"Clip {i} has latents of shape [{string.Join(", ", encoded.shape)}], the ones before it [{string.Join(", ", all.shape)}]: a cache holds clips of one size."
                    );
                }

                all.narrow(0, i, videos.Count).copy_(encoded);
                i += videos.Count;
                progress?.Report(i);
            }
            SafetensorsWriter.Write(
                path,
                [KeyValuePair.Create(LatentsName, all ?? throw new InvalidDataException("There are no clips to encode."))],
                new Dictionary<string, string>(StringComparer.Ordinal) { [KeyName] = key, [CaptionsName] = JsonSerializer.Serialize(captions) }
            );
        }
        using var written = SafetensorsFile.Open(path);
        return new LatentCache(written);
    }

    // Tells how much a cache takes, and fails now rather than at the end if there is no room for it.
    private static void CheckRoom(string path, long bytes, IProgress<long>? told)
    {
        told?.Report(bytes);
        var folder = Directory.CreateDirectory(System.IO.Path.GetDirectoryName(System.IO.Path.GetFullPath(path))!);
        long free;
        try
        {
            free = new DriveInfo(folder.FullName).AvailableFreeSpace;
        }
        catch (ArgumentException)
        {
            return; // a share of another machine has no drive that could be asked
        }
        if (bytes > free)
        {
            throw new IOException(
                $"The latents will take {bytes >> 20} MiB in '{path}', but only {free >> 20} MiB are free there. Make room, or take fewer or smaller clips."
            );
        }
    }

    /// <summary>Closes the cache; tensors made from it stay valid.</summary>
    public void Dispose() => _latents.Dispose();
}

/// <summary>Batches of cached latents with captions.</summary>
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

    /// <summary>Captions as token ids, for a text encoder that is trained too or is as small as that.</summary>
    /// <param name="cache">The latents; stay the caller's.</param>
    /// <param name="tokenizer">The text encoder's tokenizer.</param>
    /// <param name="maxTokens">Tokens that captions are padded or cut to.</param>
    /// <param name="clips">Which of the cache's clips are taken; null: all.</param>
    /// <param name="cleanCaptions">Whether captions are cleaned (<see cref="CaptionCleaner.Clean"/>) or only lower-cased; as in the
    /// <see cref="T5TextEncoder"/> that will read prompts.</param>
    public LatentData(LatentCache cache, ITokenizer tokenizer, int maxTokens, IEnumerable<int>? clips = null, bool cleanCaptions = true)
        : this(cache, clips)
    {
        ArgumentNullException.ThrowIfNull(tokenizer);
        (this._maxTokens, _padId) = (maxTokens, tokenizer.PadId);
        _prepared = cleanCaptions ? ", captions cleaned" : ", captions lower-cased";
        _textOf = caption => ([.. tokenizer.Encode(cleanCaptions ? CaptionCleaner.Clean(caption) : CaptionCleaner.Lower(caption), maxTokens)], null);
    }

    /// <summary>Captions as text states, each encoded when it is first needed and then kept.</summary>
    /// <param name="cache">The latents; stay the caller's.</param>
    /// <param name="encoder">The text encoder; stays the caller's.</param>
    /// <param name="clips">Which of the cache's clips are taken; null: all.</param>
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
        this._cache = cache;
        this._clips = [.. clips ?? Enumerable.Range(0, cache.Captions.Count)];
        _order = new SampleOrder(this._clips.Length);
        _textOf = _ => default;
    }

    /// <summary>Frames of a window that is taken at a random place (see <see cref="FirstFrame"/>); null: all frames.</summary>
    public int? Frames { get; set; }

    /// <summary>The frame that every window begins with, from 0; null: any that leaves room for the rest. Where captions speak of the course of a
    /// whole clip, and few of its frames are shown
    /// (<see cref="FrameInterval"/>), these are then always the same ones, and each has its own look. In a shorter clip a window begins as late as it
    /// can.</summary>
    /// <exception cref="ArgumentOutOfRangeException">It is negative.</exception>
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

    /// <summary>Takes every n-th frame of a window, which then spans as many more: motions are learned from a part of their frames at that part of
    /// the price. A transformer
    /// knows the frames by <see cref="StdiTConfig.TimeScale"/> 1/n.</summary>
    /// <exception cref="ArgumentOutOfRangeException">It is below 1.</exception>
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
            $"latents {_cache.Key}, {_clips.Length} of {_cache.Captions.Count} clips{Which()}, frames {Frames}{(FrameInterval == 1 ? "" : $" every {FrameInterval}")}{(FirstFrame is null ? "" : $" from {FirstFrame}")}, tokens {_maxTokens}{_prepared}"
        );

    // Others of the same number are other data.
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

    /// <summary>Disposes of the text states that were kept.</summary>
    public void Dispose()
    {
        foreach (var kept in _states.Values)
        {
            kept.Dispose();
        }

        _states.Clear();
    }
}
