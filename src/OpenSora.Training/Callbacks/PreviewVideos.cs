using System.Globalization;
using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.Models;
using OpenSora.Training.Data;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Callbacks;

/// <summary>Renders previews at intervals, with the moving averages where the stage keeps any, and without disturbing training. They are written as
/// <c>STAGE-STEP.png</c>, a picture with a row for each video, and <c>STAGE-STEP.mp4</c>, and told to all callbacks
/// (<see cref="ITrainingCallback.Observed"/>).</summary>
public sealed class PreviewVideos : ITrainingCallback
{
    private readonly string _folder;
    private readonly Func<CancellationToken, IReadOnlyList<VideoFrames>> _render;
    private readonly Interval _interval = new();

    /// <summary>Previews of any kind, such as an autoencoder's reconstructions.</summary>
    /// <param name="folder">Where they are written to.</param>
    /// <param name="render">Makes videos or pictures of one size; called in evaluation mode, without gradients.</param>
    public PreviewVideos(string folder, Func<CancellationToken, IReadOnlyList<VideoFrames>> render)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        ArgumentNullException.ThrowIfNull(render);
        (_folder, _render) = (folder, render);
    }

    /// <summary>Previews of prompts.</summary>
    /// <param name="folder">Where they are written to.</param>
    /// <param name="model">The transformer that is trained.</param>
    /// <param name="text">Encodes the prompts; with the network that is being trained too, where it is.</param>
    /// <param name="vae">Decodes latents; null: the model draws pixels.</param>
    /// <param name="prompts">What to show.</param>
    /// <param name="options">How to sample; null: as published.</param>
    /// <exception cref="ArgumentException">There are no prompts, or neither the model nor the options have a size.</exception>
    public PreviewVideos(
        string folder,
        IVideoTransformer model,
        ITextEncoder text,
        IVideoAutoencoder? vae,
        IReadOnlyList<string> prompts,
        PreviewOptions? options = null
    )
        : this(folder, new PromptRenderer(model, text, vae, prompts, options ?? new PreviewOptions()).Render) { }

    /// <summary>Steps between previews; null: by time only.</summary>
    public int? EverySteps
    {
        get;
        set => field = Interval.Checked(value);
    }

    /// <summary>Time between previews; null: by steps only. There is always one at the end of a stage.</summary>
    public TimeSpan? Every { get; set; } = TimeSpan.FromMinutes(10);

    /// <summary>Videos beside each other in the MP4, or pictures where there is only one frame.</summary>
    public int Columns { get; set; } = 4;

    /// <inheritdoc/>
    public void StepDone(TrainingRun run, TrainingProgress progress)
    {
        ArgumentNullException.ThrowIfNull(run);
        if (_interval.IsDue(run, EverySteps, Every))
        {
            RenderNow(run);
        }
    }

    /// <inheritdoc/>
    public void StageFinished(TrainingRun run)
    {
        ArgumentNullException.ThrowIfNull(run);
        if (!_interval.IsDone(run))
        {
            RenderNow(run);
        }
    }

    private void RenderNow(TrainingRun run)
    {
        IReadOnlyList<VideoFrames> videos = [];
        run.Evaluate(() => videos = _render(run.CancellationToken));
        var name = string.Concat(run.Stage.Name.Split(Path.GetInvalidFileNameChars()));
        var path = Path.Combine(_folder, string.Create(CultureInfo.InvariantCulture, $"{name}-{run.Step:D8}"));
        var tiles = ContactSheet.Tile(videos, Columns);
        new ImageCodec()
            .WriteAsync(tiles.Count == 1 ? tiles : ContactSheet.OfVideos(videos), path + ".png", run.CancellationToken)
            .GetAwaiter()
            .GetResult();
        if (tiles.Count > 1)
        {
            new VideoWriter().WriteAsync(tiles, path + ".mp4", cancellationToken: run.CancellationToken).GetAwaiter().GetResult();
        }

        _interval.Done(run);
        run.Tell(new TrainingObservation("preview") { Videos = new Dictionary<string, VideoFrames>(StringComparer.Ordinal) { [name] = tiles } });
    }
}

/// <summary>How previews of prompts are sampled.</summary>
public class PreviewOptions
{
    /// <summary>Frames of the videos; null for as many as the model is configured for. <see cref="StdiT2"/> and <see cref="StdiT3"/>, which have no
    /// size of their own, need all three.</summary>
    public int? Frames { get; set; }

    /// <summary>Height in pixels; null for what the model is configured for.</summary>
    public int? Height { get; set; }

    /// <summary>Width in pixels; null for what the model is configured for.</summary>
    public int? Width { get; set; }

    /// <summary>The sampler; null: DPM-Solver with 20 steps, for a model that predicts noise.</summary>
    public ISampler? Sampler { get; set; }

    /// <summary>Guidance scale; 1: none.</summary>
    public double Guidance { get; set; } = 4;

    /// <summary>How many of the latent channels guidance changes, as <c>sampling.guided_channels</c> of a model folder says; null: the sampler's own
    /// choice.</summary>
    public int? GuidedChannels { get; set; }

    /// <summary>Seed of the noise; every prompt has noise of its own, which no other prompt changes.</summary>
    public int Seed { get; set; } = 1;

    /// <summary>Prompts sampled at a time.</summary>
    public int BatchSize { get; set; } = 4;

    /// <summary>Frame rate of the videos.</summary>
    public double FramesPerSecond { get; set; } = 8;
}

/// <summary>Generates the videos of fixed prompts from fixed noise.</summary>
internal sealed class PromptRenderer
{
    private readonly VideoPipeline _pipeline;
    private readonly PipelineSettings _settings;
    private readonly string[] _prompts;
    private readonly PreviewOptions _options;

    public PromptRenderer(IVideoTransformer model, ITextEncoder text, IVideoAutoencoder? vae, IReadOnlyList<string> prompts, PreviewOptions options)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(text);
        ArgumentNullException.ThrowIfNull(prompts);
        if (prompts.Count == 0)
        {
            throw new ArgumentException("Previews need at least one prompt.", nameof(prompts));
        }

        (_prompts, _options) = ([.. prompts], options);
        _pipeline = new VideoPipeline(model, text, vae, options.Sampler ?? new DpmSolver(steps: 20)) { GuidedChannels = options.GuidedChannels };
        var (temporal, spatial, own) = (vae?.TemporalFactor ?? 1, vae?.SpatialFactor ?? 1, model.LatentSize);
        if (
            (options.Frames ?? own?[0] * temporal, options.Height ?? own?[1] * spatial, options.Width ?? own?[2] * spatial)
            is not
            ({ } frames, { } height, { } width)
        )
        {
            throw new ArgumentException(
                $"{model.GetType().Name} has no size of its own: set Frames, Height and Width of the previews.",
                nameof(options)
            );
        }

        _settings = new PipelineSettings
        {
            Frames = frames,
            Height = height,
            Width = width,
            Guidance = options.Guidance,
            FramesPerSecond = options.FramesPerSecond,
        };
    }

    public IReadOnlyList<VideoFrames> Render(CancellationToken cancellationToken)
    {
        List<VideoFrames> videos = [];
        for (var start = 0; start < _prompts.Length; start += _options.BatchSize)
        {
            var batch = _prompts[start..Math.Min(start + _options.BatchSize, _prompts.Length)];
            videos.AddRange(_pipeline.Generate(batch, _settings, _options.Seed + start, cancellationToken: cancellationToken));
        }
        return videos;
    }
}
