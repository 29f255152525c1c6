using OpenSora.Models;
using OpenSora.Runtime;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>The cost of a request, computed from the configurations of the networks.</summary>
/// <param name="Memory">The memory.</param>
/// <param name="Step">The work of a denoising step; null for a custom transformer.</param>
/// <param name="Decoding">The work of decoding; null for a custom autoencoder.</param>
internal sealed record RequestCost(MemoryEstimate Memory, double? Step, double? Decoding)
{
    /// <summary>Gets the power of the work by which its efficiency grows: 0.1 means that twice the work takes 2^0.9 times as long.</summary>
    public double Gain { get; init; }

    /// <summary>Computes the cost of a request.</summary>
    /// <param name="model">The loaded model.</param>
    /// <param name="plan">The request.</param>
    /// <param name="options">The options, which say when the weights of each part are in memory.</param>
    /// <param name="decodeBudget">The memory that decoding may use in bytes; null for no limit.</param>
    internal static RequestCost Of(LoadedModel model, RequestPlan plan, OpenSoraOptions options, double? decodeBudget)
    {
        var (settings, shape) = (plan.Settings, plan.LatentShape);
        var hasPrompt = plan.Encoded.Prompt is not null || plan.Prompts.Any(prompt => !string.IsNullOrWhiteSpace(prompt));
        var guided = settings.GuidanceScale != 1 && hasPrompt;
        var frames = plan.Windows?.Length ?? shape[2];
        var size = new CallSize(guided ? 2 : 1, frames, shape[3], shape[4], model.Transformer.TextTokens);
        var step = (model.Transformer as ICosted)?.Cost(size) is { } call
            ? call with
            {
                Flops = call.Flops.Times(plan.Windows?.Windows.Count ?? 1),
            }
            : (NetworkCost?)null;
        var pieces = LatentDecoder.Plan(model.Vae, shape, decodeBudget);
        var decoding = model.Vae is ICosted autoencoder ? LatentDecoder.Cost(autoencoder, shape, pieces) : (NetworkCost?)null;
        var encoding = model.TextEncoder is ICosted and ITextEncoder encoder ? ((ICosted)encoder).Cost(new(1, Tokens: encoder.MaxTokens)).Bytes : 0;
        var text = PartWeights.Of(model.TextEncoder, model.TextEncoderWeights(), options.TextEncoderResidency);
        var transformer = PartWeights.Of(model.Transformer, NetworkCost.Weights(model.Transformer), options.TransformerResidency);
        var encodes = plan.Given.Count > 0 || plan.Edit is not null;
        var vae = PartWeights.Of(
            model.Vae,
            NetworkCost.Weights(model.Vae) - (encodes ? 0 : NetworkCost.MappedEncoder(model.Vae)),
            options.AutoencoderResidency
        );
        var memory = new MemoryEstimate
        {
            Weights = (long)(text.Kept + transformer.Kept + vae.Kept),
            TextEncoding = (long)(encoding + text.InStage),
            Denoising = (long)((step?.Bytes ?? 0) + transformer.InStage),
            Decoding = (long)((decoding?.Bytes ?? 0) + vae.InStage),
            Frames = 3L * settings.Frames * settings.Height * settings.Width,
        };
        return new RequestCost(memory, Work(step, model.Transformer, model.Device), Work(decoding, model.Vae, model.Device))
        {
            Gain =
                model.Device.type != DeviceType.CPU ? 0
                : IsHalf(model.Transformer) ? HalfGain
                : FullGain,
        };
    }

    /// <summary>The weights of a part that are in memory all the time, and those that are in memory only in its stage.</summary>
    private readonly record struct PartWeights(double Kept, double InStage)
    {
        internal static PartWeights Of(object? network, double bytes, Residency? residency) =>
            residency switch
            {
                Residency.Release => new(0, bytes),
                Residency.Stream => new(0, network is nn.Module module ? Streamed(module) : bytes),
                _ => new(bytes, 0),
            };

        // With streaming, the largest block is in memory, and the layers outside the blocks.
        private static double Streamed(nn.Module module)
        {
            var blocks = module
                .named_parameters()
                .GroupBy(
                    named =>
                        named.name.Split('.') is var parts && Array.FindIndex(parts, part => part.All(char.IsAsciiDigit)) is >= 0 and var at
                            ? string.Join('.', parts[..(at + 1)])
                            : "",
                    named => (double)(named.parameter.numel() * named.parameter.element_size()),
                    StringComparer.Ordinal
                )
                .ToDictionary(group => group.Key, group => group.Sum(), StringComparer.Ordinal);
            return blocks.GetValueOrDefault("") + blocks.Where(block => block.Key.Length > 0).Select(block => block.Value).DefaultIfEmpty().Max();
        }
    }

    // The operations, with those of attention weighted by the time that they take compared with linear layers: measured on a CPU with AVX-512
    // (docs/lab/performance.md), and for GPUs as published for Open-Sora 1.0 (docs/training-cost.md).
    private static double? Work(NetworkCost? cost, object network, Device device)
    {
        if (cost is not { Flops: var flops })
        {
            return null;
        }

        var (spatial, temporal, cross) =
            device.type != DeviceType.CPU ? (4, 4, 4)
            : IsHalf(network) ? (4, 13, 2.3)
            : (1.6, 4, 1.1);
        var work = flops.Linear + spatial * flops.SpatialAttention + temporal * flops.TemporalAttention + cross * flops.CrossAttention;
        // Reading and packing the matrix of a linear layer takes as long as multiplying it by several hundred tokens.
        return network is nn.Module weights && network is IVideoTransformer && device.type == DeviceType.CPU
            ? work + 2.0 * (IsHalf(network) ? 600 : 300) * weights.parameters().Sum(parameter => (double)parameter.numel())
            : work;
    }

    private static bool IsHalf(object network) => network is nn.Module module && NetworkCost.BytesOf(module) < 4;

    // Measured on a CPU with requests of 2.5 to 4 times the work (docs/lab/performance.md).
    private const double FullGain = 0.05;
    private const double HalfGain = 0.13;

    /// <summary>Checks whether the memory is sufficient.</summary>
    /// <param name="machine">The memory of the machine.</param>
    /// <returns>A warning if the request needs much more than is available; otherwise null.</returns>
    /// <exception cref="InsufficientMemoryException">The request needs more than the machine has.</exception>
    internal string? Check(MachineMemory machine)
    {
        if (Memory.Peak > machine.Total)
        {
            throw OutOfMemory.Insufficient(
                $"The request needs about {Memory}, but the machine has {Sizes.Text(machine.Total)}. Request fewer frames or a smaller size, set "
                    + "Precision to bfloat16, or use a smaller model."
            );
        }

        // Weights are mapped from files, so those that are loaded may count as available memory.
        var working = Memory.Peak - Memory.Weights;
        return working <= Excess * machine.Available
            ? null
            : $"The request needs about {Sizes.Text(working)} in addition to the weights, but only {Sizes.Text(machine.Available)} are available, so "
                + "the operating system may stop the program. Request fewer frames or a smaller size, or run fewer requests at the same time.";
    }

    private const double Excess = 1.25;
}

/// <summary>The times of completed requests, from which the time of the next one is estimated.</summary>
internal sealed class Calibration
{
    private const int Count = 16;

    private readonly Lock _lock = new();
    private readonly List<(RequestCost Cost, StageClock Clock)> _completed = [];

    /// <summary>Adds a completed request.</summary>
    internal void Add(RequestCost cost, StageClock clock)
    {
        lock (_lock)
        {
            _completed.Add((cost, clock));
            if (_completed.Count > Count)
            {
                _completed.RemoveAt(0);
            }
        }
    }

    /// <summary>Estimates the time of a request from the completed ones whose denoising and decoding are closest in size.</summary>
    /// <param name="cost">The cost of the request.</param>
    /// <param name="steps">The number of denoising steps.</param>
    /// <returns>The time; null if no request was completed yet, or the cost of a custom network is not known.</returns>
    internal TimeSpan? Estimate(RequestCost cost, int steps)
    {
        lock (_lock)
        {
            if (_completed.Count == 0 || cost is not { Step: { } step, Decoding: { } decoding })
            {
                return null;
            }

            var denoised = Closest(one => one.Cost.Step!.Value, one => one.Clock.Step, step);
            var decoded = Closest(one => one.Cost.Decoding!.Value, one => one.Clock.Decoding, decoding);
            return denoised.Clock.Before
                + steps * Ratio(step / denoised.Cost.Step!.Value, cost.Gain) * denoised.Clock.Step
                + Ratio(decoding / decoded.Cost.Decoding!.Value, cost.Gain) * decoded.Clock.Decoding;
        }
    }

    // The ratio of two times from that of the work. The efficiency was measured up to a ratio of 4.
    private static double Ratio(double work, double gain) => work / Math.Pow(Math.Clamp(work, 1.0 / 4, 4), gain);

    // Among requests of about the same size, the fastest: the first request of a process is slower, and so is one beside other work.
    private (RequestCost Cost, StageClock Clock) Closest(
        Func<(RequestCost Cost, StageClock Clock), double> size,
        Func<(RequestCost Cost, StageClock Clock), TimeSpan> time,
        double wanted
    ) => _completed.OrderBy(one => Math.Round(10 * Math.Abs(Math.Log(size(one) / wanted)))).ThenBy(one => time(one) / size(one)).First();
}
