using OpenSora.Runtime;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>A part of a long video that is denoised at a time.</summary>
/// <param name="Start">The index of the first latent frame.</param>
/// <param name="Prompt">The index of its prompt.</param>
internal readonly record struct VideoWindow(int Start, int Prompt);

/// <summary>The overlapping windows of a long video. In every step, each window is denoised on its own, and where windows overlap, their predictions
/// are averaged, so that all windows become parts of one video.</summary>
/// <remarks>Wang et al. 2023, "Gen-L-Video: Multi-Text to Long Video Generation via Temporal Co-Denoising"; Bar-Tal et al. 2023,
/// "MultiDiffusion". The weight of a prediction falls linearly toward the ends of its window, so that neither motion nor prompts jump.</remarks>
/// <param name="Length">The number of latent frames in a window.</param>
/// <param name="Frames">The number of video frames in a window.</param>
/// <param name="Windows">The windows, which together cover all frames.</param>
/// <param name="Prompts">The prompts that windows refer to.</param>
internal sealed record VideoWindows(int Length, int Frames, IReadOnlyList<VideoWindow> Windows, IReadOnlyList<string> Prompts)
{
    /// <summary>The number of frames that windows have in common by default: half of a window, rounded down to a multiple.</summary>
    internal static int DefaultOverlap(int window, int multiple) => window / 2 / multiple * multiple;

    /// <summary>Places windows for the settings of a pipeline.</summary>
    /// <param name="prompts">The prompts.</param>
    /// <param name="settings">The settings; without windows, or if one window is sufficient, the result is null.</param>
    /// <param name="factor">The number of video frames that a latent frame covers.</param>
    /// <param name="multiple">The number of latent frames that windows must be a multiple of.</param>
    /// <exception cref="ArgumentException">There are several prompts, or a number is not a multiple.</exception>
    internal static VideoWindows? For(IReadOnlyList<string> prompts, ResolvedSettings settings, int factor, int multiple)
    {
        if (settings.WindowFrames is not { } window || window >= settings.Frames)
        {
            return null;
        }

        if (prompts.Count > 1)
        {
            throw new ArgumentException("Long videos are generated one at a time; pass one prompt, or omit WindowFrames.", nameof(prompts));
        }

        multiple *= factor;
        var overlap = settings.WindowOverlap ?? DefaultOverlap(window, multiple);
        foreach (var (name, value) in new[] { (nameof(settings.WindowFrames), window), (nameof(settings.WindowOverlap), overlap) })
        {
            if (value % multiple != 0)
            {
                throw new ArgumentException($"{name} is {value}; it must be a multiple of {multiple}.", nameof(settings));
            }
        }

        return Place(settings.Frames, window, overlap, factor, prompts[0], []);
    }

    /// <summary>Places windows on a video.</summary>
    /// <param name="frames">The number of video frames, more than in a window.</param>
    /// <param name="window">The number of video frames in a window.</param>
    /// <param name="overlap">The number of frames that consecutive windows have in common; the last two can have more.</param>
    /// <param name="factor">The number of video frames that a latent frame covers; all other numbers are multiples of it.</param>
    /// <param name="prompt">The first prompt.</param>
    /// <param name="segments">The prompts that follow.</param>
    internal static VideoWindows Place(int frames, int window, int overlap, int factor, string prompt, IReadOnlyList<PromptSegment> segments)
    {
        List<VideoWindow> windows = [];
        for (var start = 0; ; start += window - overlap)
        {
            start = Math.Min(start, frames - window);
            var middle = start + window / 2;
            windows.Add(new VideoWindow(start / factor, segments.Count(segment => segment.Frame <= middle)));
            if (start == frames - window)
            {
                return new VideoWindows(window / factor, window, windows, [prompt, .. segments.Select(segment => segment.Prompt)]);
            }
        }
    }

    /// <summary>Combines denoisers of windows to a denoiser of the video.</summary>
    /// <param name="denoisers">For each prompt, a denoiser of latents <c>[1, channels, Length, height, width]</c>, time steps and a mask of noisy
    /// frames, <c>[1, Length]</c> or null.</param>
    internal Func<Tensor, Tensor, Tensor?, Tensor> Combine(IReadOnlyList<Func<Tensor, Tensor, Tensor?, Tensor>> denoisers) =>
        (x, t, noisy) =>
        {
            using var scope = NewDisposeScope();
            var ramp = Enumerable.Range(0, Length).Select(i => (float)Math.Min(i + 1, Length - i)).ToArray();
            var weight = tensor(ramp, device: x.device).view(1, 1, Length, 1, 1);
            Tensor? sum = null;
            var weights = zeros([1, 1, x.shape[2], 1, 1], device: x.device);
            foreach (var window in Windows)
            {
                using var part = NewDisposeScope();
                var output = denoisers[window.Prompt]
                    (x.narrow(2, window.Start, Length).contiguous(), t, noisy?.narrow(1, window.Start, Length).contiguous());
                sum ??= zeros([output.shape[0], output.shape[1], .. x.shape[2..]], dtype: output.dtype, device: x.device).MoveToOuterDisposeScope();
                sum.narrow(2, window.Start, Length).AddInPlace(output * weight);
                weights.narrow(2, window.Start, Length).AddInPlace(weight);
            }

            return sum!.div_(weights).MoveToOuterDisposeScope();
        };
}
