using OpenSora.Models;
using OpenSora.Training.Distributed;

namespace OpenSora.Training.Planning;

/// <summary>A simulated training step on one device: what runs when, as the trainer runs it.</summary>
/// <remarks>
/// A device does one thing at a time: it computes, sends tokens to other devices (sequence parallelism) or copies to and from the host, because
/// TorchSharp uses one stream. Gradients are sent while the blocks before are computed. If the optimizer is on the host, the updates run there while
/// the forward pass of the next step computes the blocks before. In this simulation, a step begins with the updates of the step before.
/// </remarks>
internal sealed class StepSimulation
{
    // Reads and writes of one row (a value per channel and token) by the operations of a block other than matrix multiplications, in a forward pass:
    // two normalizations (4) and modulations (6), three residual steps (10), GELU (twice the ratio of the MLP), and copies around attention (8).
    private const double ElementwiseRows = 28;

    // Reads and writes of a value by AdamW (22) and the moving average (5), in bytes for each parameter.
    private const double UpdateBytes = 4 * 27;

    private readonly TrainingPlan _plan;
    private readonly PlannedStage _stage;
    private readonly FlopEstimate _forward;
    private readonly FlopEstimate _encoding;
    private readonly double _row;
    private readonly Dictionary<string, double> _spent = new(StringComparer.Ordinal);
    private readonly List<(string Lane, string Name, double Start, double End)> _events = [];
    private double _device;

    public StepSimulation(TrainingPlan plan, PlannedStage stage, FlopEstimate forward, FlopEstimate encoding, int height, int width)
    {
        (_plan, _stage, _forward, _encoding) = (plan, stage, forward, encoding);
        var patch = plan.Model.PatchSize;
        double frames = stage.Frames / patch[0],
            places = (double)(height / patch[1]) * (width / patch[2]);
        _row = stage.BatchSize * frames * places / stage.SequenceParallel * plan.Model.HiddenSize * (plan.BFloat16 ? 2 : 4);
    }

    /// <summary>Runs the simulation.</summary>
    public (double Seconds, IReadOnlyList<(string Lane, string Name, double Start, double End)> Events, string BoundBy) Run()
    {
        var (hardware, model, offload) = (_plan.Hardware, _plan.Model, _stage.Offload ?? new());
        var (depth, devices, k) = (model.Depth, _plan.Devices, _stage.SequenceParallel);
        var parameters = MemoryEstimate.ParameterCount(model);
        var (block, shard) = (parameters / depth, _stage.Sharding != Sharding.None ? devices : 1);
        var link = devices > hardware.DevicesPerServer ? hardware.NetworkBandwidth : hardware.LinkBandwidth;
        var sharing = Math.Min(devices, hardware.DevicesPerServer); // devices that share the memory of a host

        // Updates on the host: those of the step before, block by block.
        var updated = new double[depth];
        if (offload.Optimizer)
        {
            var host = 0.0;
            for (var i = 0; i < depth; i++)
            {
                var transfer = 8 * block / shard / hardware.HostBandwidth; // a gradient from the device and a weight to it
                var seconds = transfer + UpdateBytes * block / shard / (hardware.HostMemoryBandwidth / sharing);
                updated[i] = host + seconds;
                Add("host", "host updates", $"update {i}", host, seconds);
                host += seconds;
            }
        }

        var speed = hardware.Utilization * (_plan.BFloat16 ? hardware.BFloat16 : hardware.Float32);
        var share = (double)_stage.BatchSize / k;
        var linear = share * _forward.Linear / depth / speed;
        var attention = share * _forward.Attention / depth / speed / hardware.AttentionSpeed;
        var memory = (ElementwiseRows + 2 * model.MlpRatio) * _row / hardware.MemoryBandwidth;
        var exchange = k == 1 ? 0 : 2 * _row * (k - 1) / k / link; // to places for temporal attention, and back to frames
        var weights = offload.Parameters ? 4 * block / hardware.HostBandwidth : 0;
        var input = offload.Activations ? _row / hardware.HostBandwidth : 0;
        var communication = 0.0;

        for (var micro = 0; micro < _stage.Accumulation; micro++)
        {
            var encoding = share * (_encoding.Linear + _encoding.Attention / hardware.AttentionSpeed) / speed;
            Device("linear layers", "encoding", encoding);
            for (var i = 0; i < depth; i++)
            {
                _device = micro == 0 ? Math.Max(_device, updated[i]) : _device;
                Device("host transfers", $"weights of block {i}", weights);
                Compute($"forward {i}", 1);
                Device("host transfers", $"input of block {i} to the host", input);
            }

            var last = micro == _stage.Accumulation - 1;
            for (var i = depth - 1; i >= 0; i--)
            {
                Device("host transfers", $"weights of block {i}", weights);
                Device("host transfers", $"input of block {i} from the host", input);
                Compute($"backward {i}", TrainingPlan.Passes(_stage) - 1);
                if (devices > 1 && last)
                {
                    // All-reduce, or reduce-scatter and later all-gather: each device sends every value twice.
                    var seconds = 2 * 4 * block * (devices - 1) / devices / link;
                    var from = Math.Max(communication, _device);
                    Add("communication", "communication", $"gradients of block {i}", from, seconds);
                    communication = from + seconds;
                }
            }
        }

        _device = Math.Max(_device, communication);
        Device("memory bandwidth", "norm of the gradients", 2 * 4 * parameters / hardware.MemoryBandwidth);
        if (!offload.Optimizer)
        {
            Device("memory bandwidth", "update", UpdateBytes * parameters / shard / hardware.MemoryBandwidth);
        }

        return (_device, _events, _spent.MaxBy(pair => pair.Value).Key);

        void Compute(string name, int passes)
        {
            Device("linear layers", $"{name}, linear layers", passes * linear);
            Device("attention", $"{name}, attention", passes * attention);
            Device("memory bandwidth", $"{name}, other operations", passes * memory);
            Device("communication", $"{name}, all-to-all", passes * exchange);
        }
    }

    private void Device(string kind, string name, double seconds)
    {
        if (seconds > 0)
        {
            Add("device", kind, name, _device, seconds);
            _device += seconds;
        }
    }

    private void Add(string lane, string kind, string name, double start, double seconds)
    {
        _spent[kind] = _spent.GetValueOrDefault(kind) + seconds;
        _events.Add((lane, name, start, start + seconds));
    }
}
