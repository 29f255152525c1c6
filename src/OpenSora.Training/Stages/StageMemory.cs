using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Runtime;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Training.Stages;

/// <summary>What a stage keeps outside of device memory: weights of blocks, and the updates of weights (<see cref="OffloadOptions"/>). Inputs of
/// blocks are in <see cref="KeptInputs"/>, the state of the optimizer and the averages in their own <see cref="ScratchMemory"/>.</summary>
/// <remarks>
/// <para>On the CPU, the weights of a block are in a mapped file, and their pages are removed from the resident memory after the block has run. On
/// another device, host memory has a copy of the weights, and the weights on the device have no memory (all elements are the same NaN) unless the
/// block runs.</para>
/// <para>A block is known from the first time that it runs with gradient checkpointing. Until then, its weights are on the device, and its updates
/// are complete before a step begins.</para>
/// </remarks>
internal sealed class StageMemory : IBlockMemory, IDisposable
{
    // Smaller weights stay on the device. In bytes.
    private const long Smallest = 1 << 16;

    private readonly OffloadOptions _options;
    private readonly IReadOnlyList<nn.Module> _modules;
    private readonly List<(string Name, Parameter Parameter)> _trained;
    private readonly bool _isCopied;
    private readonly bool _hasBlocks;
    private readonly int _slices;
    private readonly ScratchMemory _scratch;
    private readonly KeptInputs? _inputs;
    private readonly HostUpdates? _updates;
    private readonly Lock _gate = new();
    private readonly Dictionary<nn.Module, Block> _blocks = new(ReferenceEqualityComparer.Instance);
    private readonly List<Block> _order = [];
    private readonly Dictionary<Tensor, Tensor> _homes = new(ReferenceEqualityComparer.Instance);
    private readonly HashSet<Tensor> _streamed = new(ReferenceEqualityComparer.Instance);
    private long _outside;

    private StageMemory(TrainingStage stage, IEnumerable<nn.Module> modules, List<(string Name, Parameter Parameter)> trained)
    {
        (_options, _modules, _trained) = (stage.Offload!, [.. modules], trained);
        var device = trained[0].Parameter.device;
        _isCopied = _options.Copies || device.type != DeviceType.CPU;
        (_hasBlocks, _slices) = (stage.GradientCheckpointing, stage.CheckpointSlices);
        _scratch = Scratch(stage, trained)!;
        _inputs = _options.Activations ? new KeptInputs(Scratch(stage, trained)!, _isCopied) : null;
        _updates = _options.Optimizer ? new HostUpdates() : null;
        if (_hasBlocks)
        {
            foreach (var module in _modules)
            {
                module.UseBlockMemory(this);
            }
        }
    }

    /// <summary>Creates the memory of a stage; null if the stage offloads nothing.</summary>
    /// <param name="stage">The stage.</param>
    /// <param name="modules">The modules of the objective.</param>
    /// <param name="trained">The parameters that the stage trains.</param>
    public static StageMemory? Of(TrainingStage stage, IEnumerable<nn.Module> modules, List<(string Name, Parameter Parameter)> trained) =>
        stage.Offload is { Optimizer: true } or { Activations: true } or { Parameters: true } ? new StageMemory(stage, modules, trained) : null;

    /// <summary>Creates memory for what the stage offloads; null if the stage offloads nothing.</summary>
    public static ScratchMemory? Scratch(TrainingStage stage, List<(string Name, Parameter Parameter)> trained)
    {
        if (stage.Offload is not { } options)
        {
            return null;
        }

        var folder = options.Folder.Length > 0 ? options.Folder : Path.GetTempPath();
        return new ScratchMemory(options.Folder.Length > 0 || trained[0].Parameter.device_type == DeviceType.CPU ? folder : null);
    }

    /// <summary>Creates memory for the state of the optimizer or the averages; null if they are on the device.</summary>
    public static ScratchMemory? StateScratch(TrainingStage stage, List<(string Name, Parameter Parameter)> trained) =>
        stage.Offload is { Optimizer: true } ? Scratch(stage, trained) : null;

    /// <summary>Prepares for the next batch: waits for the updates of the weights that a batch needs first.</summary>
    /// <param name="blocksOnly">Whether weights of blocks are used only while the block runs. Otherwise, all updates are completed.</param>
    public void BeginBatch(bool blocksOnly)
    {
        _inputs?.Recycle();
        if (blocksOnly)
        {
            _updates?.Wait(_outside);
        }
        else
        {
            Settle();
        }
    }

    /// <summary>Waits for all updates. If one failed, its exception is thrown.</summary>
    public void Settle() => _updates?.Wait();

    /// <summary>Completes all updates and loads the weights of all blocks until the result is disposed.</summary>
    public IDisposable? Whole()
    {
        Settle();
        lock (_gate)
        {
            return _isCopied && _options.Parameters ? new Leases([.. _order.Select(block => block.Users.Use())]) : null;
        }
    }

    /// <summary>Gets a value that indicates whether the state of the optimizer and the averages are offloaded.</summary>
    public bool HasOptimizer => _updates is not null;

    /// <summary>Updates all weights and averages in the background with the gradients of a step, which are then released.</summary>
    public void Update(AdamWOptimizers optimizer, MovingAverage? average, double learningRate, double decay)
    {
        Settle();
        Dictionary<Tensor, Block> blocks = new(ReferenceEqualityComparer.Instance);
        lock (_gate)
        {
            foreach (var block in _order)
            {
                foreach (var parameter in block.All)
                {
                    blocks[parameter] = block;
                }
            }
        }

        foreach (
            var (i, (_, parameter)) in _trained.Index().OrderBy(pair => blocks.TryGetValue(pair.Item.Parameter, out var block) ? block.Number : -1)
        )
        {
            var gradient = parameter.grad?.DetachFromDisposeScope();
            parameter.grad = null;
            var update = _updates!.Add(() => Update(i, gradient, optimizer, average, learningRate, decay));
            if (blocks.TryGetValue(parameter, out var block))
            {
                block.LastUpdate = update;
            }
            else
            {
                _outside = update;
            }
        }
    }

    private void Update(int i, Tensor? gradient, AdamWOptimizers optimizer, MovingAverage? average, double learningRate, double decay)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var parameter = _trained[i].Parameter;
        var weights = _isCopied ? Home(parameter) : parameter;
        if (gradient is not null)
        {
            optimizer.Update(i, weights, gradient.to(weights.device), learningRate);
            gradient.Dispose();
        }

        average?.Update(i, weights, decay);
        if (_isCopied && !_streamed.Contains(parameter))
        {
            parameter.copy_(weights);
        }
        else if (_isCopied || _streamed.Contains(parameter))
        {
            _scratch.Drop(Home(parameter));
        }
    }

    // The values of a parameter in host memory.
    private Tensor Home(Parameter parameter)
    {
        lock (_gate)
        {
            return _homes.TryGetValue(parameter, out var home) ? home : _homes[parameter] = _scratch.Copy(parameter);
        }
    }

    /// <inheritdoc/>
    public IDisposable? Use(nn.Module block, bool isBackward)
    {
        var used = Find(block);
        _updates?.Wait(used.LastUpdate);
        if (!_options.Parameters)
        {
            return null;
        }

        var lease = used.Users.Use();
        var next = used.Number + (isBackward ? -1 : 1);
        lock (_gate)
        {
            if (next >= 0 && next < _order.Count)
            {
                foreach (var (_, home) in _order[next].Weights)
                {
                    _scratch.ReadAhead(home);
                }
            }
        }

        return lease;
    }

    /// <inheritdoc/>
    public Func<Tensor>? Keep(Tensor input) => _inputs?.Keep(input);

    private Block Find(nn.Module module)
    {
        lock (_gate)
        {
            if (_blocks.TryGetValue(module, out var known))
            {
                return known;
            }
        }

        Settle(); // not while its weights are updated
        lock (_gate)
        {
            if (_blocks.TryGetValue(module, out var known))
            {
                return known;
            }

            using var scope = NewDisposeScope();
            using var noGradients = no_grad();
            Parameter[] all = [.. module.parameters()];
            List<(Parameter, Tensor)> weights = [];
            foreach (var parameter in _options.Parameters ? all : [])
            {
                if (parameter.numel() * parameter.element_size() >= Smallest && _streamed.Add(parameter))
                {
                    var home = _homes.TryGetValue(parameter, out var copy) ? copy : _homes[parameter] = _scratch.Copy(parameter);
                    weights.Add((parameter, home));
                    if (!_isCopied)
                    {
                        parameter.set_(home);
                    }
                }
            }

            var block = new Block(_order.Count, all, weights, this);
            block.Unload();
            _order.Add(block);
            return _blocks[module] = block;
        }
    }

    /// <summary>Completes the updates, moves all weights to their device, and releases the files.</summary>
    public void Dispose()
    {
        _updates?.Dispose();
        foreach (var module in _hasBlocks ? _modules : [])
        {
            module.UseGradientCheckpointing(slices: _slices);
        }

        using (NewDisposeScope())
        using (no_grad())
        {
            foreach (var (parameter, home) in _order.SelectMany(block => block.Weights))
            {
                parameter.set_(home.to(parameter.device, copy: true));
            }
        }

        foreach (var home in _homes.Values)
        {
            home.Dispose();
        }

        _inputs?.Dispose();
        _scratch.Dispose();
    }

    /// <summary>A block that runs with gradient checkpointing.</summary>
    private sealed class Block
    {
        private readonly StageMemory _owner;
        private long _lastUpdate;

        public Block(int number, Parameter[] all, List<(Parameter Parameter, Tensor Home)> weights, StageMemory owner)
        {
            (Number, All, Weights, _owner) = (number, all, weights, owner);
            Users = new OnDemand(Load, Unload);
        }

        /// <summary>The position of the block in the forward pass.</summary>
        public int Number { get; }

        public Parameter[] All { get; }

        /// <summary>The weights that are streamed, and their values in host memory.</summary>
        public List<(Parameter Parameter, Tensor Home)> Weights { get; }

        public OnDemand Users { get; }

        /// <summary>The number of the last update of a weight of the block.</summary>
        public long LastUpdate
        {
            get => Volatile.Read(ref _lastUpdate);
            set => Volatile.Write(ref _lastUpdate, value);
        }

        private void Load()
        {
            if (!_owner._isCopied)
            {
                return; // the pages come when they are used
            }

            using var scope = NewDisposeScope();
            using var noGradients = no_grad();
            foreach (var (parameter, home) in Weights)
            {
                parameter.set_(home.to(parameter.device, copy: true));
                _owner._scratch.Drop(home);
            }
        }

        public void Unload()
        {
            using var scope = NewDisposeScope();
            using var noGradients = no_grad();
            foreach (var (parameter, home) in Weights)
            {
                if (_owner._isCopied)
                {
                    parameter.set_(TensorArithmetic.Full([1], double.NaN, parameter.dtype, parameter.device).expand(parameter.shape));
                }

                _owner._scratch.Drop(home);
            }
        }
    }

    private sealed class Leases(OnDemand.Lease[] leases) : IDisposable
    {
        public void Dispose() => Array.ForEach(leases, lease => lease.Dispose());
    }
}
