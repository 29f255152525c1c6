using OpenSora.Torch;

namespace TorchSharp
{
    using Modules;

    public static partial class torch
    {
        public static partial class optim
        {
            /// <summary>Gradient descent with optional momentum.</summary>
            public static SGD SGD(
                IEnumerable<Parameter> parameters, double learningRate, double momentum = 0.0, double dampening = 0, double weight_decay = 0,
                bool nesterov = false, bool maximize = false) =>
                new(parameters, learningRate, momentum, dampening, weight_decay, nesterov, maximize);

            /// <inheritdoc cref="SGD(IEnumerable{Parameter}, double, double, double, double, bool, bool)"/>
            public static SGD SGD(
                IEnumerable<(string name, Parameter parameter)> parameters, double learningRate, double momentum = 0.0, double dampening = 0,
                double weight_decay = 0, bool nesterov = false, bool maximize = false) =>
                new(parameters.Select(entry => entry.parameter), learningRate, momentum, dampening, weight_decay, nesterov, maximize);

            /// <inheritdoc cref="SGD(IEnumerable{Parameter}, double, double, double, double, bool, bool)"/>
            public static SGD SGD(
                IEnumerable<SGD.ParamGroup> parameters, double learningRate, double momentum = 0.0, double dampening = 0, double weight_decay = 0,
                bool nesterov = false, bool maximize = false) =>
                new(parameters, learningRate, momentum, dampening, weight_decay, nesterov, maximize);
        }
    }
}

namespace TorchSharp.Modules
{
    using static torch;

    public class SGD : OptimizerHelper, optim.IMomentum
    {
        public SGD(
            IEnumerable<Parameter> parameters, double lr, double momentum = 0, double dampening = 0, double weight_decay = 0, bool nesterov = false,
            bool maximize = false)
            : this([new ParamGroup { Parameters = parameters }], lr, momentum, dampening, weight_decay, nesterov, maximize)
        {
        }

        public SGD(
            IEnumerable<ParamGroup> parameters, double lr, double momentum = 0.0, double dampening = 0, double weight_decay = 0, bool nesterov = false,
            bool maximize = false)
        {
            Moments.Check(lr, 0, 0, 0, weight_decay);
            if (!(momentum >= 0))
                throw new ArgumentOutOfRangeException(nameof(momentum), momentum, "A momentum is not negative.");
            if (nesterov && (momentum == 0 || dampening != 0))
                throw new ArgumentException("Nesterov's momentum needs a momentum and no dampening.", nameof(nesterov));
            _defaults = new Options
            {
                LearningRate = lr,
                InitialLearningRate = lr,
                momentum = momentum,
                dampening = dampening,
                weight_decay = weight_decay,
                nesterov = nesterov,
                maximize = maximize,
            };
            foreach (var group in parameters)
                add_param_group(group);
        }

        public double Momentum
        {
            get => ((Options)_defaults).momentum!.Value;
            set
            {
                foreach (var group in _parameter_groups.Cast<ParamGroup>())
                    group.Momentum = value;
                ((Options)_defaults).momentum = value;
            }
        }

        public override void add_param_group(Modules.ParamGroup param_group)
        {
            param_group.Options ??= new Options();
            var options = (Options)param_group.Options;
            var defaults = (Options)_defaults;
            options.LearningRate ??= defaults.LearningRate;
            options.momentum ??= defaults.momentum;
            options.dampening ??= defaults.dampening;
            options.weight_decay ??= defaults.weight_decay;
            options.nesterov ??= defaults.nesterov;
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

            var decay = options.weight_decay!.Value;
            if (decay != 0)
                gradients = Aten.CallList("_foreach_add.List", gradients, parameters, decay);
            var momentum = options.momentum!.Value;
            if (momentum != 0)
            {
                // The first step starts the buffer with the gradient itself, undampened.
                var begun = states.Select(state => state.momentum_buffer is not null).ToArray();
                var running = states.Where((_, i) => begun[i]).Select(state => state.momentum_buffer!).ToArray();
                if (running.Length > 0)
                {
                    Aten.Run("_foreach_mul_.Scalar", running, momentum);
                    Aten.Run("_foreach_add_.List", running, gradients.Where((_, i) => begun[i]).ToArray(), 1 - options.dampening!.Value);
                }

                for (var i = 0; i < states.Length; i++)
                    states[i].momentum_buffer ??= gradients[i].detach().clone().DetachFromDisposeScope();
                var buffers = Array.ConvertAll(states, state => state.momentum_buffer!);
                gradients = options.nesterov!.Value ? Aten.CallList("_foreach_add.List", gradients, buffers, momentum) : buffers;
            }

            Aten.Run("_foreach_add_.List", parameters, gradients, -options.LearningRate!.Value);
        }

        protected override void Dispose(bool disposing)
        {
            base.Dispose(disposing);
            DisposeStates(disposing);
        }

        private protected override OptimizerState NewState(Parameter parameter) => new State(parameter);

        public class State : OptimizerState, IDisposable
        {
            public Tensor? momentum_buffer;

            public State(Parameter parameter)
                : base(parameter)
            {
            }

            /// <summary>Takes copies of another state's values.</summary>
            public override void LoadStateDict(OptimizerState source) => Load(ref momentum_buffer, ((State)source).momentum_buffer, _parameter);

            public override void to(Device device) => Move(ref momentum_buffer, device);

            public override bool ApproximatelyEquals(OptimizerState other) =>
                other is State state && Near(momentum_buffer, state.momentum_buffer);

            public void Dispose()
            {
                momentum_buffer?.Dispose();
                GC.SuppressFinalize(this);
            }
        }

        public class Options : OptimizerOptions
        {
            public double? momentum;
            public double? dampening;
            public double? weight_decay;
            public bool? nesterov;
            public bool? maximize;

            public override void LoadStateDict(OptimizerOptions source)
            {
                base.LoadStateDict(source);
                var options = (Options)source;
                (momentum, dampening, weight_decay) = (options.momentum, options.dampening, options.weight_decay);
                (nesterov, maximize) = (options.nesterov, options.maximize);
            }
        }

        public class ParamGroup : ParamGroup<Options>, optim.IMomentum
        {
            public ParamGroup()
            {
            }

            public ParamGroup(IEnumerable<Parameter> parameters, Options options)
                : base(parameters, options)
            {
            }

            public ParamGroup(
                IEnumerable<Parameter> parameters, double lr = 1e-3, double momentum = 0.0, double dampening = 0, double weight_decay = 0,
                bool nesterov = false, bool maximize = false)
                : base(parameters, new Options
                {
                    LearningRate = lr,
                    momentum = momentum,
                    dampening = dampening,
                    weight_decay = weight_decay,
                    nesterov = nesterov,
                    maximize = maximize,
                })
            {
            }

            public double Momentum
            {
                get => Options.momentum!.Value;
                set => Options.momentum = value;
            }
        }
    }
}
