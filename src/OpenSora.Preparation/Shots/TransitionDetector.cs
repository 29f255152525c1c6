namespace OpenSora.Preparation.Shots;

/// <summary>Detects cuts, dissolves and fades, and ignores flashes. This is the default detector.</summary>
/// <remarks><para>A cut is a frame with a much larger difference from the frame before than the frames around it have, as for
/// <see cref="AdaptiveDetector"/>. It is a flash if the picture before it returns within <see cref="FlashLength"/>.</para>
/// <para>In a dissolve, each frame is a mixture of the first and the last one, with a growing part of the last. Motion of the camera and of objects
/// does not have this property, and a change of light has it but does not change the structure of the picture.</para>
/// <para>In a fade, the contrast of the picture vanishes until it is dark or bright, and grows again.</para></remarks>
public sealed record TransitionDetector : IShotDetector
{
    /// <summary>The ratio of a frame's score to the mean score of the frames around it, from which on the frame is a cut.</summary>
    public double CutRatio { get; init; } = 3;

    /// <summary>The minimum score of a cut, from 0 to 255, computed as by <see cref="ContentDetector"/>.</summary>
    public double MinimumContent { get; init; } = 12;

    /// <summary>The minimum length of a shot.</summary>
    public TimeSpan MinimumLength { get; init; } = TimeSpan.FromSeconds(0.6);

    /// <summary>The longest time after which the picture before a flash returns.</summary>
    public TimeSpan FlashLength { get; init; } = TimeSpan.FromSeconds(0.4);

    /// <summary>The length of the longest dissolves and fades.</summary>
    public TimeSpan MaximumTransition { get; init; } = TimeSpan.FromSeconds(2.5);

    /// <summary>The minimum difference of the pictures before and after a dissolve: the root mean square of the differences in red, green and blue of
    /// a small picture, from 0 to 255.</summary>
    public double MinimumChange { get; init; } = 12;

    /// <summary>The part of a frame in a dissolve that is not a mixture of its ends, at most, from 0 to 1. Larger values find more dissolves of shots
    /// with motion, and more false ones.</summary>
    public double MaximumResidual { get; init; } = 0.25;

    /// <summary>The correlation of the pictures before and after a dissolve, at most, from -1 to 1.</summary>
    public double MaximumCorrelation { get; init; } = 0.6;

    // The correlation of the pictures before and after a cut, at most, unless their difference is large.
    internal double CutCorrelation { get; init; } = 0.9;

    // The speed of change outside a dissolve, as a fraction of that inside, at most.
    internal double OutsideRate { get; init; } = 0.8;

    // The mean of the absolute changes in a dissolve divided by their root mean square, at least. A moving object changes a part of the picture.
    internal double Spread { get; init; } = 0.7;

    /// <inheritdoc />
    public ShotAnalysis Start() => new TransitionAnalysis(this);
}
