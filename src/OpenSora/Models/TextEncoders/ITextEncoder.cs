using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Encodes prompts to the states that a diffusion transformer attends to.</summary>
/// <remarks>Implementations hold only weights and can be called from several threads at the same time.</remarks>
public interface ITextEncoder : IDisposable
{
    /// <summary>The width of the token states.</summary>
    int Width { get; }

    /// <summary>The number of tokens that prompts are padded or truncated to.</summary>
    int MaxTokens { get; }

    /// <summary>Encodes prompts, each padded or truncated to <see cref="MaxTokens"/>.</summary>
    /// <param name="prompts">The prompts; at least one, which may be empty.</param>
    /// <returns>The states and their mask, owned by the caller.</returns>
    TextStates Encode(IReadOnlyList<string> prompts);

    /// <summary>Counts the states that a text takes from the first one, including a token for the start of a text but not for its end. Weights of
    /// words in prompts need it.</summary>
    /// <param name="text">The beginning of a prompt.</param>
    /// <returns>The number of states; null, the default, if states do not belong to words, such as one state for a whole text.</returns>
    int? CountTokens(string text) => null;
}

/// <summary>Encoded prompts.</summary>
/// <param name="States">The token states, <c>[batch, tokens, width]</c>.</param>
/// <param name="Mask">The token mask, <c>[batch, tokens]</c>, boolean; true marks a token and false marks padding.</param>
public sealed record TextStates(Tensor States, Tensor Mask) : IDisposable
{
    /// <summary>Disposes both tensors.</summary>
    public void Dispose()
    {
        States.Dispose();
        Mask.Dispose();
    }
}
