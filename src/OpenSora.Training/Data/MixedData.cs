namespace OpenSora.Training.Data;

/// <summary>Data that alternates between several sources, such as images and clips (joint training).</summary>
internal sealed class MixedData : ITrainingData
{
    private readonly (ITrainingData Data, double Samples)[] _turns;

    /// <summary>Creates data that takes batches from several sources in turn.</summary>
    /// <param name="turns">The sources in the order of their turns, each with its batch size as a multiple of the stage's batch size, because an
    /// image is as much work as one frame of a clip. A source can occur several times.</param>
    /// <exception cref="ArgumentException">There is no source, or a multiple is not above 0.</exception>
    public MixedData(params (ITrainingData Data, double Samples)[] turns)
    {
        ArgumentNullException.ThrowIfNull(turns);
        if (turns.Length == 0 || turns.Any(turn => turn.Data is null || turn.Samples <= 0))
        {
            throw new ArgumentException("Mixed data need at least one source, each with a batch size above 0.", nameof(turns));
        }

        _turns = turns;
    }

    /// <inheritdoc/>
    public long Count => _turns.Select(turn => turn.Data).Distinct().Sum(data => data.Count);

    /// <inheritdoc/>
    public string Fingerprint =>
        string.Join(" + ", _turns.Select(turn => FormattableString.Invariant($"{turn.Samples} x ({turn.Data.Fingerprint})")));

    /// <inheritdoc/>
    public ValueTask<TrainingBatch> GetBatchAsync(long number, int size, int seed, CancellationToken cancellationToken = default)
    {
        var (data, own, count) = Turn(number, size);
        return data.GetBatchAsync(own, count, seed, cancellationToken);
    }

    /// <inheritdoc/>
    public ValueTask<TrainingBatch> GetPartAsync(long number, int size, int seed, int part, int parts, CancellationToken cancellationToken = default)
    {
        var (data, own, count) = Turn(number, size);
        return data.GetPartAsync(own, count, seed, part, parts, cancellationToken);
    }

    // The source of a batch, the number of the batch in it, and the number of samples.
    private (ITrainingData Data, long Number, int Count) Turn(long number, int size)
    {
        var (data, samples) = _turns[number % _turns.Length];
        // The batches of a source are numbered consecutively over all its turns.
        var own = _turns.Count(turn => ReferenceEquals(turn.Data, data));
        var before = _turns.Take((int)(number % _turns.Length)).Count(turn => ReferenceEquals(turn.Data, data));
        return (data, number / _turns.Length * own + before, Math.Max(1, (int)Math.Round(size * samples)));
    }
}
