using System.Numerics.Tensors;

namespace OpenSora.Preparation.Shots;

/// <summary>Detects cuts by the perceptual hashes of adjacent frames.</summary>
/// <remarks>This is the method of PySceneDetect's <c>detect-hash</c>, with the same defaults. A hash has one bit for each low frequency of a small
/// gray picture: whether its coefficient is above the median.</remarks>
public sealed record HashDetector : IShotDetector
{
    /// <summary>The fraction of bits that differ, from 0 to 1, at which a frame starts a shot.</summary>
    public double Threshold { get; init; } = 0.395;

    /// <summary>The number of frequencies in each direction.</summary>
    public int Size { get; init; } = 16;

    /// <summary>The side of the small picture divided by the number of frequencies: with 2, the lower half of the frequencies is used.</summary>
    public int Lowpass { get; init; } = 2;

    /// <summary>The minimum length of a shot.</summary>
    public TimeSpan MinimumLength { get; init; } = TimeSpan.FromSeconds(0.6);

    /// <inheritdoc />
    public ShotAnalysis Start() => new Analysis(this);

    private sealed class Analysis : ShotAnalysis
    {
        private readonly HashDetector _options;
        private readonly int _side;
        private readonly float[] _cosines; // [frequency, position]
        private readonly float[] _small; // [y, x]
        private readonly float[] _rows; // [frequency of x, y]
        private readonly float[] _coefficients; // [frequency of x, frequency of y]
        private readonly float[] _sorted;
        private AreaScale? _scale;
        private bool[] _hash;
        private bool[]? _previous;
        private TimeSpan? _lastCut;

        internal Analysis(HashDetector options)
        {
            Settings.RequireRange(nameof(Size), options.Size, 2, 128);
            Settings.RequireRange(nameof(Lowpass), options.Lowpass, 1, 16);
            _options = options;
            _side = options.Size * options.Lowpass;
            _cosines = new float[options.Size * _side];
            for (var frequency = 0; frequency < options.Size; frequency++)
            {
                // The scale of an orthonormal transform.
                var scale = Math.Sqrt((frequency == 0 ? 1.0 : 2.0) / _side);
                for (var at = 0; at < _side; at++)
                {
                    _cosines[(frequency * _side) + at] = (float)(scale * Math.Cos(Math.PI * frequency * ((2 * at) + 1) / (2 * _side)));
                }
            }

            _small = new float[_side * _side];
            _rows = new float[options.Size * _side];
            _coefficients = new float[options.Size * options.Size];
            _sorted = new float[options.Size * options.Size];
            _hash = new bool[options.Size * options.Size];
        }

        public override IReadOnlyList<ShotTransition> Add(ShotFrame frame)
        {
            _lastCut ??= frame.Time;
            Hash(frame);
            var isCut =
                _previous is not null
                && Distance(_previous, _hash) >= _options.Threshold
                && MinimumLengths.IsMet(frame.Time - _lastCut.Value, _options.MinimumLength);
            (_previous, _hash) = (_hash, _previous ?? new bool[_hash.Length]);
            if (!isCut)
            {
                return [];
            }

            _lastCut = frame.Time;
            return [new(frame.Index)];
        }

        private void Hash(ShotFrame frame)
        {
            _scale ??= new(frame.Width, frame.Height, _side, _side);
            _scale.ApplyRounded(frame.Gray, _small);
            var size = _options.Size;
            for (var fx = 0; fx < size; fx++)
            {
                var cosines = _cosines.AsSpan(fx * _side, _side);
                for (var y = 0; y < _side; y++)
                {
                    _rows[(fx * _side) + y] = TensorPrimitives.Dot<float>(cosines, _small.AsSpan(y * _side, _side));
                }

                for (var fy = 0; fy < size; fy++)
                {
                    _coefficients[(fx * size) + fy] = TensorPrimitives.Dot<float>(
                        _cosines.AsSpan(fy * _side, _side),
                        _rows.AsSpan(fx * _side, _side)
                    );
                }
            }

            _coefficients.CopyTo(_sorted, 0);
            Array.Sort(_sorted);
            var middle = _sorted.Length / 2;
            var median = _sorted.Length % 2 == 1 ? _sorted[middle] : (_sorted[middle - 1] + _sorted[middle]) / 2;
            for (var i = 0; i < _hash.Length; i++)
            {
                _hash[i] = _coefficients[i] > median;
            }
        }

        private static double Distance(bool[] a, bool[] b)
        {
            var different = 0;
            for (var i = 0; i < a.Length; i++)
            {
                different += a[i] != b[i] ? 1 : 0;
            }

            return (double)different / a.Length;
        }
    }
}
