using System.Runtime.InteropServices;
using OpenSora.Runtime;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Cuda;

/// <summary>The backend for NVIDIA GPUs. It requires a libtorch that was built with CUDA.</summary>
/// <param name="deviceIndex">The index of the GPU, starting at 0.</param>
public sealed class CudaBackend(int deviceIndex) : IComputeBackend
{
    /// <summary>Initializes a new backend for the first GPU.</summary>
    public CudaBackend()
        : this(0) { }

    /// <inheritdoc/>
    public string Name => "cuda";

    /// <inheritdoc/>
    public int Priority => 100;

    /// <inheritdoc/>
    public Device Device => new(DeviceType.CUDA, deviceIndex);

    /// <inheritdoc/>
    public (bool IsAvailable, string Reason) CheckAvailability()
    {
        try
        {
            if (!cuda.is_available())
            {
                return (
                    false,
                    HasDriver()
                        ? $"an NVIDIA driver is installed, but libtorch finds no CUDA device. Use a libtorch that was built with CUDA: " + Remedy
                        : "no NVIDIA driver was found on this machine."
                );
            }

            var devices = cuda.device_count();
            return deviceIndex < devices
                ? (true, $"device {deviceIndex} of {devices}")
                : (false, $"device {deviceIndex} was requested, but the number of devices is {devices} (counted from 0).");
        }
        catch (Exception e) when (e is ExternalException or DllNotFoundException or TypeInitializationException or NotSupportedException)
        {
            return (false, $"libtorch could not be loaded: {e.Message}");
        }
    }

    private const string Remedy = "reference the package TorchSharp-cuda-linux or TorchSharp-cuda-windows.";

    private static bool HasDriver() =>
        OperatingSystem.IsWindows() ? NativeLibrary.TryLoad("nvcuda.dll", out _) : NativeLibrary.TryLoad("libcuda.so.1", out _);
}
