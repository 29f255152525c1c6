using static TorchSharp.torch;

namespace OpenSora.Runtime;

/// <summary>A device that can run models, such as a CPU or GPU. Packages provide backends, and the application selects one at run time.</summary>
/// <remarks>Public backends with a parameterless constructor in referenced assemblies named <c>OpenSora.*</c> are discovered. Other backends are
/// added in code.</remarks>
public interface IComputeBackend
{
    /// <summary>Gets the name that selects the backend in options, such as <c>cpu</c>.</summary>
    string Name { get; }

    /// <summary>Gets the priority. By default, the available backend with the highest priority is selected. The priority of the CPU is 0.</summary>
    int Priority { get; }

    /// <summary>Gets the device for tensors. This property is only read if the backend is available.</summary>
    Device Device { get; }

    /// <summary>Checks whether the backend can be used on this machine. This method does not throw.</summary>
    /// <returns>Whether the backend can be used, and a description of the device, or of what is missing and how to resolve it.</returns>
    (bool IsAvailable, string Reason) CheckAvailability();
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
    public (bool IsAvailable, string Reason) CheckAvailability() => (true, $"{Environment.ProcessorCount} logical processors");
}
