using System.Globalization;
using System.Text.Json;
using System.Text.Json.Serialization;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Encodes class labels as prompts for class-conditional models, such as the official DiT and Latte.</summary>
/// <remarks>
/// A prompt is a class number, such as <c>207</c> or <c>class 207</c>, or a class name (case-insensitive). An empty prompt selects no class. The
/// encoded state of a prompt is its class number.
/// </remarks>
public sealed class ClassLabelEncoder : ITextEncoder
{
    private const string Prefix = "class ";
    private readonly ClassLabels _labels;
    private readonly Device _device;
    private readonly Dictionary<string, int> _numbers = new(StringComparer.OrdinalIgnoreCase);

    /// <summary>Creates an encoder of classes without names, which are identified by their numbers.</summary>
    /// <param name="classes">The number of classes (ImageNet: 1000, UCF-101: 101).</param>
    /// <param name="device">The device for the encoded states; null uses the CPU.</param>
    /// <exception cref="ArgumentException">The number is not positive.</exception>
    public ClassLabelEncoder(int classes, Device? device = null)
        : this(new ClassLabels { Count = classes }, device) { }

    /// <summary>Creates an encoder of classes with names.</summary>
    /// <param name="names">The names of the classes, ordered by class number; synonyms are separated by commas.</param>
    /// <param name="device">The device for the encoded states; null uses the CPU.</param>
    /// <exception cref="ArgumentException">There are no classes.</exception>
    public ClassLabelEncoder(IReadOnlyList<string> names, Device? device = null)
        : this(new ClassLabels { Count = names?.Count ?? throw new ArgumentNullException(nameof(names)), Names = names }, device) { }

    internal ClassLabelEncoder(ClassLabels labels, Device? device)
    {
        if (labels.Count < 1)
        {
            throw new ArgumentException($"The class labels are invalid: Count is {labels.Count}; it must be positive.", nameof(labels));
        }

        if (labels.Names is { } given && given.Count != labels.Count)
        {
            throw new ArgumentException(
                $"The class labels are invalid: there are {given.Count} names for {labels.Count} classes; provide one name per class, or none.",
                nameof(labels)
            );
        }

        (_labels, _device) = (labels, device ?? CPU);
        foreach (var (number, names) in (labels.Names ?? []).Index())
        {
            // A name that several classes have in common (ImageNet has two cranes) refers to the first of them.
            foreach (var name in names.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries).Append(names.Trim()))
            {
                _numbers.TryAdd(name, number);
            }
        }
    }

    /// <summary>The descriptor of the architecture, as registered in <see cref="Architectures.BuiltIn"/>.</summary>
    public static Architecture<ITextEncoder> Architecture { get; } =
        Architecture<ITextEncoder>.Of<ClassLabels>(
            "class_labels",
            _ => null,
            (labels, _, settings) => new ClassLabelEncoder(labels, settings.Device),
            json: ClassLabelsJson.Default.ClassLabels
        );

    /// <summary>The width of a state, which is always 1 because a state is a class number.</summary>
    public int Width => 1;

    /// <summary>The number of tokens per prompt, which is always 1 because a class is encoded as one state.</summary>
    public int MaxTokens => 1;

    /// <inheritdoc/>
    /// <returns>States <c>[batch, 1, 1]</c> that hold the class numbers; the number of classes represents "no class".</returns>
    /// <exception cref="ArgumentException">A prompt is not a class; the message lists valid values.</exception>
    public TextStates Encode(IReadOnlyList<string> prompts)
    {
        ArgumentNullException.ThrowIfNull(prompts);
        if (prompts.Count == 0)
        {
            throw new ArgumentException("There is no class to encode; pass at least one prompt, which may be empty.", nameof(prompts));
        }

        float[] numbers = [.. prompts.Select(prompt => (float)NumberOf(prompt))];
        using var scope = NewDisposeScope();
        var states = tensor(numbers, [prompts.Count, 1, 1], device: _device);
        var mask = ones(prompts.Count, 1, ScalarType.Bool, _device);
        return new TextStates(states.MoveToOuterDisposeScope(), mask.MoveToOuterDisposeScope());
    }

    /// <summary>Converts the classes to the configuration of a text encoder of the architecture <c>class_labels</c> in <c>model.json</c>.</summary>
    public JsonElement WriteConfig() => Architecture.WriteConfig(_labels);

    /// <summary>Gets the number of a class.</summary>
    /// <param name="prompt">The number or name of the class; blank for no class.</param>
    /// <returns>The class number, from 0; the number of classes represents "no class".</returns>
    /// <exception cref="ArgumentException">The class does not exist.</exception>
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
            $"There is no class '{text}'. This model is conditioned on {_labels.Count} classes rather than text: "
                + $"use a number from 0 to {_labels.Count - 1}, such as 'class 0'"
                + (
                    _labels.Names is null ? "."
                    : near.Count == 0 ? $", or a name such as '{_labels.Names[0]}'."
                    : $", or a name: {string.Join("; ", near)}."
                ),
            nameof(prompt)
        );
    }

    /// <summary>Does nothing; this encoder holds no resources.</summary>
    public void Dispose() { }
}

/// <summary>The configuration in <c>model.json</c>.</summary>
internal sealed record ClassLabels
{
    /// <summary>The number of classes.</summary>
    public required int Count { get; init; }

    /// <summary>The names of the classes, ordered by class number; synonyms are separated by commas. If null, classes are identified by number
    /// only.</summary>
    public IReadOnlyList<string>? Names { get; init; }
}

/// <summary>Generated code that reads and writes the configuration.</summary>
[JsonSerializable(typeof(ClassLabels))]
internal sealed partial class ClassLabelsJson : JsonSerializerContext;
