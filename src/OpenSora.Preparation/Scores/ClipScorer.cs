using OpenSora.Preparation.Media;

namespace OpenSora.Preparation.Scores;

/// <summary>Computes the scores of clips: each clip is decoded once, and all scores see the same frames.</summary>
/// <remarks>Thread-safe. Each clip that is scored at the same time takes about 60 MB at most with the default options.</remarks>
public sealed class ClipScorer
{
    private readonly IReadOnlyList<IClipScore> _scores;
    private readonly ClipFramesOptions _options;

    /// <summary>Initializes a new instance.</summary>
    /// <param name="scores">The scores; null for <see cref="StandardScores"/>.</param>
    /// <param name="options">Specifies which frames are decoded; null for the defaults.</param>
    /// <exception cref="ArgumentException">Two scores have a column of the same name.</exception>
    public ClipScorer(IReadOnlyList<IClipScore>? scores = null, ClipFramesOptions? options = null)
    {
        _scores = scores ?? StandardScores.Create();
        _options = options ?? new();
        Columns = [.. _scores.SelectMany(score => score.Columns)];
        if (Columns.CountBy(column => column.Name, StringComparer.Ordinal).FirstOrDefault(each => each.Value > 1).Key is { } twice)
        {
            throw new ArgumentException($"Two scores have a column named '{twice}'. Give one of them another name.", nameof(scores));
        }
    }

    /// <summary>Gets the columns of all scores, in their order.</summary>
    public IReadOnlyList<ScoreColumn> Columns { get; }

    /// <summary>Computes the scores of a clip.</summary>
    /// <param name="path">The path of the clip.</param>
    /// <param name="caption">The caption of the clip, for scores that compare it with the frames; null if there is none.</param>
    /// <param name="cancellationToken">Cancels the computation.</param>
    /// <returns>The values by the names of the columns, in the order of <see cref="Columns"/>.</returns>
    /// <exception cref="FileNotFoundException">The file does not exist.</exception>
    /// <exception cref="PreparationException">The file is not a readable video, or ffmpeg is missing.</exception>
    public async Task<IReadOnlyDictionary<string, ScoreValue>> ScoreAsync(
        string path,
        string? caption = null,
        CancellationToken cancellationToken = default
    ) =>
        await ScoreAsync(await ClipFrames.ReadAsync(path, _options, caption, cancellationToken).ConfigureAwait(false), cancellationToken)
            .ConfigureAwait(false);

    /// <summary>Computes the scores of a clip with known metadata.</summary>
    /// <param name="source">The metadata of the clip.</param>
    /// <param name="caption">The caption of the clip, for scores that compare it with the frames; null if there is none.</param>
    /// <param name="cancellationToken">Cancels the computation.</param>
    /// <returns>The values by the names of the columns, in the order of <see cref="Columns"/>.</returns>
    /// <exception cref="PreparationException">The file is not a readable video, or ffmpeg is missing.</exception>
    public async Task<IReadOnlyDictionary<string, ScoreValue>> ScoreAsync(
        SourceInfo source,
        string? caption = null,
        CancellationToken cancellationToken = default
    ) =>
        await ScoreAsync(await ClipFrames.ReadAsync(source, _options, caption, cancellationToken).ConfigureAwait(false), cancellationToken)
            .ConfigureAwait(false);

    /// <summary>Computes the scores of a clip that is in memory.</summary>
    /// <param name="frames">The frames of the clip.</param>
    /// <param name="cancellationToken">Cancels the computation.</param>
    /// <returns>The values by the names of the columns, in the order of <see cref="Columns"/>.</returns>
    public async Task<IReadOnlyDictionary<string, ScoreValue>> ScoreAsync(ClipFrames frames, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(frames);
        var values = new OrderedDictionary<string, ScoreValue>(StringComparer.Ordinal);
        foreach (var score in _scores)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var computed = await score.ComputeAsync(frames, cancellationToken).ConfigureAwait(false);
            if (computed.Count != score.Columns.Count)
            {
                throw new InvalidOperationException(
                    $"{score.GetType().Name} returned {computed.Count} values for {score.Columns.Count} columns. It must return one for each."
                );
            }

            for (var i = 0; i < computed.Count; i++)
            {
                values.Add(score.Columns[i].Name, computed[i]);
            }
        }

        return values;
    }
}
