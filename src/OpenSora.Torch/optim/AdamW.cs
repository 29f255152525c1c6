using OpenSora.Torch;

namespace TorchSharp
{
    using Modules;

    public static partial class torch
    {
        public static partial class optim
        {
            /// <summary>Adam with the weight decay apart from the gradient (Loshchilov and Hutter, 2019). The default decay is 0, not PyTorch's 0.01.</summary>
            public static AdamW AdamW(
                IEnumerable<Parameter> parameters, double lr = 1e-3, double beta1 = 0.9, double beta2 = 0.999, double eps = 1e-8, double weight_decay = 0,
                bool amsgrad = false, bool maximize = false) =>
                new(parameters, lr, beta1, beta2, eps, weight_decay, amsgrad, maximize);

            /// <inheritdoc cref="AdamW(IEnumerable{Parameter}, double, double, double, double, double, bool, bool)"/>
            public static AdamW AdamW(
                IEnumerable<(string name, Parameter parameter)> parameters, double lr = 1e-3, double beta1 = 0.9, double beta2 = 0.999, double eps = 1e-8,
                double weight_decay = 0, bool amsgrad = false, bool maximize = false) =>
                new(parameters.Select(entry => entry.parameter), lr, beta1, beta2, eps, weight_decay, amsgrad, maximize);

            /// <inheritdoc cref="AdamW(IEnumerable{Parameter}, double, double, double, double, double, bool, bool)"/>
            public static AdamW AdamW(
                IEnumerable<AdamW.ParamGroup> parameters, double lr = 1e-3, double beta1 = 0.9, double beta2 = 0.999, double eps = 1e-8,
                double weight_decay = 0, bool amsgrad = false, bool maximize = false) =>
                new(parameters, lr, beta1, beta2, eps, weight_decay, amsgrad, maximize);
        }
    }
}

namespace TorchSharp.Modules
{
    using static torch;

    public class AdamW : OptimizerHelper, optim.IBetas
    {
        public AdamW(
            IEnumerable<Parameter> parameters, double lr = 1e-3, double beta1 = 0.9, double beta2 = 0.999, double eps = 1e-8, double weight_decay = 0,
            bool amsgrad = false, bool maximize = false)
            : this([new ParamGroup { Parameters = parameters }], lr, beta1, beta2, eps, weight_decay, amsgrad, maximize)
        {
        }

        public AdamW(
            IEnumerable<ParamGroup> parameters, double lr = 1e-3, double beta1 = 0.9, double beta2 = 0.999, double eps = 1e-8, double weight_decay = 0,
            bool amsgrad = false, bool maximize = false)
        {
            Moments.Check(lr, beta1, beta2, eps, weight_decay);
            _defaults = new Options
            {
                LearningRate = lr,
                InitialLearningRate = lr,
                beta1 = beta1,
                beta2 = beta2,
                eps = eps,
                weight_decay = weight_decay,
                amsgrad = amsgrad,
                maximize = maximize,
            };
            foreach (var group in parameters)
                add_param_group(group);
        }

        public (double, double) Betas
        {
            get => _defaults is Options options ? (options.beta1!.Value, options.beta2!.Value) : default;
            set
            {
                foreach (var group in _parameter_groups.Cast<ParamGroup>())
                    group.Betas = value;
                if (_defaults is Options options)
                    (options.beta1, options.beta2) = value;
            }
        }

        public override void add_param_group(Modules.ParamGroup param_group)
        {
            param_group.Options ??= new Options();
            var options = (Options)param_group.Options;
            var defaults = (Options)_defaults;
            options.LearningRate ??= defaults.LearningRate;
            options.beta1 ??= defaults.beta1;
            options.beta2 ??= defaults.beta2;
            options.eps ??= defaults.eps;
            options.weight_decay ??= defaults.weight_decay;
            options.amsgrad ??= defaults.amsgrad;
            options.maximize ??= defaults.maximize;
            base.add_param_group(param_group);
        }

        /// <summary>Updates every parameter that has a gradient, all of a group by each operator call.</summary>
        public override Tensor? step(Func<Tensor>? closure = null) => _step<ParamGroup>(Update, closure);

        private void Update(ParamGroup group)
        {
            var options = group.Options;
            var (parameters, gradients, states) = Active<State>(group, options.maximize!.Value);
            if (parameters.Length == 0)
                return;

            var rate = options.LearningRate!.Value;
            var decay = options.weight_decay!.Value;
            if (decay != 0)
                Aten.Run("_foreach_mul_.Scalar", parameters, 1 - (rate * decay));
            foreach (var state in states)
                state.step++;
            Moments.Update(
                parameters,
                gradients,
                Array.ConvertAll(states, state => state.step),
                Array.ConvertAll(states, state => state.exp_avg!),
                Array.ConvertAll(states, state => state.exp_avg_sq!),
                options.amsgrad!.Value ? Array.ConvertAll(states, state => state.max_exp_avg_sq!) : null,
                rate,
                options.beta1!.Value,
                options.beta2!.Value,
                options.eps!.Value);
        }

        protected override void Dispose(bool disposing)
        {
            base.Dispose(disposing);
            DisposeStates(disposing);
        }

        private protected override OptimizerState NewState(Parameter parameter) => new State(parameter);

        public class State : OptimizerState, IDisposable
        {
            public long step;
            public Tensor? exp_avg;
            public Tensor? exp_avg_sq;
            public Tensor? max_exp_avg_sq;

            public State(Parameter parameter)
                : base(parameter)
            {
            }

            public override void Initialize(OptimizerOptions options)
            {
                step = 0;
                exp_avg = Blank(_parameter);
                exp_avg_sq = Blank(_parameter);
                max_exp_avg_sq = ((Options)options).amsgrad == true ? Blank(_parameter) : null;
            }

            /// <summary>Takes copies of another state's values.</summary>
            public override void LoadStateDict(OptimizerState source)
            {
                var other = (State)source;
                step = other.step;
                Load(ref exp_avg, other.exp_avg, _parameter);
                Load(ref exp_avg_sq, other.exp_avg_sq, _parameter);
                Load(ref max_exp_avg_sq, other.max_exp_avg_sq, _parameter);
            }

            public override void to(Device device)
            {
                Move(ref exp_avg, device);
                Move(ref exp_avg_sq, device);
                Move(ref max_exp_avg_sq, device);
            }

            public override bool ApproximatelyEquals(OptimizerState other) =>
                other is State state && step == state.step && Near(exp_avg, state.exp_avg) && Near(exp_avg_sq, state.exp_avg_sq) &&
                Near(max_exp_avg_sq, state.max_exp_avg_sq);

            public void Dispose()
            {
                exp_avg?.Dispose();
                exp_avg_sq?.Dispose();
                max_exp_avg_sq?.Dispose();
                GC.SuppressFinalize(this);
            }
        }

        public class Options : OptimizerOptions
        {
            public double? beta1;
            public double? beta2;
            public double? weight_decay;
            public double? eps;
            public bool? amsgrad;
            public bool? maximize;

            public override void LoadStateDict(OptimizerOptions source)
            {
                base.LoadStateDict(source);
                var options = (Options)source;
                (beta1, beta2, weight_decay) = (options.beta1, options.beta2, options.weight_decay);
                (eps, amsgrad, maximize) = (options.eps, options.amsgrad, options.maximize);
            }
        }

        public class ParamGroup : ParamGroup<Options>, optim.IBetas
        {
            public ParamGroup()
            {
            }

            public ParamGroup(IEnumerable<Parameter> parameters, Options options)
                : base(parameters, options)
            {
            }

            public ParamGroup(
                IEnumerable<Parameter> parameters, double lr = 1e-3, double beta1 = 0.9, double beta2 = 0.999, double eps = 1e-8, double weight_decay = 0,
                bool amsgrad = false, bool maximize = false)
                : base(parameters, new Options
                {
                    LearningRate = lr,
                    beta1 = beta1,
                    beta2 = beta2,
                    eps = eps,
                    weight_decay = weight_decay,
                    amsgrad = amsgrad,
                    maximize = maximize,
                })
            {
            }

            public (double, double) Betas
            {
                get => (Options.beta1!.Value, Options.beta2!.Value);
                set => (Options.beta1, Options.beta2) = value;
            }
        }
    }

    /// <summary>Adam's rule for many tensors at once (Kingma and Ba, 2015, algorithm 1).</summary>
    internal static class Moments
    {
        internal static void Check(double rate, double beta1, double beta2, double eps, double decay)
        {
            if (!(rate >= 0))
                throw new ArgumentOutOfRangeException(nameof(rate), rate, "A learning rate is not negative.");
            if (!(beta1 is >= 0 and < 1))
                throw new ArgumentOutOfRangeException(nameof(beta1), beta1, "beta1 is at least 0 and below 1.");
            if (!(beta2 is >= 0 and < 1))
                throw new ArgumentOutOfRangeException(nameof(beta2), beta2, "beta2 is at least 0 and below 1.");
            if (!(eps >= 0))
                throw new ArgumentOutOfRangeException(nameof(eps), eps, "eps is not negative.");
            if (!(decay >= 0))
                throw new ArgumentOutOfRangeException(nameof(decay), decay, "A weight decay is not negative.");
        }

        /// <summary>Updates a few parameters at a time, so that each operator finds what the one before it wrote in the processor's cache.</summary>
        internal static void Update(
            Tensor[] parameters, Tensor[] gradients, long[] steps, Tensor[] means, Tensor[] squares, Tensor[]? largest,
            double rate, double beta1, double beta2, double eps)
        {
            const long few = 1 << 18;
            for (int from = 0, to; from < parameters.Length; from = to)
            {
                to = from + 1;
                for (var size = parameters[from].numel(); to < parameters.Length && size + parameters[to].numel() <= few; to++)
                    size += parameters[to].numel();
                UpdateTogether(
                    parameters[from..to], gradients[from..to], steps[from..to], means[from..to], squares[from..to], largest?[from..to], rate, beta1, beta2, eps);
            }
        }

        private static void UpdateTogether(
            Tensor[] parameters, Tensor[] gradients, long[] steps, Tensor[] means, Tensor[] squares, Tensor[]? largest,
            double rate, double beta1, double beta2, double eps)
        {
            using var scope = NewDisposeScope();
            Aten.Run("_foreach_mul_.Scalar", means, beta1);
            Aten.Run("_foreach_add_.List", means, gradients, 1 - beta1);
            Aten.Run("_foreach_mul_.Scalar", squares, beta2);
            Aten.Run("_foreach_addcmul_.Scalar", squares, gradients, gradients, 1 - beta2);
            if (largest is not null)
            {
                foreach (var (maximum, square) in largest.Zip(squares))
                    maximum.copy_(torch.maximum(maximum, square));
            }

            // parameter -= rate / (1 - beta1^t) * mean / (sqrt(square) / sqrt(1 - beta2^t) + eps), where t may differ between parameters.
            var divisors = Aten.CallList("_foreach_sqrt", largest ?? squares);
            Aten.Run("_foreach_div_.ScalarList", divisors, Array.ConvertAll(steps, step => Math.Sqrt(1 - Math.Pow(beta2, step))));
            Aten.Run("_foreach_add_.Scalar", divisors, eps);
            Aten.Run("_foreach_addcdiv_.ScalarList", parameters, means, divisors, Array.ConvertAll(steps, step => -rate / (1 - Math.Pow(beta1, step))));
        }
    }
}
