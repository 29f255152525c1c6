namespace OpenSora.Preparation.Shots;

/// <summary>A method to find the boundaries between shots. Implementations hold settings only: one instance serves many videos at once.</summary>
public interface IShotDetector
{
    /// <summary>Starts the analysis of a video.</summary>
    /// <returns>The analysis, which sees every frame of one video.</returns>
    ShotAnalysis Start();
}

/// <summary>The analysis of one video by a detector.</summary>
public abstract class ShotAnalysis
{
    /// <summary>Analyzes the next frame.</summary>
    /// <param name="frame">The frame. It is only valid during the call.</param>
    /// <returns>The transitions that are known now, at this frame or an earlier one; usually none.</returns>
    public abstract IReadOnlyList<ShotTransition> Add(ShotFrame frame);

    /// <summary>Ends the analysis after the last frame.</summary>
    /// <returns>The transitions that were not returned yet.</returns>
    public virtual IReadOnlyList<ShotTransition> Complete() => [];
}

/// <summary>The kinds of transitions between shots.</summary>
public enum TransitionKind
{
    /// <summary>A change from one frame to the next.</summary>
    Cut,

    /// <summary>A gradual change in which both shots are visible.</summary>
    Dissolve,

    /// <summary>A gradual change to or from a blank picture, usually black or white.</summary>
    Fade,
}

/// <summary>A transition between two shots.</summary>
/// <param name="Frame">The index of the first frame that belongs to the second shot.</param>
/// <param name="Kind">The kind of transition.</param>
public readonly record struct ShotTransition(int Frame, TransitionKind Kind = TransitionKind.Cut)
{
    private readonly int? _start;
    private readonly int? _end;

    /// <summary>The index of the first frame that does not show the first shot alone. For a cut this is <see cref="Frame"/>.</summary>
    public int Start
    {
        get => _start ?? Frame;
        init => _start = value;
    }

    /// <summary>The index of the first frame that shows the second shot alone. For a cut this is <see cref="Frame"/>.</summary>
    public int End
    {
        get => _end ?? Frame;
        init => _end = value;
    }
}
