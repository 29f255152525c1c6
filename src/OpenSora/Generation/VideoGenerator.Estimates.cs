using Microsoft.Extensions.Logging;
using OpenSora.Media;
using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Runtime;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Generation;

public sealed partial class VideoGenerator
{
    private readonly Calibration _calibration = new();

    /// <summary>Reads the memory of the machine; tests replace it.</summary>
    internal Func<MachineMemory> Machine { get; set; } = MachineMemory.Read;

    /// <summary>Estimates the memory that a request needs, without generating it. The model is loaded if it is not loaded yet.</summary>
    /// <remarks>If an application uses an <see cref="IVideoGenerator"/>, <c>generator.GetService&lt;VideoGenerator&gt;()</c> returns the generator.
    /// Requests that need more memory than the machine has are refused by <see cref="GenerateAsync"/> with an
    /// <see cref="InsufficientMemoryException"/>.</remarks>
    /// <param name="request">The request.</param>
    /// <param name="cancellationToken">Checked while the model is loaded.</param>
    /// <exception cref="ArgumentException">The model does not support the request; the message lists all problems.</exception>
    public Task<MemoryEstimate> EstimateMemoryAsync(VideoRequest request, CancellationToken cancellationToken = default) =>
        EstimateAsync(request, (cost, _) => cost.Memory, cancellationToken);

    /// <summary>Estimates the time that a request takes when no other request is running, without generating it. The model is loaded if it is not
    /// loaded yet.</summary>
    /// <remarks>The estimate is computed from the time of the completed request that is closest in size, so the first request calibrates it. The
    /// first request of a process takes longer than later ones, so the first estimate can be too high. It does not include the time to load the
    /// model.</remarks>
    /// <param name="request">The request.</param>
    /// <param name="cancellationToken">Checked while the model is loaded.</param>
    /// <returns>The time; null if the generator has not completed a request yet, or if a custom transformer or autoencoder is used.</returns>
    /// <exception cref="ArgumentException">The model does not support the request; the message lists all problems.</exception>
    public Task<TimeSpan?> EstimateTimeAsync(VideoRequest request, CancellationToken cancellationToken = default) =>
        EstimateAsync(request, (cost, plan) => _calibration.Estimate(cost, plan.Steps), cancellationToken);

    private Task<T> EstimateAsync<T>(VideoRequest request, Func<RequestCost, RequestPlan, T> estimate, CancellationToken cancellationToken)
    {
        ArgumentNullException.ThrowIfNull(request);
        var copy = request.Clone();
        return UseAsync(async () =>
        {
            RequestPlan.CheckAnyModel(copy);
            var model = await GetModelAsync(null, cancellationToken).ConfigureAwait(false);
            var plan = RequestPlan.For(copy, _options, model);
            return estimate(CostOf(model, plan), plan);
        });
    }

    private RequestCost CostOf(LoadedModel model, RequestPlan plan) => RequestCost.Of(model, plan, _options, Decoder(model).Budget(model.Device));

    private LatentDecoder Decoder(LoadedModel model) => new(model.Vae) { Memory = _options.DecodeMemory, Warn = LogLessMemory };

    // Checks the memory before the work. The memory of a GPU is not known in advance.
    private string? CheckMemory(LoadedModel model, RequestCost cost)
    {
        var warning = model.Device.type == DeviceType.CPU ? cost.Check(Machine()) : null;
        if (warning is not null)
        {
            LogLessMemory(warning);
        }

        return warning;
    }

    private static SystemException OutOf(RequestPlan plan, RequestCost cost, Exception cause) =>
        OutOfMemory.Insufficient(
            $"Memory ran out while generating {plan.Settings.Frames} frames of {plan.Settings.Width}x{plan.Settings.Height} pixels"
                + (OutOfMemory.Requested(cause) is { } amount ? $": {amount} could not be allocated" : "")
                + $". The request needs about {cost.Memory}. Request fewer frames or a smaller size, set Precision to bfloat16, or run fewer "
                + $"requests at the same time ({nameof(OpenSoraOptions.MaxConcurrentRequests)}).",
            cause
        );

    // Decodes the kept latents of a request.
    private Task<GeneratedVideo> DecodeAgainAsync(
        DecodingException failed,
        double framesPerSecond,
        Func<VideoFrames, GeneratedVideo> finish,
        IProgress<GenerationProgress>? progress,
        CancellationToken cancellationToken
    ) =>
        UseAsync(async () =>
        {
            using var turn = await WaitAsync(progress, cancellationToken).ConfigureAwait(false);
            var model = await GetModelAsync(progress, cancellationToken).ConfigureAwait(false);
            return await LongRunning
                .RunAsync(
                    () =>
                    {
                        using var noGradients = no_grad();
                        using var scope = NewDisposeScope();
                        try
                        {
                            var latents = failed.Latents(model.Device);
                            using var weights = TransientWeights.Use(model.Vae);
                            return finish(Decoder(model).Decode(latents, framesPerSecond, null, progress, cancellationToken)[0]);
                        }
                        catch (DecodingException again)
                        {
                            again.Again = failed.Again;
                            throw;
                        }
                    },
                    cancellationToken
                )
                .ConfigureAwait(false);
        });

    [LoggerMessage(Level = LogLevel.Warning, Message = "{Problem}")]
    private partial void LogLessMemory(string problem);
}
