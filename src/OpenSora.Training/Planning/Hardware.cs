namespace OpenSora.Training.Planning;

/// <summary>What a plan assumes of the device that trains. Change a preset with <c>with</c>: your price, your measured speed.</summary>
public sealed record Hardware
{
    /// <summary>The device's name, for the table.</summary>
    public required string Name { get; init; }

    /// <summary>Peak of float32 matrix products, floating-point operations a second; a multiply-add counts as two.</summary>
    public required double Float32 { get; init; }

    /// <summary>Peak of bfloat16 matrix products (dense), operations a second.</summary>
    public required double BFloat16 { get; init; }

    /// <summary>The share of the peak that linear layers reach over a whole run: waiting for data, communication and all the rest included. 0.12 is
    /// what the hours
    /// published for Open-Sora 1.0 come to.</summary>
    public double Utilisation { get; init; } = 0.12;

    /// <summary>How fast the products inside attention go, relative to linear layers: softmax, short rows and odd head sizes make them slow. A
    /// quarter is what the
    /// speeds published for Open-Sora 1.0 at 256x256 and 512x512 come to.</summary>
    public double AttentionSpeed { get; init; } = 0.25;

    /// <summary>Memory, bytes.</summary>
    public required double Memory { get; init; }

    /// <summary>Price of an hour, dollars.</summary>
    public double PricePerHour { get; init; }

    /// <summary>NVIDIA H800 SXM, with the price that the three amounts published for Open-Sora 1.0 agree on best: they come to 2.12, 2.34 and 2.49
    /// dollars an hour.</summary>
    public static Hardware H800 { get; } =
        new()
        {
            Name = "H800",
            Float32 = 67e12,
            BFloat16 = 989e12,
            Memory = 80e9,
            PricePerHour = 2.30,
        };

    /// <summary>NVIDIA H100 SXM. The price is an assumption.</summary>
    public static Hardware H100 { get; } = H800 with { Name = "H100", PricePerHour = 2.50 };

    /// <summary>NVIDIA A100 SXM with 80 GB. Price and utilisation are assumptions: of its lower peak, the same program uses more.</summary>
    public static Hardware A100 { get; } =
        new()
        {
            Name = "A100",
            Float32 = 19.5e12,
            BFloat16 = 312e12,
            Utilisation = 0.2,
            Memory = 80e9,
            PricePerHour = 1.50,
        };

    /// <summary>The machine that runs, at measured speeds.</summary>
    /// <param name="float32">Operations a second that linear layers reach in float32.</param>
    /// <param name="bfloat16">The same in bfloat16; null: as in float32.</param>
    public static Hardware ThisMachine(double float32, double? bfloat16 = null) =>
        new()
        {
            Name = Environment.MachineName,
            Float32 = float32,
            BFloat16 = bfloat16 ?? float32,
            Utilisation = 1,
            Memory = GC.GetGCMemoryInfo().TotalAvailableMemoryBytes,
        };

    internal void Validate()
    {
        foreach (
            var (value, name) in new[]
            {
                (Float32, nameof(Float32)),
                (BFloat16, nameof(BFloat16)),
                (Utilisation, nameof(Utilisation)),
                (AttentionSpeed, nameof(AttentionSpeed)),
                (Memory, nameof(Memory)),
            }
        )
        {
            if (!double.IsFinite(value) || value <= 0)
            {
                throw new InvalidOperationException($"Hardware '{Name}' has {name} {value}; it must be above 0.");
            }
        }
        if (Utilisation > 1)
        {
            throw new InvalidOperationException($"Hardware '{Name}' has {nameof(Utilisation)} {Utilisation}; it is a share of the peak, at most 1.");
        }

        if (!double.IsFinite(PricePerHour) || PricePerHour < 0)
        {
            throw new InvalidOperationException($"Hardware '{Name}' has {nameof(PricePerHour)} {PricePerHour}; it must not be negative.");
        }
    }
}
