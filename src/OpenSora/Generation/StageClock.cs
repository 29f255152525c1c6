using System.Diagnostics;

namespace OpenSora.Generation;

/// <summary>Measures the stages of a request from its progress, which it passes on. The time that the receiver of the progress takes is not
/// counted.</summary>
/// <param name="inner">Receives the progress; null for none.</param>
internal sealed class StageClock(IProgress<GenerationProgress>? inner) : IProgress<GenerationProgress>
{
    private const int Enough = 3;

    private readonly List<TimeSpan> _steps = [];
    private readonly List<(TimeSpan Time, int Frames)> _pieces = [];
    private long _last = Stopwatch.GetTimestamp();
    private int _frames;

    /// <summary>Gets the time before the first denoising step: encoding the prompt and the reference frames.</summary>
    public TimeSpan Before { get; private set; }

    /// <summary>Gets the median time of a denoising step; the lower one of two, because other work only makes steps slower.</summary>
    public TimeSpan Step => _steps.Order().ElementAtOrDefault((_steps.Count - 1) / 2);

    /// <summary>Gets the time of decoding. If there are several pieces, the first one does not count, because it may be slower.</summary>
    public TimeSpan Decoding
    {
        get
        {
            var counted = _pieces.Count < Enough ? _pieces : _pieces[1..];
            var frames = counted.Sum(piece => piece.Frames);
            return frames == 0 ? default : counted.Aggregate(TimeSpan.Zero, (sum, piece) => sum + piece.Time) * _frames / frames;
        }
    }

    /// <summary>Gets a value that indicates whether denoising and decoding were measured.</summary>
    public bool IsComplete => Step > TimeSpan.Zero && Decoding > TimeSpan.Zero;

    /// <inheritdoc/>
    public void Report(GenerationProgress value)
    {
        var time = Stopwatch.GetElapsedTime(_last);
        switch (value.Stage)
        {
            case GenerationStage.Denoising when value.Step > 0:
                _steps.Add(time);
                break;
            case GenerationStage.Decoding when value.Step > _frames:
                _pieces.Add((time, value.Step - _frames));
                _frames = value.Step;
                break;
            case GenerationStage.EncodingText or GenerationStage.EncodingReferences or GenerationStage.Denoising:
                Before += time;
                break;
            default:
                break;
        }

        inner?.Report(value);
        _last = Stopwatch.GetTimestamp();
    }
}
