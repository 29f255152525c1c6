using System.Collections.Immutable;
using System.Globalization;
using static TorchSharp.torch;

namespace OpenSora.Diffusion;

/// <summary>The noise schedule of a diffusion process: the amount of noise that each step adds and the quantities derived from it, in
/// float64.</summary>
/// <remarks>
/// Ho et al. 2020, "Denoising Diffusion Probabilistic Models", sections 2 and 3; respacing: Nichol and Dhariwal 2021, "Improved Denoising Diffusion
/// Probabilistic Models", section 4. Instances are immutable. Steps count from 0, which has the least noise.
/// </remarks>
public sealed class IddpmSchedule
{
    private IddpmSchedule(double[] betas, int[] timestepMap, bool single = false)
    {
        double Rounded(double value) => single ? (float)value : value;
        betas = Array.ConvertAll(betas, Rounded);
        Betas = [.. betas];
        TimestepMap = [.. timestepMap];
        var n = betas.Length;
        var product = 1.0;
        var alphasCumprod = Array.ConvertAll(betas, beta => product = Rounded(product * Rounded(1 - beta)));
        AlphasCumprod = [.. alphasCumprod];
        AlphasCumprodPrev = [1, .. alphasCumprod[..^1]];
        SqrtAlphasCumprod = Array.ConvertAll(alphasCumprod, Math.Sqrt);
        SqrtOneMinusAlphasCumprod = Array.ConvertAll(alphasCumprod, a => Math.Sqrt(1 - a));
        LogOneMinusAlphasCumprod = Array.ConvertAll(alphasCumprod, a => Math.Log(1 - a));
        SqrtRecipAlphasCumprod = Array.ConvertAll(alphasCumprod, a => Math.Sqrt(1 / a));
        SqrtRecipM1AlphasCumprod = Array.ConvertAll(alphasCumprod, a => Math.Sqrt(1 / a - 1));
        LogBetas = Array.ConvertAll(betas, Math.Log);

        // q(x[t-1] | x[t], x0), equations 6 and 7. Its variance is 0 at the first step, so the clipped logarithm repeats the value of the second
        // step.
        PosteriorVariance = new double[n];
        PosteriorMeanCoef1 = new double[n];
        PosteriorMeanCoef2 = new double[n];
        for (var t = 0; t < n; t++)
        {
            PosteriorVariance[t] = betas[t] * (1 - AlphasCumprodPrev[t]) / (1 - alphasCumprod[t]);
            PosteriorMeanCoef1[t] = betas[t] * Math.Sqrt(AlphasCumprodPrev[t]) / (1 - alphasCumprod[t]);
            PosteriorMeanCoef2[t] = (1 - AlphasCumprodPrev[t]) * Math.Sqrt(1 - betas[t]) / (1 - alphasCumprod[t]);
        }

        var clipped = n > 1 ? PosteriorVariance[1] : betas[0];
        PosteriorLogVarianceClipped = Array.ConvertAll(PosteriorVariance, Math.Log);
        PosteriorLogVarianceClipped[0] = Math.Log(clipped);
        FixedLargeLogVariance = [.. LogBetas];
        FixedLargeLogVariance[0] = Math.Log(clipped);
    }

    /// <summary>The number of steps of this process.</summary>
    public int Steps => Betas.Length;

    /// <summary>The step of the original process for each step of this one; the model receives these steps.</summary>
    public ImmutableArray<int> TimestepMap { get; }

    /// <summary>The variance of the noise that each step adds.</summary>
    public ImmutableArray<double> Betas { get; }

    /// <summary>The fraction of the data's variance that remains after each step.</summary>
    public ImmutableArray<double> AlphasCumprod { get; }

    internal double[] AlphasCumprodPrev { get; }
    internal double[] SqrtAlphasCumprod { get; }
    internal double[] SqrtOneMinusAlphasCumprod { get; }
    internal double[] LogOneMinusAlphasCumprod { get; }
    internal double[] SqrtRecipAlphasCumprod { get; }
    internal double[] SqrtRecipM1AlphasCumprod { get; }
    internal double[] PosteriorVariance { get; }
    internal double[] PosteriorLogVarianceClipped { get; }
    internal double[] PosteriorMeanCoef1 { get; }
    internal double[] PosteriorMeanCoef2 { get; }
    internal double[] LogBetas { get; }
    internal double[] FixedLargeLogVariance { get; }

    /// <summary>Creates a linear schedule: betas increase linearly from 0.0001 to 0.02 over 1000 steps and are scaled for other numbers of steps. The
    /// Open-Sora family trains with it.</summary>
    /// <param name="steps">The number of steps, at least 21.</param>
    /// <exception cref="ArgumentOutOfRangeException">There are too few steps for betas below 1.</exception>
    public static IddpmSchedule Linear(int steps = 1000)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(steps, 21);
        var first = 0.1 / steps;
        var last = 20.0 / steps;
        return FromBetas([.. Enumerable.Range(0, steps).Select(i => first + i * ((last - first) / (steps - 1)))]);
    }

    /// <summary>Creates the cosine schedule of Nichol and Dhariwal 2021, section 3.2, with betas capped at 0.999.</summary>
    /// <param name="steps">The number of steps, at least 1.</param>
    /// <exception cref="ArgumentOutOfRangeException">The number of steps is less than 1.</exception>
    public static IddpmSchedule SquaredCosine(int steps = 1000)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(steps, 1);
        return FromBetas([.. Enumerable.Range(0, steps).Select(i => Math.Min(1 - AlphaBar((i + 1.0) / steps) / AlphaBar((double)i / steps), 0.999))]);

        static double AlphaBar(double t) => Math.Pow(Math.Cos((t + 0.008) / 1.008 * Math.PI / 2), 2);
    }

    /// <summary>Creates a schedule from betas.</summary>
    /// <param name="betas">The variance of the noise that each step adds, each above 0 and below 1.</param>
    /// <exception cref="ArgumentException">There are no betas, or one is out of range.</exception>
    public static IddpmSchedule FromBetas(ReadOnlySpan<double> betas)
    {
        if (betas.IsEmpty)
        {
            throw new ArgumentException("A noise schedule needs at least one beta, but got none.", nameof(betas));
        }

        for (var i = 0; i < betas.Length; i++)
        {
            if (betas[i] is not (> 0 and < 1))
            {
                throw new ArgumentException(
                    string.Create(CultureInfo.InvariantCulture, $"Betas must be above 0 and below 1, but beta {i} is {betas[i]}."),
                    nameof(betas)
                );
            }
        }

        return new IddpmSchedule(betas.ToArray(), [.. Enumerable.Range(0, betas.Length)]);
    }

    /// <summary>Creates a shorter process with evenly spaced steps of this one, including the first and the last step.</summary>
    /// <param name="steps">The number of steps to keep, from 1 to <see cref="Steps"/>.</param>
    /// <exception cref="ArgumentOutOfRangeException">The number of steps is out of range.</exception>
    public IddpmSchedule Respace(int steps)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(steps, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(steps, Steps);
        return Keep(Spread([steps]));
    }

    /// <summary>Converts the betas and the quantities derived from them to single precision, as Open-Sora 1.1 uses for sampling. The last step
    /// differs by 2 parts in 10,000.</summary>
    public IddpmSchedule InSinglePrecision() => new([.. Betas], [.. TimestepMap], single: true);

    // Positions accumulate a fractional stride and are rounded half to even, as in the published processes; other rounding would select other steps.
    internal int[] Spread(int[] sections)
    {
        var kept = new List<int>();
        var start = 0;
        for (var i = 0; i < sections.Length; i++)
        {
            var size = Steps / sections.Length + (i < Steps % sections.Length ? 1 : 0);
            var count = sections[i];
            if (count > size)
            {
                throw new ArgumentException(
                    $"Cannot keep {count} steps of section {i + 1}, which has {size} of the process's {Steps} steps.",
                    nameof(sections)
                );
            }

            var stride = count > 1 ? (size - 1.0) / (count - 1) : 1;
            var position = 0.0;
            for (var k = 0; k < count; k++)
            {
                kept.Add(start + (int)Math.Round(position, MidpointRounding.ToEven));
                position += stride;
            }

            start += size;
        }

        return [.. kept];
    }

    // Computes betas for which the fraction of the data's variance that remains after each kept step is unchanged.
    internal IddpmSchedule Keep(int[] kept)
    {
        var last = 1.0;
        var betas = new double[kept.Length];
        for (var i = 0; i < kept.Length; i++)
        {
            betas[i] = 1 - AlphasCumprod[kept[i]] / last;
            last = AlphasCumprod[kept[i]];
        }

        return new IddpmSchedule(betas, Array.ConvertAll(kept, i => TimestepMap[i]));
    }
}

/// <summary>Looks up the entries of a table of a schedule.</summary>
internal static class ScheduleTable
{
    /// <summary>The entries of steps, one for each sample or one for all, shaped to multiply x. The float64 values are rounded to the type of
    /// x.</summary>
    public static Tensor At(this double[] table, int[] t, Tensor x)
    {
        var shape = new long[x.dim()];
        Array.Fill(shape, 1);
        shape[0] = t.Length;
        return tensor(Array.ConvertAll(t, i => table[i]), dtype: x.dtype, device: x.device).reshape(shape);
    }
}
