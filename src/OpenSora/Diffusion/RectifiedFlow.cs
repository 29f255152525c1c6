using System.Globalization;
using static TorchSharp.torch;

namespace OpenSora.Diffusion;

/// <summary>Training and sampling options of a <see cref="RectifiedFlow"/> process.</summary>
public sealed class RectifiedFlowOptions
{
    /// <summary>The number of time steps of the process.</summary>
    public int Steps { get; set; } = 1000;

    /// <summary>The number of sampling steps. Open-Sora 1.2 uses 30.</summary>
    public int SamplingSteps { get; set; } = 30;

    /// <summary>Indicates whether times are rounded to whole steps, in training and sampling.</summary>
    public bool WholeSteps { get; set; }

    /// <summary>Indicates whether training draws times from a logit-normal distribution, which favors the middle, instead of a uniform distribution
    /// (Esser et al. 2024, "Scaling Rectified Flow Transformers", section 3.1). Open-Sora 1.2 does.</summary>
    public bool LogitNormal { get; set; }

    /// <summary>Indicates whether times are shifted toward noise for large and long videos, in training and sampling, because more noise is needed to
    /// hide their content (Esser et al. 2024, section 5.3.2). Open-Sora 1.2 does, relative to one frame of 512x512 pixels.</summary>
    public bool ShiftBySize { get; set; }

    /// <summary>The number of pixels in height and width that one latent position covers, used for the shift.</summary>
    public int SpatialFactor { get; set; } = 8;

    /// <summary>The loss weight for each of the <see cref="Steps"/> times, from data to noise; a time between two steps uses the weight of the lower
    /// one. Null weights all times equally.</summary>
    public IReadOnlyList<double>? LossWeights { get; set; }
}

/// <summary>A rectified flow process with straight paths between data and noise: training predicts the velocity along the paths, and sampling follows
/// it from noise to data.</summary>
/// <remarks>
/// Liu et al. 2022, "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow". With Open-Sora 1.2's convention, time t
/// runs from 0 (data) to <see cref="RectifiedFlowOptions.Steps"/> (noise): <c>x_t = (1 - t/Steps) x_0 + (t/Steps) noise</c>, and the model predicts
/// <c>x_0 - noise</c>. If a model returns twice the channels, the second half is ignored. Instances are immutable and can be used from several
/// threads at the same time.
/// </remarks>
public sealed class RectifiedFlow : IFrameSampler, ITrainingProcess
{
    private readonly int _samplingSteps;
    private readonly int _spatialFactor;
    private readonly bool _wholeSteps;
    private readonly bool _logitNormal;
    private readonly bool _shiftBySize;
    private readonly double[]? _lossWeights;

    /// <summary>Creates a process.</summary>
    /// <param name="options">The options, which are copied; null uses the defaults.</param>
    /// <exception cref="ArgumentException">An option is out of range.</exception>
    public RectifiedFlow(RectifiedFlowOptions? options = null)
    {
        options ??= new RectifiedFlowOptions();
        _lossWeights = options.LossWeights is { } weights ? [.. weights] : null;
        if (
            _lossWeights is not null
            && (_lossWeights.Length != options.Steps || !Array.TrueForAll(_lossWeights, weight => double.IsFinite(weight) && weight >= 0))
        )
        {
            throw new ArgumentException(
                $"LossWeights must contain {options.Steps} finite, nonnegative numbers, one for each step; it contains {_lossWeights.Length}.",
                nameof(options)
            );
        }

        if (options.Steps < 1 || options.SamplingSteps < 1 || options.SpatialFactor < 1)
        {
            throw new ArgumentException(
                $"Steps {options.Steps}, SamplingSteps {options.SamplingSteps} and SpatialFactor {options.SpatialFactor} must all be greater than 0.",
                nameof(options)
            );
        }

        (Steps, _samplingSteps, _spatialFactor) = (options.Steps, options.SamplingSteps, options.SpatialFactor);
        (_wholeSteps, _logitNormal, _shiftBySize) = (options.WholeSteps, options.LogitNormal, options.ShiftBySize);
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
                $"Noise and times must have the shapes {Iddpm.Shape(x0)} and [{x0.shape[0]}]; got {Iddpm.Shape(noise)} and {Iddpm.Shape(t)}.",
                nameof(t)
            );
        }

        using var scope = NewDisposeScope();
        var share = t.to_type(x0.dtype).reshape([-1, .. Enumerable.Repeat(1L, (int)x0.dim() - 1)]) / Steps;
        return ((1 - share) * x0 + share * noise).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    /// <remarks>Depending on the options, times are uniform or logit-normal, fractional or whole, and shifted by the size of the samples or
    /// not.</remarks>
    public TimestepBatch DrawTimesteps(Tensor x0, Generator? generator = null)
    {
        ArgumentNullException.ThrowIfNull(x0);
        using var scope = NewDisposeScope();
        var batch = x0.shape[0];
        var times = (_logitNormal ? randn([batch], generator: generator).sigmoid() : rand([batch], generator: generator)) * Steps;
        times = _wholeSteps ? times.floor().clamp_max(Steps - 1) : times;
        if (_shiftBySize)
        {
            var shifted = times.data<float>().ToArray();
            times = tensor(Array.ConvertAll(shifted, time => (float)Shift(time, SizeRatio(x0))));
        }

        return new TimestepBatch(times.MoveToOuterDisposeScope(), ones([batch]).MoveToOuterDisposeScope());
    }

    /// <inheritdoc/>
    /// <remarks>The loss is the mean squared error of the velocity <c>x0 - noise</c>.</remarks>
    public TrainingLosses TrainingLosses(
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

        noise = noise?.to_type(x0.dtype) ?? Iddpm.Random(generator)(0, x0);
        t = t.to(x0.device).to_type(ScalarType.Float32);
        var x = NoisyFrames.Choose(noisyFrames, AddNoise(x0, t, noise), x0);
        var mse = NoisyFrames.Mean((Velocity(denoiser(x, t), x) - (x0 - noise)).square(), noisyFrames);
        var weighted = _lossWeights is null
            ? mse.alias()
            : mse
                * tensor(_lossWeights, dtype: mse.dtype, device: mse.device)
                    .index_select(0, t.to_type(ScalarType.Int64).clamp(0, _lossWeights.Length - 1));
        return new TrainingLosses(weighted, mse, null).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    /// <remarks>The generator is not used because sampling is deterministic after the initial noise.</remarks>
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
        return Run((x, t, _) => denoiser(x, t), noise, null, Iddpm.Random(generator), SamplingTimes(noise), progress, cancellationToken);
    }

    /// <inheritdoc/>
    public Tensor SampleFrames(
        FrameDenoiser denoiser,
        Tensor latents,
        Tensor share,
        Generator? generator = null,
        IProgress<SamplingStep>? progress = null,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(denoiser);
        ArgumentNullException.ThrowIfNull(share);
        Iddpm.CheckNoise(latents);
        return Run(
            (x, t, frames) => denoiser(x, t, frames!),
            latents,
            share,
            Iddpm.Random(generator),
            SamplingTimes(latents),
            progress,
            cancellationToken
        );
    }

    internal Tensor Run(
        Func<Tensor, Tensor, Tensor?, Tensor> denoiser,
        Tensor latents,
        Tensor? share,
        NoiseSource source,
        double[] times,
        IProgress<SamplingStep>? progress,
        CancellationToken cancellationToken
    )
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var (x, begun) = (latents, share?.eq(1)); // begun: frames that are already noisy
        for (var i = 0; i < times.Length; i++)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var (previous, previouslyBegun) = (x, begun);
            using (NewDisposeScope())
            {
                var t = full(x.shape[0], (float)times[i], dtype: ScalarType.Float32, device: x.device);
                var noisy = share is null ? null : share * Steps >= t.unsqueeze(1);
                var start = noisy is null ? x : NoisyFrames.Choose(noisy & ~begun!, AddNoise(x, t, source(i, x)), x);
                var step = (times[i] - times.ElementAtOrDefault(i + 1)) / Steps;
                var next = start + Velocity(denoiser(start, t, noisy), start) * step;
                x = NoisyFrames.Choose(noisy, next, x).MoveToOuterDisposeScope();
                begun = noisy?.MoveToOuterDisposeScope();
            }

            if (!ReferenceEquals(previous, latents))
            {
                previous.Dispose();
            }

            previouslyBegun?.Dispose();
            progress?.Report(new SamplingStep(i + 1, times.Length));
        }

        return x.MoveToOuterDisposeScope();
    }

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

    private double[] SamplingTimes(Tensor x) => SamplingTimes(_shiftBySize ? SizeRatio(x) : 1);

    private double Shift(double time, double ratio) => ratio * time / (1 + (ratio - 1) * time / Steps);

    private double SizeRatio(Tensor x) =>
        x.dim() == 5
            ? SizeRatio(x.shape[2], x.shape[3] * _spatialFactor, x.shape[4] * _spatialFactor)
            : throw new ArgumentException(
                $"Shifting times by size needs shape [batch, channels, frames, height, width], got {Iddpm.Shape(x)}.",
                nameof(x)
            );

    /// <summary>Computes the size of a video with the specified number of latent frames and pixels, relative to one frame of 512x512
    /// pixels.</summary>
    internal static double SizeRatio(long frames, double height, double width) => Math.Sqrt(height * width / (512 * 512)) * Math.Sqrt(frames);

    private static Tensor Velocity(Tensor output, Tensor x)
    {
        var channels = x.shape[1];
        var both = output.dim() == x.dim() && output.shape[1] == 2 * channels;
        Iddpm.CheckOutput(output, x, both ? 2 : 1, "as many channels as the latents, or twice as many, of which the second half is ignored");
        return output.narrow(1, 0, channels).to_type(x.dtype);
    }
}
