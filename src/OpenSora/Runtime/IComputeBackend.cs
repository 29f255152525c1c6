using static TorchSharp.torch;

namespace OpenSora.Runtime;

/// <summary>Something that can compute: a processor, a graphics card. Offered by a package, chosen when the program runs.</summary>
public interface IComputeBackend
{
    /// <summary>The name by which options ask for it, such as <c>cpu</c>.</summary>
    string Name { get; }

    /// <summary>Of the available backends, the one with the highest priority is taken where none is asked for. The CPU has 0.</summary>
    int Priority { get; }

    /// <summary>Where tensors go; only asked for where the backend is available.</summary>
    Device Device { get; }

    /// <summary>Finds out whether this machine has what the backend needs. Does not throw.</summary>
    BackendAvailability CheckAvailability();
}

/// <summary>Whether a backend can be used here.</summary>
/// <param name="IsAvailable">It can.</param>
/// <param name="Reason">What was found, or what is missing and what to do about it.</param>
public sealed record BackendAvailability(bool IsAvailable, string Reason);

/// <summary>Offers a backend of this assembly to every program that references it: see <see cref="BackendSelector"/>.</summary>
/// <param name="backendType">An <see cref="IComputeBackend"/> with a constructor without parameters.</param>
[AttributeUsage(AttributeTargets.Assembly, AllowMultiple = true)]
public sealed class ComputeBackendAttribute(Type backendType) : Attribute
{
    /// <summary>The backend's type.</summary>
    public Type BackendType { get; } = backendType;
}

/// <summary>The processor; always available.</summary>
public sealed class CpuBackend : IComputeBackend
{
    /// <inheritdoc/>
    public string Name => "cpu";

    /// <inheritdoc/>
    public int Priority => 0;

    /// <inheritdoc/>
    public Device Device => CPU;

    /// <inheritdoc/>
    public BackendAvailability CheckAvailability() => new(true, $"{Environment.ProcessorCount} logical processors");
}
