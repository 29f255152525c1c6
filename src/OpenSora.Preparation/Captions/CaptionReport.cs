using System.Diagnostics;

namespace OpenSora.Preparation.Captions;

/// <summary>Counts captions while they arrive. Instances are thread-safe.</summary>
public sealed class CaptionReport
{
    private readonly Lock _lock = new();
    private readonly Stopwatch _time = new();
    private readonly Dictionary<string, long> _sources = new(StringComparer.Ordinal),
        _reasons = new(StringComparer.Ordinal);
    private long _captioned,
        _without,
        _temporary,
        _cached,
        _shortened,
        _counted,
        _inputTokens,
        _outputTokens;
    private TimeSpan _lastAnswer;

    /// <summary>Gets the number of clips with a caption.</summary>
    public long Captioned => Read(ref _captioned);

    /// <summary>Gets the number of clips without a caption.</summary>
    public long WithoutCaption => Read(ref _without);

    /// <summary>Gets the number of clips without a caption for which a later attempt can succeed.</summary>
    public long TemporaryFailures => Read(ref _temporary);

    /// <summary>Gets the number of clips with an answer from a cache.</summary>
    public long FromCache => Read(ref _cached);

    /// <summary>Gets the number of captions that were longer than the limit and were cut.</summary>
    public long Shortened => Read(ref _shortened);

    /// <summary>Gets the number of tokens that models read, as far as servers report it.</summary>
    public long InputTokens => Read(ref _inputTokens);

    /// <summary>Gets the number of tokens that models wrote, as far as servers report it.</summary>
    public long OutputTokens => Read(ref _outputTokens);

    /// <summary>Gets the number of captions by origin, in alphabetical order.</summary>
    public IReadOnlyDictionary<string, long> Sources => Copy(_sources);

    /// <summary>Gets the number of clips without a caption by reason, in alphabetical order.</summary>
    public IReadOnlyDictionary<string, long> Reasons => Copy(_reasons);

    /// <summary>Estimates what further clips need, from the answers so far. Answers from a cache do not count.</summary>
    /// <param name="clips">The number of further clips.</param>
    /// <param name="inputPrice">The price of a million tokens that a model reads.</param>
    /// <param name="outputPrice">The price of a million tokens that a model writes.</param>
    /// <returns>The estimate; null if there are no answers yet.</returns>
    public CaptionEstimate? Estimate(long clips, decimal inputPrice = 0, decimal outputPrice = 0)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(clips);
        lock (_lock)
        {
            var answers = _captioned + _without - _cached;
            if (answers == 0)
            {
                return null;
            }

            long? input = _counted > 0 ? (long)Math.Round((double)_inputTokens / _counted * clips) : null;
            long? output = _counted > 0 ? (long)Math.Round((double)_outputTokens / _counted * clips) : null;
            var cost = (input * inputPrice + output * outputPrice) / 1_000_000;
            return new CaptionEstimate(clips, _lastAnswer / answers * clips, input, output, cost);
        }
    }

    /// <summary>Starts the clock, if it is not running.</summary>
    internal void Begin()
    {
        lock (_lock)
        {
            _time.Start();
        }
    }

    /// <summary>Counts a result.</summary>
    internal void Add(CaptionResult result)
    {
        lock (_lock)
        {
            _captioned += result.HasCaption ? 1 : 0;
            _without += result.HasCaption ? 0 : 1;
            _temporary += result.IsTemporary ? 1 : 0;
            _cached += result.IsFromCache ? 1 : 0;
            _shortened += result.IsShortened ? 1 : 0;
            _counted += result.InputTokens is null && result.OutputTokens is null ? 0 : 1;
            _inputTokens += result.InputTokens ?? 0;
            _outputTokens += result.OutputTokens ?? 0;
            _lastAnswer = _time.Elapsed;
            var (counts, name) = result.HasCaption ? (_sources, result.Source) : (_reasons, result.Reason);
            counts[name] = counts.GetValueOrDefault(name) + 1;
        }
    }

    private long Read(ref long value)
    {
        lock (_lock)
        {
            return value;
        }
    }

    private SortedDictionary<string, long> Copy(Dictionary<string, long> counts)
    {
        lock (_lock)
        {
            return new SortedDictionary<string, long>(counts, StringComparer.Ordinal);
        }
    }
}

/// <summary>An estimate of the effort for further captions.</summary>
/// <param name="Clips">The number of clips that it is for.</param>
/// <param name="Duration">The time, at the speed so far.</param>
/// <param name="InputTokens">The number of tokens that the model reads; null if the server does not report it.</param>
/// <param name="OutputTokens">The number of tokens that the model writes; null if the server does not report it.</param>
/// <param name="Cost">The cost, in the currency of the prices; null if the server does not report tokens.</param>
public sealed record CaptionEstimate(long Clips, TimeSpan Duration, long? InputTokens, long? OutputTokens, decimal? Cost);
