using System.Globalization;
using System.Text;
using OpenSora.Models;
using OpenSora.Runtime;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>A prompt with weights of words, as in <c>a (red:1.4) car</c>.</summary>
/// <param name="Text">The prompt without weights.</param>
/// <param name="Spans">The parts of the text that have a weight other than 1, in order.</param>
internal sealed record WeightedPrompt(string Text, IReadOnlyList<(int Start, int End, double Weight)> Spans)
{
    private const double MaxWeight = 10;

    /// <summary>Parses a prompt.</summary>
    /// <exception cref="FormatException">A weight is not a number from 0 to 10, or a parenthesis has no weight; the message quotes it.</exception>
    internal static WeightedPrompt Parse(string prompt)
    {
        var (text, spans) = (new StringBuilder(), new List<(int, int, double)>());
        int? open = null; // the position in the text of the group that is being read
        for (var i = 0; i < prompt.Length; i++)
        {
            switch (prompt[i])
            {
                case '\\' when i + 1 < prompt.Length && prompt[i + 1] is '(' or ')' or '\\':
                    text.Append(prompt[++i]);
                    break;
                case '(' when open is null:
                    open = text.Length;
                    break;
                case ')'
                    when open is { } start && text.ToString(start, text.Length - start) is var group && group.Contains(':', StringComparison.Ordinal):
                    var weight = Weight(group);
                    text.Length = start + group.LastIndexOf(':');
                    if (weight != 1 && text.Length > start)
                    {
                        spans.Add((start, text.Length, weight));
                    }

                    open = null;
                    break;
                case '(' or ')':
                    throw Unpaired();
                case var letter:
                    text.Append(letter);
                    break;
            }
        }

        return open is null ? new WeightedPrompt(text.ToString(), spans) : throw Unpaired();

        FormatException Unpaired() =>
            new($"The prompt '{prompt}' has a parenthesis without a weight. Write (words:1.4), or \\( and \\) for parentheses in the text.");
    }

    private static double Weight(string group) =>
        double.TryParse(group[(group.LastIndexOf(':') + 1)..], NumberStyles.Float, CultureInfo.InvariantCulture, out var weight)
        && weight is >= 0 and <= MaxWeight
            ? weight
            : throw new FormatException(
                $"The weight in '({group})' is not a number from 0 to {MaxWeight}. Write (words:1.4), or \\( and \\) for parentheses in the text."
            );

    /// <summary>Encodes prompts with weights. The states of a word move away from those of an empty prompt, or toward them, by its weight.</summary>
    /// <param name="encoder">The text encoder.</param>
    /// <param name="prompts">The prompts.</param>
    /// <returns>The states and their mask, in the caller's dispose scope.</returns>
    /// <exception cref="NotSupportedException">The states of the encoder do not belong to words.</exception>
    internal static TextStates Encode(ITextEncoder encoder, IReadOnlyList<string> prompts)
    {
        List<WeightedPrompt> parsed = [.. prompts.Select(Parse)];
        if (parsed.TrueForAll(prompt => prompt.Spans.Count == 0))
        {
            return encoder.Encode([.. parsed.Select(prompt => prompt.Text)]);
        }

        using var scope = NewDisposeScope();
        var (states, mask) = encoder.Encode([.. parsed.Select(prompt => prompt.Text)]);
        var tokens = states.shape[1];
        var weights = new float[prompts.Count, tokens];
        for (var row = 0; row < prompts.Count; row++)
        {
            for (var token = 0; token < tokens; token++)
            {
                weights[row, token] = 1;
            }

            var (text, spans) = parsed[row];
            foreach (var (start, end, weight) in spans)
            {
                var (first, last) = (Count(text[..start]), Count(text[..end]));
                for (var token = first; token < Math.Min(last, tokens); token++)
                {
                    weights[row, token] = (float)weight;
                }
            }
        }

        var nothing = encoder.Encode([""]).States;
        var weighted = nothing.Plus((states - nothing) * tensor(weights, device: states.device).unsqueeze(2).to_type(states.dtype));
        return new TextStates(weighted.MoveToOuterDisposeScope(), mask.MoveToOuterDisposeScope());

        int Count(string text) =>
            encoder.CountTokens(text)
            ?? throw new NotSupportedException(
                $"Prompts cannot be weighted, because the states of {encoder.GetType().Name} do not belong to words. Set PromptWeighting to false."
            );
    }
}
