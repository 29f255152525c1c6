using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Turns prompts into the states that a diffusion transformer attends to.</summary>
/// <remarks>Implementations hold weights only and are safe to call from several threads at once.</remarks>
public interface ITextEncoder : IDisposable
{
    /// <summary>Channels of a token's state.</summary>
    int Width { get; }

    /// <summary>Tokens a prompt is padded or cut to.</summary>
    int MaxTokens { get; }

    /// <summary>Encodes prompts, each padded or cut to <see cref="MaxTokens"/>.</summary>
    TextStates Encode(IReadOnlyList<string> prompts);
}

/// <summary>Encoded prompts.</summary>
/// <param name="States"><c>[batch, tokens, width]</c>.</param>
/// <param name="Mask"><c>[batch, tokens]</c>, boolean, true = real token.</param>
public sealed record TextStates(Tensor States, Tensor Mask) : IDisposable
{
    /// <summary>Disposes of both tensors.</summary>
    public void Dispose()
    {
        States.Dispose();
        Mask.Dispose();
    }
}
