using System.Globalization;
using System.Text;
using OpenSora.Models;
using OpenSora.Training.Distributed;
using OpenSora.Training.Stages;

namespace OpenSora.Training.Planning;

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

    /// <summary>Gets a plan of training STDiT-XL/2 on a clip of one minute in 1080p, 24 frames per second, on one server with 8 H800 of 80 GB. A
    /// stage is one combination of what the devices divide, recompute and keep in host memory. The height is that of 68 rows of tokens (1088 pixels),
    /// because 1080 is not a multiple of 16.</summary>
    public static TrainingPlan OneMinute1080p { get; } =
        new()
        {
            Devices = 8,
            Stages = Combinations(
                new()
                {
                    Name = "one minute of 1080p",
                    Steps = 1000,
                    BatchSize = 1,
                    Frames = 1440,
                    Height = 1088,
                    Width = 1920,
                    CachedLatents = true,
                    CachedText = true,
                },
                devices: 8
            ),
        };

    /// <summary>Creates combinations of a stage: without and with gradient checkpointing, slices, sequence parallelism, ZeRO, and each kind of
    /// offloading, each in addition to the previous ones.</summary>
    /// <param name="stage">The stage. Its name is completed by that of the combination.</param>
    /// <param name="devices">The number of devices, among which the tokens of a clip are divided.</param>
    /// <returns>The combinations, from the fastest to the one that needs the least device memory.</returns>
    public static IReadOnlyList<PlannedStage> Combinations(PlannedStage stage, int devices)
    {
        ArgumentNullException.ThrowIfNull(stage);
        List<PlannedStage> all = [];
        void Add(string name, Func<PlannedStage, PlannedStage> change) =>
            all.Add(change(all.Count == 0 ? stage : all[^1]) with { Name = all.Count == 0 ? $"{stage.Name}: {name}" : $"+ {name}" });
        static OffloadOptions With(PlannedStage one, Action<OffloadOptions> set)
        {
            var old = one.Offload ?? new();
            OffloadOptions options = new()
            {
                Optimizer = old.Optimizer,
                Activations = old.Activations,
                Parameters = old.Parameters,
            };
            set(options);
            return options;
        }

        Add("data parallel", one => one);
        Add("checkpointing", one => one with { GradientCheckpointing = true });
        if (devices > 1)
        {
            Add($"sequence parallel {devices}", one => one with { SequenceParallel = devices });
            Add("ZeRO 2", one => one with { Sharding = Sharding.Gradients });
        }

        Add("16 slices", one => one with { CheckpointSlices = 16 });
        Add("activations on the host", one => one with { Offload = With(one, options => options.Activations = true) });
        Add("optimizer on the host", one => one with { Offload = With(one, options => options.Optimizer = true) });
        Add("streamed parameters", one => one with { Offload = With(one, options => options.Parameters = true) });
        return all;
    }

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

        var samples = (double)stage.Steps * stage.BatchSize * stage.Accumulation * Devices / stage.SequenceParallel;
        var passes = Passes(stage);
        var linear = samples * (passes * forward.Linear + encoding.Linear);
        var attention = samples * (passes * forward.Attention + encoding.Attention);
        var speed = Hardware.Utilization * (BFloat16 ? Hardware.BFloat16 : Hardware.Float32);
        var hours = (linear + attention / Hardware.AttentionSpeed) / speed / 3600;

        var bytes = BFloat16 ? 2 : 4;
        var encoders = bytes * ((stage.CachedLatents ? 0 : EncoderParameters(Autoencoder)) + (stage.CachedText ? 0 : EncoderParameters(TextEncoder)));
        var memory = MemoryEstimate.Of(Model, stage, height, width, bytes, Average, Devices) with { Encoders = encoders };
        var host = memory.Host * Math.Min(Devices, Hardware.DevicesPerServer);
        var step = new StepSimulation(this, stage, forward, encoding, height, width).Run();
        return new StageEstimate
        {
            Stage = stage,
            Samples = samples,
            Forward = forward,
            Encoding = encoding,
            Flops = linear + attention,
            PeakMemory = memory.Peak,
            Memory = memory.Parts,
            HostMemory = host,
            StepTime = TimeSpan.FromSeconds(step.Seconds),
            Timeline = step.Events,
            BoundBy = step.BoundBy,
            Fits = memory.Peak <= Hardware.Memory && host <= Hardware.HostMemory,
            GpuHours = hours,
            WallTime = TimeSpan.FromHours(hours / Devices),
            Dollars = hours * Hardware.PricePerHour,
        };
    }

    /// <summary>Gets the work of a step in forward passes.</summary>
    internal static int Passes(PlannedStage stage) =>
        !stage.GradientCheckpointing ? 3
        : stage.CheckpointSlices == 1 ? 4
        : 5;

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
        Must(stage.CheckpointSlices > 0, $"has {stage.CheckpointSlices} {nameof(stage.CheckpointSlices)}; it needs at least 1");
        Must(Enum.IsDefined(stage.Sharding), $"has {nameof(stage.Sharding)} {stage.Sharding}; it is not defined");
        Must(
            stage.SequenceParallel > 0 && Devices % stage.SequenceParallel == 0,
            $"has {nameof(stage.SequenceParallel)} {stage.SequenceParallel}; expected a divisor of the number of devices, {Devices}"
        );
        Must(
            stage.GradientCheckpointing || stage.Offload is not ({ Activations: true } or { Parameters: true }),
            $"offloads activations or parameters; this requires {nameof(stage.GradientCheckpointing)}"
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
        if (
            estimates.Any(e =>
                e.Stage is { SequenceParallel: > 1 } or { Sharding: not Sharding.None } or { CheckpointSlices: > 1 } or { Offload: not null }
            )
        )
        {
            AppendSteps(text, estimates);
        }

        return text.ToString();
    }

    // The memory and the time of a step of each stage.
    private void AppendSteps(StringBuilder text, IReadOnlyList<StageEstimate> estimates)
    {
        string[] parts = ["parameters", "gradients", "optimizer", "average", "activations", "working"];
        text.Append("\nMemory of a device in GB, and the time of a step:\n\n")
            .Append("| stage | ")
            .AppendJoin(" | ", parts)
            .Append(" | peak | host | fits | step s | device busy s | bound by |\n|---|")
            .Insert(text.Length, "---|", parts.Length + 6)
            .Append('\n');
        foreach (var e in estimates)
        {
            text.Append("| ").Append(e.Stage.Name).Append(" | ");
            foreach (var part in parts)
            {
                text.Append(CultureInfo.InvariantCulture, $"{e.Memory[part] / 1e9:F1} | ");
            }

            text.Append(CultureInfo.InvariantCulture, $"{e.PeakMemory / 1e9:F1} | {e.HostMemory / 1e9:F0} | {(e.Fits ? "yes" : "no")} | ")
                .Append(CultureInfo.InvariantCulture, $"{e.StepTime.TotalSeconds:F1} | ")
                .Append(CultureInfo.InvariantCulture, $"{e.Timeline.Where(one => one.Lane is "device").Sum(one => one.End - one.Start):F1} | ")
                .Append(CultureInfo.InvariantCulture, $"{e.BoundBy} |\n");
        }
    }
}
