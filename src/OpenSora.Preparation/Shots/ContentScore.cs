namespace OpenSora.Preparation.Shots;

/// <summary>Computes the weighted difference of a frame from the previous one.</summary>
internal sealed class ContentScore(ContentWeights weights, int? edgeKernel)
{
    private readonly double _sum =
        weights.Sum > 0 ? weights.Sum : throw new ArgumentException("At least one weight of a content score must not be zero.", nameof(weights));

    private EdgeMap? _edges;
    private EdgeMap? _previous;

    /// <summary>Computes the score, from 0 to 255; 0 for the first frame.</summary>
    internal double Compute(ShotFrame frame)
    {
        var (hue, saturation, value) = frame.Difference;
        var score = (hue * weights.Hue) + (saturation * weights.Saturation) + (value * weights.Value);
        if (weights.Edges != 0)
        {
            _edges ??= new(frame.Width, frame.Height, edgeKernel);
            _edges.Compute(frame.Value);
            score += _previous is null ? 0 : Planes.Difference(_edges.Pixels, _previous.Pixels) * weights.Edges;
            (_edges, _previous) = (_previous ?? new(frame.Width, frame.Height, edgeKernel), _edges);
        }

        return score / _sum;
    }
}
