using OpenSora.Distributed;
using OpenSora.Models;
using OpenSora.Runtime;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Training.Distributed;

/// <summary>Adds up the gradients of all processes in buckets, while the backward pass continues with the blocks before them.</summary>
/// <remarks>
/// <para>TorchSharp has no hooks of gradients, so the blocks of models report when the backward pass has completed them
/// (<see cref="ModelExtensions.WhenGradientsComplete"/>). In the first pass, nothing is sent early; it shows which gradients are final at that moment
/// and in which order. Process 0 sends its order to the others, because all must start the same operations in the same order. Buckets with gradients
/// that are not known to be complete are sent after the pass.</para>
/// <para>A gradient stays null if no process has it, so that the optimizer leaves out the parameter, as with one process.</para>
/// </remarks>
internal sealed class GradientReduction : IDisposable
{
    private const int MostInFlight = 2; // of buckets that take memory in addition to the gradients

    private readonly OwnedParameters _owned;
    private readonly TrainingGroup _group;
    private readonly BucketLayout _layout;
    private readonly IReadOnlyList<(string Name, Parameter Parameter)> _trained;
    private readonly Dictionary<Parameter, int> _indices = new(ReferenceEqualityComparer.Instance);
    private readonly int[] _bucketOf;
    private readonly bool[] _has;
    private readonly Tensor?[] _sums;
    private readonly Queue<(int Bucket, Tensor Sent, Tensor? Part, CollectiveOperation Operation)> _inFlight = new();

    // What the first pass has shown: the norms of gradients when their block was complete, and the order.
    private readonly List<(int Parameter, double Norm)> _seen = [];
    private readonly bool[] _isEarly;
    private bool _isLearned;
    private int[] _order;

    private bool[] _isComplete = [];
    private int[] _missing = [];
    private int _next;

    public GradientReduction(IReadOnlyList<(string Name, Parameter Parameter)> trained, OwnedParameters owned)
    {
        (_trained, _owned, _group, _layout) = (trained, owned, owned.Group!, owned.Layout!);
        (_bucketOf, _has, _isEarly) = (new int[trained.Count], new bool[trained.Count], new bool[trained.Count]);
        foreach (var (i, (_, parameter)) in trained.Index())
        {
            _indices[parameter] = i;
        }

        foreach (var (i, bucket) in _layout.Buckets.Index())
        {
            foreach (var entry in bucket.Entries)
            {
                _bucketOf[entry.Parameter] = i;
            }
        }

        _sums = new Tensor?[_layout.Buckets.Count];
        _order = [.. Enumerable.Range(0, _layout.Buckets.Count)];
    }

    /// <summary>Gets a value that indicates whether gradients are added up after every micro batch, and not once for each step.</summary>
    public bool EveryBatch => _group.Options.Sharding == Sharding.Gradients;

    /// <summary>Gets the number of buckets that were sent before the end of the last backward pass.</summary>
    public int Overlapped { get; private set; }

    /// <summary>Forgets the gradients of the previous step.</summary>
    public void Begin()
    {
        Array.Clear(_has);
        if (_owned.IsSharded)
        {
            foreach (var owned in _owned.All)
            {
                owned.Values.grad = null;
            }
        }

        foreach (ref var sum in _sums.AsSpan())
        {
            sum?.Dispose();
            sum = null;
        }
    }

    /// <summary>Runs a backward pass and adds up the gradients.</summary>
    /// <param name="modules">The modules that are trained.</param>
    /// <param name="overlaps">true to send gradients during the pass; false if it accumulates no gradients in <c>grad</c> before its end.</param>
    /// <param name="pass">The pass.</param>
    public void Run(IEnumerable<nn.Module> modules, bool overlaps, Action pass)
    {
        _isComplete = new bool[_trained.Count];
        _missing = [.. _layout.Buckets.Select(bucket => bucket.Entries.Count)];
        (_next, Overlapped) = (0, 0);
        var watched = new List<IDisposable>();
        try
        {
            if (overlaps)
            {
                watched.AddRange(modules.Distinct().Select(module => module.WhenGradientsComplete(OnCompleted)));
            }

            pass();
        }
        finally
        {
            watched.ForEach(watch => watch.Dispose());
        }

        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        if (overlaps && !_isLearned)
        {
            Learn();
        }

        Overlapped = _next;
        while (_next < _order.Length)
        {
            Start(_order[_next++]);
        }

        while (_inFlight.Count > 0)
        {
            Finish();
        }
    }

    /// <summary>Adds up numbers of all processes, and completes the gradients.</summary>
    /// <param name="values">The numbers.</param>
    /// <returns>The sums.</returns>
    public double[] Complete(double[] values)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var sums = _group.Sum([.. values, .. _has.Select(has => has ? 1.0 : 0)]);
        var used = sums.AsSpan(values.Length).ToArray();
        if (!EveryBatch)
        {
            for (var i = 0; i < used.Length; i++)
            {
                if (used[i] == 0)
                {
                    _trained[i].Parameter.grad = null;
                }
            }
        }

        if (_owned.IsSharded)
        {
            foreach (var owned in _owned.All.Where(owned => used[owned.Index] > 0))
            {
                owned.Values.grad = EveryBatch ? PartOfSum(owned) : owned.PartOf(_trained[owned.Index].Parameter.grad!);
            }
        }

        return sums[..values.Length];
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var (_, sent, part, _) in _inFlight)
        {
            sent.Dispose();
            part?.Dispose();
        }

        Array.ForEach(_sums, sum => sum?.Dispose());
    }

    // Called in the backward pass.
    private void OnCompleted(nn.Module module)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        foreach (var parameter in module.parameters())
        {
            if (!_indices.TryGetValue(parameter, out var i) || _isComplete[i])
            {
                continue;
            }

            if (!_isLearned)
            {
                _isComplete[i] = true;
                _seen.Add((i, NormOf(parameter)));
            }
            else if (_isEarly[i])
            {
                _isComplete[i] = true;
                _missing[_bucketOf[i]]--;
            }
        }

        while (_isLearned && _next < _order.Length && _missing[_order[_next]] == 0)
        {
            Start(_order[_next++]);
        }
    }

    // Gradients that changed after their block was complete belong to parameters that are used elsewhere too.
    private void Learn()
    {
        var last = new int[_layout.Buckets.Count];
        foreach (var (place, (i, norm)) in _seen.Index())
        {
            _isEarly[i] = NormOf(_trained[i].Parameter).Equals(norm);
            last[_bucketOf[i]] = place;
        }

        var late = _layout.Buckets.Select(bucket => bucket.Entries.Any(entry => !_isEarly[entry.Parameter])).ToArray();
        long[] order = [.. _order.OrderBy(bucket => late[bucket] ? int.MaxValue : last[bucket]).Select(bucket => (long)bucket)];
        _order = Array.ConvertAll(_group.FromFirst(order), bucket => (int)bucket);
        _isLearned = true;
    }

    private static double NormOf(Parameter parameter) => parameter.grad is { } gradient ? gradient.norm().cpu().item<float>() : -1;

    private void Start(int number)
    {
        using var scope = NewDisposeScope();
        while (EveryBatch && _inFlight.Count >= MostInFlight)
        {
            Finish();
        }

        var bucket = _layout.Buckets[number];
        var sent = empty(bucket.Length, device: _trained[0].Parameter.device).DetachFromDisposeScope();
        foreach (var entry in bucket.Entries)
        {
            using var inner = NewDisposeScope();
            var parameter = _trained[entry.Parameter].Parameter;
            var place = sent.narrow(0, entry.Offset, entry.Count);
            if (parameter.grad is { } gradient)
            {
                _has[entry.Parameter] = true;
                place.copy_(gradient.reshape(-1));
            }
            else
            {
                place.zero_();
            }

            parameter.grad = EveryBatch ? null : place.view(parameter.shape); // the memory of the gradient is free
        }

        sent.narrow(0, bucket.Used, bucket.Length - bucket.Used).zero_();
        if (EveryBatch)
        {
            var part = empty(bucket.Length / _layout.Parts, device: sent.device).DetachFromDisposeScope();
            _inFlight.Enqueue((number, sent, part, _group.Collectives.ReduceScatter(part, sent)));
        }
        else
        {
            _inFlight.Enqueue((number, sent, null, _group.Collectives.AllReduce(sent)));
        }
    }

    private void Finish()
    {
        var (number, sent, part, operation) = _inFlight.Dequeue();
        operation.Wait();
        sent.Dispose();
        if (part is null)
        {
            return;
        }

        if (_sums[number] is { } sum)
        {
            using (part)
            {
                sum.AddInPlace(part);
            }
        }
        else
        {
            _sums[number] = part;
        }
    }

    private Tensor PartOfSum(OwnedParameter owned)
    {
        var number = _bucketOf[owned.Index];
        var slice = _layout.Slices(number, _group.Rank).First(slice => slice.Parameter == owned.Index);
        return _sums[number]!
            .narrow(0, slice.Offset - _layout.Buckets[number].Length / _layout.Parts * _group.Rank, slice.Count)
            .view(owned.Values.shape);
    }
}
