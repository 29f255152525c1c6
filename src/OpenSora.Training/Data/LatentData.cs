using System.Globalization;
using OpenSora.Models;
using OpenSora.Runtime;
using OpenSora.Text;
using static TorchSharp.torch;

namespace OpenSora.Training.Data;

/// <summary>Data of cached latents with captions.</summary>
internal sealed class LatentData : ITrainingData
{
    private readonly LatentCache _cache;
    private readonly int[] _clips;
    private readonly SampleOrder _order;
    private readonly Func<string, (int[]? Tokens, Tensor? States)> _textOf;
    private readonly int _maxTokens,
        _padId;
    private readonly string _prepared = "";

    /// <summary>Creates data with captions as token IDs, for a text encoder that is trained too or is small enough to run in every step.</summary>
    /// <param name="cache">The latents. The caller keeps ownership of the cache.</param>
    /// <param name="tokenizer">The tokenizer of the text encoder.</param>
    /// <param name="maxTokens">The number of tokens that captions are padded or truncated to.</param>
    /// <param name="clips">The indices of the clips to use; null for all clips.</param>
    /// <param name="cleanCaptions">true to clean captions (<see cref="Tokenizers.PrepareCaption"/>); false to only convert them to lowercase. Use the
    /// setting of the <see cref="T5TextEncoder"/> that will encode prompts.</param>
    public LatentData(LatentCache cache, ITokenizer tokenizer, int maxTokens, IEnumerable<int>? clips = null, bool cleanCaptions = true)
        : this(cache, clips)
    {
        ArgumentNullException.ThrowIfNull(tokenizer);
        (_maxTokens, _padId) = (maxTokens, tokenizer.PadId);
        _prepared = cleanCaptions ? ", captions cleaned" : ", captions lower-cased";
        _textOf = caption => ([.. tokenizer.Encode(Tokenizers.PrepareCaption(caption, cleanCaptions), maxTokens)], null);
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
        _textOf = caption => (null, cache.StatesOf(caption, encoder));
    }

    private LatentData(LatentCache cache, IEnumerable<int>? clips)
    {
        ArgumentNullException.ThrowIfNull(cache);
        _cache = cache;
        _clips = [.. clips ?? Enumerable.Range(0, cache.Captions.Count)];
        _order = new SampleOrder(_clips.Length);
        _textOf = _ => default;
    }

    /// <summary>The number of frames of a window; null for all frames.</summary>
    public int? Frames { get; set; }

    /// <summary>The zero-based first frame of every window; null for a random frame that leaves room for the rest of the window.</summary>
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

    /// <summary>The interval between the frames of a window.</summary>
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
    public ValueTask<TrainingBatch> GetBatchAsync(long number, int size, int seed, CancellationToken cancellationToken = default) =>
        ValueTask.FromResult(GetBatch(number, size, seed, 0, size));

    /// <inheritdoc/>
    public ValueTask<TrainingBatch> GetPartAsync(long number, int size, int seed, int part, int parts, CancellationToken cancellationToken = default)
    {
        var (first, count) = TrainingBatch.RangeOf(size, part, parts);
        return ValueTask.FromResult(GetBatch(number, size, seed, (int)first, (int)count));
    }

    private TrainingBatch GetBatch(long number, int whole, int seed, int start, int size)
    {
        using var scope = NewDisposeScope();
        var random = Randomness.Of(seed, number);
        var indices = Array.ConvertAll(_order.Batch(number, whole, seed), i => _clips[i]);
        var videos = new Tensor[size];
        var texts = new (int[]? Tokens, Tensor? States)[size];
        for (var i = -start; i < whole - start; i++) // samples of other processes only take their random numbers
        {
            var all = _cache.Latents.shape[2];
            var most = (all - 1) / FrameInterval + 1;
            var frames = Math.Min(Frames ?? most, most);
            var span = (frames - 1) * FrameInterval + 1;
            var from = FirstFrame is { } chosen ? Math.Min(chosen, all - span) : random.NextInt64(all - span + 1);
            var captions = _cache.Captions[indices[start + i]];
            var caption = captions[random.Next(captions.Count)];
            if (i >= 0 && i < size)
            {
                videos[i] = _cache.Latents[indices[start + i]].slice(1, from, from + span, FrameInterval);
                texts[i] = _textOf(caption);
            }
        }

        var mask = zeros([size, _maxTokens], ScalarType.Bool);
        var text = texts[0].States is { } first
            ? zeros([size, _maxTokens, first.shape[1]], first.dtype)
            : TensorArithmetic.Full([size, _maxTokens], _padId, ScalarType.Int64);
        for (var i = 0; i < size; i++)
        {
            var row = texts[i].States ?? tensor(Array.ConvertAll(texts[i].Tokens!, id => (long)id));
            text[i].narrow(0, 0, row.shape[0]).copy_(row);
            mask[i].narrow(0, 0, row.shape[0]).FillInPlace(true);
        }
        return new TrainingBatch(
            stack(videos).to_type(ScalarType.Float32).MoveToOuterDisposeScope(),
            text.MoveToOuterDisposeScope(),
            mask.MoveToOuterDisposeScope()
        )
        {
            Offset = start,
            WholeSize = whole,
        };
    }
}
