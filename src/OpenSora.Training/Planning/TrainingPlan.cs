using System.Globalization;
using System.Text;
using OpenSora.Models;
using OpenSora.Training.Distributed;

namespace OpenSora.Training.Planning;

/// <summary>A stage of a training plan, for which the cost is estimated.</summary>
public sealed record PlannedStage
{
    /// <summary>The name of the stage, which the table shows.</summary>
    public required string Name { get; init; }

    /// <summary>The number of optimizer steps.</summary>
    public required long Steps { get; init; }

    /// <summary>The number of samples that one device processes at a time.</summary>
    public int BatchSize { get; init; } = 8;

    /// <summary>The number of batches that a device processes for one optimizer step.</summary>
    public int Accumulation { get; init; } = 1;

    /// <summary>The number of frames of a clip.</summary>
    public int Frames { get; init; } = 16;

    /// <summary>The height of a clip in pixels.</summary>
    public int Height { get; init; } = 256;

    /// <summary>The width of a clip in pixels.</summary>
    public int Width { get; init; } = 256;

    /// <summary>Recomputes blocks in the backward pass, which takes a third more work and keeps far fewer activations.</summary>
    public bool GradientCheckpointing { get; init; }

    /// <summary>Encodes clips once, before training. If false, clips are encoded every time they are used.</summary>
    public bool CachedLatents { get; init; }

    /// <summary>Encodes captions once, before training. If false, captions are encoded every time they are used.</summary>
    public bool CachedText { get; init; }
}

/// <summary>The estimated cost of a stage.</summary>
public sealed record StageEstimate
{
    /// <summary>The stage.</summary>
    public required PlannedStage Stage { get; init; }

    /// <summary>The number of clips processed, over all devices.</summary>
    public double Samples { get; init; }

    /// <summary>The operations of the model's forward pass for one sample.</summary>
    public required FlopEstimate Forward { get; init; }

    /// <summary>The operations of encoding the clip and the caption of one sample, if they are not cached.</summary>
    public required FlopEstimate Encoding { get; init; }

    /// <summary>The floating-point operations of the whole stage.</summary>
    public double Flops { get; init; }

    /// <summary>The maximum memory in use on one device at any time, in bytes. Only tensors are counted, not the program and its libraries.</summary>
    public double PeakMemory { get; init; }

    /// <summary>The memory used on one device by purpose, in bytes: <c>parameters</c>, <c>gradients</c>, <c>optimizer</c>, <c>average</c>,
    /// <c>activations</c> (what the forward pass keeps for the backward pass), <c>working</c> (the additional memory of the backward pass) and
    /// <c>encoders</c>. Activations are released as gradients are computed, so the peak is less than the sum.</summary>
    public required IReadOnlyDictionary<string, double> Memory { get; init; }

    /// <summary>true if the peak memory is within the device's memory.</summary>
    public bool Fits { get; init; }

    /// <summary>The sum of the hours of all devices.</summary>
    public double GpuHours { get; init; }

    /// <summary>The time from start to end.</summary>
    public TimeSpan WallTime { get; init; }

    /// <summary>The price in US dollars.</summary>
    public double Dollars { get; init; }
}

/// <summary>Estimates the cost of a training run in advance: operations, memory, hours and dollars.</summary>
/// <remarks>
/// A step is a forward pass, a backward pass of twice its work and, with gradient checkpointing, another forward pass. The time is the work divided
/// by the peak speed of the device, its <see cref="Hardware.Utilization"/> and, for attention, its <see cref="Hardware.AttentionSpeed"/>. The
/// estimate depends strongly on these two assumptions. docs/training-cost.md explains their origin and compares the estimated memory with
/// measurements.
/// </remarks>
/// <example><code>
/// var plan = new TrainingPlan
/// {
///     Model = StdiTConfig.Preset("STDiT-S/2"), Hardware = Hardware.A100,
///     Stages = [new() { Name = "clips", Steps = 20_000, BatchSize = 16, Frames = 16, CachedLatents = true, CachedText = true }],
/// };
/// Console.WriteLine(plan);
/// </code></example>
public sealed record TrainingPlan
{
    /// <summary>The configuration of the model to train.</summary>
    public StdiTConfig Model { get; init; } = new();

    /// <summary>The configuration of the autoencoder that encodes clips.</summary>
    public AutoencoderKLConfig Autoencoder { get; init; } = new();

    /// <summary>The configuration of the text encoder that encodes captions.</summary>
    public T5Config TextEncoder { get; init; } = new();

    /// <summary>The properties of each device.</summary>
    public Hardware Hardware { get; init; } = Hardware.H800;

    /// <summary>The number of devices. Each device holds the whole model and processes its own batch.</summary>
    public int Devices { get; init; } = 1;

    /// <summary>The state of training that each device holds only a part of.</summary>
    public Sharding Sharding { get; init; }

    /// <summary>Performs matrix multiplications in bfloat16 (see <see cref="ModelExtensions.UseComputeType"/>). If false, they are in
    /// float32.</summary>
    public bool BFloat16 { get; init; } = true;

    /// <summary>Keeps a moving average of the parameters.</summary>
    public bool Average { get; init; } = true;

    /// <summary>The stages of the plan.</summary>
    public IReadOnlyList<PlannedStage> Stages { get; init; } = [];

    /// <summary>Gets a plan of the published second and third stages of Open-Sora 1.0: steps, batches and sizes, on 64 H800, without cached
    /// encodings. Gradient checkpointing is enabled, as in the published configuration for 256x256.</summary>
    public static TrainingPlan OpenSora10 { get; } =
        new()
        {
            Devices = 64,
            Stages =
            [
                new()
                {
                    Name = "video pretraining, 366K clips",
                    Steps = 80_000,
                    BatchSize = 8,
                    GradientCheckpointing = true,
                },
                new()
                {
                    Name = "fine-tuning, 20K clips",
                    Steps = 24_000,
                    BatchSize = 8,
                    GradientCheckpointing = true,
                },
                new()
                {
                    Name = "fine-tuning, 20K clips",
                    Steps = 20_000,
                    BatchSize = 2,
                    Height = 512,
                    Width = 512,
                    GradientCheckpointing = true,
                },
            ],
        };

    /// <summary>Estimates the cost of every stage.</summary>
    /// <exception cref="ArgumentException">The configuration of a model is invalid.</exception>
    /// <exception cref="InvalidOperationException">A stage, the hardware or the number of devices is invalid. The message describes the
    /// error.</exception>
    public IReadOnlyList<StageEstimate> Estimate()
    {
        Model.Validate();
        Autoencoder.Validate();
        TextEncoder.Validate();
        Hardware.Validate();
        if (Devices < 1)
        {
            throw new InvalidOperationException($"The plan has {Devices} {nameof(Devices)}; it needs at least 1.");
        }

        return [.. Stages.Select(Estimate)];
    }

    private StageEstimate Estimate(PlannedStage stage)
    {
        var factor = 1 << (Autoencoder.BlockOutChannels.Count - 1);
        Check(stage, factor);
        var (height, width) = (stage.Height / factor, stage.Width / factor);
        var forward = FlopEstimate.Of(Model, stage.Frames, height, width);
        var nothing = new FlopEstimate(0, 0);
        var clip = stage.CachedLatents ? nothing : FlopEstimate.OfEncoding(Autoencoder, stage.Frames, stage.Height, stage.Width);
        var caption = stage.CachedText ? nothing : FlopEstimate.OfEncoding(TextEncoder, Model.ModelMaxLength);
        var encoding = new FlopEstimate(clip.Linear + caption.Linear, clip.Attention + caption.Attention);

        var samples = (double)stage.Steps * stage.BatchSize * stage.Accumulation * Devices;
        var passes = stage.GradientCheckpointing ? 4 : 3;
        var linear = samples * (passes * forward.Linear + encoding.Linear);
        var attention = samples * (passes * forward.Attention + encoding.Attention);
        var speed = Hardware.Utilization * (BFloat16 ? Hardware.BFloat16 : Hardware.Float32);
        var hours = (linear + attention / Hardware.AttentionSpeed) / speed / 3600;

        var bytes = BFloat16 ? 2 : 4;
        var encoders = bytes * ((stage.CachedLatents ? 0 : EncoderParameters(Autoencoder)) + (stage.CachedText ? 0 : EncoderParameters(TextEncoder)));
        var memory = MemoryEstimate.Of(Model, stage.BatchSize, stage.Frames, height, width, bytes, stage.GradientCheckpointing, Average) with
        {
            Encoders = encoders,
        };
        memory = memory.Divided(Model, Sharding, Devices);
        return new StageEstimate
        {
            Stage = stage,
            Samples = samples,
            Forward = forward,
            Encoding = encoding,
            Flops = linear + attention,
            PeakMemory = memory.Peak,
            Memory = memory.Parts,
            Fits = memory.Peak <= Hardware.Memory,
            GpuHours = hours,
            WallTime = TimeSpan.FromHours(hours / Devices),
            Dollars = hours * Hardware.PricePerHour,
        };
    }

    private void Check(PlannedStage stage, int factor)
    {
        void Must(bool right, string what)
        {
            if (!right)
            {
                throw new InvalidOperationException($"Stage '{stage.Name}' {what}.");
            }
        }

        Must(stage.Steps > 0, $"has {stage.Steps} {nameof(stage.Steps)}; it needs at least 1");
        Must(
            stage.BatchSize > 0 && stage.Accumulation > 0,
            $"has {nameof(stage.BatchSize)} {stage.BatchSize} x {nameof(stage.Accumulation)} {stage.Accumulation}; both must be above 0"
        );
        Must(
            stage.Frames > 0 && stage.Frames % Model.PatchSize[0] == 0,
            $"has {stage.Frames} {nameof(stage.Frames)}; expected a multiple of the patch size, {Model.PatchSize[0]}"
        );
        var (rows, columns) = (factor * Model.PatchSize[1], factor * Model.PatchSize[2]);
        Must(
            stage.Height > 0 && stage.Width > 0 && stage.Height % rows == 0 && stage.Width % columns == 0,
            $"is {stage.Height}x{stage.Width} pixels; expected multiples of {rows}x{columns}, the size of a token"
        );
    }

    // Only the autoencoder's encoder is in memory. Its weights cannot be derived from its operations, because the operations depend on the size of
    // each level. Therefore the weights are counted separately.
    private static double EncoderParameters(AutoencoderKLConfig model)
    {
        static double Convolution(double size, double from, double to) => (size * size * from + 1) * to;
        static double Residual(double from, double to) =>
            Convolution(3, from, to) + Convolution(3, to, to) + 2 * (from + to) + (from == to ? 0 : Convolution(1, from, to));
        var channels = model.BlockOutChannels;
        var count = Convolution(3, model.InChannels, channels[0]);
        for (var level = 0; level < channels.Count; level++)
        {
            count +=
                Residual(channels[Math.Max(0, level - 1)], channels[level]) + (model.LayersPerBlock - 1) * Residual(channels[level], channels[level]);
            count += level < channels.Count - 1 ? Convolution(3, channels[level], channels[level]) : 0;
        }
        double c = channels[^1],
            moments = 2 * model.LatentChannels;
        return count + 2 * Residual(c, c) + 4 * Convolution(1, c, c) + 2 * c + 2 * c + Convolution(3, c, moments) + Convolution(1, moments, moments);
    }

    private static double EncoderParameters(T5Config model)
    {
        double d = model.DModel,
            feedForward = model.FeedForwardProj.StartsWith("gated", StringComparison.Ordinal) ? 3 : 2;
        return model.VocabSize * d
            + (double)model.RelativeAttentionNumBuckets * model.NumHeads
            + d
            + model.NumLayers * (d * (4.0 * model.NumHeads * model.DKv + feedForward * model.DFf) + 2 * d);
    }

    /// <summary>Formats the estimates as a Markdown table.</summary>
    public override string ToString()
    {
        var culture = CultureInfo.InvariantCulture;
        var estimates = Estimate();
        var text = new StringBuilder();
        text.Append(culture, $"{Devices} x {Hardware.Name}, {(BFloat16 ? "bfloat16" : "float32")}, {Hardware.Utilization:P0} of ")
            .Append(
                culture,
                $"{(BFloat16 ? Hardware.BFloat16 : Hardware.Float32) / 1e12:G3} TFLOP/s, "
                    + $"attention at {Hardware.AttentionSpeed:G2} of that, ${Hardware.PricePerHour:F2} per hour\n\n"
            );
        text.Append(
            "| stage | clips | samples | TFLOP per sample | of which attention | encoding | memory GB | GPU hours | days | $ |\n"
                + "|---|---|---|---|---|---|---|---|---|---|\n"
        );
        foreach (var e in estimates)
        {
            text.Append(
                    culture,
                    $"| {e.Stage.Name} | {e.Stage.Frames}x{e.Stage.Height}x{e.Stage.Width} | {e.Samples:N0} | {e.Flops / e.Samples / 1e12:G3} | "
                )
                .Append(
                    culture,
                    $"{e.Forward.Attention / e.Forward.Total:P1} | {e.Encoding.Total / (e.Flops / e.Samples):P0} | "
                        + $"{e.PeakMemory / 1e9:F1}{(e.Fits ? "" : " (exceeds memory)")} | "
                )
                .Append(culture, $"{e.GpuHours:N0} | {e.WallTime.TotalDays:F1} | {e.Dollars:N0} |\n");
        }
        text.Append(culture, $"| total | | {estimates.Sum(e => e.Samples):N0} | | | | | {estimates.Sum(e => e.GpuHours):N0} | ")
            .Append(culture, $"{estimates.Sum(e => e.WallTime.TotalDays):F1} | {estimates.Sum(e => e.Dollars):N0} |\n");
        return text.ToString();
    }
}
