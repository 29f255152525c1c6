using System.Runtime.CompilerServices;
using OpenSora.Distributed;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Training.Distributed;

/// <summary>A parameter, or a part of one, that this process updates.</summary>
/// <param name="Index">The index of the parameter among those that are trained.</param>
/// <param name="Name">The name of the parameter.</param>
/// <param name="From">The first value of the part.</param>
/// <param name="IsWhole">true if the part is the whole parameter.</param>
/// <param name="Values">The parameter, or a view of its values.</param>
internal sealed record OwnedParameter(int Index, string Name, long From, bool IsWhole, Parameter Values)
{
    /// <summary>Gets a name that no other part has.</summary>
    public string Key => KeyOf(Name, From, IsWhole);

    /// <summary>Gets the part of a tensor of the shape of the parameter, such as its gradient, as a view if it is contiguous.</summary>
    public Tensor PartOf(Tensor whole) =>
        IsWhole && Values.shape.SequenceEqual(whole.shape) ? whole : whole.reshape(-1).narrow(0, From, Values.numel());

    /// <summary>Gets the name of a part.</summary>
    public static string KeyOf(string name, long from, bool isWhole) => isWhole ? name : FormattableString.Invariant($"{name}@{from}");
}

/// <summary>The parameters that this process updates: all of them, or its part of each bucket (see <see cref="Sharding"/>).</summary>
internal sealed class OwnedParameters : IDisposable
{
    private const int MostInFlight = 2;

    private readonly IReadOnlyList<(string Name, Parameter Parameter)> _trained;
    private readonly TrainingGroup? _group;

    /// <summary>Chooses the parameters of this process.</summary>
    /// <param name="trained">All parameters that are trained.</param>
    /// <param name="group">The processes; null for one.</param>
    public OwnedParameters(IReadOnlyList<(string Name, Parameter Parameter)> trained, TrainingGroup? group)
    {
        (_trained, _group) = (trained, group);
        if (group is not null)
        {
            if (trained.FirstOrDefault(pair => pair.Parameter.dtype != ScalarType.Float32) is { Name: { } name, Parameter: { } wrong })
            {
                throw new InvalidOperationException(
                    $"The parameter '{name}' has the type {wrong.dtype}; several processes train parameters of type Float32 only. "
                        + "Keep the parameters in Float32 and use UseComputeType for a narrower type."
                );
            }

            var parts = group.Options.Sharding == Sharding.None ? 1 : group.Size;
            Layout = BucketLayout.Of([.. trained.Select(pair => pair.Parameter.numel())], group.Options.BucketBytes, parts);
        }

        All =
            group is null || group.Options.Sharding == Sharding.None
                ? [.. trained.Select((pair, i) => new OwnedParameter(i, pair.Name, 0, IsWhole: true, pair.Parameter))]
                :
                [
                    .. Layout!
                        .Slices(group.Rank)
                        .OrderBy(slice => slice.Parameter)
                        .Select(slice => new OwnedParameter(
                            slice.Parameter,
                            trained[slice.Parameter].Name,
                            slice.From,
                            slice.Count == trained[slice.Parameter].Parameter.numel(),
                            View(trained[slice.Parameter].Parameter, slice)
                        )),
                ];
    }

    /// <summary>Gets the parameters and parts of parameters of this process.</summary>
    public IReadOnlyList<OwnedParameter> All { get; }

    /// <summary>Gets the buckets; null for one process.</summary>
    public BucketLayout? Layout { get; }

    /// <summary>Gets a value that indicates whether other processes have other parts.</summary>
    public bool IsSharded => Layout?.Parts > 1;

    /// <summary>Gets the group; null for one process.</summary>
    public TrainingGroup? Group => _group;

    /// <summary>Fills the parameters with the parts of all processes. All processes must call it.</summary>
    public void Gather()
    {
        if (!IsSharded)
        {
            return;
        }

        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var inFlight = new Queue<(GradientBucket Bucket, Tensor Part, Tensor Whole, CollectiveOperation Operation)>();
        for (var i = 0; i < Layout!.Buckets.Count; i++)
        {
            if (inFlight.Count == MostInFlight)
            {
                Finish();
            }

            var bucket = Layout.Buckets[i];
            var (device, share) = (_trained[0].Parameter.device, bucket.Length / Layout.Parts);
            var part = zeros(share, device: device);
            foreach (var slice in Layout.Slices(i, _group!.Rank))
            {
                using var inner = NewDisposeScope();
                part.narrow(0, slice.Offset - share * _group.Rank, slice.Count).copy_(Flat(slice.Parameter).narrow(0, slice.From, slice.Count));
            }

            var whole = empty(bucket.Length, device: device);
            inFlight.Enqueue((bucket, part, whole, _group!.Collectives.AllGather(whole, part)));
        }

        while (inFlight.Count > 0)
        {
            Finish();
        }

        void Finish()
        {
            var (bucket, part, whole, operation) = inFlight.Dequeue();
            operation.Wait();
            part.Dispose();
            foreach (var entry in bucket.Entries)
            {
                using var inner = NewDisposeScope();
                Flat(entry.Parameter).copy_(whole.narrow(0, entry.Offset, entry.Count));
            }

            whole.Dispose();
        }
    }

    /// <summary>Disposes of the views; the parameters stay.</summary>
    public void Dispose()
    {
        foreach (var owned in All)
        {
            if (!ReferenceEquals(owned.Values, _trained[owned.Index].Parameter))
            {
                owned.Values.Dispose();
            }
        }
    }

    private Tensor Flat(int parameter) => _trained[parameter].Parameter.detach().view(-1);

    // A parameter that shares its memory with a part of another. The public constructor of Parameter leaves a second handle to the finalizer.
    private static Parameter View(Parameter parameter, ParameterSlice slice)
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var values = parameter.detach().view(-1).narrow(0, slice.From, slice.Count).requires_grad_(true);
        var view = OfHandle(values.DecoupleFromNativeHandle());
        view.DetachFromDisposeScope();
        return view;

        [UnsafeAccessor(UnsafeAccessorKind.Constructor)]
        static extern Parameter OfHandle(IntPtr handle);
    }
}
