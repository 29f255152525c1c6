using System.Diagnostics;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using OpenSora.Diffusion;
using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Runtime;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>Turns text into video. One generator holds one model's weights, once, and serves any number of requests at the same time.</summary>
/// <remarks>The model is read when it is first needed. Disposing waits for no one: requests that run are finished, new ones are refused.</remarks>
public sealed partial class VideoGenerator : IDisposable
{
    private readonly OpenSoraOptions _options;
    private readonly PartFactories _parts;
    private readonly BackendSelector _backends;
    private readonly IVideoWriter _writer;
    private readonly IImageCodec _images;
    private readonly IServiceProvider _services;
    private readonly ILogger _logger;
    private readonly SemaphoreSlim _loading = new(1, 1);
    private readonly Lock _users = new();
    private LoadedModel? _loaded;
    private int _running;
    private bool _disposed;

    internal VideoGenerator(
        OpenSoraOptions options,
        PartFactories parts,
        BackendSelector backends,
        IVideoWriter writer,
        IImageCodec images,
        IServiceProvider services,
        ILogger? logger = null
    )
    {
        (this._options, this._parts, this._backends, this._writer, this._images, this._services) = (
            options.Clone(),
            parts,
            backends,
            writer,
            images,
            services
        );
        this._logger = logger ?? NullLogger.Instance;
    }

    /// <summary>Puts a generator together without a container: <c>VideoGenerator.Create().UseModel("stickers").Build()</c>.</summary>
    public static VideoGeneratorBuilder Create() => new();

    /// <summary>Begins a request in the fluent form.</summary>
    /// <param name="prompt">What to show.</param>
    public VideoRequestBuilder Request(string prompt) => new(this, prompt);

    /// <summary>Reads the model now rather than at the first request.</summary>
    /// <param name="progress">Told of <see cref="GenerationStage.Loading"/>.</param>
    /// <param name="cancellationToken">Stops between the model's parts; the next request begins anew.</param>
    public Task LoadAsync(IProgress<GenerationProgress>? progress = null, CancellationToken cancellationToken = default) =>
        UseAsync(() => GetModelAsync(progress, cancellationToken));

    /// <summary>What the model says of itself; reads the model where that has not happened.</summary>
    public Task<ModelDescription> DescribeAsync(CancellationToken cancellationToken = default) =>
        UseAsync(async () => (await GetModelAsync(null, cancellationToken).ConfigureAwait(false)).Description);

    /// <summary>Generates a video on the thread pool.</summary>
    /// <param name="request">What to generate; not changed and not kept.</param>
    /// <param name="progress">Told of every stage and step, from the thread that computes.</param>
    /// <param name="cancellationToken">Looked at between all stages and steps.</param>
    /// <exception cref="ArgumentException">The request asks for what the model cannot do; the message names everything that is wrong.</exception>
    /// <exception cref="InvalidOperationException">Numbers overflowed, or references are given and the generator has a sampler of one's own that
    /// cannot use them.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled. The generator can be used further.</exception>
    /// <exception cref="ObjectDisposedException">The generator was disposed of.</exception>
    public Task<GeneratedVideo> GenerateAsync(
        VideoRequest request,
        IProgress<GenerationProgress>? progress = null,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(request);
        if (request.Prompt is null)
        {
            throw new ArgumentException("The prompt is null. An empty one is allowed: it generates without a prompt.", nameof(request));
        }

        var copy = request.Clone();
        return UseAsync(async () =>
        {
            cancellationToken.ThrowIfCancellationRequested();
            RequestPlan.CheckAnyModel(copy); // before the model is read
            var model = await GetModelAsync(progress, cancellationToken).ConfigureAwait(false);
            var plan = RequestPlan.For(copy, _options, model);
            return await Task.Run(() => Generate(model, plan, progress, cancellationToken), cancellationToken).ConfigureAwait(false);
        });
    }

    private GeneratedVideo Generate(LoadedModel model, RequestPlan plan, IProgress<GenerationProgress>? progress, CancellationToken cancellationToken)
    {
        var watch = Stopwatch.StartNew();
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        using var generator = new Generator(unchecked((ulong)plan.Seed), model.Device);

        var sampler = _parts.Sampler?.Invoke(plan.Steps) ?? plan.CreateSampler(model.Description);
        if (plan.Given.Count > 0 && sampler is not IFrameSampler)
        {
            throw new InvalidOperationException(
                $"References are given, but {sampler.GetType().Name} cannot complete videos; use a sampler that is an {nameof(IFrameSampler)}."
            );
        }

        var pipeline = new VideoPipeline(model.Transformer, model.EncodeText, model.Vae, sampler)
        {
            GuidedChannels = model.Description.Sampling.GuidedChannels,
        };
        var frames = pipeline.Generate(
            [plan.Prompt],
            plan.Settings,
            () => randn(plan.LatentShape, device: model.Device, generator: generator),
            generator,
            plan.Given,
            plan.Steps,
            progress,
            cancellationToken
        )[0];
        LogGenerated(plan.Frames, plan.Width, plan.Height, plan.Steps, plan.Seed, watch.Elapsed.TotalSeconds);
        return new GeneratedVideo(
            frames,
            new VideoMetadata(
                plan.Prompt,
                plan.NegativePrompt,
                plan.Seed,
                plan.Steps,
                plan.Guidance,
                sampler.GetType().Name,
                model.Description.Name,
                model.Backend,
                watch.Elapsed
            ),
            _writer,
            _images
        );
    }

    private async Task<LoadedModel> GetModelAsync(IProgress<GenerationProgress>? progress, CancellationToken cancellationToken)
    {
        await _loading.WaitAsync(cancellationToken).ConfigureAwait(false);
        try
        {
            if (_loaded is null)
            {
                var watch = Stopwatch.StartNew();
                var backend = _backends.Select(_options.Backend);
                _loaded = await Task.Run(() => LoadedModel.Load(_options, _parts, backend, _services, progress, cancellationToken), cancellationToken)
                    .ConfigureAwait(false);
                LogLoaded(_loaded.Description.Name, backend.Name, watch.Elapsed.TotalSeconds);
            }
            return _loaded;
        }
        finally
        {
            _loading.Release();
        }
    }

    private async Task<T> UseAsync<T>(Func<Task<T>> use)
    {
        lock (_users)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            _running++;
        }
        try
        {
            return await use().ConfigureAwait(false);
        }
        finally
        {
            lock (_users)
            {
                _running--;
                FreeWhenUnused();
            }
        }
    }

    /// <summary>Frees the model as soon as no request uses it.</summary>
    public void Dispose()
    {
        lock (_users)
        {
            _disposed = true;
            FreeWhenUnused();
        }
    }

    private void FreeWhenUnused()
    {
        if (!_disposed || _running > 0)
        {
            return;
        }

        _loaded?.Dispose();
        _loaded = null;
        _loading.Dispose();
    }

    [LoggerMessage(Level = LogLevel.Information, Message = "Loaded {Model} on {Backend} in {Seconds:F1} s")]
    private partial void LogLoaded(string model, string backend, double seconds);

    [LoggerMessage(
        Level = LogLevel.Information,
        Message = "Generated {Frames} frames of {Width}x{Height} in {Steps} steps from seed {Seed} in {Seconds:F1} s"
    )]
    private partial void LogGenerated(int frames, int width, int height, int steps, long seed, double seconds);
}
