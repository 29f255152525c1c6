using System.Globalization;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>The classes of a model that is told a class instead of a text.</summary>
public sealed record ClassLabels
{
    /// <summary>How many there are (ImageNet: 1000, UCF-101: 101).</summary>
    public required int Count { get; init; }

    /// <summary>Their names in the order of their numbers; other names of the same class behind commas. Null: they go by numbers alone.</summary>
    public IReadOnlyList<string>? Names { get; init; }
}

/// <summary>Takes a class for a prompt: the text encoder of models that are conditioned on classes, such as the official DiT and Latte.</summary>
/// <remarks>
/// A prompt is a number, as in <c>207</c> or <c>class 207</c>, or one of the names, whatever its case. An empty prompt is no class. The state of a
/// prompt is its
/// class's number.
/// </remarks>
public sealed class ClassLabelEncoder : ITextEncoder
{
    private const string Prefix = "class ";
    private readonly ClassLabels _labels;
    private readonly Device _device;
    private readonly Dictionary<string, int> _numbers = new(StringComparer.OrdinalIgnoreCase);

    /// <summary>Makes an encoder of classes.</summary>
    /// <param name="labels">The classes.</param>
    /// <param name="device">Where states are needed; null: the CPU.</param>
    /// <exception cref="ArgumentException">There is no class, or the names do not fit the number of classes.</exception>
    public ClassLabelEncoder(ClassLabels labels, Device? device = null)
    {
        ArgumentNullException.ThrowIfNull(labels);
        if (labels.Count < 1)
        {
            throw new ArgumentException($"The class labels are wrong: Count is {labels.Count}; it must be positive.", nameof(labels));
        }

        if (labels.Names is { } given && given.Count != labels.Count)
        {
            throw new ArgumentException(
                $"The class labels are wrong: there are {given.Count} names for {labels.Count} classes; give one a class, or none.",
                nameof(labels)
            );
        }

        (_labels, _device) = (labels, device ?? CPU);
        foreach (var (number, names) in (labels.Names ?? []).Index())
        {
            // A name that several classes share (ImageNet's two cranes) is the first one's.
            foreach (var name in names.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries).Append(names.Trim()))
            {
                _numbers.TryAdd(name, number);
            }
        }
    }

    /// <summary>One: a state is a number.</summary>
    public int Width => 1;

    /// <summary>One: a class is one state.</summary>
    public int MaxTokens => 1;

    /// <inheritdoc/>
    /// <returns>States <c>[batch, 1, 1]</c>, the numbers of classes, their count where there is none.</returns>
    /// <exception cref="ArgumentException">A prompt is no class; the message says what would be one.</exception>
    public TextStates Encode(IReadOnlyList<string> prompts)
    {
        ArgumentNullException.ThrowIfNull(prompts);
        if (prompts.Count == 0)
        {
            throw new ArgumentException("There is no class to encode; give at least one, which may be empty.", nameof(prompts));
        }

        float[] numbers = [.. prompts.Select(prompt => (float)NumberOf(prompt))];
        using var scope = NewDisposeScope();
        var states = tensor(numbers, [prompts.Count, 1, 1], device: _device);
        var mask = ones(prompts.Count, 1, ScalarType.Bool, _device);
        return new TextStates(states.MoveToOuterDisposeScope(), mask.MoveToOuterDisposeScope());
    }

    /// <summary>The number of a class.</summary>
    /// <param name="prompt">Its number or name; blank for none.</param>
    /// <returns>From 0 on; the count of classes stands for none of them.</returns>
    /// <exception cref="ArgumentException">There is no such class.</exception>
    public int NumberOf(string prompt)
    {
        ArgumentNullException.ThrowIfNull(prompt);
        var text = prompt.Trim();
        if (text.Length == 0)
        {
            return _labels.Count;
        }

        if (_numbers.TryGetValue(text, out var number))
        {
            return number;
        }

        var digits = text.StartsWith(Prefix, StringComparison.OrdinalIgnoreCase) ? text[Prefix.Length..].Trim() : text;
        if (int.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out number) && number < _labels.Count)
        {
            return number;
        }

        var near = _numbers
            .Keys.Where(name => name.Contains(text, StringComparison.OrdinalIgnoreCase))
            .Order(StringComparer.OrdinalIgnoreCase)
            .Take(5)
            .ToList();
        throw new ArgumentException(
            $"There is no class '{text}'. This model makes videos of {_labels.Count} classes rather than of texts: give a number from 0 to {_labels.Count - 1}, as in 'class 0'"
                + (
                    _labels.Names is null ? "."
                    : near.Count == 0 ? $", or a name such as '{_labels.Names[0]}'."
                    : $", or a name: {string.Join("; ", near)}."
                ),
            nameof(prompt)
        );
    }

    /// <summary>Holds nothing.</summary>
    public void Dispose() { }
}
