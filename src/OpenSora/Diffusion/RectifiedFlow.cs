using System.Globalization;
using OpenSora.Runtime;
using static OpenSora.Runtime.Scopes;
using static OpenSora.Runtime.TensorArithmetic;
using static TorchSharp.torch;

namespace OpenSora.Diffusion;

/// <summary>A rectified flow process with straight paths between data and noise: training predicts the velocity along the paths, and sampling follows
/// it from noise to data.</summary>
/// <remarks>
/// Liu et al. 2022, "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow". With Open-Sora 1.2's convention, time t
/// runs from 0 (data) to <see cref="Steps"/> (noise): <c>x_t = (1 - t/Steps) x_0 + (t/Steps) noise</c>, and the model predicts
/// <c>x_0 - noise</c>. If a model returns twice the channels, the second half is ignored. Instances are immutable and can be used from several
/// threads at the same time.
/// </remarks>
public sealed class RectifiedFlow : ISampler, ITrainingProcess
{
    private readonly int _samplingSteps;
    private readonly int _spatialFactor;
    private readonly bool _wholeSteps;
    private readonly bool _logitNormal;
    private readonly bool _shiftBySize;
    private readonly double[]? _lossWeights;

    /// <summary>Creates a process.</summary>
    /// <param name="samplingSteps">The number of sampling steps. Open-Sora 1.2 uses 30.</param>
    /// <param name="steps">The number of time steps of the process.</param>
    /// <param name="wholeSteps">true to round times to whole steps, in training and sampling.</param>
    /// <param name="logitNormal">true to draw the times of training from a logit-normal distribution, which favors the middle, instead of a uniform
    /// distribution (Esser et al. 2024, "Scaling Rectified Flow Transformers", section 3.1). Open-Sora 1.2 does.</param>
    /// <param name="shiftBySize">true to shift times toward noise for large and long videos, in training and sampling, because more noise is needed
    /// to hide their content (Esser et al. 2024, section 5.3.2). Open-Sora 1.2 does, relative to one frame of 512x512 pixels.</param>
    /// <param name="spatialFactor">The number of pixels in height and width that one latent position covers, used for the shift.</param>
    /// <param name="lossWeights">The loss weight for each of the time steps, from data to noise, which is copied; a time between two steps uses the
    /// weight of the lower one. Null weights all times equally.</param>
    /// <exception cref="ArgumentException">An argument is out of range.</exception>
    public RectifiedFlow(
        int samplingSteps = 30,
        int steps = 1000,
        bool wholeSteps = false,
        bool logitNormal = false,
        bool shiftBySize = false,
        int spatialFactor = 8,
        IReadOnlyList<double>? lossWeights = null
    )
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(samplingSteps, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(steps, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(spatialFactor, 1);
        _lossWeights = lossWeights is null ? null : [.. lossWeights];
        if (
            _lossWeights is not null
            && (_lossWeights.Length != steps || !Array.TrueForAll(_lossWeights, weight => double.IsFinite(weight) && weight >= 0))
        )
        {
            throw new ArgumentException(
                $"The loss weights must be {steps} finite, nonnegative numbers, one for each step; there are {_lossWeights.Length}.",
                nameof(lossWeights)
            );
        }

        (Steps, _samplingSteps, _spatialFactor) = (steps, samplingSteps, spatialFactor);
        (_wholeSteps, _logitNormal, _shiftBySize) = (wholeSteps, logitNormal, shiftBySize);
    }

    /// <inheritdoc/>
    public int Steps { get; }

    /// <summary>Returns a short description of the parameterization, which is stored in checkpoints.</summary>
    public override string ToString() =>
        string.Create(
            CultureInfo.InvariantCulture,
            $"{nameof(RectifiedFlow)} of {Steps}{(_wholeSteps ? " whole" : "")} steps{(_logitNormal ? ", logit-normal" : "")}"
                + $"{(_shiftBySize ? $", shifted by size, {_spatialFactor}" : "")}"
        );

    /// <summary>Gets null because guidance applies to all latent channels in the published models.</summary>
    public int? GuidedChannels => null;

    /// <inheritdoc/>
    public bool SupportsConditioningFrames => true;

    /// <summary>Adds noise to clean samples: <c>(1 - t/Steps) x0 + (t/Steps) noise</c>.</summary>
    /// <param name="x0">Clean samples <c>[batch, channels, ...]</c>.</param>
    /// <param name="t">Times from 0 to <see cref="Steps"/>, <c>[batch]</c>.</param>
    /// <param name="noise">Standard normal noise with the shape of <paramref name="x0"/>.</param>
    /// <returns>The noisy samples, owned by the caller.</returns>
    public Tensor AddNoise(Tensor x0, Tensor t, Tensor noise)
    {
        ArgumentNullException.ThrowIfNull(x0);
        ArgumentNullException.ThrowIfNull(t);
        ArgumentNullException.ThrowIfNull(noise);
        if (t.dim() != 1 || t.shape[0] != x0.shape[0] || !noise.shape.AsSpan().SequenceEqual(x0.shape))
        {
            throw new ArgumentException(
                $"Noise and times must have the shapes {Shapes.Text(x0)} and [{x0.shape[0]}]; got {Shapes.Text(noise)} and {Shapes.Text(t)}.",
                nameof(t)
            );
        }

        return Scoped(() =>
        {
            var share = t.to_type(x0.dtype).reshape([-1, .. Enumerable.Repeat(1L, (int)x0.dim() - 1)]).Over(Steps);
            return (OneMinus(share) * x0).Plus(share * noise);
        });
    }

    /// <inheritdoc/>
    /// <remarks>Depending on the options, times are uniform or logit-normal, fractional or whole, and shifted by the size of the samples or
    /// not.</remarks>
    public (Tensor Timesteps, Tensor Weights) DrawTimesteps(Tensor x0, Generator? generator = null)
    {
        ArgumentNullException.ThrowIfNull(x0);
        using var scope = NewDisposeScope();
        var batch = x0.shape[0];
        var times = (_logitNormal ? randn([batch], generator: generator).sigmoid() : rand([batch], generator: generator)).Times(Steps);
        times = _wholeSteps ? times.floor().ClampMax(Steps - 1) : times;
        if (_shiftBySize)
        {
            var shifted = times.data<float>().ToArray();
            times = tensor(Array.ConvertAll(shifted, time => (float)Shift(time, SizeRatio(x0.shape))));
        }

        return (times.MoveToOuterDisposeScope(), ones([batch]).MoveToOuterDisposeScope());
    }

    /// <inheritdoc/>
    /// <remarks>The loss is the mean squared error of the velocity <c>x0 - noise</c>.</remarks>
    public TrainingLoss TrainingLosses(
        Denoiser denoiser,
        Tensor x0,
        Tensor t,
        Tensor? noise = null,
        Generator? generator = null,
        Tensor? noisyFrames = null
    )
    {
        ArgumentNullException.ThrowIfNull(denoiser);
        ArgumentNullException.ThrowIfNull(x0);
        ArgumentNullException.ThrowIfNull(t);
        using var scope = NewDisposeScope();
        if (x0.dtype != ScalarType.Float64)
        {
            x0 = x0.to_type(ScalarType.Float32);
        }

        noise = noise?.to_type(x0.dtype) ?? Sampling.Gaussian(generator)(x0);
        t = t.to(x0.device).to_type(ScalarType.Float32);
        var x = NoisyFrames.Choose(noisyFrames, AddNoise(x0, t, noise), x0);
        var mse = NoisyFrames.Mean((Velocity(denoiser(x, t), x) - (x0 - noise)).Squared(), noisyFrames);
        var weighted = _lossWeights is null
            ? mse.alias()
            : mse
                * tensor(_lossWeights, dtype: mse.dtype, device: mse.device)
                    .index_select(0, t.to_type(ScalarType.Int64).Clamp(0, _lossWeights.Length - 1));
        return TrainingLoss.Of(weighted, mse).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    /// <remarks>The sampler is this process with the specified number of sampling steps.</remarks>
    public ISampler CreateSampler(int? steps = null) =>
        new RectifiedFlow(steps ?? _samplingSteps, Steps, _wholeSteps, _logitNormal, _shiftBySize, _spatialFactor, _lossWeights);

    /// <inheritdoc/>
    public IReadOnlyList<double> Timesteps(long[] shape)
    {
        ArgumentNullException.ThrowIfNull(shape);
        return SamplingTimes(_shiftBySize ? SizeRatio(shape) : 1);
    }

    /// <inheritdoc/>
    public Tensor Step(SamplingState state, Tensor x, Tensor output)
    {
        ArgumentNullException.ThrowIfNull(state);
        ArgumentNullException.ThrowIfNull(x);
        ArgumentNullException.ThrowIfNull(output);
        var (velocity, time) = (Velocity(output, x), state.Timesteps[state.Step]);
        state.Prediction = x.Plus(velocity.Times(time / Steps));
        return x.Plus(velocity.Times((time - state.Timesteps.ElementAtOrDefault(state.Step + 1)) / Steps));
    }

    /// <inheritdoc/>
    public (Tensor Begins, Tensor Noisy, Tensor Changes) Frames(SamplingState state, Tensor fraction)
    {
        ArgumentNullException.ThrowIfNull(state);
        ArgumentNullException.ThrowIfNull(fraction);
        var noisy = fraction.Times(Steps).AtLeast((float)state.Timesteps[state.Step]);
        var before = state.Step == 0 ? fraction.EqualTo(1) : fraction.Times(Steps).AtLeast((float)state.Timesteps[state.Step - 1]);
        return (noisy & ~before, noisy, noisy);
    }

    Tensor ISampler.AddNoise(SamplingState state, Tensor x0, Tensor noise) =>
        AddNoise(x0, Full([x0.shape[0]], (float)state.Timesteps[state.Step], ScalarType.Float32, x0.device), noise);

    /// <summary>Computes the sampling times, from noise to data; the last step ends at 0.</summary>
    /// <param name="ratio">The size of the video relative to the reference size without a shift; see
    /// <see cref="SizeRatio(long, double, double)"/>.</param>
    internal double[] SamplingTimes(double ratio) =>
        [
            .. Enumerable
                .Range(0, _samplingSteps)
                .Select(i =>
                {
                    var time = (1 - (double)i / _samplingSteps) * Steps;
                    return Shift(_wholeSteps ? Math.Round(time) : time, ratio);
                }),
        ];

    private double Shift(double time, double ratio) => ratio * time / (1 + (ratio - 1) * time / Steps);

    private double SizeRatio(long[] shape) =>
        shape.Length == 5
            ? SizeRatio(shape[2], shape[3] * _spatialFactor, shape[4] * _spatialFactor)
            : throw new ArgumentException(
                $"Shifting times by size needs shape [batch, channels, frames, height, width], got {Shapes.Text(shape)}.",
                nameof(shape)
            );

    /// <summary>Computes the size of a video with the specified number of latent frames and pixels, relative to one frame of 512x512
    /// pixels.</summary>
    internal static double SizeRatio(long frames, double height, double width) => Math.Sqrt(height * width / (512 * 512)) * Math.Sqrt(frames);

    private static Tensor Velocity(Tensor output, Tensor x)
    {
        var channels = x.shape[1];
        var both = output.dim() == x.dim() && output.shape[1] == 2 * channels;
        Sampling.CheckOutput(output, x, both ? 2 : 1, "as many channels as the latents, or twice as many, of which the second half is ignored");
        return output.narrow(1, 0, channels).to_type(x.dtype);
    }
}
