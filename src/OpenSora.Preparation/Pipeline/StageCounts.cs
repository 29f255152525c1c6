using System.Diagnostics;

namespace OpenSora.Preparation.Pipeline;

/// <summary>Counts what each stage has done, and reports it.</summary>
internal sealed class StageCounts
{
    private readonly IProgress<PreparationProgress>? _progress;
    private readonly Stage[] _stages = [.. Enum.GetValues<PreparationStage>().Select(_ => new Stage())];

    internal StageCounts(IProgress<PreparationProgress>? progress) => _progress = progress;

    private sealed class Stage
    {
        public readonly Stopwatch Clock = new();
        public double Done,
            Partial;
        public long Total,
            Dropped;
        public double DoneBefore;
    }

    /// <summary>Begins a stage with what earlier runs did of it.</summary>
    internal void Begin(PreparationStage stage, long done = 0, long total = 0, long dropped = 0) => Change(stage, counts =>
        {
            (counts.Done, counts.Total, counts.Dropped, counts.DoneBefore) = (done, total, dropped, done + dropped);
            counts.Clock.Restart();
        });

    /// <summary>Adds items to do.</summary>
    internal void Add(PreparationStage stage, long items) => Change(stage, counts => counts.Total += items);

    /// <summary>Counts an item that is done.</summary>
    internal void Done(PreparationStage stage) => Change(stage, counts => counts.Done++);

    /// <summary>Counts an item that is dropped.</summary>
    internal void Drop(PreparationStage stage) => Change(stage, counts => counts.Dropped++);

    /// <summary>Begins an item that reports how much of it is done.</summary>
    /// <param name="stage">The stage.</param>
    /// <param name="whole">The length of the item; null if it is not known.</param>
    internal Share BeginShare(PreparationStage stage, TimeSpan? whole) => new(this, stage, whole);

    private void Change(PreparationStage stage, Action<Stage> change)
    {
        PreparationProgress now;
        lock (_stages)
        {
            var counts = _stages[(int)stage];
            change(counts);
            var finished = counts.Done + counts.Partial + counts.Dropped - counts.DoneBefore;
            var left = counts.Total - counts.DoneBefore - finished;
            TimeSpan? remaining = finished > 0 && counts.Clock.IsRunning ? counts.Clock.Elapsed * Math.Max(0, left / finished) : null;
            now = new(stage, counts.Done + counts.Partial, counts.Total, counts.Dropped, remaining);
        }

        _progress?.Report(now);
    }

    /// <summary>The part of an item that is done.</summary>
    internal sealed class Share(StageCounts counts, PreparationStage stage, TimeSpan? whole) : IProgress<TimeSpan>, IDisposable
    {
        private double _reported;

        public void Report(TimeSpan value)
        {
            var more = (whole is { } length ? Math.Clamp(value / length, 0, 1) : 0) - _reported;
            if (more >= 0.01)
            {
                _reported += more;
                counts.Change(stage, each => each.Partial += more);
            }
        }

        public void Dispose() => counts.Change(stage, each => each.Partial -= _reported);
    }
}
