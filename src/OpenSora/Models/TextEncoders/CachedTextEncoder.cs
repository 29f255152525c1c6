using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Remembers the states of the prompts that were encoded last.</summary>
/// <remarks>Safe to use from several threads at once; two that miss the same prompt at the same time both encode it.</remarks>
public sealed class CachedTextEncoder : ITextEncoder
{
    private readonly ITextEncoder _inner;
    private readonly int _capacity;
    private readonly Lock _lock = new();
    private readonly Dictionary<string, LinkedListNode<(string Prompt, TextStates States)>> _places = new(StringComparer.Ordinal);
    private readonly LinkedList<(string Prompt, TextStates States)> _recent = new(); // the last used first
    private bool _disposed;

    /// <summary>Puts a cache before an encoder.</summary>
    /// <param name="inner">The encoder; disposed of with this object.</param>
    /// <param name="capacity">The most prompts to remember; the one unused for longest goes first.</param>
    public CachedTextEncoder(ITextEncoder inner, int capacity = 64)
    {
        ArgumentNullException.ThrowIfNull(inner);
        ArgumentOutOfRangeException.ThrowIfLessThan(capacity, 1);
        _inner = inner;
        _capacity = capacity;
    }

    /// <inheritdoc/>
    public int Width => _inner.Width;

    /// <inheritdoc/>
    public int MaxTokens => _inner.MaxTokens;

    /// <summary>Prompts remembered now.</summary>
    public int Count
    {
        get
        {
            lock (_lock)
            {
                return _recent.Count;
            }
        }
    }

    /// <inheritdoc/>
    public TextStates Encode(IReadOnlyList<string> prompts)
    {
        ArgumentNullException.ThrowIfNull(prompts);
        if (prompts.Count == 0)
        {
            throw new ArgumentException("There is no prompt to encode; give at least one, which may be empty.", nameof(prompts));
        }

        using var scope = NewDisposeScope();
        var found = new Dictionary<string, TextStates>(StringComparer.Ordinal); // each of a batch of one
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            foreach (var prompt in prompts)
            {
                if (_places.TryGetValue(prompt, out var place))
                {
                    _recent.Remove(place);
                    _recent.AddFirst(place);
                    found.TryAdd(prompt, new TextStates(place.Value.States.States.alias(), place.Value.States.Mask.alias()));
                }
            }
        }

        var missing = prompts.Where(prompt => !found.ContainsKey(prompt)).Distinct(StringComparer.Ordinal).ToList();
        if (missing.Count > 0)
        {
            using var encoded = _inner.Encode(missing);
            for (var i = 0; i < missing.Count; i++)
            {
                var states = new TextStates(encoded.States.narrow(0, i, 1).clone(), encoded.Mask.narrow(0, i, 1).clone());
                found.Add(missing[i], states);
                Remember(missing[i], states);
            }
        }

        return new TextStates(Together(prompts.Select(prompt => found[prompt].States)), Together(prompts.Select(prompt => found[prompt].Mask)));

        // The caller's own, also where there is but one, of which TorchSharp's cat gives another name.
        static Tensor Together(IEnumerable<Tensor> parts)
        {
            Tensor[] all = [.. parts];
            return (all is [var one] ? one.clone() : cat(all, 0)).MoveToOuterDisposeScope();
        }
    }

    /// <summary>Forgets everything and disposes of the encoder.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            if (_disposed)
            {
                return;
            }

            _disposed = true;
            foreach (var (_, states) in _recent)
            {
                states.Dispose();
            }

            _recent.Clear();
            _places.Clear();
        }

        _inner.Dispose();
    }

    private void Remember(string prompt, TextStates states)
    {
        lock (_lock)
        {
            if (_disposed || _places.ContainsKey(prompt))
            {
                return;
            }

            var kept = new TextStates(states.States.alias().DetachFromDisposeScope(), states.Mask.alias().DetachFromDisposeScope());
            _places.Add(prompt, _recent.AddFirst((prompt, kept)));
            if (_recent.Count <= _capacity)
            {
                return;
            }

            var (oldest, leaving) = _recent.Last!.Value;
            _recent.RemoveLast();
            _places.Remove(oldest);
            leaving.Dispose();
        }
    }
}
