using OpenSora.Diffusion;
using OpenSora.Models;
using OpenSora.Runtime;
using OpenSora.Training.Data;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Objectives;

/// <summary>Trains a diffusion transformer to remove noise. If batches contain token IDs, the text encoder is trained too.</summary>
/// <remarks>The process defines the noise and the prediction target: <see cref="Iddpm"/>, as published for Open-Sora 1.0 (mean squared error plus the
/// variational bound of the variances; Nichol and Dhariwal, 2021), or <see cref="RectifiedFlow"/>.</remarks>
public sealed class DiffusionTraining : ITrainingObjective
{
    private readonly IVideoTransformer _model;
    private readonly T5TextEncoder? _text;
    private readonly ITrainingProcess _process;
    private readonly ITimestepSampler? _timesteps;

    /// <summary>Creates an objective for a model.</summary>
    /// <param name="model">The denoiser. The caller keeps ownership of it.</param>
    /// <param name="text">The text encoder for batches of token IDs; null if batches contain text encoder states.</param>
    /// <param name="process">The noise process; null for <see cref="Iddpm"/> with the published linear schedule of 1000
    /// steps and a learned variance if the model has one.</param>
    /// <param name="timesteps">The sampler that draws timesteps; null for the default of the process, which is uniform for
    /// <see cref="Iddpm"/>.</param>
    /// <exception cref="ArgumentException">The denoiser is not a module.</exception>
    public DiffusionTraining(
        IVideoTransformer model,
        T5TextEncoder? text = null,
        ITrainingProcess? process = null,
        ITimestepSampler? timesteps = null
    )
    {
        ArgumentNullException.ThrowIfNull(model);
        (_model, _text) = (model, text);
        _process = process ?? new Iddpm(IddpmSchedule.Linear(), variance: model.LearnsVariance ? Variance.LearnedRange : Variance.FixedSmall);
        _timesteps = timesteps;
        var modules = new Dictionary<string, nn.Module>(StringComparer.Ordinal)
        {
            ["model"] =
                model as nn.Module
                ?? throw new ArgumentException($"{model.GetType().Name} is not a {nameof(nn.Module)}: it has no parameters to train.", nameof(model)),
        };
        if (text is not null)
        {
            modules["text"] = text;
        }

        Modules = modules;
    }

    /// <summary>Creates a sampler that draws noisy timesteps more often than clean ones, or the reverse: <c>t = steps * u^exponent</c> with u
    /// uniform in [0, 1). All weights are 1, so the loss is weighted by how often each timestep is drawn.</summary>
    /// <remarks>The overall content of an image is determined at high noise levels, and its details at low noise levels. A small model with little
    /// training time learns the content from late timesteps.</remarks>
    /// <param name="exponent">The exponent, above 0. Values below 1 favor late, noisy timesteps; 1 is uniform.</param>
    public static ITimestepSampler SkewedTimesteps(double exponent) => new SkewedTimesteps(exponent);

    /// <summary>The frame rate of the data in frames per second, for models with frame rate conditioning (<see cref="StdiT2"/>,
    /// <see cref="StdiT3"/>). Single images always use a frame rate of 120.</summary>
    public double FramesPerSecond { get; set; } = 24;

    /// <summary>The height and width in pixels that a latent position of the data covers, for models with size conditioning.</summary>
    public int SpatialFactor { get; set; } = 8;

    /// <summary>The number of frames that a latent frame of the data covers.</summary>
    public int TemporalFactor { get; set; } = 1;

    /// <inheritdoc/>
    public IReadOnlyDictionary<string, nn.Module> Modules { get; }

    /// <summary>Creates the sampler of the process that the model is trained with.</summary>
    internal ISampler CreateSampler(int? steps) => _process.CreateSampler(steps);

    /// <inheritdoc/>
    /// <remarks>Consists of the string representations of the process and the timestep sampler (<see cref="object.ToString"/>).</remarks>
    public string Fingerprint => $"{_process}; {_timesteps?.ToString() ?? "its own time steps"}";

    /// <inheritdoc/>
    public bool DrawsForWholeBatch => true;

    /// <inheritdoc/>
    public TrainingLoss Loss(TrainingBatch batch, TrainingStage stage, Generator generator)
    {
        ArgumentNullException.ThrowIfNull(batch);
        ArgumentNullException.ThrowIfNull(stage);
        var latents = batch.Video.to_type(ScalarType.Float32);
        var (part, count) = (latents.shape[0], (int)batch.WholeSize);
        var whole = part == count ? latents : latents.narrow(0, 0, 1).expand([count, .. latents.shape[1..]]); // for its shape
        Tensor Part(Tensor drawn) => part == count ? drawn : drawn.narrow(0, batch.Offset, part);
        var noise = Part(randn(whole.shape, generator: generator)).to(latents.device);
        var drawn = _timesteps?.Sample(count, _process.Steps, generator) ?? _process.DrawTimesteps(whole, generator);
        using var allTimes = drawn.Timesteps;
        using var allWeights = drawn.Weights;
        var (times, weights) = (Part(allTimes), Part(allWeights));
        var rate = stage.CaptionDropout ?? _model.CaptionDropout;
        var drop = rate > 0 ? Part(rand(count, generator: generator)).LessThan(rate).to(latents.device) : null;
        var losses = SampleLoss(batch, latents, times, noise, drop);
        return losses with { Total = (losses.Total * weights.to(losses.Total.device)).mean() };
    }

    /// <inheritdoc/>
    public Tensor SampleLosses(TrainingBatch batch, Tensor times, Tensor noise)
    {
        ArgumentNullException.ThrowIfNull(batch);
        ArgumentNullException.ThrowIfNull(times);
        using var scope = NewDisposeScope();
        var steps = times.Times(_process.Steps).to(ScalarType.Int64).Clamp(0, _process.Steps - 1);
        return SampleLoss(batch, batch.Video.to_type(ScalarType.Float32), steps, noise, drop: null).Total.MoveToOuterDisposeScope();
    }

    /// <summary>Computes the unweighted loss of each sample, with all random values given as arguments.</summary>
    internal TrainingLoss SampleLoss(TrainingBatch batch, Tensor latents, Tensor timesteps, Tensor noise, Tensor? drop)
    {
        var states = batch.Text ?? throw new ArgumentException("The batch has no text, but a diffusion model requires captions.", nameof(batch));
        if (states.dtype == ScalarType.Int64)
        {
            if (_text is null)
            {
                throw new ArgumentException(
                    "The batch contains token IDs, but no text encoder was provided. Provide one, or use data with text encoder states.",
                    nameof(batch)
                );
            }

            states = _text.forward(states, batch.Mask);
        }

        if (batch.NoisyFrames is not null && !_model.SupportsNoisyFrames)
        {
            throw new ArgumentException(
                $"The batch has conditioning frames (see {nameof(TrainingData)}.{nameof(TrainingData.WithFrameMasks)}), "
                    + $"but {_model.GetType().Name} does not support them. "
                    + "Use an STDiT with patches of one frame, or data without conditioning frames.",
                nameof(batch)
            );
        }

        var (frames, height, width) = ((int)latents.shape[2], (int)latents.shape[3], (int)latents.shape[4]);
        var shown = new DenoiserConditions(states, batch.Mask)
        {
            NoisyFrames = batch.NoisyFrames,
            DroppedText = drop ?? zeros(latents.shape[0], ScalarType.Bool, latents.device),
            Frames = frames * TemporalFactor,
            Height = height * SpatialFactor,
            Width = width * SpatialFactor,
            FramesPerSecond = frames == 1 ? DenoiserConditions.ImageFramesPerSecond : FramesPerSecond,
        };
        return _process.TrainingLosses((x, t) => _model.Denoise(x, t, shown), latents, timesteps, noise, noisyFrames: batch.NoisyFrames);
    }
}
