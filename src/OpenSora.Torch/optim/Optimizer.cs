using TorchSharp.Modules;

namespace TorchSharp
{
    public static partial class torch
    {
        public static partial class optim
        {
            public interface ILearningRateController
            {
                double LearningRate { get; set; }

                double InitialLearningRate { get; set; }
            }

            public interface IMomentum
            {
                double Momentum { get; set; }
            }

            public interface IBetas
            {
                (double, double) Betas { get; set; }
            }

            /// <summary>Changes parameters by their gradients.</summary>
            public abstract class Optimizer : IDisposable
            {
                protected IList<ParamGroup> _parameter_groups = [];

                private protected Optimizer()
                {
                }

                public virtual IEnumerable<ILearningRateController> ParamGroups => _parameter_groups;

                public virtual IEnumerable<Parameter> parameters() => _parameter_groups.SelectMany(group => group.Parameters);

                public abstract Tensor? step(Func<Tensor>? closure = null);

                public abstract void add_param_group(ParamGroup param_group);

                public virtual void zero_grad()
                {
                    foreach (var parameter in parameters())
                        Gradients.Zero(parameter, setToNone: true);
                }

                public void Dispose()
                {
                    Dispose(disposing: true);
                    GC.SuppressFinalize(this);
                }

                protected virtual void Dispose(bool disposing)
                {
                }

                /// <summary>What an optimizer remembers: a state a parameter and the options of each group. The states are the optimizer's own, not copies.</summary>
                public class StateDictionary
                {
                    internal StateDictionary()
                    {
                    }

                    public List<OptimizerOptions> Options { get; } = [];

                    public List<List<int>> StateIndexRef { get; } = [];

                    public List<OptimizerState> State { get; } = [];
                }
            }
        }
    }
}

namespace TorchSharp.Modules
{
    using static torch;

    /// <summary>Options of a group; those left null come from the optimizer.</summary>
    public class OptimizerOptions
    {
        public double? LearningRate { get; set; }

        public double InitialLearningRate { get; set; }

        public virtual void LoadStateDict(OptimizerOptions source)
        {
            LearningRate = source.LearningRate;
            InitialLearningRate = source.InitialLearningRate;
        }
    }

    /// <summary>What an optimizer remembers of one parameter.</summary>
    public abstract class OptimizerState
    {
        protected readonly Parameter _parameter;

        protected OptimizerState(Parameter parameter) => _parameter = parameter;

        public abstract void LoadStateDict(OptimizerState source);

        public virtual void Initialize(OptimizerOptions options)
        {
        }

        public virtual void to(Device device)
        {
        }

        public virtual bool ApproximatelyEquals(OptimizerState other) => false;

        private protected static void Move(ref Tensor? tensor, Device device)
        {
            if (tensor is null)
                return;
            using var scope = NewDisposeScope();
            var moved = tensor.to(device, copy: true).DetachFromDisposeScope();
            tensor.Dispose();
            tensor = moved;
        }

        /// <summary>Takes a copy of another state's tensor.</summary>
        private protected static void Load(ref Tensor? tensor, Tensor? source, Tensor parameter)
        {
            if (ReferenceEquals(tensor, source))
                return;
            using var scope = NewDisposeScope();
            using var frozen = no_grad();
            if (source is not null && !source.shape.SequenceEqual(parameter.shape))
            {
                throw new ArgumentException(
                    $"A state of the shape [{string.Join(", ", source.shape)}] does not belong to a parameter of the shape [{string.Join(", ", parameter.shape)}].",
                    nameof(source));
            }

            var copy = source?.to(source.dtype, parameter.device, copy: true).DetachFromDisposeScope();
            tensor?.Dispose();
            tensor = copy;
        }

        private protected static Tensor? Blank(Parameter parameter) => zeros_like(parameter, requires_grad: false).DetachFromDisposeScope();

        private protected static bool Near(Tensor? a, Tensor? b) => a is null || b is null ? ReferenceEquals(a, b) : a.allclose(b);
    }

    /// <summary>Parameters that are updated with the same options.</summary>
    public class ParamGroup : optim.ILearningRateController
    {
        public IEnumerable<Parameter> Parameters { get; set; } = [];

        public OptimizerOptions Options { get; set; } = null!;

        public double LearningRate
        {
            get => Options.LearningRate ?? 0;
            set => Options.LearningRate = value;
        }

        public double InitialLearningRate
        {
            get => Options.InitialLearningRate;
            set => Options.InitialLearningRate = value;
        }
    }

    public class ParamGroup<TOptions> : ParamGroup
        where TOptions : OptimizerOptions
    {
        public ParamGroup()
        {
        }

        public ParamGroup(IEnumerable<Parameter> parameters, TOptions? options = null)
        {
            Parameters = parameters;
            base.Options = options!;
        }

        public new TOptions Options
        {
            get => (TOptions)base.Options;
            set => base.Options = value;
        }
    }

    /// <summary>What the optimizers share. State belongs to a parameter's handle, so a module that is replaced needs a new optimizer.</summary>
    public abstract class OptimizerHelper : optim.Optimizer
    {
        protected OptimizerOptions _defaults = null!;
        protected Utils.OrderedDict<IntPtr, OptimizerState> _state = new();

        public override void add_param_group(ParamGroup param_group)
        {
            // Enumerated once: a group given as a query must not name other parameters at each step.
            param_group.Parameters = param_group.Parameters.ToList();
            foreach (var parameter in param_group.Parameters)
            {
                if (_state.ContainsKey(parameter.Handle))
                    throw new ArgumentException("A parameter is in more than one group, or twice in one.", nameof(param_group));
                var state = NewState(parameter);
                state.Initialize(param_group.Options);
                _state.Add(parameter.Handle, state);
            }

            if (param_group.Options.LearningRate is not { } rate)
                param_group.Options.LearningRate = rate = _defaults.LearningRate ?? throw new ArgumentException("No learning rate is set.", nameof(param_group));
            param_group.Options.InitialLearningRate = rate;
            _parameter_groups.Add(param_group);
        }

        public virtual optim.Optimizer.StateDictionary state_dict()
        {
            var result = new StateDictionary();
            foreach (var group in _parameter_groups)
            {
                var indices = new List<int>();
                foreach (var parameter in group.Parameters)
                {
                    indices.Add(result.State.Count);
                    result.State.Add(_state[parameter.Handle]);
                }

                result.Options.Add(group.Options);
                result.StateIndexRef.Add(indices);
            }

            return result;
        }

        /// <summary>Copies options and states of an optimizer of the same kind over the same parameters.</summary>
        public virtual void load_state_dict(optim.Optimizer.StateDictionary state_dict)
        {
            var own = this.state_dict();
            if (!own.StateIndexRef.Select(group => group.Count).SequenceEqual(state_dict.StateIndexRef.Select(group => group.Count)))
            {
                throw new ArgumentException(
                    $"The state has [{string.Join(", ", state_dict.StateIndexRef.Select(group => group.Count))}] parameters in its groups, expected [{string.Join(", ", own.StateIndexRef.Select(group => group.Count))}].",
                    nameof(state_dict));
            }

            for (var group = 0; group < own.Options.Count; group++)
            {
                own.Options[group].LoadStateDict(state_dict.Options[group]);
                foreach (var (mine, theirs) in own.StateIndexRef[group].Zip(state_dict.StateIndexRef[group]))
                    own.State[mine].LoadStateDict(state_dict.State[theirs]);
            }
        }

        public virtual void to(Device device)
        {
            foreach (var state in _state.Values)
                state.to(device);
        }

        private protected void DisposeStates(bool disposing)
        {
            if (!disposing)
                return;
            foreach (var state in _state.Values)
                (state as IDisposable)?.Dispose();
            _state.Clear();
        }

        /// <summary>Runs the closure with gradients, then <paramref name="body"/> for each group without.</summary>
        protected Tensor? _step<T>(Action<T> body, Func<Tensor>? loss_closure = null)
            where T : ParamGroup
        {
            Tensor? loss = null;
            if (loss_closure is not null)
            {
                using var recording = enable_grad();
                loss = loss_closure();
            }

            using var frozen = no_grad();
            foreach (var group in _parameter_groups)
            {
                using var scope = NewDisposeScope();
                body((T)group);
            }

            return loss;
        }

        private protected abstract OptimizerState NewState(Parameter parameter);

        /// <summary>The parameters of a group that have a gradient, with gradient (negated to maximise) and state.</summary>
        private protected (Tensor[] Parameters, Tensor[] Gradients, TState[] States) Active<TState>(ParamGroup group, bool maximize)
            where TState : OptimizerState
        {
            var parameters = new List<Tensor>();
            var gradients = new List<Tensor>();
            var states = new List<TState>();
            foreach (var parameter in group.Parameters)
            {
                if (parameter.grad is not { } gradient)
                    continue;
                parameters.Add(parameter);
                gradients.Add(maximize ? -gradient : gradient);
                states.Add((TState)_state[parameter.Handle]);
            }

            return ([.. parameters], [.. gradients], [.. states]);
        }
    }
}
