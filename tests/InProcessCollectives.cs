using System.Runtime.ExceptionServices;
using OpenSora.Distributed;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora;

/// <summary>A group of which each member is a thread of this process. It adds the values of the members in the order of their ranks.</summary>
internal sealed class InProcessCollectives : ICollectives
{
    private readonly Group _group;

    private InProcessCollectives(Group group, int rank) => (_group, Rank) = (group, rank);

    public string Name => "threads";

    public int Rank { get; }

    public int Size => _group.Size;

    /// <summary>Gets the calls of this member, such as <c>AllReduce 12</c> with the number of values.</summary>
    public List<string> Calls { get; } = [];

    /// <summary>Runs the members of a group, each in a thread of its own, and waits until all have ended.</summary>
    public static void Run(int size, Action<InProcessCollectives> member) => Run<object?>(size, one =>
        {
            member(one);
            return null;
        });

    /// <summary>Runs the members of a group, each in a thread of its own, and returns their results in the order of the ranks.</summary>
    public static T[] Run<T>(int size, Func<InProcessCollectives, T> member)
    {
        var group = new Group(size);
        var results = new T[size];
        ExceptionDispatchInfo? failure = null;
        var threads = Enumerable
            .Range(0, size)
            .Select(rank => new Thread(() =>
            {
                try
                {
                    results[rank] = member(new InProcessCollectives(group, rank));
                }
                catch (Exception e)
                {
                    Interlocked.CompareExchange(ref failure, ExceptionDispatchInfo.Capture(e), null);
                    group.Fail();
                }
            }))
            .ToArray();
        Array.ForEach(threads, thread => thread.Start());
        Array.ForEach(threads, thread => thread.Join());
        failure?.Throw();
        return results;
    }

    public CollectiveOperation AllReduce(Tensor tensor, ReduceOperation operation = ReduceOperation.Sum) =>
        Exchange($"AllReduce {tensor.numel()}", tensor, all => tensor.copy_(Combine(all, operation).to_type(tensor.dtype)));

    public CollectiveOperation ReduceScatter(Tensor output, Tensor input) =>
        Exchange($"ReduceScatter {input.numel()}", input, all => output.copy_(Part(Combine(all, ReduceOperation.Sum), Rank).to_type(output.dtype)));

    public CollectiveOperation AllGather(Tensor output, Tensor input) => Exchange($"AllGather {input.numel()}", input, all => output.copy_(cat(all)));

    public CollectiveOperation AllToAll(Tensor output, Tensor input) =>
        Exchange($"AllToAll {input.numel()}", input, all => output.copy_(cat(all.Select(one => Part(one, Rank)).ToArray())));

    public CollectiveOperation Broadcast(Tensor tensor, int root = 0) =>
        Exchange($"Broadcast {tensor.numel()}", tensor, all => tensor.copy_(all[root]));

    public void Barrier() => Exchange("Barrier", null, _ => { });

    public ICollectives Split(int color)
    {
        var groups = _group.Colors;
        Barrier();
        lock (groups)
        {
            groups[Rank] = color;
        }

        Barrier();
        var members = Enumerable.Range(0, Size).Where(rank => groups[rank] == color).ToList();
        Group group;
        lock (groups)
        {
            group = _group.Parts.TryGetValue((_group.Splits, color), out var known)
                ? known
                : _group.Parts[(_group.Splits, color)] = new Group(members.Count);
        }

        Barrier();
        if (Rank == 0)
        {
            _group.Splits++;
        }

        Barrier();
        return new InProcessCollectives(group, members.IndexOf(Rank));
    }

    public void Dispose() { }

    private static Tensor Combine(Tensor[] all, ReduceOperation operation)
    {
        var wide = all[0].dtype == ScalarType.BFloat16 ? Array.ConvertAll(all, one => one.to_type(ScalarType.Float32)) : all;
        return operation == ReduceOperation.Sum ? stack(wide).sum([0]) : stack(wide).amax([0]);
    }

    private Tensor Part(Tensor whole, int rank)
    {
        var count = whole.shape[0] / Size;
        return whole.narrow(0, rank * count, count);
    }

    private CollectiveOperation Exchange(string call, Tensor? mine, Action<Tensor[]> finish)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        if (mine is { } given && !given.is_contiguous())
        {
            throw new ArgumentException("The tensor is not contiguous.", nameof(mine));
        }

        Calls.Add(call);
        _group.Place[Rank] = (call, mine);
        _group.Meet();
        if (Array.Exists(_group.Place, place => !string.Equals(place.Call.Split(' ')[0], call.Split(' ')[0], StringComparison.Ordinal)))
        {
            throw new CollectiveException($"The members called different operations: {string.Join(", ", _group.Place.Select(place => place.Call))}");
        }

        // Copies, because a member may write to its tensor while another still reads it.
        Tensor[] all = mine is null ? [] : Array.ConvertAll(_group.Place, place => place.Tensor!.detach().clone());
        _group.Meet();
        finish(all);
        return CollectiveOperation.Completed;
    }

    private sealed class Group(int size)
    {
        private readonly Barrier _barrier = new(size);
        private readonly CancellationTokenSource _failed = new();

        public int Size { get; } = size;

        public (string Call, Tensor? Tensor)[] Place { get; } = new (string, Tensor?)[size];

        public Dictionary<int, int> Colors { get; } = [];

        public Dictionary<(int, int), Group> Parts { get; } = [];

        public int Splits { get; set; }

        public void Meet()
        {
            try
            {
                if (!_barrier.SignalAndWait(TimeSpan.FromSeconds(60), _failed.Token))
                {
                    throw new CollectiveException("A member of the group did not answer within 60 s.");
                }
            }
            catch (OperationCanceledException e)
            {
                throw new CollectiveException("A member of the group failed.", e);
            }
        }

        public void Fail() => _failed.Cancel();
    }
}
