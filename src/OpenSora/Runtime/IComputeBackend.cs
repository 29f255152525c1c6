using static TorchSharp.torch;

namespace OpenSora.Runtime;

/// <summary>A device that can run models, such as a CPU or GPU. Packages provide backends, and the application selects one at run time.</summary>
public interface IComputeBackend
{
    /// <summary>Gets the name that selects the backend in options, such as <c>cpu</c>.</summary>
    string Name { get; }

    /// <summary>Gets the priority. By default, the available backend with the highest priority is selected. The priority of the CPU is 0.</summary>
    int Priority { get; }

    /// <summary>Gets the device for tensors. This property is only read if the backend is available.</summary>
    Device Device { get; }

    /// <summary>Checks whether the backend can be used on this machine. This method does not throw.</summary>
    BackendAvailability CheckAvailability();
}

/// <summary>The availability of a backend on this machine.</summary>
/// <param name="IsAvailable">True if the backend can be used.</param>
/// <param name="Reason">A description of the device, or of what is missing and how to resolve it.</param>
public sealed record BackendAvailability(bool IsAvailable, string Reason);

/// <summary>Declares a backend that applications discover when they reference this assembly.</summary>
/// <param name="backendType">A type that implements <see cref="IComputeBackend"/> and has a parameterless constructor.</param>
[AttributeUsage(AttributeTargets.Assembly, AllowMultiple = true)]
public sealed class ComputeBackendAttribute(Type backendType) : Attribute
{
    /// <summary>Gets the type of the backend.</summary>
    public Type BackendType { get; } = backendType;
}

/// <summary>The CPU backend, which is always available.</summary>
internal sealed class CpuBackend : IComputeBackend
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
