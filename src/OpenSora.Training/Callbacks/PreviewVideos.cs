using System.Globalization;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.Training.Stages;

namespace OpenSora.Training.Callbacks;

/// <summary>Generates previews at intervals, with the moving averages if the stage keeps any, without affecting training. They are written as
/// <c>STAGE-STEP.png</c>, an image with a row for each video, and <c>STAGE-STEP.mp4</c>, and reported to all callbacks
/// (<see cref="ITrainingCallback.ObservedAsync"/>).</summary>
internal sealed class PreviewVideos : ITrainingCallback
{
    private readonly string _folder;
    private readonly Func<CancellationToken, IReadOnlyList<VideoFrames>> _render;
    private readonly Interval _interval = new();

    /// <summary>Initializes previews of any kind, such as the reconstructions of an autoencoder.</summary>
    /// <param name="folder">The folder of the files.</param>
    /// <param name="render">A function that creates videos or images of one size; called in evaluation mode, without gradients.</param>
    public PreviewVideos(string folder, Func<CancellationToken, IReadOnlyList<VideoFrames>> render)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        ArgumentNullException.ThrowIfNull(render);
        (_folder, _render) = (folder, render);
    }

    /// <summary>The number of steps between previews; null to use the time only.</summary>
    public int? EverySteps
    {
        get;
        set => field = Interval.Checked(value);
    }

    /// <summary>The time between previews; null to use the steps only. The end of a stage always has a preview.</summary>
    public TimeSpan? Every { get; set; } = TimeSpan.FromMinutes(10);

    /// <summary>The number of videos, or of images, in a row.</summary>
    public int Columns { get; set; } = 4;

    /// <inheritdoc/>
    public ValueTask StepDoneAsync(TrainingRun run, TrainingProgress progress)
    {
        ArgumentNullException.ThrowIfNull(run);
        return _interval.IsDue(run, EverySteps, Every) ? RenderNowAsync(run) : default;
    }

    /// <inheritdoc/>
    public ValueTask StageFinishedAsync(TrainingRun run)
    {
        ArgumentNullException.ThrowIfNull(run);
        return _interval.IsDone(run) ? default : RenderNowAsync(run);
    }

    private async ValueTask RenderNowAsync(TrainingRun run)
    {
        await run.AnnounceAsync("preview").ConfigureAwait(true);
        IReadOnlyList<VideoFrames> videos = [];
        run.Evaluate(() => videos = _render(run.CancellationToken));
        var name = string.Concat(run.Stage.Name.Split(Path.GetInvalidFileNameChars()));
        var path = Path.Combine(_folder, string.Create(CultureInfo.InvariantCulture, $"{name}-{run.Step:D8}"));
        var tiles = VideoFrames.Tile(videos, Columns);
        await new VideoWriter()
            .WriteAsync(tiles.Count == 1 ? tiles : VideoFrames.ContactSheet(videos), path + ".png", VideoFormat.Image, run.CancellationToken)
            .ConfigureAwait(true);
        if (tiles.Count > 1)
        {
            await new VideoWriter().WriteAsync(tiles, path + ".mp4", cancellationToken: run.CancellationToken).ConfigureAwait(true);
        }

        _interval.Done(run);
        await run.ReportAsync(
                new TrainingObservation("preview") { Videos = new Dictionary<string, VideoFrames>(StringComparer.Ordinal) { [name] = tiles } }
            )
            .ConfigureAwait(true);
    }
}

/// <summary>Generates the videos of fixed prompts from fixed noise.</summary>
internal sealed class PromptRenderer
{
    private readonly VideoPipeline _pipeline;
    private readonly GenerationSettings _settings;
    private readonly string[] _prompts;
    private readonly int _batchSize;
    private readonly long _seed;

    public PromptRenderer(VideoPipeline pipeline, IReadOnlyList<string> prompts, GenerationSettings settings, int batchSize)
    {
        ArgumentNullException.ThrowIfNull(pipeline);
        ArgumentNullException.ThrowIfNull(prompts);
        ArgumentOutOfRangeException.ThrowIfLessThan(batchSize, 1);
        if (prompts.Count == 0)
        {
            throw new ArgumentException("Previews need at least one prompt.", nameof(prompts));
        }

        (_pipeline, _prompts, _batchSize, _seed) = (pipeline, [.. prompts], batchSize, settings.Seed ?? 1);
        var (model, vae) = (pipeline.Transformer, pipeline.Autoencoder);
        var (temporal, spatial, own) = (vae?.TemporalFactor ?? 1, vae?.SpatialFactor ?? 1, model.LatentSize);
        if (
            (settings.Frames ?? own?[0] * temporal, settings.Height ?? own?[1] * spatial, settings.Width ?? own?[2] * spatial)
            is not
            ({ } frames, { } height, { } width)
        )
        {
            throw new ArgumentException(
                $"{model.GetType().Name} has no size of its own: set Frames, Height and Width of the previews.",
                nameof(settings)
            );
        }

        _settings = new GenerationSettings
        {
            Frames = frames,
            Height = height,
            Width = width,
            GuidanceScale = settings.GuidanceScale ?? 4,
            NegativePrompt = settings.NegativePrompt,
            FramesPerSecond = settings.FramesPerSecond,
        };
    }

    public IReadOnlyList<VideoFrames> Render(CancellationToken cancellationToken)
    {
        List<VideoFrames> videos = [];
        for (var start = 0; start < _prompts.Length; start += _batchSize)
        {
            var batch = _prompts[start..Math.Min(start + _batchSize, _prompts.Length)];
            _settings.Seed = _seed + start;
            videos.AddRange(_pipeline.Generate(batch, _settings, cancellationToken: cancellationToken));
        }
        return videos;
    }
}
