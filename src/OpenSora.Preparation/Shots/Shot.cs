using OpenSora.Preparation.Media;

namespace OpenSora.Preparation.Shots;

/// <summary>A range of frames of a video.</summary>
/// <param name="Start">The index of the first frame.</param>
/// <param name="End">The index after the last frame.</param>
/// <param name="StartTime">The presentation time of the first frame, relative to the first frame of the video.</param>
/// <param name="EndTime">The presentation time at which the range ends.</param>
public readonly record struct FrameRange(int Start, int End, TimeSpan StartTime, TimeSpan EndTime)
{
    /// <summary>Gets the number of frames.</summary>
    public int Count => End - Start;

    /// <summary>Gets the length in time.</summary>
    public TimeSpan Duration => EndTime - StartTime;

    /// <summary>Returns the time codes and frames of the range.</summary>
    public override string ToString() => $"{TimeCode.Format(StartTime)} - {TimeCode.Format(EndTime)} (frames {Start} to {End - 1})";
}

/// <summary>A shot: consecutive frames without a boundary.</summary>
/// <param name="Frames">All frames of the shot. The frames of a transition are divided between the shots at its boundary, so that the shots of a
/// video contain every frame once.</param>
/// <param name="Steady">The frames that show this shot alone, without those of transitions at its ends; empty if transitions cover the shot.</param>
/// <param name="Opening">The transition from the shot before; null for the first shot.</param>
public sealed record Shot(FrameRange Frames, FrameRange Steady, ShotTransition? Opening);

/// <summary>The shots of a video.</summary>
/// <param name="Source">The metadata of the video.</param>
/// <param name="Shots">The shots in order; at least one.</param>
/// <param name="Frames">All frames of the video.</param>
/// <param name="Damage">The first error of a decoder that continued nevertheless; null if there was none.</param>
public sealed record ShotList(SourceInfo Source, IReadOnlyList<Shot> Shots, FrameRange Frames, string? Damage)
{
    /// <summary>Divides a video at transitions.</summary>
    internal static IReadOnlyList<Shot> Divide(IReadOnlyList<ShotTransition> transitions, Func<int, TimeSpan> timeOf, int frames)
    {
        // A transition before the first shot or after the last one, such as fading in, divides nothing.
        var (first, last) = (0, frames);
        List<ShotTransition> boundaries = [];
        foreach (var transition in Combine(transitions))
        {
            if (transition.Frame <= 0)
            {
                first = Math.Max(first, transition.End);
            }
            else if (transition.Frame >= frames)
            {
                last = Math.Min(last, transition.Start);
            }
            else
            {
                boundaries.Add(transition);
            }
        }

        List<Shot> shots = [];
        for (var i = 0; i <= boundaries.Count; i++)
        {
            ShotTransition? opening = i == 0 ? null : boundaries[i - 1];
            var (start, end) = (opening?.Frame ?? 0, i == boundaries.Count ? frames : boundaries[i].Frame);
            var steadyStart = Math.Min(end, opening?.End ?? first);
            var steadyEnd = Math.Max(steadyStart, i == boundaries.Count ? last : boundaries[i].Start);
            shots.Add(new(Range(start, end), Range(steadyStart, steadyEnd), opening));
        }

        return shots;

        FrameRange Range(int start, int end) => new(start, end, timeOf(start), timeOf(end));
    }

    // Transitions that overlap, which several detectors have found, are one.
    private static List<ShotTransition> Combine(IReadOnlyList<ShotTransition> transitions)
    {
        List<ShotTransition> combined = [];
        foreach (var next in transitions.OrderBy(each => each.Start).ThenBy(each => each.Frame).ThenBy(each => each.End))
        {
            if (combined.Count > 0 && combined[^1] is var before && (next.Start < before.End || next.Frame == before.Frame))
            {
                var wider = next.End - next.Start > before.End - before.Start ? next : before;
                combined[^1] = wider with { Start = Math.Min(before.Start, next.Start), End = Math.Max(before.End, next.End) };
            }
            else
            {
                combined.Add(next);
            }
        }

        return combined;
    }
}
