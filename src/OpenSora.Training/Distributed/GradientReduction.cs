using System.Runtime.ExceptionServices;
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
/// (<see cref="ModelExtensions.WatchBlocks"/>). All processes start the same operations in the same order: the order in which process 0 expects
/// buckets to be complete, from the blocks of its first forward pass. Buckets with parameters outside of blocks are sent after the pass. Gradients
/// that come after their bucket was sent, because a parameter is used in a block and elsewhere, are sent at the end of the step.</para>
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
    private readonly Queue<(int Bucket, Tensor Sent, Tensor? Part, CollectiveOperation Operation)> _inFlight = new();

    // The sums of the buckets, or of this process's part of them.
    private readonly Tensor?[] _sums;

    private readonly List<int[]> _blocks = []; // of the forward pass, with their parameters
    private readonly int[] _open; // the number of blocks with a parameter that the backward pass has not completed
    private int[] _missing = []; // the number of parameters of a bucket that are not complete
    private int[]? _order;
    private ExceptionDispatchInfo? _failure; // in the backward pass
    private bool _overlaps;
    private int _next;

    public GradientReduction(IReadOnlyList<(string Name, Parameter Parameter)> trained, OwnedParameters owned)
    {
        (_trained, _owned, _group, _layout) = (trained, owned, owned.Group!, owned.Layout!);
        (_bucketOf, _has, _open) = (new int[trained.Count], new bool[trained.Count], new int[trained.Count]);
        _sums = new Tensor?[_layout.Buckets.Count];
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

    /// <summary>Runs a forward and a backward pass and adds up the gradients.</summary>
    /// <param name="modules">The modules that are trained.</param>
    /// <param name="overlaps">true to send gradients during the pass; false if it sets <c>grad</c> at its end.</param>
    /// <param name="pass">The passes, with a call of <see cref="BeforeBackward"/> between them.</param>
    public void Run(IEnumerable<nn.Module> modules, bool overlaps, Action pass)
    {
        _blocks.Clear();
        Array.Clear(_open);
        (_next, _overlaps) = (0, overlaps);
        _missing = [.. _layout.Buckets.Select(bucket => bucket.Entries.Count)];
        var watches = new List<IDisposable>();
        try
        {
            if (overlaps)
            {
                watches.AddRange(modules.Distinct().Select(module => module.WatchBlocks(Entered)));
            }

            pass();
        }
        finally
        {
            watches.ForEach(watch => watch.Dispose());
        }

        _failure?.Throw();
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        Overlapped = _next;
        SendWhile(_ => true);
        FinishAll();
    }

    /// <summary>Decides the order of the buckets, in the first pass.</summary>
    public void BeforeBackward()
    {
        if (!_overlaps || _order is not null)
        {
            return;
        }

        // A parameter is complete with the first block that has it, which the backward pass comes to last.
        var first = new int?[_trained.Count];
        for (var block = _blocks.Count - 1; block >= 0; block--)
        {
            foreach (var i in _blocks[block])
            {
                first[i] = block;
            }
        }

        long[] order =
        [
            .. Enumerable
                .Range(0, _layout.Buckets.Count)
                .OrderByDescending(bucket => _layout.Buckets[bucket].Entries.Min(entry => first[entry.Parameter] ?? -1))
                .Select(bucket => (long)bucket),
        ];
        _order = Array.ConvertAll(_group.FromFirst(order), bucket => (int)bucket);
    }

    /// <summary>Adds up numbers of all processes, and completes the gradients.</summary>
    /// <param name="values">The numbers.</param>
    /// <returns>The sums.</returns>
    public double[] Complete(double[] values)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var late = _trained.Select(pair => pair.Parameter.grad is not null);
        var sums = _group.Sum([.. values, .. _has.Select(Number), .. late.Select(Number)]);
        var isLate = sums[(values.Length + _trained.Count)..];
        var used = isLate.Zip(sums.Skip(values.Length), (first, second) => first + second).ToArray();
        foreach (var (number, bucket) in _layout.Buckets.Index())
        {
            if (bucket.Entries.Any(entry => isLate[entry.Parameter] > 0))
            {
                Send(number);
            }
        }

        FinishAll();
        if (!EveryBatch)
        {
            foreach (var entry in _layout.Buckets.SelectMany(bucket => bucket.Entries))
            {
                var parameter = _trained[entry.Parameter].Parameter;
                parameter.grad =
                    used[entry.Parameter] > 0 ? _sums[_bucketOf[entry.Parameter]]!.narrow(0, entry.Offset, entry.Count).view(parameter.shape) : null;
            }
        }

        if (_owned.IsSharded)
        {
            foreach (var owned in _owned.All)
            {
                owned.Values.grad =
                    used[owned.Index] == 0 ? null
                    : EveryBatch ? PartOfSum(owned)
                    : owned.PartOf(_trained[owned.Index].Parameter.grad!).view(owned.Values.shape);
            }
        }

        return sums[..values.Length];

        static double Number(bool value) => value ? 1 : 0;
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

    // Called in the forward pass; returns what is called in the backward pass.
    private Action Entered(nn.Module block)
    {
        int[] parameters = [.. block.parameters().Where(_indices.ContainsKey).Select(parameter => _indices[parameter])];
        Array.ForEach(parameters, i => _open[i]++);
        _blocks.Add(parameters);
        return () =>
        {
            foreach (var i in parameters)
            {
                if (--_open[i] == 0)
                {
                    _missing[_bucketOf[i]]--;
                }
            }

            try
            {
                using var scope = NewDisposeScope();
                using var noGradients = no_grad();
                SendWhile(bucket => _failure is null && _missing[bucket] == 0);
            }
            catch (Exception exception)
            {
                _failure = ExceptionDispatchInfo.Capture(exception); // an exception cannot pass through libtorch
            }
        };
    }

    private void SendWhile(Func<int, bool> isReady)
    {
        while (_next < _sums.Length && (_order?[_next] ?? _next) is var bucket && isReady(bucket))
        {
            _next++;
            Send(bucket);
        }
    }

    private void Send(int number)
    {
        while (EveryBatch && _inFlight.Count >= MostInFlight)
        {
            Finish();
        }

        var bucket = _layout.Buckets[number];
        var sent = empty(bucket.Length, device: _trained[0].Parameter.device).DetachFromDisposeScope();
        foreach (var entry in bucket.Entries)
        {
            using var scope = NewDisposeScope();
            var parameter = _trained[entry.Parameter].Parameter;
            var place = sent.narrow(0, entry.Offset, entry.Count);
            if (parameter.grad is { } gradient)
            {
                _has[entry.Parameter] = true;
                place.copy_(gradient.reshape(-1));
                parameter.grad = null; // frees its memory
            }
            else
            {
                place.zero_();
            }
        }

        using var padding = sent.narrow(0, bucket.Used, bucket.Length - bucket.Used);
        padding.zero_();
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

    private void FinishAll()
    {
        while (_inFlight.Count > 0)
        {
            Finish();
        }
    }

    private void Finish()
    {
        var (number, sent, part, operation) = _inFlight.Dequeue();
        operation.Wait();
        var result = part ?? sent;
        if (part is not null)
        {
            sent.Dispose();
        }

        if (_sums[number] is { } sum)
        {
            using (result)
            {
                sum.AddInPlace(result);
            }
        }
        else
        {
            _sums[number] = result;
        }
    }

    private Tensor PartOfSum(OwnedParameter owned)
    {
        var number = _bucketOf[owned.Index];
        var slice = _layout.Slices(number, _group.Rank).First(slice => slice.Parameter == owned.Index);
        var start = _layout.Buckets[number].Length / _layout.Parts * _group.Rank;
        return _sums[number]!.narrow(0, slice.Offset - start, slice.Count).view(owned.Values.shape);
    }
}
