using OpenSora.Models;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Data;
using OpenSora.Training.Objectives;

namespace OpenSora.Training.Stages;

/// <summary>How the learning rate goes after the warm-up.</summary>
public enum LearningRateShape
{
    /// <summary>Stays as it is.</summary>
    Constant,

    /// <summary>Falls along half a cosine to <see cref="TrainingStage.FinalLearningRate"/> (Loshchilov and Hutter, 2017).</summary>
    Cosine,
}

/// <summary>One stage of training: its data, its length and its settings. The defaults are those published for Open-Sora 1.0.</summary>
public class TrainingStage
{
    /// <summary>The stage's name, in progress and checkpoints.</summary>
    public string Name { get; set; } = "";

    /// <summary>Where the batches come from.</summary>
    public ITrainingData? Data { get; set; }

    /// <summary>What the stage minimises, of the same modules; null: what the trainer was made with.</summary>
    public ITrainingObjective? Objective { get; set; }

    /// <summary>Optimizer steps.</summary>
    public int Steps { get; set; }

    /// <summary>Ends the stage when this much time has been spent in it, over all its runs, if the steps are not done before; the learning rate
    /// follows whichever comes sooner. A stage that ends by time is not repeatable bit for bit.</summary>
    public TimeSpan? TimeLimit { get; set; }

    /// <summary>Samples in a batch.</summary>
    public int BatchSize { get; set; } = 8;

    /// <summary>Batches whose gradients are averaged for one optimizer step.</summary>
    public int Accumulation { get; set; } = 1;

    /// <summary>Threads that share the work on a batch, each with its part of the samples and libtorch's threads divided among them. On a processor
    /// with
    /// few cores this is faster than having all cores work on one operator after the other; on one GPU it is not.</summary>
    public int Workers { get; set; } = 1;

    /// <summary>Lets the models keep less for the backward pass and compute it again there, see <see cref="Models.GradientCheckpointing"/>. On or
    /// off,
    /// the stage sets it.</summary>
    public bool GradientCheckpointing { get; set; }

    /// <summary>The highest learning rate. Published: 2e-5; 1e-4 was too much for the 700-million-parameter model.</summary>
    public double LearningRate { get; set; } = 2e-5;

    /// <summary>The learning rate at the end, where <see cref="Shape"/> is a cosine.</summary>
    public double FinalLearningRate { get; set; }

    /// <summary>How the learning rate goes after the warm-up.</summary>
    public LearningRateShape Shape { get; set; } = LearningRateShape.Constant;

    /// <summary>Steps in which the learning rate rises from 0.</summary>
    public int WarmUpSteps { get; set; }

    /// <summary>AdamW's decay of the gradients' mean.</summary>
    public double Beta1 { get; set; } = 0.9;

    /// <summary>AdamW's decay of the gradients' squares.</summary>
    public double Beta2 { get; set; } = 0.999;

    /// <summary>AdamW's weight decay.</summary>
    public double WeightDecay { get; set; }

    /// <summary>The norm to which the gradients of all parameters together are cut; null: not at all.</summary>
    public double? ClipGradientNorm { get; set; } = 1;

    /// <summary>Decay of the moving average of the parameters; null: no average is kept.</summary>
    public double? EmaDecay { get; set; } = 0.9999;

    /// <summary>Lets the moving average follow faster in the beginning: its decay is at most (1 + step) / (10 + step).</summary>
    public bool EmaWarmUp { get; set; }

    /// <summary>Whether the stage starts from the moving average of the stage before it rather than from its last weights.</summary>
    public bool StartFromEma { get; set; } = true;

    /// <summary>The share of captions that are replaced by the null caption; null: as the model is configured (published: 0.1).</summary>
    public double? CaptionDropout { get; set; }

    /// <summary>Which parameters are trained, by name; null: all. Names begin with the part that the objective names, such as <c>model.</c> or
    /// <c>text.</c></summary>
    public Func<string, bool>? Trains { get; set; }

    /// <summary>What to do when a loss or gradient is suddenly far above the usual; null: nobody looks. One that is no finite number always ends the
    /// run.</summary>
    public SpikeGuard? Spikes { get; set; }

    /// <summary>Seed of everything random in the stage: order of the data, noise, time steps, dropped captions.</summary>
    public int Seed { get; set; } = 42;

    /// <summary>The first stage of Open-Sora 1.0: single images; temporal attention is not trained. <see cref="Models.StdiT.TemporalAttention"/>
    /// leaves it out meanwhile, which is faster.</summary>
    /// <param name="data">Images: latents of one frame, with captions.</param>
    /// <param name="steps">Optimizer steps.</param>
    public static TrainingStage ImagePretraining(ITrainingData data, int steps) =>
        new()
        {
            Name = "image pretraining",
            Data = data,
            Steps = steps,
            BatchSize = 64,
            Trains = name => !IsTemporal(name),
        };

    /// <summary>The second stage: many clips at low resolution (366 thousand of 16 frames, 256x256, every third frame, were published),
    /// starting from the image weights with temporal attention that adds nothing yet.</summary>
    /// <param name="data">Clips with captions.</param>
    /// <param name="steps">Optimizer steps.</param>
    public static TrainingStage VideoPretraining(ITrainingData data, int steps) =>
        new()
        {
            Name = "video pretraining",
            Data = data,
            Steps = steps,
        };

    /// <summary>The third stage: few clips of high quality (20 thousand were published), larger and longer.</summary>
    /// <param name="data">Clips with captions.</param>
    /// <param name="steps">Optimizer steps.</param>
    public static TrainingStage HighQualityFineTuning(ITrainingData data, int steps) =>
        new()
        {
            Name = "fine-tuning",
            Data = data,
            Steps = steps,
            BatchSize = 4,
        };

    /// <summary>Whether a parameter belongs to attention along time: of STDiT and STDiT2 a part of every block, of STDiT3 blocks of their
    /// own.</summary>
    internal static bool IsTemporal(string name) =>
        name.Contains(".attn_temp.", StringComparison.Ordinal) || name.Contains(".temporal_blocks.", StringComparison.Ordinal);

    /// <summary>The learning rate of a step.</summary>
    /// <param name="step">Steps before it.</param>
    /// <param name="elapsed">Time spent in the stage, for a stage that ends by time.</param>
    internal double LearningRateAt(long step, TimeSpan elapsed)
    {
        var warm = WarmUpSteps == 0 ? 1 : Math.Min(1, (step + 1.0) / WarmUpSteps);
        if (Shape == LearningRateShape.Constant)
        {
            return LearningRate * warm;
        }

        var byTime = TimeLimit is { } limit ? elapsed / limit : 0;
        var done = Math.Clamp(Math.Max((step - WarmUpSteps) / (double)Math.Max(1, Steps - WarmUpSteps), byTime), 0, 1);
        return warm * (FinalLearningRate + (LearningRate - FinalLearningRate) * (1 + Math.Cos(Math.PI * done)) / 2);
    }

    /// <summary>What is wrong with the settings, one sentence each. The data are another matter: configuration only names them.</summary>
    internal IEnumerable<string> Problems()
    {
        (bool Right, string What)[] rules =
        [
            (!string.IsNullOrWhiteSpace(Name), $"has no {nameof(Name)}"),
            (Steps > 0, $"has {Steps} {nameof(Steps)}; it needs at least 1"),
            (BatchSize > 0, $"has {nameof(BatchSize)} {BatchSize}; it must be above 0"),
            (Accumulation > 0, $"has {nameof(Accumulation)} {Accumulation}; it must be above 0"),
            (Workers > 0, $"has {nameof(Workers)} {Workers}; it must be above 0"),
            (double.IsFinite(LearningRate) && LearningRate > 0, $"has {nameof(LearningRate)} {LearningRate}; it must be above 0"),
            (
                FinalLearningRate >= 0 && FinalLearningRate <= LearningRate,
                $"has {nameof(FinalLearningRate)} {FinalLearningRate}; it must be between 0 and {LearningRate}"
            ),
            (WarmUpSteps >= 0, $"has {nameof(WarmUpSteps)} {WarmUpSteps}; it must not be negative"),
            (Beta1 is >= 0 and < 1 && Beta2 is >= 0 and < 1, $"has betas {Beta1} and {Beta2}; both must be at least 0 and below 1"),
            (WeightDecay >= 0, $"has {nameof(WeightDecay)} {WeightDecay}; it must not be negative"),
            (ClipGradientNorm is null or > 0, $"has {nameof(ClipGradientNorm)} {ClipGradientNorm}; it must be above 0, or null"),
            (EmaDecay is null or (>= 0 and < 1), $"has {nameof(EmaDecay)} {EmaDecay}; it must be at least 0 and below 1, or null"),
            (CaptionDropout is null or (>= 0 and <= 1), $"has {nameof(CaptionDropout)} {CaptionDropout}; it must be between 0 and 1, or null"),
            (
                Spikes is null or { Factor: > 1, Window: > 0 } and { StopAfter: null or > 0 },
                $"has {nameof(Spikes)} with {nameof(SpikeGuard.Factor)} {Spikes?.Factor}, {nameof(SpikeGuard.Window)} {Spikes?.Window} and {nameof(SpikeGuard.StopAfter)} {Spikes?.StopAfter}; the factor must be above 1, the others above 0"
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

    /// <summary>The settings that a resumed run must share with the run that it continues.</summary>
    internal string Settings =>
        FormattableString.Invariant(
            $"batch {BatchSize} x {Accumulation}{(Workers == 1 ? "" : $" by {Workers}")}, lr {LearningRate} to {FinalLearningRate} {Shape} after {WarmUpSteps}, betas {Beta1} {Beta2}, decay {WeightDecay}, clip {ClipGradientNorm}, ema {EmaDecay} {EmaWarmUp}, dropout {CaptionDropout}, seed {Seed}"
        )
        + (
            Spikes is { } spikes
                ? FormattableString.Invariant($", spikes {spikes.Factor} of {spikes.Window} {(spikes.SkipSteps ? "skipped" : "taken")}")
                : ""
        );
}
