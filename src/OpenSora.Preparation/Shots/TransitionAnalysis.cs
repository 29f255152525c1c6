namespace OpenSora.Preparation.Shots;

/// <summary>The analysis of a video by <see cref="TransitionDetector"/>. It remembers small pictures of the last few seconds.</summary>
internal sealed class TransitionAnalysis : ShotAnalysis
{
    // A flash is recognized when the picture differs from that before it by less than this part of the flash itself.
    private const double Return = 0.45;

    private const double SamePicture = 0.6;

    // The contrast of a fading picture changes from frame to frame by at least this factor.
    private const double FadeStep = 1.01;
    private const double MaxOutside = 0.2;
    private const int MaxRepeated = 6;
    private const int ShortestDissolve = 4;
    private const int Samples = 6;
    private const int MaxMemory = 400;

    // The lengths of dissolves that are tried, as parts of the longest one.
    private static readonly double[] Lengths = [0.1, 0.14, 0.2, 0.28, 0.4, 0.55, 0.75, 1];

    private readonly TransitionDetector _options;
    private readonly ContentScore _score = new(new(), edgeKernel: null);
    private readonly List<Thumbnail> _memory = []; // the last frames
    private readonly List<Found> _cuts = [];
    private readonly List<Found> _dissolves = [];
    private readonly List<Found> _fades = [];
    private AreaScale? _scale;
    private int _flashEnd = -1; // the first frame after the last flash
    private int _checked; // the first frame that is not checked for a cut
    private (int Start, int End, double Score)? _candidate;
    private Fade? _fade;
    private int _frames;
    private TimeSpan _start;

    internal TransitionAnalysis(TransitionDetector options)
    {
        Settings.RequireRange(nameof(options.FlashLength), options.FlashLength.TotalSeconds, 0, 10);
        Settings.RequireRange(nameof(options.MaximumTransition), options.MaximumTransition.TotalSeconds, 0.1, 10);
        _options = options;
    }

    private Thumbnail Newest => _memory[^1];

    public override IReadOnlyList<ShotTransition> Add(ShotFrame frame)
    {
        Remember(frame);
        FindCuts(isLast: false);
        FindDissolve();
        FindFade();
        return [];
    }

    public override IReadOnlyList<ShotTransition> Complete()
    {
        FindCuts(isLast: true);
        EndDissolve();
        if (_fade is { } fade)
        {
            // The video ends while its picture is blank, or before it is complete.
            EndFade(fade.LastBlank < 0 ? fade : fade with { End = _frames });
        }

        return Combine();
    }

    private void Remember(ShotFrame frame)
    {
        _scale ??= Thumbnail.Scale(frame.Width, frame.Height);
        // Twice the longest transition is enough for every decision.
        Thumbnail? next = null;
        if (_memory.Count > 0 && (_memory.Count >= MaxMemory || frame.Time - _memory[0].Time > 2 * _options.MaximumTransition))
        {
            next = _memory[0];
            _memory.RemoveAt(0);
        }

        next ??= new();
        next.Set(frame, _scale, _score.Compute(frame));
        _memory.Add(next);
        _frames = frame.Index + 1;
        _start = frame.Index == 0 ? frame.Time : _start;
    }

    // The remembered frame with an index, or the oldest one.
    private Thumbnail At(int frame) => _memory[Math.Max(0, frame - _memory[0].Frame)];

    private void FindCuts(bool isLast)
    {
        for (; _checked < _frames; _checked++)
        {
            var here = At(_checked);
            if (!isLast && (Newest.Time - here.Time <= _options.FlashLength || Newest.Frame < _checked + MaxRepeated))
            {
                return;
            }

            if (here.Content < _options.MinimumContent || _checked == 0 || _checked <= _flashEnd || !IsPeak(here))
            {
                continue;
            }

            var before = At(_checked - 1);
            var change = before.DistanceTo(here);
            if (before.CorrelationWith(here) <= _options.CutCorrelation && !IsFlash(_checked, change))
            {
                _cuts.Add(new(new(_checked), here.Time, change));
            }
        }
    }

    // Compares a frame with the two frames before and after it that differ from their predecessors. Frames that are repeated do not count.
    private bool IsPeak(Thumbnail here)
    {
        const double Repeated = 0.5;
        var (sum, count) = (0.0, 0);
        var at = here.Frame - _memory[0].Frame;
        foreach (var direction in (int[])[-1, 1])
        {
            var found = 0;
            for (var i = at + direction; i > 0 && i < _memory.Count && found < 2 && Math.Abs(i - at) <= MaxRepeated; i += direction)
            {
                if (_memory[i].Content > Repeated || Math.Abs(i - at) > MaxRepeated - 2)
                {
                    sum += _memory[i].Content;
                    found++;
                }
            }

            count += found;
        }

        return count > 0 && here.Content * count >= _options.CutRatio * sum;
    }

    // A flash begins if the picture before it returns, and ends if the picture after it was there before.
    private bool IsFlash(int frame, double change)
    {
        var (before, here) = (At(frame - 1), At(frame));
        for (var i = frame - _memory[0].Frame + 1; i < _memory.Count && _memory[i].Time - here.Time <= _options.FlashLength; i++)
        {
            if (Returns(before, _memory[i], change))
            {
                _flashEnd = _memory[i].Frame;
                return true;
            }
        }

        for (var i = frame - _memory[0].Frame - 2; i >= 0 && before.Time - _memory[i].Time <= _options.FlashLength; i--)
        {
            if (Returns(here, _memory[i], change))
            {
                return true;
            }
        }

        return false;
    }

    // The same picture before and after a flash that changes it by a distance.
    private static bool Returns(Thumbnail before, Thumbnail after, double flash) =>
        before.DistanceTo(after) < flash * Return && before.CorrelationWith(after) > SamePicture;

    private void FindDissolve()
    {
        if (_candidate is { } candidate && Newest.Time - At(candidate.End).Time > _options.MaximumTransition / 2)
        {
            EndDissolve();
        }

        if (_memory.Count < 4)
        {
            return;
        }

        var step = (Newest.Time - _memory[0].Time).TotalSeconds / (_memory.Count - 1);
        var tried = 0;
        foreach (var part in Lengths)
        {
            var length = Math.Max(3, (int)Math.Round(_options.MaximumTransition.TotalSeconds * part / Math.Max(step, 1e-3)));
            if (length == tried || length >= _memory.Count)
            {
                continue;
            }

            tried = length;
            // Some frames after the window show whether the change ends with it.
            var end = Newest.Frame - Math.Max(2, length / 2);
            var start = end - length;
            if (start < _memory[0].Frame)
            {
                break;
            }

            var score = DissolveScore(start, end);
            if (score > 0 && (_candidate is null || score > _candidate.Value.Score))
            {
                _candidate = (start, end, score);
            }
        }
    }

    // The likelihood that a dissolve takes place between two frames; 0 if there is none.
    private double DissolveScore(int start, int end)
    {
        var (first, last) = (At(start), At(end));
        var distance = first.DistanceTo(last);
        if (distance < _options.MinimumChange || first.CorrelationWith(last) > _options.MaximumCorrelation || first.SpreadTo(last) < _options.Spread)
        {
            return 0;
        }

        var (length, before, residuals, count) = (end - start, 0.0, 0.0, 0);
        for (var i = 1; i <= Samples; i++)
        {
            var at = start + (length * i / (Samples + 1));
            var (part, residual) = at == start ? (0, 0) : At(at).Mixture(first, last, distance);
            if (part < before - 0.1 || part > before + 0.6)
            {
                return 0;
            }

            (before, residuals, count) = (part, residuals + residual, count + 1);
        }

        // A movement continues outside the window, in the same direction or as fast.
        var margin = Math.Max(2, length / 2);
        var (left, right) = (At(start - margin), At(end + margin));
        var outside = Math.Max(0, start - left.Frame) + right.Frame - end;
        var rate = (left.DistanceTo(first) + last.DistanceTo(right)) / outside;
        if (
            left.Mixture(first, last, distance).Part < -MaxOutside
            || right.Mixture(first, last, distance).Part > 1 + MaxOutside
            || rate > _options.OutsideRate * distance / length
        )
        {
            return 0;
        }

        var mean = residuals / count;
        return before < 0.4 || mean > _options.MaximumResidual ? 0 : distance * (1 - mean) / (1 + (0.3 * length / MaxMemory));
    }

    private void EndDissolve()
    {
        if (_candidate is not { } candidate)
        {
            return;
        }

        _candidate = null;
        var (first, last) = (At(candidate.Start), At(candidate.End));
        var distance = first.DistanceTo(last);
        var (start, middle, end) = (candidate.Start + 1, candidate.End, candidate.End);
        for (var frame = candidate.End; frame > candidate.Start; frame--)
        {
            var (part, _) = At(frame).Mixture(first, last, distance);
            end = part > 0.95 ? frame : end;
            middle = part >= 0.5 ? frame : middle;
            if (part < 0.05)
            {
                start = frame + 1;
                break;
            }
        }

        start = Math.Min(start, middle);
        if (end - start < ShortestDissolve)
        {
            return; // fast motion
        }

        _dissolves.Add(new(new(middle, TransitionKind.Dissolve) { Start = start, End = Math.Max(end, middle) }, At(middle).Time, distance));
    }

    private void FindFade()
    {
        var newest = Newest;
        if (newest.IsBlank)
        {
            _fade = _fade is { } open && open.LastBlank == newest.Frame - 1 ? open with { LastBlank = newest.Frame } : StartFade(newest.Frame);
            return;
        }

        if (_fade is not { } fade)
        {
            return;
        }

        // Fading in ends when the contrast no longer grows.
        var isGrowing = newest.Contrast > At(newest.Frame - 1).Contrast * FadeStep;
        if (!isGrowing || newest.Time - At(fade.LastBlank).Time > _options.MaximumTransition)
        {
            EndFade(fade with { End = Math.Max(fade.LastBlank + 1, newest.Frame - 1) });
        }
    }

    private Fade StartFade(int blank)
    {
        if (_fade is { } open)
        {
            EndFade(open with { End = open.LastBlank + 1 });
        }

        // Fading out began when the contrast was no longer larger in the frame before.
        var start = blank;
        while (
            start > _memory[0].Frame
            && At(blank).Time - At(start - 1).Time <= _options.MaximumTransition
            && (start == blank || At(start - 1).Contrast > At(start).Contrast * FadeStep)
        )
        {
            start--;
        }

        return new(start, blank, blank, blank + 1);
    }

    private void EndFade(Fade fade)
    {
        _fade = null;
        if (fade.FirstBlank == 0)
        {
            _fades.Add(new(new(0, TransitionKind.Fade) { Start = 0, End = fade.End }, TimeSpan.FromDays(-1), double.MaxValue));
            return;
        }

        if (fade.End >= _frames && Newest.IsBlank)
        {
            _fades.Add(new(new(_frames, TransitionKind.Fade) { Start = fade.Start + 1, End = _frames }, TimeSpan.FromDays(10_000), double.MaxValue));
            return;
        }

        var (before, after, blank) = (At(fade.Start), At(Math.Min(fade.End, _frames - 1)), At(fade.FirstBlank));
        var isFlash = after.Time - before.Time <= _options.FlashLength && Returns(before, after, before.DistanceTo(blank));
        if (!isFlash)
        {
            var middle = fade.FirstBlank + ((fade.LastBlank + 1 - fade.FirstBlank) / 2);
            _fades.Add(
                new(
                    new(middle, TransitionKind.Fade) { Start = Math.Min(fade.Start + 1, middle), End = Math.Max(fade.End, middle) },
                    At(middle).Time,
                    double.MaxValue
                )
            );
        }
    }

    // Fades explain cuts and dissolves in them, and cuts explain dissolves.
    private List<ShotTransition> Combine()
    {
        var cuts = _cuts.Where(cut => !_fades.Exists(fade => cut.Frame >= fade.Start && cut.Frame <= fade.End)).ToList();
        var dissolves = _dissolves.Where(dissolve =>
            !_fades.Exists(fade => dissolve.Start <= fade.End && dissolve.End >= fade.Start)
            && !cuts.Exists(cut => cut.Frame >= dissolve.Start && cut.Frame <= dissolve.End)
        );
        List<Found> combined = [];
        foreach (var found in _fades.Concat(cuts).Concat(dissolves).OrderBy(each => each.Frame))
        {
            // The strongest of several close boundaries counts.
            if (combined.Count > 0 && !MinimumLengths.IsMet(found.Time - combined[^1].Time, _options.MinimumLength))
            {
                if (found.Change <= combined[^1].Change)
                {
                    continue;
                }

                combined.RemoveAt(combined.Count - 1);
            }

            if (found.Change == double.MaxValue || MinimumLengths.IsMet(found.Time - _start, _options.MinimumLength))
            {
                combined.Add(found);
            }
        }

        return combined.ConvertAll(each => each.Transition);
    }

    private readonly record struct Found(ShotTransition Transition, TimeSpan Time, double Change)
    {
        internal int Frame => Transition.Frame;

        internal int Start => Transition.Start;

        internal int End => Transition.End;
    }

    private sealed record Fade(int Start, int FirstBlank, int LastBlank, int End);
}
