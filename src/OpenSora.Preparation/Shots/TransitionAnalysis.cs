namespace OpenSora.Preparation.Shots;

/// <summary>The analysis of a video by <see cref="TransitionDetector"/>. It remembers small pictures of the last few seconds.</summary>
internal sealed class TransitionAnalysis : ShotAnalysis
{
    // A flash is recognized when the picture differs from that before it by less than this part of the flash itself.
    private const double Return = 0.45;

    // The contrast of a fading picture changes from frame to frame by at least this factor.
    private const double FadeStep = 1.01;
    private const int Samples = 6;
    private const int MaxMemory = 400;

    // The lengths of dissolves that are tried, as parts of the longest one.
    private static readonly double[] Lengths = [0.06, 0.09, 0.13, 0.19, 0.28, 0.4, 0.55, 0.75, 1];

    private readonly TransitionDetector _options;
    private readonly ContentScore _score = new(new(), edgeKernel: null);
    private readonly List<Thumbnail> _memory = []; // the last frames
    private readonly List<Found> _cuts = [];
    private readonly List<Found> _dissolves = [];
    private readonly List<Found> _fades = [];
    private AreaScale? _scale;
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
        const int Window = 2;
        for (; _checked < _frames; _checked++)
        {
            var here = At(_checked);
            if (!isLast && (Newest.Time - here.Time <= _options.FlashLength || Newest.Frame < _checked + Window))
            {
                return;
            }

            if (here.Content < _options.MinimumContent || _checked == 0)
            {
                continue;
            }

            var (sum, count) = (0.0, 0);
            for (var near = Math.Max(1, _checked - Window); near <= Math.Min(_frames - 1, _checked + Window); near++)
            {
                (sum, count) = near == _checked ? (sum, count) : (sum + At(near).Content, count + 1);
            }

            if (count > 0 && here.Content * count >= _options.CutRatio * sum && !IsFlash(_checked))
            {
                _cuts.Add(new(new(_checked), here.Time));
            }
        }
    }

    // A flash begins if the picture before it returns, and ends if the picture after it was there before.
    private bool IsFlash(int frame)
    {
        var (before, here) = (At(frame - 1), At(frame));
        var limit = before.DistanceTo(here) * Return;
        for (var i = frame - _memory[0].Frame + 1; i < _memory.Count && _memory[i].Time - here.Time <= _options.FlashLength; i++)
        {
            if (before.DistanceTo(_memory[i]) < limit)
            {
                return true;
            }
        }

        for (var i = frame - _memory[0].Frame - 2; i >= 0 && before.Time - _memory[i].Time <= _options.FlashLength; i--)
        {
            if (here.DistanceTo(_memory[i]) < limit)
            {
                return true;
            }
        }

        return false;
    }

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
            var (start, end) = (Newest.Frame - length, Newest.Frame);
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
        if (distance < _options.MinimumChange || first.CorrelationWith(last) > _options.MaximumCorrelation)
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
        _dissolves.Add(new(new(middle, TransitionKind.Dissolve) { Start = start, End = Math.Max(end, middle) }, At(middle).Time));
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
            _fades.Add(new(new(0, TransitionKind.Fade) { Start = 0, End = fade.End }, TimeSpan.MinValue));
            return;
        }

        if (fade.End >= _frames && Newest.IsBlank)
        {
            _fades.Add(new(new(_frames, TransitionKind.Fade) { Start = fade.Start + 1, End = _frames }, TimeSpan.MaxValue));
            return;
        }

        var (before, after, blank) = (At(fade.Start), At(Math.Min(fade.End, _frames - 1)), At(fade.FirstBlank));
        var isFlash = At(fade.LastBlank).Time - blank.Time <= _options.FlashLength && before.DistanceTo(after) < before.DistanceTo(blank) * Return;
        if (!isFlash)
        {
            var middle = fade.FirstBlank + ((fade.LastBlank + 1 - fade.FirstBlank) / 2);
            _fades.Add(
                new(new(middle, TransitionKind.Fade) { Start = Math.Min(fade.Start + 1, middle), End = Math.Max(fade.End, middle) }, At(middle).Time)
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
        List<ShotTransition> combined = [];
        var last = _start;
        foreach (var (transition, time) in _fades.Concat(cuts).Concat(dissolves).OrderBy(each => each.Frame))
        {
            // The first of several boundaries counts, and a fade always does.
            if (transition.Kind == TransitionKind.Fade || MinimumLengths.IsMet(time - last, _options.MinimumLength))
            {
                combined.Add(transition);
                last = time > _start && time < TimeSpan.MaxValue ? time : last;
            }
        }

        return combined;
    }

    private readonly record struct Found(ShotTransition Transition, TimeSpan Time)
    {
        internal int Frame => Transition.Frame;

        internal int Start => Transition.Start;

        internal int End => Transition.End;
    }

    private sealed record Fade(int Start, int FirstBlank, int LastBlank, int End);
}
