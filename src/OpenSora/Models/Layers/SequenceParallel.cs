using OpenSora.Distributed;
using OpenSora.Runtime;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models.Layers;

/// <summary>A call of a transformer with tokens that are divided among the processes of a group ("DSP: Dynamic Sequence Parallelism for
/// Multi-Dimensional Transformers", Zhao et al., 2024). Each process has some of the frames. For attention along time, the processes exchange tokens,
/// so that each has all frames of some of the places, and afterwards exchange them back.</summary>
/// <remarks>
/// <para>Every parameter sees only the tokens of its process, so the gradients of one process are the sum over the group. The output, and with it the
/// loss, is that of all frames in every process. A video with fewer token frames or places than processes is not divided: every process computes all
/// of it, and gradients are divided by the number of processes, so that their sum is the same.</para>
/// <para>If a length is not a multiple of the number of processes, the first processes have one more. Collective operations need equal parts, so
/// shares are padded for the exchange, and the padding is removed afterwards.</para>
/// </remarks>
internal sealed class SequenceParallel : IDisposable
{
    [ThreadStatic]
    private static SequenceParallel? _current;

    private readonly ICollectives _group;
    private readonly SequenceParallel? _before = _current;
    private readonly long _patch; // latent frames of a token
    private readonly long _length; // latent frames

    private readonly bool _isDivided;

    private SequenceParallel(ICollectives group, IReadOnlyList<int> patch, long[] latents)
    {
        (_group, _patch, _length, _isDivided) = (group, patch[0], latents[2], Divides(group.Size, latents, patch));
        Frames = (_length + _patch - 1) / _patch;
        _current = _isDivided ? this : null;
    }

    /// <summary>The call that this thread computes a share of; null if the tokens are not divided.</summary>
    public static SequenceParallel? Current => _current;

    /// <summary>The number of token frames of all processes.</summary>
    public long Frames { get; }

    /// <summary>Begins a call and replaces its inputs by the share of this process. The call ends when the result is disposed of.</summary>
    /// <param name="group">The group; null, or a group of one process, divides nothing.</param>
    /// <param name="patch">The frames, height and width of a patch.</param>
    /// <param name="x">Latents, <c>[batch, channels, frames, height, width]</c>.</param>
    /// <param name="noisyFrames">The mask of noisy frames, <c>[batch, token frames]</c>, or null.</param>
    /// <returns>The call; null if there is no group.</returns>
    public static SequenceParallel? Begin(ICollectives? group, IReadOnlyList<int> patch, ref Tensor x, ref Tensor? noisyFrames)
    {
        if (group is null or { Size: 1 })
        {
            return null;
        }

        var call = new SequenceParallel(group, patch, x.shape);
        noisyFrames = noisyFrames is null ? null : call.Own(noisyFrames);
        x = call.OwnLatents(x).contiguous();
        return call;
    }

    /// <summary>Makes a function, which can run later and in another thread, belong to the current call.</summary>
    public static Func<Tensor?[], Tensor> Keep(Func<Tensor?[], Tensor> function)
    {
        var call = _current;
        return call is null
            ? function
            : inputs =>
            {
                var before = _current;
                _current = call;
                try
                {
                    return function(inputs);
                }
                finally
                {
                    _current = before;
                }
            };
    }

    /// <summary>Replaces random numbers by those of the first process, so that all processes use the same ones.</summary>
    public static Tensor Same(ICollectives? group, Tensor random)
    {
        group?.Broadcast(random).Wait();
        return random;
    }

    /// <summary>Selects the share of this process of values for each frame, <c>[..., token frames, ...]</c> with the frames on axis 1.</summary>
    public Tensor Own(Tensor ofFrames)
    {
        var (start, count) = Share(Frames, _group.Rank, _group.Size);
        return _isDivided ? ofFrames.narrow(1, start, count) : ofFrames;
    }

    /// <summary>Exchanges <c>[batch, own frames, places, channels]</c> for <c>[batch, frames, own places, channels]</c>.</summary>
    public Tensor ToPlaces(Tensor x) => Exchanged.Run(new(this, Cut: 2, Join: 1, Frames), x);

    /// <summary>Exchanges <c>[batch, frames, own places, channels]</c> for <c>[batch, own frames, places, channels]</c>.</summary>
    /// <param name="x">The tokens.</param>
    /// <param name="places">The number of places of all processes.</param>
    public Tensor ToFrames(Tensor x, long places) => Exchanged.Run(new(this, Cut: 1, Join: 2, places), x);

    /// <summary>Gives every process the output for all frames. The gradient of the output, which every process computes, goes only to the process
    /// that computed the frame.</summary>
    /// <param name="output">The output for the frames of this process, <c>[batch, channels, own frames, height, width]</c>.</param>
    public Tensor Gather(Tensor output) => is_grad_enabled() ? Gathered.apply([this, output]) : GatherNow(output);

    /// <summary>Ends the call.</summary>
    public void Dispose() => _current = _before;

    /// <summary>Computes the part of a length that one of several processes has.</summary>
    internal static (long Start, long Count) Share(long length, int rank, int processes)
    {
        var (each, more) = Math.DivRem(length, processes);
        return (rank * each + Math.Min(rank, more), each + (rank < more ? 1 : 0));
    }

    /// <summary>Computes the largest share of a length.</summary>
    internal static long Largest(long length, int processes) => (length + processes - 1) / processes;

    /// <summary>Determines whether latents are divided: whether each process gets at least one frame and one place.</summary>
    internal static bool Divides(int processes, long[] latents, IReadOnlyList<int> patch)
    {
        long Tokens(int axis) => (latents[2 + axis] + patch[axis] - 1) / patch[axis];
        return processes > 1 && Tokens(0) >= processes && Tokens(1) * Tokens(2) >= processes;
    }

    /// <summary>Gets the size of the share that a process of a group computes, for estimates.</summary>
    internal static CallSize Share(ICollectives? group, IReadOnlyList<int> patch, CallSize size)
    {
        var processes = group?.Size ?? 1;
        return Divides(processes, [size.Batch, 1, size.Frames, size.Height, size.Width], patch)
            ? size with
            {
                Frames = Largest((size.Frames + patch[0] - 1) / patch[0], processes) * patch[0],
            }
            : size;
    }

    // The latent frames of a process; the last patch may be incomplete.
    private (long Start, long Count) LatentFrames(int process)
    {
        var (start, count) = Share(Frames, process, _group.Size);
        return (start * _patch, Math.Min(count * _patch, _length - start * _patch));
    }

    private Tensor OwnLatents(Tensor x)
    {
        var (start, count) = LatentFrames(_group.Rank);
        return _isDivided ? x.narrow(2, start, count) : x;
    }

    // Sends the shares of one axis to the processes and joins those of another axis, which come from them.
    private Tensor ExchangeNow(Tensor x, int cut, int join, long joined)
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var (n, me) = (_group.Size, _group.Rank);
        var (whole, own) = (x.shape[cut], x.shape[join]);
        var (chunk, result) = (x.shape, x.shape);
        (chunk[cut], chunk[join]) = (Largest(whole, n), Largest(joined, n));
        (result[cut], result[join]) = (Share(whole, me, n).Count, joined);

        // Collective operations have no float16; copying converts it to float32 and back.
        var wire = x.dtype == ScalarType.Float16 ? ScalarType.Float32 : x.dtype;
        var isEven = whole % n == 0 && joined % n == 0;
        var sent = isEven ? empty([n, .. chunk], wire, x.device) : zeros([n, .. chunk], wire, x.device);
        for (var process = 0; process < n; process++)
        {
            var (start, count) = Share(whole, process, n);
            sent.select(0, process).narrow(cut, 0, count).narrow(join, 0, own).copy_(x.narrow(cut, start, count));
        }

        var received = empty_like(sent);
        _group.AllToAll(received, sent).Wait();
        sent.Dispose();
        var y = empty(result, x.dtype, x.device);
        for (var process = 0; process < n; process++)
        {
            var (start, count) = Share(joined, process, n);
            y.narrow(join, start, count).copy_(received.select(0, process).narrow(join, 0, count).narrow(cut, 0, result[cut]));
        }

        return y.MoveToOuterDisposeScope();
    }

    private Tensor GatherNow(Tensor output)
    {
        if (!_isDivided)
        {
            return output.clone();
        }

        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var n = _group.Size;
        var chunk = output.shape;
        chunk[2] = Largest(Frames, n) * _patch;
        var sent = zeros(chunk, output.dtype, output.device);
        sent.narrow(2, 0, output.shape[2]).copy_(output);
        var received = empty([n, .. chunk], output.dtype, output.device);
        _group.AllGather(received, sent.unsqueeze(0)).Wait();
        return cat([.. Enumerable.Range(0, n).Select(process => received.select(0, process).narrow(2, 0, LatentFrames(process).Count))], 2)
            .MoveToOuterDisposeScope();
    }

    /// <summary>An exchange of tokens.</summary>
    /// <param name="Call">The call.</param>
    /// <param name="Cut">The axis that is complete before the exchange.</param>
    /// <param name="Join">The axis that is complete after the exchange.</param>
    /// <param name="Joined">The length of that axis.</param>
    private sealed record Step(SequenceParallel Call, int Cut, int Join, long Joined)
    {
        public Tensor Run(Tensor x) => Call.ExchangeNow(x, Cut, Join, Joined);
    }

    /// <summary>An exchange. Its backward pass is the opposite exchange of the gradients.</summary>
    private sealed class Exchanged : autograd.SingleTensorFunction<Exchanged>
    {
        public override string Name => nameof(Exchanged);

        public static Tensor Run(Step step, Tensor x) => is_grad_enabled() ? apply([step, x]) : step.Run(x);

        public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var (step, x) = ((Step)vars[0], (Tensor)vars[1]);
            ctx.save_data(nameof(Step), new Step(step.Call, step.Join, step.Cut, x.shape[step.Cut]));
            return step.Run(x);
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
        {
            using var received = ReturnedGradients.Release(grad_output);
            return [null!, ReturnedGradients.Add(((Step)ctx.get_data(nameof(Step))).Run(received))];
        }
    }

    /// <summary>The output for all frames. Its backward pass selects the gradients of the frames of this process or, if the frames are not divided,
    /// divides the gradients by the number of processes.</summary>
    private sealed class Gathered : autograd.SingleTensorFunction<Gathered>
    {
        public override string Name => nameof(Gathered);

        public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
        {
            ctx.save_data(nameof(Gathered), vars[0]);
            return ((SequenceParallel)vars[0]).GatherNow((Tensor)vars[1]);
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
        {
            using var received = ReturnedGradients.Release(grad_output);
            var call = (SequenceParallel)ctx.get_data(nameof(Gathered));
            return [null!, ReturnedGradients.Add(call._isDivided ? call.OwnLatents(received).contiguous() : received.Over(call._group.Size))];
        }
    }
}
