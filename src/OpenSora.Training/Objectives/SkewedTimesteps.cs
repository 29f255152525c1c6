using OpenSora.Diffusion;
using static TorchSharp.torch;

namespace OpenSora.Training.Objectives;

/// <summary>Draws noisy time steps more often than clean ones, or the other way round: <c>t = steps * u^exponent</c> with u uniform. All weights are
/// 1,
/// so the loss is weighed by how often a step is drawn.</summary>
/// <remarks>What a picture shows is decided where there is much noise, its details where there is little; a small model that has little time learns
/// the first from late steps.</remarks>
/// <param name="exponent">Below 1 prefers late, noisy steps; 1 is uniform.</param>
public sealed class SkewedTimesteps(double exponent) : ITimestepSampler
{
    private readonly double _exponent =
        double.IsFinite(exponent) && exponent > 0
            ? exponent
            : throw new ArgumentOutOfRangeException(nameof(exponent), exponent, "The exponent must be above 0.");

    /// <summary>The exponent, as checkpoints name it.</summary>
    public override string ToString() => FormattableString.Invariant($"{nameof(SkewedTimesteps)} {_exponent:R}");

    /// <inheritdoc/>
    public TimestepBatch Sample(int batch, int steps, Generator? generator = null)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(batch, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(steps, 1);
        using var scope = NewDisposeScope();
        var times = rand([batch], generator: generator).pow(_exponent).mul(steps).to(ScalarType.Int64).clamp(0, steps - 1);
        return new TimestepBatch(times.MoveToOuterDisposeScope(), ones([batch]).MoveToOuterDisposeScope());
    }
}
