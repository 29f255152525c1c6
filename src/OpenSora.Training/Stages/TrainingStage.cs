using System.Text.Json.Serialization;
using OpenSora.Models;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Data;
using OpenSora.Training.Objectives;

namespace OpenSora.Training.Stages;

/// <summary>A stage of training: its data, its length and its settings. The defaults are those published for Open-Sora 1.0.</summary>
public class TrainingStage
{
    /// <summary>The name of the stage, which progress reports and checkpoints use.</summary>
    [MayDiffer]
    public string Name { get; set; } = "";

    /// <summary>The data that supply the batches.</summary>
    [JsonIgnore]
    public ITrainingData? Data { get; set; }

    /// <summary>The objective of the stage, which must use the trainer's modules; null for the trainer's objective.</summary>
    [JsonIgnore]
    public ITrainingObjective? Objective { get; set; }

    /// <summary>The name of the data, which configuration uses in place of <see cref="Data"/>.</summary>
    [MayDiffer]
    public string Source { get; set; } = "";

    /// <summary>The name of the objective, which configuration uses in place of <see cref="Objective"/>; empty for the trainer's objective.</summary>
    [MayDiffer]
    public string Loss { get; set; } = "";

    /// <summary>The number of optimizer steps.</summary>
    [MayDiffer]
    public int Steps { get; set; }

    /// <summary>The maximum time to spend in the stage, over all its runs; null for no limit. The stage ends when the steps are complete or the time
    /// is spent, and the learning rate follows whichever comes first. A stage that ends by time is not reproducible bit for bit.</summary>
    [MayDiffer]
    public TimeSpan? TimeLimit { get; set; }

    /// <summary>The number of samples in a batch.</summary>
    public int BatchSize { get; set; } = 8;

    /// <summary>The number of batches over which gradients are averaged for one optimizer step.</summary>
    public int Accumulation { get; set; } = 1;

    /// <summary>The number of threads that process a batch in parallel. Each thread processes a part of the samples with its portion of libtorch's
    /// threads. On a processor with few cores, this is faster than running one operator at a time on all cores; on a single GPU, it is not.</summary>
    public int Workers { get; set; } = 1;

    /// <summary>The maximum number of batches that are created in advance, in the background, while training uses the previous ones; 0 to create each
    /// batch when it is needed. The batches are the same. Callbacks that use the same data then use it at the same time.</summary>
    [MayDiffer]
    public int Prefetch { get; set; }

    /// <summary>Enables gradient checkpointing, with which models keep less for the backward pass and recompute the rest (see
    /// <see cref="ModelExtensions.UseGradientCheckpointing"/>). The stage applies this setting to the models whether it is true or false.</summary>
    [MayDiffer]
    public bool GradientCheckpointing { get; set; }

    /// <summary>The number of slices of the tokens in which gradient checkpointing recomputes the parts of a block; 1 recomputes the block at once.
    /// Slices take a quarter more time and much less memory for long videos (see <see cref="ModelExtensions.UseGradientCheckpointing"/>).</summary>
    public int CheckpointSlices { get; set; } = 1;

    /// <summary>What the stage keeps in host memory instead of device memory; null for nothing.</summary>
    [MayDiffer]
    public OffloadOptions? Offload { get; set; }

    /// <summary>The maximum learning rate. The published value is 2e-5; 1e-4 was too high for the 700-million-parameter model.</summary>
    public double LearningRate { get; set; } = 2e-5;

    /// <summary>The learning rate at the end of the stage, which it approaches along half a cosine period after the warm-up (Loshchilov and Hutter,
    /// 2017); null for a constant learning rate.</summary>
    public double? FinalLearningRate { get; set; }

    /// <summary>The number of steps over which the learning rate rises linearly from 0.</summary>
    public int WarmUpSteps { get; set; }

    /// <summary>The decay rate of the mean of the gradients in AdamW.</summary>
    public double Beta1 { get; set; } = 0.9;

    /// <summary>The decay rate of the mean of the squared gradients in AdamW.</summary>
    public double Beta2 { get; set; } = 0.999;

    /// <summary>The weight decay of AdamW.</summary>
    public double WeightDecay { get; set; }

    /// <summary>Trains the weight matrices of transformer blocks with Muon (Jordan et al., 2024) instead of AdamW; null to train all parameters with
    /// AdamW. Muon changes all directions of a matrix by the same amount, and its state has half the size. The value is the root mean square of the
    /// entries of an update for a learning rate of 1. The published value, 0.2, makes updates as large as those of AdamW, so that both use the same
    /// <see cref="LearningRate"/> (Liu et al., "Muon is scalable for LLM training", 2025). All other parameters are trained with AdamW. Plans and
    /// estimates of memory assume AdamW for all parameters.</summary>
    public double? MuonScale { get; set; }

    /// <summary>The maximum norm to which the gradients of all parameters together are clipped; null for no clipping.</summary>
    public double? ClipGradientNorm { get; set; } = 1;

    /// <summary>The decay rate of the moving average of the parameters; null to keep no average.</summary>
    public double? EmaDecay { get; set; } = 0.9999;

    /// <summary>Makes the moving average follow the parameters faster at the beginning. The decay rate is then at most (1 + step) / (10 +
    /// step).</summary>
    public bool EmaWarmUp { get; set; }

    /// <summary>Starts the stage from the moving average of the previous stage instead of its last weights.</summary>
    [MayDiffer]
    public bool StartFromEma { get; set; } = true;

    /// <summary>The fraction of captions that are replaced by the null caption; null for the value that the model is configured with (published:
    /// 0.1).</summary>
    public double? CaptionDropout { get; set; }

    /// <summary>The parameters that the stage trains.</summary>
    public TrainedParameters Parameters { get; set; }

    /// <summary>A function that selects the parameters to train by name; null for those of <see cref="Parameters"/>. Names begin with a key of
    /// <see cref="ITrainingObjective.Modules"/>, such as <c>model.</c> or <c>text.</c>.</summary>
    [JsonIgnore]
    public Func<string, bool>? Trains { get; set; }

    /// <summary>The settings for handling spikes of the loss or the gradients; null to ignore spikes. A loss or gradient that is not finite always
    /// ends the run.</summary>
    public SpikeGuard? Spikes { get; set; }

    /// <summary>The seed of all randomness in the stage: the order of the data, noise, timesteps and dropped captions.</summary>
    public int Seed { get; set; } = 42;

    /// <summary>Creates the first stage of Open-Sora 1.0, which trains on single images and does not train temporal attention. Set
    /// <see cref="Models.StdiT.TemporalAttention"/> to false during this stage to skip temporal attention, which is faster.</summary>
    /// <param name="data">The images: latents of one frame, with captions.</param>
    /// <param name="steps">The number of optimizer steps.</param>
    public static TrainingStage ImagePretraining(ITrainingData data, int steps) =>
        new()
        {
            Name = "image pretraining",
            Data = data,
            Steps = steps,
            BatchSize = 64,
            Parameters = TrainedParameters.NotTemporal,
        };

    /// <summary>Creates the second stage of Open-Sora 1.0, which trains on many clips at low resolution (published: 366 thousand clips of 16 frames,
    /// 256x256 pixels, every third frame). It starts from the image weights, with temporal attention that has no effect at first.</summary>
    /// <param name="data">The clips with captions.</param>
    /// <param name="steps">The number of optimizer steps.</param>
    public static TrainingStage VideoPretraining(ITrainingData data, int steps) =>
        new()
        {
            Name = "video pretraining",
            Data = data,
            Steps = steps,
        };

    /// <summary>Creates the third stage of Open-Sora 1.0, which trains on fewer clips of high quality (published: 20 thousand) that are larger and
    /// longer.</summary>
    /// <param name="data">The clips with captions.</param>
    /// <param name="steps">The number of optimizer steps.</param>
    public static TrainingStage HighQualityFineTuning(ITrainingData data, int steps) =>
        new()
        {
            Name = "fine-tuning",
            Data = data,
            Steps = steps,
            BatchSize = 4,
        };

    /// <summary>Computes the learning rate of a step.</summary>
    /// <param name="step">The number of steps before it.</param>
    /// <param name="elapsed">The time spent in the stage, for stages with a time limit.</param>
    internal double LearningRateAt(long step, TimeSpan elapsed)
    {
        var warm = WarmUpSteps == 0 ? 1 : Math.Min(1, (step + 1.0) / WarmUpSteps);
        if (FinalLearningRate is not { } last)
        {
            return LearningRate * warm;
        }

        var byTime = TimeLimit is { } limit ? elapsed / limit : 0;
        var done = Math.Clamp(Math.Max((step - WarmUpSteps) / (double)Math.Max(1, Steps - WarmUpSteps), byTime), 0, 1);
        return warm * (last + (LearningRate - last) * (1 + Math.Cos(Math.PI * done)) / 2);
    }

    /// <summary>Gets the errors in the settings, one sentence each. The data are checked separately, because configuration only names them.</summary>
    internal IEnumerable<string> Problems()
    {
        (bool Right, string What)[] rules =
        [
            (!string.IsNullOrWhiteSpace(Name), $"has no {nameof(Name)}"),
            (Steps > 0, $"has {Steps} {nameof(Steps)}; it needs at least 1"),
            (BatchSize > 0, $"has {nameof(BatchSize)} {BatchSize}; it must be above 0"),
            (Accumulation > 0, $"has {nameof(Accumulation)} {Accumulation}; it must be above 0"),
            (Prefetch >= 0, $"has {nameof(Prefetch)} {Prefetch}; it must not be negative"),
            (Workers > 0, $"has {nameof(Workers)} {Workers}; it must be above 0"),
            (double.IsFinite(LearningRate) && LearningRate > 0, $"has {nameof(LearningRate)} {LearningRate}; it must be above 0"),
            (
                FinalLearningRate is null || (FinalLearningRate >= 0 && FinalLearningRate <= LearningRate),
                $"has {nameof(FinalLearningRate)} {FinalLearningRate}; it must be between 0 and {LearningRate}, or null"
            ),
            (WarmUpSteps >= 0, $"has {nameof(WarmUpSteps)} {WarmUpSteps}; it must not be negative"),
            (Beta1 is >= 0 and < 1 && Beta2 is >= 0 and < 1, $"has betas {Beta1} and {Beta2}; both must be at least 0 and below 1"),
            (WeightDecay >= 0, $"has {nameof(WeightDecay)} {WeightDecay}; it must not be negative"),
            (MuonScale is null or (> 0 and < double.PositiveInfinity), $"has {nameof(MuonScale)} {MuonScale}; it must be above 0, or null"),
            (
                MuonScale is null || Offload is not { Optimizer: true },
                $"has {nameof(MuonScale)} and {nameof(Offload)} with {nameof(OffloadOptions.Optimizer)}, which Muon does not support"
            ),
            (ClipGradientNorm is null or > 0, $"has {nameof(ClipGradientNorm)} {ClipGradientNorm}; it must be above 0, or null"),
            (EmaDecay is null or (>= 0 and < 1), $"has {nameof(EmaDecay)} {EmaDecay}; it must be at least 0 and below 1, or null"),
            (CaptionDropout is null or (>= 0 and <= 1), $"has {nameof(CaptionDropout)} {CaptionDropout}; it must be between 0 and 1, or null"),
            (
                Spikes is null or { Factor: > 1, Window: > 0 } and { StopAfter: null or > 0 },
                $"has {nameof(Spikes)} with {nameof(SpikeGuard.Factor)} {Spikes?.Factor}, {nameof(SpikeGuard.Window)} {Spikes?.Window} and "
                    + $"{nameof(SpikeGuard.StopAfter)} {Spikes?.StopAfter}; the factor must be above 1, the others above 0"
            ),
            (CheckpointSlices > 0, $"has {nameof(CheckpointSlices)} {CheckpointSlices}; it must be above 0"),
            (
                Offload is not ({ Optimizer: true } or { Activations: true } or { Parameters: true }) || Workers == 1,
                $"has {nameof(Offload)} and {nameof(Workers)} {Workers}; offloading requires 1"
            ),
            (
                Offload is not ({ Activations: true } or { Parameters: true }) || GradientCheckpointing,
                $"has {nameof(Offload)} with {nameof(OffloadOptions.Activations)} or {nameof(OffloadOptions.Parameters)}, which requires "
                    + $"{nameof(GradientCheckpointing)}; set it to true"
            ),
            (
                Offload is not { Parameters: true, Optimizer: false },
                $"has {nameof(Offload)} with {nameof(OffloadOptions.Parameters)} but not {nameof(OffloadOptions.Optimizer)}; set both to true"
            ),
            (TimeLimit is null || TimeLimit > TimeSpan.Zero, $"has {nameof(TimeLimit)} {TimeLimit}; it must be above 0, or null"),
        ];
        return rules.Where(rule => !rule.Right).Select(rule => $"Stage '{Name}' {rule.What}.");
    }

    internal void Validate()
    {
        if (Problems().FirstOrDefault() is { } problem)
        {
            throw new InvalidOperationException(problem);
        }

        if (Data is null)
        {
            throw new InvalidOperationException($"Stage '{Name}' has no {nameof(Data)}.");
        }
    }
}
