using OpenSora.Cuda;
using OpenSora.Generation;

namespace Microsoft.Extensions.DependencyInjection;

/// <summary>Extension methods that add the CUDA backend in code. This is only required for a GPU other than the first one and in trimmed or
/// single-file applications; otherwise a reference to the package is enough.</summary>
public static class CudaBuilderExtensions
{
    /// <summary>Adds the CUDA backend. It is available at run time if a libtorch built with CUDA and a GPU are found.</summary>
    /// <param name="builder">The builder of the generator.</param>
    /// <param name="deviceIndex">The index of the GPU, starting at 0.</param>
    public static VideoGeneratorBuilder AddCuda(this VideoGeneratorBuilder builder, int deviceIndex = 0)
    {
        ArgumentNullException.ThrowIfNull(builder);
        ArgumentOutOfRangeException.ThrowIfNegative(deviceIndex);
        return builder.AddBackend(new CudaBackend(deviceIndex));
    }
}
