using OpenSora.Runtime;
using static TorchSharp.torch;

namespace OpenSora.Diffusion;

/// <summary>The DPM-Solver++ (2M) sampler: a deterministic second-order multistep solver of the diffusion differential equation that needs few
/// steps.</summary>
/// <remarks>
/// Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", algorithm 2. Times are evenly spaced from 1 to
/// 1 / (steps of the schedule), which is 0.001 by default. Instances are immutable.
/// </remarks>
public sealed class DpmSolver : ISampler
{
    private const float FirstTime = 1;

    private readonly Prediction _prediction;
    private readonly float[] _logAlphas;
    private readonly float _lastTime; // time of the process's first step

    /// <summary>Creates a sampler.</summary>
    /// <param name="steps">The number of sampling steps, at least 1. PixArt and Open-Sora 1.0 use 20.</param>
    /// <param name="schedule">The schedule that the model was trained with, not respaced; null uses the linear schedule with 1000 steps.</param>
    /// <param name="prediction">The quantity that the model predicts.</param>
    /// <exception cref="ArgumentException">An argument is out of range, or the schedule is respaced.</exception>
    public DpmSolver(int steps = 20, IddpmSchedule? schedule = null, Prediction prediction = Prediction.Noise)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(steps, 1);
        schedule ??= IddpmSchedule.Linear();
        if (schedule.Steps < 2 || schedule.TimestepMap[^1] != schedule.Steps - 1)
        {
            throw new ArgumentException(
                "DPM-Solver chooses its own times: pass the full schedule that the model was trained with, not a respaced one.",
                nameof(schedule)
            );
        }

        if (!Enum.IsDefined(prediction))
        {
            throw new ArgumentException($"Unknown prediction {prediction}: use a named value.", nameof(prediction));
        }

        Steps = steps;
        _prediction = prediction;
        _lastTime = 1f / schedule.Steps;
        _logAlphas = [.. schedule.AlphasCumprod.Select(a => (float)(0.5 * Math.Log(a)))];
    }

    /// <summary>The number of sampling steps.</summary>
    public int Steps { get; }

    /// <summary>Gets null because guidance applies to all latent channels in the published models.</summary>
    public int? GuidedChannels => null;

    /// <inheritdoc/>
    public IReadOnlyList<double> Timesteps(long[] shape) =>
        // Time 1 is the process's last step, so step 0 is at time 1 / steps.
        [.. Enumerable.Range(0, Steps).Select(i => (double)((Time(i) - 1f / _logAlphas.Length) * _logAlphas.Length))];

    /// <inheritdoc/>
    public Tensor Step(SamplingState state, Tensor x, Tensor output)
    {
        ArgumentNullException.ThrowIfNull(state);
        ArgumentNullException.ThrowIfNull(x);
        ArgumentNullException.ThrowIfNull(output);
        var x0 = PredictSample(output, x, Time(state.Step));
        var next = Advance(x, x0, state.Memory, state.Step);
        (state.Memory, state.Prediction) = (x0, x0);
        return next;
    }

    /// <inheritdoc/>
    public bool SupportsEditing => true;

    Tensor ISampler.AddNoise(SamplingState state, Tensor x0, Tensor noise) =>
        x0.Times(Alpha(Time(state.Step))).Plus(noise.Times(Sigma(Time(state.Step))));

    // Advances from time i to time i + 1.
    private Tensor Advance(Tensor x, Tensor x0, Tensor? x0Before, int i)
    {
        var (s, t) = (Time(i), Time(i + 1));
        var h = (double)Lambda(t) - Lambda(s);
        var phi = Alpha(t) * Math.Exp(-h) - Alpha(t);
        var next = x.Times(Sigma(t) / Sigma(s)) - x0.Times(phi);
        var lastOfFew = Steps < 10 && i == Steps - 1; // with few steps, a first-order last step is more stable
        if (x0Before is null || lastOfFew)
        {
            return next;
        }

        var r = ((double)Lambda(s) - Lambda(Time(i - 1))) / h;
        return next - (x0 - x0Before).Times(0.5 * phi / r);
    }

    private Tensor PredictSample(Tensor output, Tensor x, float time)
    {
        var channels = x.shape[1];
        var learned = output.dim() == x.dim() && output.shape[1] == 2 * channels;
        Sampling.CheckOutput(
            output,
            x,
            learned ? 2 : 1,
            "as many channels as the latents, or twice as many with a learned variance, which is ignored"
        );
        output = output.narrow(1, 0, channels).to_type(x.dtype);
        return _prediction == Prediction.Sample ? output : (x - output.Times(Sigma(time))).Over(Alpha(time));
    }

    // The schedule interpolated between its steps, in single precision as published; near time 0, its rounding affects the published results.
    internal float Time(int i)
    {
        var step = (_lastTime - FirstTime) / Steps;
        return i < (Steps + 1) / 2 ? FirstTime + i * step : _lastTime - (Steps - i) * step; // from both ends, so that both ends are exact
    }

    internal float LogAlpha(float time)
    {
        var n = _logAlphas.Length;
        var left = Math.Clamp((int)MathF.Ceiling(time * n) - 2, 0, n - 2); // knots are at 1/n, 2/n ... 1; linear extrapolation beyond
        var (t0, t1) = ((left + 1f) / n, (left + 2f) / n);
        return _logAlphas[left] + (time - t0) * (_logAlphas[left + 1] - _logAlphas[left]) / (t1 - t0);
    }

    internal float Alpha(float time) => MathF.Exp(LogAlpha(time));

    internal float Sigma(float time) => MathF.Sqrt(1 - MathF.Exp(2 * LogAlpha(time)));

    /// <summary>Computes half the logarithm of the signal-to-noise ratio at a time.</summary>
    internal float Lambda(float time) => LogAlpha(time) - 0.5f * MathF.Log(1 - MathF.Exp(2 * LogAlpha(time)));
}
