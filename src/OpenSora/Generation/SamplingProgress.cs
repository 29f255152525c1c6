using System.Diagnostics;
using OpenSora.Media;

namespace OpenSora.Generation;

/// <summary>Reports the steps of a sampler as the progress of a generation, with the estimated time that remains.</summary>
/// <param name="progress">Receives the progress; null for none.</param>
/// <param name="steps">The number of steps.</param>
internal sealed class SamplingProgress(IProgress<GenerationProgress>? progress, int steps) : IProgress<int>
{
    private readonly Stopwatch _watch = Stopwatch.StartNew();
    private int? _first; // with an existing video, the first steps are left out

    /// <summary>The preview that the next report contains.</summary>
    public VideoFrames? Preview { get; set; }

    public void Report(int value)
    {
        var done = value == 0 ? 0 : value - (_first ??= value - 1);
        progress?.Report(
            new(GenerationStage.Denoising, value, steps) { Remaining = done == 0 ? null : _watch.Elapsed / done * (steps - value), Preview = Preview }
        );
        Preview = null;
    }
}
