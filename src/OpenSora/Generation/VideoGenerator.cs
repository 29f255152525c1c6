using System.Diagnostics;
using System.Threading.RateLimiting;
using Microsoft.Extensions.DependencyInjection;
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

/// <summary>Generates videos from text. A generator holds the weights of one model and serves any number of concurrent requests.</summary>
/// <remarks>The model is loaded when it is first needed. <see cref="Dispose"/> does not block: running requests complete, and new requests
/// throw <see cref="ObjectDisposedException"/>.</remarks>
public sealed partial class VideoGenerator : IVideoGenerator
{
    /// <summary>The name of the <see cref="ActivitySource"/> and the <see cref="System.Diagnostics.Metrics.Meter"/> of generation. They report sizes
    /// and times, but no prompts.</summary>
    public const string DiagnosticsName = "OpenSora";

    /// <summary>The key in <see cref="Exception.Data"/> that marks the <see cref="InvalidOperationException"/> of a request that was refused because
    /// <see cref="OpenSoraOptions.MaxWaitingRequests"/> requests are waiting. Such a request can be repeated later.</summary>
    public const string QueueFullKey = "OpenSora.QueueFull";

    private readonly OpenSoraOptions _options;
    private readonly PartFactories _parts;
    private readonly BackendSelector _backends;
    private readonly VideoWriter _writer;
    private readonly IServiceProvider _services;
    private readonly ILogger _logger;
    private readonly ConcurrencyLimiter? _limiter;
    private readonly SemaphoreSlim _loading = new(1, 1);
    private readonly Lock _users = new();
    private LoadedModel? _loaded;
    private int _running;
    private bool _disposed;
    private IDisposable? _owned;

    internal VideoGenerator(
        OpenSoraOptions options,
        PartFactories parts,
        BackendSelector backends,
        VideoWriter writer,
        IServiceProvider services,
        ILogger? logger = null
    )
    {
        (_options, _parts, _backends, _writer, _services) = (options.Clone(), parts, backends, writer, services);
        _logger = logger ?? NullLogger.Instance;
        _limiter = (parts.Collectives is null ? options.MaxConcurrentRequests : 1) is { } limit
            ? new ConcurrencyLimiter(new() { PermitLimit = limit, QueueLimit = options.MaxWaitingRequests ?? int.MaxValue })
            : null;
    }

    /// <summary>Creates a builder for a generator without dependency injection, as in
    /// <c>VideoGenerator.Create().UseModel("stickers").Build()</c>.</summary>
    public static VideoGeneratorBuilder Create() => VideoGeneratorBuilder.In(new ServiceCollection());

    /// <summary>Disposes the service provider of a builder together with the generator.</summary>
    internal void Own(IDisposable provider) => _owned = provider;

    /// <summary>Loads the model now instead of with the first request.</summary>
    /// <param name="progress">Receives the progress of <see cref="GenerationStage.Loading"/>.</param>
    /// <param name="cancellationToken">Checked between the model's parts. After cancellation, the next request loads the model again.</param>
    public Task LoadAsync(IProgress<GenerationProgress>? progress = null, CancellationToken cancellationToken = default) =>
        UseAsync(() => GetModelAsync(progress, cancellationToken));

    /// <summary>Gets the description of the model, loading the model if it is not loaded yet.</summary>
    /// <param name="cancellationToken">Checked while the model is loaded.</param>
    public Task<ModelDescription> DescribeAsync(CancellationToken cancellationToken = default) =>
        UseAsync(async () => (await GetModelAsync(null, cancellationToken).ConfigureAwait(false)).Description);

    /// <summary>Generates a video on the thread pool.</summary>
    /// <param name="request">The request. The generator copies it and does not change it.</param>
    /// <param name="progress">Receives every stage and step, on the thread that runs the computation.</param>
    /// <param name="cancellationToken">Checked between stages and steps.</param>
    /// <exception cref="ArgumentException">The model does not support the request; the message lists all problems.</exception>
    /// <exception cref="InvalidOperationException">Too many requests are waiting (its <see cref="Exception.Data"/> then contains
    /// <see cref="QueueFullKey"/>), the computation overflowed, or the request has references and the custom sampler of the generator does not
    /// support them.</exception>
    /// <exception cref="InsufficientMemoryException">The request needs more memory than the machine has, or memory ran out before the video was
    /// decoded.</exception>
    /// <exception cref="DecodingException">The video could not be decoded. The exception keeps the latents, so that only decoding has to be
    /// repeated.</exception>
    /// <exception cref="OperationCanceledException">The operation was canceled. The generator remains usable.</exception>
    /// <exception cref="ObjectDisposedException">The generator was disposed.</exception>
    public Task<GeneratedVideo> GenerateAsync(
        VideoRequest request,
        IProgress<GenerationProgress>? progress = null,
        CancellationToken cancellationToken = default
    ) => RunAsync(request, progress, null, cancellationToken);

    private Task<GeneratedVideo> RunAsync(
        VideoRequest request,
        IProgress<GenerationProgress>? progress,
        Action<VideoFrames>? decoded,
        CancellationToken cancellationToken
    )
    {
        ArgumentNullException.ThrowIfNull(request);
        if (request.Prompt is null)
        {
            throw new ArgumentException("The prompt is null. Use an empty string to generate without a prompt.", nameof(request));
        }

        var copy = request.Clone();
        return UseAsync(async () =>
        {
            cancellationToken.ThrowIfCancellationRequested();
            RequestPlan.CheckAnyModel(copy); // before the model is loaded
            using var turn = await WaitAsync(progress, cancellationToken).ConfigureAwait(false);
            var model = await GetModelAsync(progress, cancellationToken).ConfigureAwait(false);
            var plan = RequestPlan.For(copy, _options, model);
            GeneratedVideo Run()
            {
                try
                {
                    return Generate(model, plan, progress, decoded, cancellationToken);
                }
                finally
                {
                    FreedMemory.Release();
                }
            }

            return await LongRunning
                .RunAsync(() => Telemetry.Measure(model.Description.Name, model.Backend, plan, Run), cancellationToken)
                .ConfigureAwait(false);
        });
    }

    // Waits until the request may run, if there is a limit. Requests run in the order of their arrival.
    private async Task<RateLimitLease?> WaitAsync(IProgress<GenerationProgress>? progress, CancellationToken cancellationToken)
    {
        if (_limiter is null)
        {
            return null;
        }

        var watch = Stopwatch.StartNew();
        var turn = _limiter.AttemptAcquire();
        if (!turn.IsAcquired)
        {
            progress?.Report(new(GenerationStage.Waiting, 0, 1));
            turn = await _limiter.AcquireAsync(cancellationToken: cancellationToken).ConfigureAwait(false);
            if (!turn.IsAcquired)
            {
                throw new InvalidOperationException(
                    $"The maximum number of requests is running (MaxConcurrentRequests: {_options.MaxConcurrentRequests}) and waiting "
                        + $"(MaxWaitingRequests: {_options.MaxWaitingRequests}). Try again later."
                )
                {
                    Data = { [QueueFullKey] = true },
                };
            }

            progress?.Report(new(GenerationStage.Waiting, 1, 1));
        }

        Telemetry.Waited(watch.Elapsed);
        return turn;
    }

    private GeneratedVideo Generate(
        LoadedModel model,
        RequestPlan plan,
        IProgress<GenerationProgress>? progress,
        Action<VideoFrames>? decoded,
        CancellationToken cancellationToken
    )
    {
        var watch = Stopwatch.StartNew();
        var settings = GenerationGroup.Of(model.Transformer)?.WithSameSeed(plan.Settings) ?? plan.Settings;
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        using var generator = Seeds.CreateGenerator(settings.Seed, model.Device);

        var cost = CostOf(model, plan);
        List<string> warnings = [.. plan.Prompts.Select(model.CheckPrompt).OfType<string>().Distinct(StringComparer.Ordinal)];
        if (warnings.Count > 0)
        {
            LogUnknownPrompt(model.Description.Name);
        }

        if (CheckMemory(model, cost) is { } lessMemory)
        {
            warnings.Add(lessMemory);
        }

        var sampler = _parts.Sampler?.Invoke(plan.Steps) ?? plan.CreateSampler(model.Description);
        if (plan.Given.Count > 0 && !sampler.SupportsConditioningFrames)
        {
            throw new InvalidOperationException(
                $"The request has references, but {sampler.GetType().Name} does not support conditioning frames; use a sampler that does."
                    + $" See {nameof(ISampler)}.{nameof(ISampler.SupportsConditioningFrames)}."
            );
        }

        if (plan.Edit is not null && !sampler.SupportsEditing)
        {
            throw new InvalidOperationException(
                $"The request has an existing video to edit, but {sampler.GetType().Name} cannot begin with one; use a sampler that does."
                    + $" See {nameof(ISampler)}.{nameof(ISampler.SupportsEditing)}."
            );
        }

        var pipeline = new VideoPipeline(model.Transformer, model.EncodeText, model.Vae, sampler)
        {
            GuidedChannels = model.Description.Sampling.GuidedChannels,
            UseTextEncoder = model.UseTextEncoder,
            Decoder = Decoder(model),
        };
        var inputs = new PipelineInputs([plan.Prompt], settings, Noise, generator)
        {
            Given = plan.Given,
            Edit = plan.Edit,
            Windows = plan.Windows,
            PromptStates = plan.Encoded.Prompt,
            NegativePromptStates = plan.Encoded.Negative,
            Preview = model.Preview,
            Decoded = decoded,
        };
        var alone = _running == 1;
        var clock = new StageClock(progress);
        try
        {
            var frames = pipeline.Generate(inputs, clock, cancellationToken)[0];
            if (alone && _running == 1 && clock.IsComplete && cost is { Step: not null, Decoding: not null })
            {
                _calibration.Add(cost, clock);
            }

            return Finish(frames);
        }
        catch (DecodingException failed)
        {
            failed.Again = (again, progress, token) => DecodeAgainAsync(again, settings.FramesPerSecond, FinishAgain, progress, token);
            throw;
        }
        catch (Exception exception) when (OutOfMemory.Is(exception))
        {
            throw OutOf(plan, cost, exception);
        }

        GeneratedVideo Finish(VideoFrames frames)
        {
            LogGenerated(settings.Frames, settings.Width, settings.Height, plan.Steps, settings.Seed, watch.Elapsed.TotalSeconds);
            return new GeneratedVideo(frames, _writer)
            {
                Prompt = plan.Prompt,
                NegativePrompt = settings.NegativePrompt,
                Seed = settings.Seed,
                Steps = plan.Steps,
                GuidanceScale = settings.GuidanceScale,
                Sampler = sampler.GetType().Name,
                Model = model.Description.Name,
                Backend = model.Backend,
                Elapsed = watch.Elapsed,
                Warnings = warnings,
            };
        }

        GeneratedVideo FinishAgain(VideoFrames frames)
        {
            plan.Edit?.Restore(frames, 0);
            return Finish(frames);
        }

        Tensor Noise() => randn(plan.LatentShape, device: model.Device, generator: generator);
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
                _loaded = await LongRunning
                    .RunAsync(() => LoadedModel.Load(_options, _parts, backend, _services, progress, cancellationToken), cancellationToken)
                    .ConfigureAwait(false);
                if (!FFmpeg.Exists(_options.FFmpegFolder))
                {
                    LogNoFFmpeg();
                }

                LogLoaded(_loaded.Description.Name, backend.Name, watch.Elapsed.TotalSeconds);
                foreach (var (part, weights, copied) in _loaded.Transient)
                {
                    LogTransient(part, weights, copied);
                }
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

    /// <summary>Releases the model as soon as all running requests have completed.</summary>
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
        _limiter?.Dispose();
        Interlocked.Exchange(ref _owned, null)?.Dispose();
    }

    [LoggerMessage(Level = LogLevel.Information, Message = "Loaded {Model} on {Backend} in {Seconds:F1} s")]
    private partial void LogLoaded(string model, string backend, double seconds);

    [LoggerMessage(
        Level = LogLevel.Information,
        Message = "The {Part} loads {Weights} weights for each use, of which {Copied} are converted or copied; the others are mapped from the file"
    )]
    private partial void LogTransient(string part, int weights, int copied);

    [LoggerMessage(
        Level = LogLevel.Warning,
        Message = "ffmpeg was not found, so videos cannot be saved as MP4, only as GIF and PNG. Install ffmpeg or set OpenSora:FFmpegFolder."
    )]
    private partial void LogNoFFmpeg();

    [LoggerMessage(Level = LogLevel.Warning, Message = "A prompt names nothing that {Model} knows, so the video is arbitrary")]
    private partial void LogUnknownPrompt(string model);

    [LoggerMessage(
        Level = LogLevel.Information,
        Message = "Generated {Frames} frames of {Width}x{Height} in {Steps} steps from seed {Seed} in {Seconds:F1} s"
    )]
    private partial void LogGenerated(int frames, int width, int height, int steps, long seed, double seconds);
}
