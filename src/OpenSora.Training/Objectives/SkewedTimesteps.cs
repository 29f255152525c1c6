using OpenSora.Diffusion;
using OpenSora.Runtime;
using static TorchSharp.torch;

namespace OpenSora.Training.Objectives;

/// <summary>Draws noisy timesteps more often than clean ones, or the reverse: <c>t = steps * u^exponent</c> with u uniform in [0, 1). All weights are
/// 1, so the loss is weighted by how often each timestep is drawn.</summary>
/// <remarks>The overall content of an image is determined at high noise levels, and its details at low noise levels. A small model with little
/// training time learns the content from late timesteps.</remarks>
/// <param name="exponent">The exponent, above 0. Values below 1 favor late, noisy timesteps; 1 is uniform.</param>
internal sealed class SkewedTimesteps(double exponent) : ITimestepSampler
{
    private readonly double _exponent =
        double.IsFinite(exponent) && exponent > 0
            ? exponent
            : throw new ArgumentOutOfRangeException(nameof(exponent), exponent, "The exponent must be above 0.");

    /// <summary>Returns the name and the exponent, as written to checkpoints.</summary>
    public override string ToString() => FormattableString.Invariant($"{nameof(SkewedTimesteps)} {_exponent:R}");

    /// <inheritdoc/>
    public (Tensor Timesteps, Tensor Weights) Sample(int batch, int steps, Generator? generator = null)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(batch, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(steps, 1);
        using var scope = NewDisposeScope();
        var times = rand([batch], generator: generator).Power(_exponent).Times(steps).to(ScalarType.Int64).Clamp(0, steps - 1);
        return (times.MoveToOuterDisposeScope(), ones([batch]).MoveToOuterDisposeScope());
    }
}
