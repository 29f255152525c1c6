using OpenSora.Cuda;
using OpenSora.DependencyInjection;

namespace Microsoft.Extensions.DependencyInjection;

/// <summary>Adds CUDA in code: needed for a card other than the first, and in trimmed programs. Otherwise a reference to the package is
/// enough.</summary>
public static class CudaBuilderExtensions
{
    /// <summary>Offers the CUDA backend; it is chosen when the program runs if a CUDA libtorch and a device are found.</summary>
    /// <param name="builder">What AddOpenSora returned.</param>
    /// <param name="deviceIndex">Which card, from 0.</param>
    public static OpenSoraBuilder AddCuda(this OpenSoraBuilder builder, int deviceIndex = 0)
    {
        ArgumentNullException.ThrowIfNull(builder);
        ArgumentOutOfRangeException.ThrowIfNegative(deviceIndex);
        return builder.AddBackend(new CudaBackend(deviceIndex));
    }
}
