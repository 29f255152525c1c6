using OpenSora.Training.Distributed;
using OpenSora.Training.Stages;
using TorchSharp;

namespace OpenSora.Training.Planning;

/// <summary>The memory for the state of training in each of several processes, and what a process sends in a step, in bytes. Parameters, gradients,
/// the two moments of AdamW and the averages are float32.</summary>
internal sealed record ProcessPlan
{
    // Numbers of all processes that are added up in a step in addition to gradients: the loss, the number of samples, and whether each parameter has
    // a gradient, in time or late; and the decisions after a step.
    private const int StepNumbers = 2,
        ParameterNumbers = 2,
        Decisions = 5;

    private ProcessPlan() { }

    /// <summary>Gets the memory of the parameters that are trained.</summary>
    public long Parameters { get; private init; }

    /// <summary>Gets the memory of the gradients.</summary>
    public long Gradients { get; private init; }

    /// <summary>Gets the memory of the optimizer state.</summary>
    public long OptimizerState { get; private init; }

    /// <summary>Gets the memory of the moving averages.</summary>
    public long Averages { get; private init; }

    /// <summary>Gets the additional memory while buckets are sent: what is being sent, and the gradients that have not been sent yet.</summary>
    public long Buckets { get; private init; }

    /// <summary>Gets the sum of the memory.</summary>
    public long Memory => Parameters + Gradients + OptimizerState + Averages + Buckets;

    /// <summary>Gets the size of the tensors that a process passes to collective operations in a step: those that are reduced or sent. How much of
    /// it crosses the network depends on the algorithm of the implementation; a ring sends at most twice the size.</summary>
    public long BytesPerStep { get; private init; }

    /// <summary>Computes the plan.</summary>
    /// <param name="parameters">The numbers of values of the parameters that are trained, in their order.</param>
    /// <param name="processes">The number of processes.</param>
    /// <param name="options">The options; null for the default.</param>
    /// <param name="average">true if moving averages are kept.</param>
    /// <param name="accumulation">The number of batches of a step (<see cref="TrainingStage.Accumulation"/>).</param>
    /// <param name="lossParts">The number of components of the loss (<see cref="TrainingProgress.Parts"/>).</param>
    /// <exception cref="ArgumentException">There is no parameter, or a number is invalid.</exception>
    public static ProcessPlan Of(
        IEnumerable<long> parameters,
        int processes,
        DistributedOptions? options = null,
        bool average = true,
        int accumulation = 1,
        int lossParts = 0
    )
    {
        ArgumentNullException.ThrowIfNull(parameters);
        ArgumentOutOfRangeException.ThrowIfLessThan(processes, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(accumulation, 1);
        ArgumentOutOfRangeException.ThrowIfNegative(lossParts);
        options ??= new DistributedOptions();
        if (options.Problems().FirstOrDefault() is { } problem)
        {
            throw new ArgumentException(problem, nameof(options));
        }

        long[] sizes = [.. parameters];
        if (sizes.Length == 0)
        {
            throw new ArgumentException("There is no parameter to train.", nameof(parameters));
        }

        const int bytes = BucketLayout.ValueBytes;
        var sharding = processes == 1 ? Sharding.None : options.Sharding;
        var parts = sharding == Sharding.None ? 1 : processes;
        var layout = BucketLayout.Of(sizes, options.BucketBytes, parts);
        var (all, largest) = (layout.Length * bytes, layout.Buckets.Max(bucket => bucket.Length) * bytes);
        var inFlight = Math.Min(2, layout.Buckets.Count) * (largest + largest / parts);
        var numbers = 8L * (StepNumbers + lossParts + ParameterNumbers * sizes.Length + Decisions);
        return new ProcessPlan
        {
            Parameters = sizes.Sum() * bytes,
            Gradients = sharding == Sharding.Gradients ? all / parts : all,
            OptimizerState = 2 * (parts == 1 ? sizes.Sum() * bytes : all / parts),
            Averages =
                !average ? 0
                : parts == 1 ? sizes.Sum() * bytes
                : all / parts,
            Buckets = sharding switch
            {
                _ when processes == 1 => 0,
                Sharding.None => largest,
                Sharding.OptimizerState => inFlight, // while the parameters are gathered
                _ => inFlight + Math.Min(2, layout.Buckets.Count) * largest, // the last buckets are complete together
            },
            BytesPerStep =
                processes == 1
                    ? 0
                    : sharding switch
                    {
                        Sharding.None => all + numbers,
                        Sharding.OptimizerState => all + all / parts + numbers,
                        _ => accumulation * all + all / parts + numbers + 8, // with the norm of the gradients
                    } + (parts > 1 && average ? 8 : 0), // process 0 announces the end of its callbacks to those that share averages
        };
    }
}
