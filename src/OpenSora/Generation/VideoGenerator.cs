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
    private readonly OpenSoraOptions options;
    private readonly PartFactories parts;
    private readonly BackendSelector backends;
    private readonly IVideoWriter writer;
    private readonly IImageCodec images;
    private readonly IServiceProvider services;
    private readonly ILogger logger;
    private readonly SemaphoreSlim loading = new(1, 1);
    private readonly Lock users = new();
    private LoadedModel? loaded;
    private int running;
    private bool disposed;

    internal VideoGenerator(OpenSoraOptions options, PartFactories parts, BackendSelector backends, IVideoWriter writer, IImageCodec images,
        IServiceProvider services, ILogger? logger = null)
    {
        (this.options, this.parts, this.backends, this.writer, this.images, this.services) = (options.Clone(), parts, backends, writer, images, services);
        this.logger = logger ?? NullLogger.Instance;
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
        UseAsync(async () => (await GetModelAsync(null, cancellationToken)).Description);

    /// <summary>Generates a video on the thread pool.</summary>
    /// <param name="request">What to generate; not changed and not kept.</param>
    /// <param name="progress">Told of every stage and step, from the thread that computes.</param>
    /// <param name="cancellationToken">Looked at between all stages and steps.</param>
    /// <exception cref="ArgumentException">The request asks for what the model cannot do; the message names everything that is wrong.</exception>
    /// <exception cref="InvalidOperationException">Numbers overflowed, or references are given and the generator has a sampler of one's own that cannot use them.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled. The generator can be used further.</exception>
    /// <exception cref="ObjectDisposedException">The generator was disposed of.</exception>
    public Task<GeneratedVideo> GenerateAsync(VideoRequest request, IProgress<GenerationProgress>? progress = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(request);
        if (request.Prompt is null)
            throw new ArgumentException("The prompt is null. An empty one is allowed: it generates without a prompt.", nameof(request));
        var copy = request.Clone();
        return UseAsync(async () =>
        {
            cancellationToken.ThrowIfCancellationRequested();
            RequestPlan.CheckAnyModel(copy); // before the model is read
            var model = await GetModelAsync(progress, cancellationToken);
            var plan = RequestPlan.For(copy, options, model);
            return await Task.Run(() => Generate(model, plan, progress, cancellationToken), cancellationToken);
        });
    }

    private GeneratedVideo Generate(LoadedModel model, RequestPlan plan, IProgress<GenerationProgress>? progress, CancellationToken cancellationToken)
    {
        var watch = Stopwatch.StartNew();
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        using var generator = new Generator(unchecked((ulong)plan.Seed), model.Device);

        progress?.Report(new(GenerationStage.EncodingText, 0, 1));
        var sampler = parts.Sampler?.Invoke(plan.Steps) ?? plan.CreateSampler(model.Description);
        if (plan.Given.Count > 0 && sampler is not IFrameSampler)
            throw new InvalidOperationException($"References are given, but {sampler.GetType().Name} cannot complete videos; use a sampler that is an {nameof(IFrameSampler)}.");
        var denoiser = Denoiser(model, plan, model.Description.Sampling.GuidedChannels ?? sampler.GuidedChannels);
        progress?.Report(new(GenerationStage.EncodingText, 1, 1));

        cancellationToken.ThrowIfCancellationRequested();
        var noise = randn(plan.LatentShape, device: model.Device, generator: generator);
        var sampling = new SamplingProgress(progress);
        var latents = Sample();
        CheckFinite(latents, "latents");
        var video = Decode(model, latents, progress, cancellationToken);
        CheckFinite(video, "pixels");
        var frames = VideoFrames.FromTensor(video, plan.FramesPerSecond);
        LogGenerated(plan.Frames, plan.Width, plan.Height, plan.Steps, plan.Seed, watch.Elapsed.TotalSeconds);
        return new GeneratedVideo(frames, new VideoMetadata(plan.Prompt, plan.NegativePrompt, plan.Seed, plan.Steps, plan.Guidance, sampler.GetType().Name,
            model.Description.Name, model.Backend, watch.Elapsed), writer, images);

        void CheckFinite(Tensor numbers, string what)
        {
            if (!numbers.isfinite().all().cpu().item<bool>())
                throw new InvalidOperationException($"The {what} of \"{plan.Prompt}\" are not finite: numbers overflowed. Lower the guidance ({plan.Guidance}), or compute in "
                    + "float32 where Precision is float16; if neither helps, the weights are damaged.");
        }

        Tensor Sample()
        {
            if (plan.Given.Count == 0)
            {
                progress?.Report(new(GenerationStage.Denoising, 0, plan.Steps));
                return sampler.Sample((x, t) => denoiser(x, t, null), noise, generator, sampling, cancellationToken);
            }
            var (given, share) = GivenFrames.Into(plan.Given, noise, plan, model, generator, progress, cancellationToken);
            progress?.Report(new(GenerationStage.Denoising, 0, plan.Steps));
            return ((IFrameSampler)sampler).SampleFrames((x, t, noisy) => denoiser(x, t, noisy), given, share, generator, sampling, cancellationToken);
        }
    }

    // As published, the prompt's own mask cuts the null caption too; a negative prompt brings its own. An empty prompt is the null caption,
    // which guidance could only compare with itself.
    private static Func<Tensor, Tensor, Tensor?, Tensor> Denoiser(LoadedModel model, RequestPlan plan, int? guidedChannels)
    {
        var transformer = model.Transformer;
        DenoiserConditions Shown(Tensor states, Tensor mask) =>
            new(states, mask)
            {
                Frames = plan.Frames, Height = plan.Height, Width = plan.Width,
                FramesPerSecond = plan.Frames == 1 ? DenoiserConditions.ImageFramesPerSecond : plan.FramesPerSecond,
            };

        var empty = string.IsNullOrWhiteSpace(plan.Prompt);
        var (states, mask) = model.EncodeText(empty ? "" : plan.Prompt);
        var nothing = transformer.NullCaption().narrow(1, 0, states.shape[1]);
        var conditions = Shown(empty ? nothing : states, mask);
        if (empty || plan.Guidance == 1)
            return (x, t, noisy) => transformer.Denoise(x, t, conditions with { NoisyFrames = noisy });

        var (otherStates, otherMask) = string.IsNullOrWhiteSpace(plan.NegativePrompt) ? (nothing, mask) : model.EncodeText(plan.NegativePrompt);
        var both = Shown(cat([states, otherStates]), cat([mask, otherMask]));
        return (x, t, noisy) =>
        {
            var shown = noisy is null ? both : both with { NoisyFrames = cat([noisy, noisy]) };
            return Guidance.ClassifierFree((twice, times) => transformer.Denoise(twice, times, shown), plan.Guidance, guidedChannels)(x, t);
        };
    }

    private static Tensor Decode(LoadedModel model, Tensor latents, IProgress<GenerationProgress>? progress, CancellationToken cancellationToken)
    {
        var frames = (int)latents.shape[2];
        var atOnce = Math.Clamp(model.Vae.FramesAtOnce, 1, frames);
        List<Tensor> pieces = [];
        for (var frame = 0; frame < frames; frame += atOnce)
        {
            cancellationToken.ThrowIfCancellationRequested();
            progress?.Report(new(GenerationStage.Decoding, frame, frames));
            using var scope = NewDisposeScope();
            pieces.Add(model.Vae.Decode(latents.narrow(2, frame, Math.Min(atOnce, frames - frame))).MoveToOuterDisposeScope());
        }
        progress?.Report(new(GenerationStage.Decoding, frames, frames));
        cancellationToken.ThrowIfCancellationRequested();
        return cat(pieces, 2);
    }

    private async Task<LoadedModel> GetModelAsync(IProgress<GenerationProgress>? progress, CancellationToken cancellationToken)
    {
        await loading.WaitAsync(cancellationToken);
        try
        {
            if (loaded is null)
            {
                var watch = Stopwatch.StartNew();
                var backend = backends.Select(options.Backend);
                loaded = await Task.Run(() => LoadedModel.Load(options, parts, backend, services, progress, cancellationToken), cancellationToken);
                LogLoaded(loaded.Description.Name, backend.Name, watch.Elapsed.TotalSeconds);
            }
            return loaded;
        }
        finally
        {
            loading.Release();
        }
    }

    private async Task<T> UseAsync<T>(Func<Task<T>> use)
    {
        lock (users)
        {
            ObjectDisposedException.ThrowIf(disposed, this);
            running++;
        }
        try
        {
            return await use();
        }
        finally
        {
            lock (users)
            {
                running--;
                FreeWhenUnused();
            }
        }
    }

    /// <summary>Frees the model as soon as no request uses it.</summary>
    public void Dispose()
    {
        lock (users)
        {
            disposed = true;
            FreeWhenUnused();
        }
    }

    private void FreeWhenUnused()
    {
        if (!disposed || running > 0)
            return;
        loaded?.Dispose();
        loaded = null;
        loading.Dispose();
    }

    [LoggerMessage(Level = LogLevel.Information, Message = "Loaded {Model} on {Backend} in {Seconds:F1} s")]
    private partial void LogLoaded(string model, string backend, double seconds);

    [LoggerMessage(Level = LogLevel.Information, Message = "Generated {Frames} frames of {Width}x{Height} in {Steps} steps from seed {Seed} in {Seconds:F1} s")]
    private partial void LogGenerated(int frames, int width, int height, int steps, long seed, double seconds);

    private sealed class SamplingProgress(IProgress<GenerationProgress>? progress) : IProgress<SamplingStep>
    {
        public void Report(SamplingStep value) => progress?.Report(new(GenerationStage.Denoising, value.Step, value.Steps));
    }
}
