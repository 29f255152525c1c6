namespace TorchSharp;

public static partial class torch
{
    public static partial class optim
    {
        /// <summary>Schedules of learning rates. Each begins at its step 0 when it is made and goes on with every <c>step()</c>.</summary>
        public static class lr_scheduler
        {
            public abstract class LRScheduler
            {
                protected int _step_count;

                private protected Optimizer _optimizer = null!;
                private protected IReadOnlyList<double> _baseRates = [];
                private protected int _epoch;
                private IReadOnlyList<double> _rates = [];
                private bool _verbose;

                protected LRScheduler()
                {
                }

                protected LRScheduler(Optimizer optimizer, int last_epoch = -1, bool verbose = false)
                {
                    ArgumentNullException.ThrowIfNull(optimizer);
                    (_optimizer, _epoch, _verbose) = (optimizer, last_epoch, verbose);
                    _baseRates = optimizer.ParamGroups.Select(group => group.InitialLearningRate).ToArray();
                    _rates = optimizer.ParamGroups.Select(group => group.LearningRate).ToArray();
                }

                /// <summary>Goes to the next epoch.</summary>
                public virtual void step() => Step(null);

                /// <summary>Jumps to an epoch.</summary>
                public virtual void step(int? epoch) => Step(epoch);

                private protected virtual void Step(int? epoch)
                {
                    _step_count++;
                    _epoch = epoch ?? _epoch + 1;
                    _rates = (epoch is null ? get_lr() : get_closed_form_lr() ?? get_lr()).ToArray();
                    foreach (var (group, rate) in _optimizer.ParamGroups.Zip(_rates))
                        group.LearningRate = rate;
                    if (_verbose)
                        Console.WriteLine(FormattableString.Invariant($"Epoch {_epoch}: learning rate {string.Join(", ", _rates)}"));
                }

                public virtual IEnumerable<double> get_last_lr() => _rates;

                /// <summary>The rates of this epoch, made from those of the one before, so that schedules can be combined.</summary>
                protected virtual IEnumerable<double> get_lr() => Rates;

                /// <summary>The rates of this epoch, made from the first ones; null where there is no such formula.</summary>
                protected virtual IEnumerable<double>? get_closed_form_lr() => null;

                private protected IEnumerable<double> Rates => _optimizer.ParamGroups.Select(group => group.LearningRate);

                /// <summary>Takes back the step that making the schedule took.</summary>
                internal void Rewind() => _epoch--;
            }

            public static LRScheduler LambdaLR(Optimizer optimizer, Func<int, double> lr_lambda, int last_epoch = -1, bool verbose = false) =>
                new impl.LambdaLR(optimizer, lr_lambda, last_epoch, verbose);

            public static LRScheduler StepLR(Optimizer optimizer, int step_size, double gamma = 0.1, int last_epoch = -1, bool verbose = false) =>
                new impl.StepLR(optimizer, step_size, gamma, last_epoch, verbose);

            public static LRScheduler CosineAnnealingLR(Optimizer optimizer, double T_max, double eta_min = 0, int last_epoch = -1, bool verbose = false) =>
                new impl.CosineAnnealingLR(optimizer, T_max, eta_min, last_epoch, verbose);

            public static LRScheduler LinearLR(
                Optimizer optimizer, double start_factor = 1.0 / 3, double end_factor = 1, int total_iters = 5, int last_epoch = -1, bool verbose = false) =>
                new impl.LinearLR(optimizer, start_factor, end_factor, total_iters, last_epoch, verbose);

            public static LRScheduler ConstantLR(
                Optimizer optimizer, double factor = 1.0 / 3, int total_iters = 5, int last_epoch = -1, bool verbose = false) =>
                new impl.ConstantLR(optimizer, factor, total_iters, last_epoch, verbose);

            public static LRScheduler SequentialLR(Optimizer optimizer, IEnumerable<LRScheduler> schedulers, IEnumerable<int> milestones, int last_epoch = -1) =>
                new impl.SequentialLR(optimizer, schedulers, milestones, last_epoch);

            public static class impl
            {
                /// <summary>base * lambda(epoch).</summary>
                public class LambdaLR : LRScheduler
                {
                    private readonly Func<int, double>[] _lambdas;

                    public LambdaLR(Optimizer optimizer, Func<int, double> lr_lambda, int last_epoch = -1, bool verbose = false)
                        : this(optimizer, optimizer.ParamGroups.Select(_ => lr_lambda), last_epoch, verbose)
                    {
                    }

                    public LambdaLR(Optimizer optimizer, IEnumerable<Func<int, double>> lr_lambdas, int last_epoch = -1, bool verbose = false)
                        : base(optimizer, last_epoch, verbose)
                    {
                        _lambdas = lr_lambdas.ToArray();
                        if (_lambdas.Length != _baseRates.Count)
                            throw new ArgumentException($"{_lambdas.Length} functions for {_baseRates.Count} groups of parameters.", nameof(lr_lambdas));
                        step();
                    }

                    protected override IEnumerable<double> get_lr() => _baseRates.Select((rate, i) => rate * _lambdas[i](_epoch));
                }

                /// <summary>Times gamma every step_size epochs.</summary>
                public class StepLR : LRScheduler
                {
                    private readonly int _stepSize;
                    private readonly double _gamma;

                    public StepLR(Optimizer optimizer, int step_size, double gamma = 0.1, int last_epoch = -1, bool verbose = false)
                        : base(optimizer, last_epoch, verbose)
                    {
                        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(step_size);
                        (_stepSize, _gamma) = (step_size, gamma);
                        step();
                    }

                    protected override IEnumerable<double> get_lr() =>
                        _epoch == 0 || _epoch % _stepSize != 0 ? Rates : Rates.Select(rate => rate * _gamma);

                    protected override IEnumerable<double> get_closed_form_lr() =>
                        _baseRates.Select(rate => rate * Math.Pow(_gamma, Math.Floor((double)_epoch / _stepSize)));
                }

                /// <summary>Half a cosine from the base rate to eta_min in T_max epochs (Loshchilov and Hutter, 2017, without restarts).</summary>
                public class CosineAnnealingLR : LRScheduler
                {
                    private readonly double _period;
                    private readonly double _least;

                    public CosineAnnealingLR(Optimizer optimizer, double T_max, double eta_min = 0, int last_epoch = -1, bool verbose = false)
                        : base(optimizer, last_epoch, verbose)
                    {
                        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(T_max);
                        (_period, _least) = (T_max, eta_min);
                        step();
                    }

                    protected override IEnumerable<double> get_lr()
                    {
                        if (_epoch == 0)
                            return Rates;
                        if (_step_count == 1)
                            return get_closed_form_lr();
                        if ((_epoch - 1 - _period) % (2 * _period) == 0)
                            return Rates.Zip(_baseRates, (rate, first) => rate + ((first - _least) * (1 - Math.Cos(Math.PI / _period)) / 2));
                        var factor = (1 + Math.Cos(Math.PI * _epoch / _period)) / (1 + Math.Cos(Math.PI * (_epoch - 1) / _period));
                        return Rates.Select(rate => (factor * (rate - _least)) + _least);
                    }

                    protected override IEnumerable<double> get_closed_form_lr() =>
                        _baseRates.Select(first => _least + ((first - _least) * (1 + Math.Cos(Math.PI * _epoch / _period)) / 2));
                }

                /// <summary>A factor that goes straight from start_factor to end_factor in total_iters epochs.</summary>
                public class LinearLR : LRScheduler
                {
                    private readonly double _start;
                    private readonly double _end;
                    private readonly int _total;

                    public LinearLR(
                        Optimizer optimizer, double start_factor = 1.0 / 3, double end_factor = 1, int total_iters = 5, int last_epoch = -1, bool verbose = false)
                        : base(optimizer, last_epoch, verbose)
                    {
                        if (start_factor is <= 0 or > 1)
                            throw new ArgumentOutOfRangeException(nameof(start_factor), start_factor, "The first factor is above 0 and at most 1.");
                        if (end_factor is < 0 or > 1)
                            throw new ArgumentOutOfRangeException(nameof(end_factor), end_factor, "The last factor is between 0 and 1.");
                        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(total_iters);
                        (_start, _end, _total) = (start_factor, end_factor, total_iters);
                        step();
                    }

                    protected override IEnumerable<double> get_lr()
                    {
                        if (_epoch == 0)
                            return Rates.Select(rate => rate * _start);
                        if (_epoch > _total)
                            return Rates;
                        var factor = 1 + ((_end - _start) / ((_total * _start) + ((_epoch - 1) * (_end - _start))));
                        return Rates.Select(rate => rate * factor);
                    }

                    protected override IEnumerable<double> get_closed_form_lr() =>
                        _baseRates.Select(rate => rate * (_start + ((_end - _start) * Math.Min(_total, _epoch) / _total)));
                }

                /// <summary>A factor for total_iters epochs, then none.</summary>
                public class ConstantLR : LRScheduler
                {
                    private readonly double _factor;
                    private readonly int _total;

                    public ConstantLR(Optimizer optimizer, double factor = 1.0 / 3, int total_iters = 5, int last_epoch = -1, bool verbose = false)
                        : base(optimizer, last_epoch, verbose)
                    {
                        if (factor is <= 0 or > 1)
                            throw new ArgumentOutOfRangeException(nameof(factor), factor, "The factor is above 0 and at most 1.");
                        (_factor, _total) = (factor, total_iters);
                        step();
                    }

                    protected override IEnumerable<double> get_lr()
                    {
                        if (_epoch == 0)
                            return Rates.Select(rate => rate * _factor);
                        return _epoch == _total ? Rates.Select(rate => rate / _factor) : Rates;
                    }

                    protected override IEnumerable<double> get_closed_form_lr() => _baseRates.Select(rate => _epoch < _total ? rate * _factor : rate);
                }

                /// <summary>Schedules one after the other; each begins anew at its milestone.</summary>
                public class SequentialLR : LRScheduler
                {
                    private readonly LRScheduler[] _schedulers;
                    private readonly int[] _milestones;

                    public SequentialLR(Optimizer optimizer, IEnumerable<LRScheduler> schedulers, IEnumerable<int> milestones, int last_epoch = -1)
                        : base(optimizer, last_epoch + 1)
                    {
                        (_schedulers, _milestones) = (schedulers.ToArray(), milestones.ToArray());
                        if (_milestones.Length != _schedulers.Length - 1)
                            throw new ArgumentException($"{_schedulers.Length} schedules need {_schedulers.Length - 1} milestones, not {_milestones.Length}.", nameof(milestones));
                        foreach (var group in optimizer.ParamGroups)
                            group.LearningRate = group.InitialLearningRate;
                        foreach (var scheduler in _schedulers)
                            scheduler.Rewind();
                        _schedulers[0].step();
                    }

                    private protected override void Step(int? epoch)
                    {
                        if (epoch is not null)
                            throw new NotSupportedException("A sequence of schedules cannot jump to an epoch.");
                        _epoch++;
                        var index = _milestones.Count(milestone => milestone <= _epoch);
                        if (index > 0 && _milestones[index - 1] == _epoch)
                            _schedulers[index].step(0);
                        else
                            _schedulers[index].step();
                    }
                }
            }
        }
    }
}
