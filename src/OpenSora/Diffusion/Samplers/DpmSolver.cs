using static TorchSharp.torch;

namespace OpenSora.Diffusion;

/// <summary>DPM-Solver++ (2M): follows the process's differential equation in few steps, each using the step before; deterministic.</summary>
/// <remarks>
/// Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", algorithm 2. Time runs evenly from 1 to 1 /
/// steps of the schedule (0.001). Immutable.
/// </remarks>
public sealed class DpmSolver : ISampler
{
    private const float FirstTime = 1;

    private readonly Prediction _prediction;
    private readonly float[] _logAlphas;
    private readonly float _lastTime; // the process's first step

    /// <summary>Makes a sampler.</summary>
    /// <param name="steps">Sampling steps, at least 1. PixArt and Open-Sora 1.0 publish 20.</param>
    /// <param name="schedule">The schedule that the model was trained with, not respaced; null takes the linear one over 1000 steps.</param>
    /// <param name="prediction">What the model predicts.</param>
    /// <exception cref="ArgumentException">An argument is out of range, or the schedule is respaced.</exception>
    public DpmSolver(int steps = 20, IddpmSchedule? schedule = null, Prediction prediction = Prediction.Noise)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(steps, 1);
        schedule ??= IddpmSchedule.Linear();
        if (schedule.Steps < 2 || schedule.TimestepMap[^1] != schedule.Steps - 1)
        {
            throw new ArgumentException(
                "DPM-Solver chooses its own times: give the full schedule that the model was trained with, not a respaced one.",
                nameof(schedule)
            );
        }

        if (!Enum.IsDefined(prediction))
        {
            throw new ArgumentException($"Unknown prediction {prediction}: use a named value.", nameof(prediction));
        }

        Steps = steps;
        this._prediction = prediction;
        _lastTime = 1f / schedule.Steps;
        _logAlphas = [.. schedule.AlphasCumprod.Select(a => (float)(0.5 * Math.Log(a)))];
    }

    /// <summary>Sampling steps.</summary>
    public int Steps { get; }

    /// <summary>Null: guidance acts on all latent channels, as published.</summary>
    public int? GuidedChannels => null;

    /// <inheritdoc/>
    /// <remarks>The generator is not used: nothing is random after the noise.</remarks>
    public Tensor Sample(
        Denoiser denoiser,
        Tensor noise,
        Generator? generator = null,
        IProgress<SamplingStep>? progress = null,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(denoiser);
        Iddpm.CheckNoise(noise);
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var x = noise;
        Tensor? x0Before = null; // the step before's prediction
        for (var i = 0; i < Steps; i++)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var (previous, previousX0) = (x, x0Before);
            using (var step = NewDisposeScope())
            {
                var x0 = PredictSample(denoiser, x, Time(i));
                x = step.MoveToOuter(Advance(x, x0, x0Before, i));
                x0Before = step.MoveToOuter(x0);
            }

            if (!ReferenceEquals(previous, noise))
            {
                previous.Dispose();
            }

            previousX0?.Dispose();
            progress?.Report(new SamplingStep(i + 1, Steps));
        }

        return x.MoveToOuterDisposeScope();
    }

    // From time i to time i + 1.
    private Tensor Advance(Tensor x, Tensor x0, Tensor? x0Before, int i)
    {
        var (s, t) = (Time(i), Time(i + 1));
        var h = (double)Lambda(t) - Lambda(s);
        var phi = Alpha(t) * Math.Exp(-h) - Alpha(t);
        var next = Sigma(t) / Sigma(s) * x - phi * x0;
        var lastOfFew = Steps < 10 && i == Steps - 1; // few steps end with a first-order one, which is steadier there
        if (x0Before is null || lastOfFew)
        {
            return next;
        }

        var r = ((double)Lambda(s) - Lambda(Time(i - 1))) / h;
        return next - 0.5 * phi / r * (x0 - x0Before);
    }

    private Tensor PredictSample(Denoiser denoiser, Tensor x, float time)
    {
        // Time 1 is the process's last step, so step 0 lies at 1 / steps.
        var modelTime = (time - 1f / _logAlphas.Length) * _logAlphas.Length;
        var output = denoiser(x, full(x.shape[0], modelTime, dtype: ScalarType.Float32, device: x.device));
        var channels = x.shape[1];
        var learned = output.dim() == x.dim() && output.shape[1] == 2 * channels;
        Iddpm.CheckOutput(output, x, learned ? 2 : 1, "as many channels as the latents, or twice as many with a learned variance, which is not used");
        output = output.narrow(1, 0, channels).to_type(x.dtype);
        return _prediction == Prediction.Sample ? output : (x - Sigma(time) * output) / Alpha(time);
    }

    // The schedule between its steps, in single precision as published: close to time 0 its rounding is part of the published numbers.
    internal float Time(int i)
    {
        var step = (_lastTime - FirstTime) / Steps;
        return i < (Steps + 1) / 2 ? FirstTime + i * step : _lastTime - (Steps - i) * step; // from both ends, so that both are exact
    }

    internal float LogAlpha(float time)
    {
        var n = _logAlphas.Length;
        var left = Math.Clamp((int)MathF.Ceiling(time * n) - 2, 0, n - 2); // knots lie at 1/n, 2/n ... 1; beyond them the line goes on
        var (t0, t1) = ((left + 1f) / n, (left + 2f) / n);
        return _logAlphas[left] + (time - t0) * (_logAlphas[left + 1] - _logAlphas[left]) / (t1 - t0);
    }

    internal float Alpha(float time) => MathF.Exp(LogAlpha(time));

    internal float Sigma(float time) => MathF.Sqrt(1 - MathF.Exp(2 * LogAlpha(time)));

    /// <summary>Half the logarithm of the signal-to-noise ratio.</summary>
    internal float Lambda(float time) => LogAlpha(time) - 0.5f * MathF.Log(1 - MathF.Exp(2 * LogAlpha(time)));

    /// <summary>The time of a half log signal-to-noise ratio.</summary>
    internal float InverseLambda(float lambda)
    {
        var logAlpha = -0.5f * (MathF.Max(-2 * lambda, 0) + MathF.Log(1 + MathF.Exp(-MathF.Abs(2 * lambda))));
        var n = _logAlphas.Length;
        var right = Array.FindIndex(_logAlphas, value => value <= logAlpha);
        var left = Math.Clamp((right < 0 ? n : right) - 1, 0, n - 2);
        var (t0, t1) = ((left + 1f) / n, (left + 2f) / n);
        return t0 + (logAlpha - _logAlphas[left]) * (t1 - t0) / (_logAlphas[left + 1] - _logAlphas[left]);
    }
}
