namespace OpenSora.Training.Planning;

/// <summary>The properties of the training device that a plan assumes. Use a <c>with</c> expression to change a preset, for example to your price or
/// your measured speed.</summary>
public sealed record Hardware
{
    /// <summary>The name of the device, which the table shows.</summary>
    public required string Name { get; init; }

    /// <summary>The peak speed of float32 matrix multiplications, in floating-point operations per second. A multiply-add counts as two.</summary>
    public required double Float32 { get; init; }

    /// <summary>The peak speed of dense bfloat16 matrix multiplications, in floating-point operations per second.</summary>
    public required double BFloat16 { get; init; }

    /// <summary>The fraction of the peak speed that linear layers reach over a whole run, including waiting for data, communication and everything
    /// else. The GPU hours published for Open-Sora 1.0 correspond to 0.12.</summary>
    public double Utilization { get; init; } = 0.12;

    /// <summary>The speed of matrix multiplications inside attention, relative to linear layers. Softmax, short rows and unusual head sizes make them
    /// slow. The speeds published for Open-Sora 1.0 at 256x256 and 512x512 correspond to 0.25.</summary>
    public double AttentionSpeed { get; init; } = 0.25;

    /// <summary>The memory of the device in bytes.</summary>
    public required double Memory { get; init; }

    /// <summary>The speed at which the memory of the device is read or written, in bytes per second.</summary>
    public double MemoryBandwidth { get; init; } = 1e12;

    /// <summary>The speed between two devices of a server in one direction, in bytes per second.</summary>
    public double LinkBandwidth { get; init; } = 25e9;

    /// <summary>The speed between a device and host memory in one direction, in bytes per second.</summary>
    public double HostBandwidth { get; init; } = 25e9;

    /// <summary>The speed between servers in one direction for each device, in bytes per second.</summary>
    public double NetworkBandwidth { get; init; } = 3e9;

    /// <summary>The memory of the host in bytes, which all devices of a server share.</summary>
    public double HostMemory { get; init; } = 2e12;

    /// <summary>The speed at which the memory of the host is read or written, in bytes per second. All devices of a server share it.</summary>
    public double HostMemoryBandwidth { get; init; } = 2e11;

    /// <summary>The number of devices in a server.</summary>
    public int DevicesPerServer { get; init; } = 8;

    /// <summary>The price per hour in US dollars.</summary>
    public double PricePerHour { get; init; }

    /// <summary>An NVIDIA H800 SXM. The price is the best fit to the three costs published for Open-Sora 1.0, which correspond to 2.12, 2.34 and 2.49
    /// dollars per hour.</summary>
    public static Hardware H800 { get; } =
        new()
        {
            Name = "H800",
            Float32 = 67e12,
            BFloat16 = 989e12,
            Memory = 80e9,
            // NVIDIA H100 SXM data sheet: 3.35 TB/s of HBM3, PCIe Gen5 with 128 GB/s in both directions together. The H800 has NVLink with 400 GB/s
            // in both directions together instead of 900. DGX H100 data sheet: 2 TB of host memory, a network adapter of 400 Gbit/s for each GPU, two
            // processors with 8 channels of DDR5-4800 each (2 x 307 GB/s).
            MemoryBandwidth = 3.35e12,
            LinkBandwidth = 200e9,
            HostBandwidth = 64e9,
            NetworkBandwidth = 50e9,
            HostMemory = 2e12,
            HostMemoryBandwidth = 614e9,
            PricePerHour = 2.30,
        };

    /// <summary>An NVIDIA H100 SXM. The price is an assumption.</summary>
    public static Hardware H100 { get; } = H800 with { Name = "H100", LinkBandwidth = 450e9, PricePerHour = 2.50 };

    /// <summary>An NVIDIA A100 SXM with 80 GB. The price and the utilization are assumptions: the same program uses a larger fraction of the lower
    /// peak speed.</summary>
    public static Hardware A100 { get; } =
        new()
        {
            Name = "A100",
            Float32 = 19.5e12,
            BFloat16 = 312e12,
            Utilization = 0.2,
            Memory = 80e9,
            // NVIDIA A100 80GB SXM data sheet: 2,039 GB/s, NVLink 600 GB/s and PCIe Gen4 64 GB/s, both in both directions together. DGX A100 data
            // sheet: 2 TB of host memory, 200 Gbit/s for each GPU, two processors with 8 channels of DDR4-3200 each (2 x 205 GB/s).
            MemoryBandwidth = 2.039e12,
            LinkBandwidth = 300e9,
            HostBandwidth = 32e9,
            NetworkBandwidth = 25e9,
            HostMemory = 2e12,
            HostMemoryBandwidth = 410e9,
            PricePerHour = 1.50,
        };

    /// <summary>Describes the current machine by its measured speeds.</summary>
    /// <param name="float32">The speed that linear layers reach in float32, in floating-point operations per second.</param>
    /// <param name="bfloat16">The speed that linear layers reach in bfloat16, in floating-point operations per second; null for the speed in
    /// float32.</param>
    public static Hardware ThisMachine(double float32, double? bfloat16 = null) =>
        new()
        {
            Name = Environment.MachineName,
            Float32 = float32,
            BFloat16 = bfloat16 ?? float32,
            Utilization = 1,
            Memory = GC.GetGCMemoryInfo().TotalAvailableMemoryBytes,
        };

    internal void Validate()
    {
        foreach (
            var (value, name) in new[]
            {
                (Float32, nameof(Float32)),
                (BFloat16, nameof(BFloat16)),
                (Utilization, nameof(Utilization)),
                (AttentionSpeed, nameof(AttentionSpeed)),
                (Memory, nameof(Memory)),
                (MemoryBandwidth, nameof(MemoryBandwidth)),
                (LinkBandwidth, nameof(LinkBandwidth)),
                (HostBandwidth, nameof(HostBandwidth)),
                (NetworkBandwidth, nameof(NetworkBandwidth)),
                (HostMemory, nameof(HostMemory)),
                (HostMemoryBandwidth, nameof(HostMemoryBandwidth)),
                (DevicesPerServer, nameof(DevicesPerServer)),
            }
        )
        {
            if (!double.IsFinite(value) || value <= 0)
            {
                throw new InvalidOperationException($"Hardware '{Name}' has {name} {value}; it must be above 0.");
            }
        }
        if (Utilization > 1)
        {
            throw new InvalidOperationException($"Hardware '{Name}' has {nameof(Utilization)} {Utilization}; as a fraction, it must be at most 1.");
        }

        if (!double.IsFinite(PricePerHour) || PricePerHour < 0)
        {
            throw new InvalidOperationException($"Hardware '{Name}' has {nameof(PricePerHour)} {PricePerHour}; it must not be negative.");
        }
    }
}
