using OpenSora.Media;
using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>The inputs of a pipeline.</summary>
/// <param name="Prompts">The prompts, one for each video of the batch.</param>
/// <param name="Settings">The settings.</param>
/// <param name="Noise">Draws the initial noise, <c>[prompts, channels, frames, height, width]</c>.</param>
/// <param name="Generator">The random number generator for all other noise.</param>
internal sealed record PipelineInputs(IReadOnlyList<string> Prompts, ResolvedSettings Settings, Func<Tensor> Noise, Generator Generator)
{
    /// <summary>The conditioning frames.</summary>
    public IReadOnlyList<GivenFrames> Given { get; init; } = [];

    /// <summary>The video to begin with, of the size of the generated one; null for noise.</summary>
    public VideoEdit? Edit { get; init; }

    /// <summary>The windows of a long video; null to denoise the video as a whole.</summary>
    public VideoWindows? Windows { get; init; }

    /// <summary>The encoded prompt; null to encode <see cref="Prompts"/>.</summary>
    public TextStates? PromptStates { get; init; }

    /// <summary>The encoded negative prompt; null to encode that of the settings.</summary>
    public TextStates? NegativePromptStates { get; init; }

    /// <summary>Gets what computes previews.</summary>
    public Func<LatentPreview>? Preview { get; init; }

    /// <summary>Receives the frames as soon as they are decoded, in order; null for a batch.</summary>
    public Action<VideoFrames>? Decoded { get; init; }
}
