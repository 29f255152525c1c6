using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Stages;

/// <summary>The inputs of blocks in host memory, from the forward pass of a block to its backward pass. This type is thread-safe.</summary>
/// <remarks>While the backward pass of a block runs, the input of the block before it is fetched. The memory is used again for the next
/// batch.</remarks>
/// <param name="memory">The memory, which this object owns.</param>
/// <param name="isCopied">Whether inputs are copied back to their device; false if blocks use the host memory itself.</param>
internal sealed class KeptInputs(ScratchMemory memory, bool isCopied) : IDisposable
{
    // Smaller inputs stay on the device. In bytes.
    private const long Smallest = 1 << 16;

    private readonly Lock _gate = new();
    private readonly Dictionary<(long Count, ScalarType Type), Stack<Tensor>> _free = [];
    private readonly List<Kept> _used = [];
    private readonly Dictionary<int, Kept> _last = []; // by thread

    /// <summary>Copies an input to host memory, and returns a function that returns it; null if the input is small.</summary>
    public Func<Tensor>? Keep(Tensor input)
    {
        if (input.numel() * input.element_size() < Smallest)
        {
            return null;
        }

        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var place = Take(input);
        place.view(input.shape).copy_(input.detach());
        memory.Drop(place);
        lock (_gate)
        {
            var thread = Environment.CurrentManagedThreadId;
            var kept = new Kept(place, input.shape, input.device, _last.GetValueOrDefault(thread));
            _used.Add(kept);
            _last[thread] = kept;
            return () => Fetch(kept);
        }
    }

    // Returns the tensor, owned by the caller, and starts to fetch the input of the block before.
    private Tensor Fetch(Kept kept)
    {
        using var noGradients = no_grad();
        if (kept.Next is { } done)
        {
            memory.Drop(done.Place); // used in the backward pass of the next block, which is over
        }

        var result = kept.Ahead ?? Read(kept);
        kept.Ahead = null;
        if (kept.Before is { } before)
        {
            before.Next = kept;
            memory.ReadAhead(before.Place);
            before.Ahead = isCopied ? Read(before).DetachFromDisposeScope() : null;
        }

        return result;
    }

    private Tensor Read(Kept kept)
    {
        using var scope = NewDisposeScope();
        var view = kept.Place.view(kept.Shape);
        return (isCopied ? view.to(kept.Device, copy: true, non_blocking: true) : view).MoveToOuterDisposeScope();
    }

    private Tensor Take(Tensor input)
    {
        lock (_gate)
        {
            if (_free.TryGetValue((input.numel(), input.dtype), out var free) && free.TryPop(out var place))
            {
                return place;
            }
        }

        var created = memory.Zeros([input.numel()], input.dtype);
        if (input.device_type != DeviceType.CUDA || memory.IsMapped)
        {
            return created;
        }

        using (created)
        {
            return created.pin_memory().DetachFromDisposeScope(); // so that copies do not block the host
        }
    }

    /// <summary>Makes the memory available for the next batch. The graph of the previous batch must not be used any more.</summary>
    public void Recycle()
    {
        lock (_gate)
        {
            foreach (var kept in _used)
            {
                kept.Ahead?.Dispose();
                memory.Drop(kept.Place);
                var key = (kept.Place.numel(), kept.Place.dtype);
                if (!_free.TryGetValue(key, out var free))
                {
                    _free[key] = free = new();
                }

                free.Push(kept.Place);
            }

            _used.Clear();
            _last.Clear();
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Recycle();
        foreach (var place in _free.Values.SelectMany(places => places))
        {
            place.Dispose();
        }

        memory.Dispose();
    }

    private sealed class Kept(Tensor place, long[] shape, Device device, Kept? before)
    {
        public Tensor Place => place;

        public long[] Shape => shape;

        public Device Device => device;

        /// <summary>The input of the block that ran before, on the same thread.</summary>
        public Kept? Before => before;

        /// <summary>The input that the backward pass fetched before this one.</summary>
        public Kept? Next { get; set; }

        /// <summary>The values on the device, if they were fetched in advance.</summary>
        public Tensor? Ahead { get; set; }
    }
}
