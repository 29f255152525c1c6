using System.Runtime.InteropServices;
using OpenSora.Cuda;
using OpenSora.Runtime;
using TorchSharp;
using static TorchSharp.torch;

[assembly: ComputeBackend(typeof(CudaBackend))]

namespace OpenSora.Cuda;

/// <summary>NVIDIA graphics cards, through a libtorch that was built with CUDA.</summary>
/// <param name="deviceIndex">Which card, from 0.</param>
public sealed class CudaBackend(int deviceIndex) : IComputeBackend
{
    /// <summary>The first card.</summary>
    public CudaBackend()
        : this(0) { }

    /// <inheritdoc/>
    public string Name => "cuda";

    /// <inheritdoc/>
    public int Priority => 100;

    /// <inheritdoc/>
    public Device Device => new(DeviceType.CUDA, deviceIndex);

    /// <inheritdoc/>
    public BackendAvailability CheckAvailability()
    {
        try
        {
            if (!cuda.is_available())
            {
                return new(
                    false,
                    HasDriver()
                        ? $"an NVIDIA driver is there, but libtorch finds no CUDA device. Supply a libtorch built with CUDA: " + Remedy
                        : "no NVIDIA driver was found on this machine."
                );
            }

            var devices = cuda.device_count();
            return deviceIndex < devices
                ? new(true, $"device {deviceIndex} of {devices}")
                : new(false, $"device {deviceIndex} was asked for, and there are {devices} (counted from 0).");
        }
        catch (Exception e) when (e is ExternalException or DllNotFoundException or TypeInitializationException or NotSupportedException)
        {
            return new(false, $"libtorch could not be loaded: {e.Message}");
        }
    }

    private const string Remedy = "reference the package TorchSharp-cuda-linux or TorchSharp-cuda-windows.";

    private static bool HasDriver() =>
        OperatingSystem.IsWindows() ? NativeLibrary.TryLoad("nvcuda.dll", out _) : NativeLibrary.TryLoad("libcuda.so.1", out _);
}
