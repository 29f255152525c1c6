using OpenSora.Distributed;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Mpi;

/// <summary>An operation in flight: one or more MPI requests, temporary tensors, and the copies that remain to be made from them.</summary>
internal sealed class MpiOperation(MpiThread thread, MpiGroup group) : CollectiveOperation, IDisposable
{
    private readonly List<MpiRequest> _requests = [];
    private readonly List<(Tensor Tensor, Action<Tensor>? Finish)> _temporary = [];
    private readonly List<Tensor> _kept = [];

    /// <summary>Starts a call of MPI.</summary>
    /// <param name="call">The call, which must be the same in all processes.</param>
    /// <param name="start">Starts it and returns MPI's error code and its request.</param>
    /// <param name="then">What follows on the communication thread when it is complete.</param>
    public void Start(MpiCall call, Func<MpiGroup, (int Error, int Request)> start, Action<MpiGroup>? then = null) =>
        _requests.Add(thread.Add(group, call.ToString(), request =>
            {
                group.StartComparison(request, call);
                var (error, handle) = start(group);
                MpiNative.Check(error, request.Description);
                request.Add(handle, then is null ? null : () => then(group));
            }));

    /// <summary>Calls a function on the communication thread.</summary>
    public void Run(string description, Action<MpiGroup> action) => _requests.Add(thread.Add(group, description, _ => action(group)));

    /// <summary>Keeps a tensor of the caller reachable while MPI uses its memory.</summary>
    public void Keep(Tensor tensor) => _kept.Add(tensor);

    /// <summary>Gets a tensor in the type in which sums are accumulated: a float32 copy of bfloat16 values, or the tensor itself.</summary>
    public Tensor Wide(Tensor tensor, bool copyBack)
    {
        Keep(tensor);
        if (tensor.dtype != ScalarType.BFloat16)
        {
            return tensor;
        }

        using var noGradients = no_grad();
        var wide = tensor.to_type(ScalarType.Float32).DetachFromDisposeScope();
        _temporary.Add((wide, copyBack ? values => tensor.copy_(values) : null));
        return wide;
    }

    /// <summary>Copies some values of each part of a tensor.</summary>
    public Tensor Columns(Tensor tensor, int parts, long start, long count)
    {
        using var noGradients = no_grad();
        using var all = tensor.view(parts, -1);
        using var some = all.narrow(1, start, count);
        var copy = some.contiguous().DetachFromDisposeScope();
        _temporary.Add((copy, null));
        return copy;
    }

    /// <summary>Creates a tensor for a result, and says what is done with it at the end.</summary>
    public Tensor Temporary(long count, ScalarType type, Action<Tensor> finish)
    {
        var tensor = empty(count, type).DetachFromDisposeScope();
        _temporary.Add((tensor, finish));
        return tensor;
    }

    /// <inheritdoc/>
    public override void Wait()
    {
        // After a failure, MPI may still write to the memory of the tensors, so none is disposed.
        _requests.ForEach(request => request.Wait());
        Dispose();
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        foreach (var (tensor, finish) in _temporary)
        {
            finish?.Invoke(tensor);
            tensor.Dispose();
        }

        _temporary.Clear();
        _kept.Clear();
    }

    public void Dispose()
    {
        _requests.ForEach(request => request.Dispose());
        _requests.Clear();
    }
}
