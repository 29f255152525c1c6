using System.Numerics.Tensors;
using System.Runtime.CompilerServices;

namespace OpenSora.Preparation.Shots;

/// <summary>Detects cuts by the correlation of the brightness histograms of adjacent frames.</summary>
/// <remarks>This is the method of PySceneDetect's <c>detect-hist</c>, with the same defaults.</remarks>
public sealed record HistogramDetector : IShotDetector
{
    /// <summary>The difference of the correlation from 1 at which a frame starts a shot, from 0 to 1.</summary>
    public double Threshold { get; init; } = 0.05;

    /// <summary>The number of bins of a histogram, from 2 to 256.</summary>
    public int Bins { get; init; } = 256;

    /// <summary>The minimum length of a shot.</summary>
    public TimeSpan MinimumLength { get; init; } = TimeSpan.FromSeconds(0.6);

    /// <inheritdoc />
    public ShotAnalysis Start() => new Analysis(this);

    private sealed class Analysis : ShotAnalysis
    {
        private readonly HistogramDetector _options;
        private readonly byte[] _binOf;
        private float[] _histogram;
        private float[]? _previous;
        private TimeSpan? _lastCut;

        internal Analysis(HistogramDetector options)
        {
            Settings.RequireRange(nameof(Bins), options.Bins, 2, 256);
            _options = options;
            _binOf = [.. Enumerable.Range(0, 256).Select(level => (byte)(level * options.Bins / 256))];
            _histogram = new float[options.Bins];
        }

        public override IReadOnlyList<ShotTransition> Add(ShotFrame frame)
        {
            _lastCut ??= frame.Time;
            Count(frame.Luma);
            var isCut =
                _previous is not null
                && Correlation(_previous, _histogram) <= 1 - Math.Clamp(_options.Threshold, 0, 1)
                && MinimumLengths.IsMet(frame.Time - _lastCut.Value, _options.MinimumLength);
            (_previous, _histogram) = (_histogram, _previous ?? new float[_options.Bins]);
            if (!isCut)
            {
                return [];
            }

            _lastCut = frame.Time;
            return [new(frame.Index)];
        }

        // Fills the histogram with differences from its mean. Four counters avoid waiting for the previous pixel.
        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        private void Count(ReadOnlySpan<byte> luma)
        {
            Span<int> counts = stackalloc int[4 * 256];
            counts.Clear();
            var i = 0;
            for (; i + 4 <= luma.Length; i += 4)
            {
                counts[luma[i]]++;
                counts[256 + luma[i + 1]]++;
                counts[512 + luma[i + 2]]++;
                counts[768 + luma[i + 3]]++;
            }

            for (; i < luma.Length; i++)
            {
                counts[luma[i]]++;
            }

            _histogram.AsSpan().Clear();
            for (var level = 0; level < 256; level++)
            {
                _histogram[_binOf[level]] += counts[level] + counts[256 + level] + counts[512 + level] + counts[768 + level];
            }

            TensorPrimitives.Subtract(_histogram, (float)luma.Length / _options.Bins, _histogram);
        }

        private static double Correlation(ReadOnlySpan<float> a, ReadOnlySpan<float> b)
        {
            var size = Math.Sqrt((double)TensorPrimitives.SumOfSquares(a) * TensorPrimitives.SumOfSquares(b));
            return size > 0 ? TensorPrimitives.Dot(a, b) / size : 1;
        }
    }
}
