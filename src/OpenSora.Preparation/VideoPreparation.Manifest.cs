using OpenSora.Preparation.Manifests;
using OpenSora.Preparation.Pipeline;

namespace OpenSora.Preparation;

public sealed partial class VideoPreparation
{
    private async Task<PreparationReport> WriteAsync(
        Ledger ledger,
        StageCounts counts,
        IReadOnlyList<(string Path, string Reason)> passedOver,
        CancellationToken cancellationToken
    )
    {
        counts.Begin(PreparationStage.Manifest, total: ledger.OrderedCount());
        var manifest = Path.Combine(_output, "manifest.csv");
        var kept = await Manifest.WriteAsync(manifest, RowsAsync(), cancellationToken: cancellationToken).ConfigureAwait(false);
        if (_options.WriteParquet)
        {
            await Manifest
                .WriteAsync(Path.ChangeExtension(manifest, ".parquet"), RowsAsync(), cancellationToken: cancellationToken)
                .ConfigureAwait(false);
        }

        var dropped = ledger.Dropped();
        var statistics = Path.Combine(_output, "statistics.html");
        await StatisticsPage
            .WriteAsync(
                statistics,
                RowsAsync(),
                new()
                {
                    Folder = _output,
                    Dropped = dropped,
                    FFmpegFolder = _options.FFmpegFolder,
                },
                cancellationToken
            )
            .ConfigureAwait(false);
        return new()
        {
            Manifest = manifest,
            Statistics = statistics,
            Sources = ledger.Count("SELECT COUNT(*) FROM source"),
            Shots = ledger.Count("SELECT SUM(shots) FROM source"),
            Clips = ledger.Count("SELECT COUNT(*) FROM clip WHERE state > 0"),
            Kept = kept,
            Dropped = dropped,
            DroppedSources = ledger.DroppedSources(),
            PassedOver = passedOver,
        };

        async IAsyncEnumerable<ManifestRow> RowsAsync()
        {
            foreach (var clip in Ordered(ledger))
            {
                yield return ToRow(clip);
            }

            await Task.CompletedTask.ConfigureAwait(false);
        }
    }

    private static ManifestRow ToRow(ClipRow clip)
    {
        var columns = new List<KeyValuePair<string, ManifestValue>>
        {
            new("source", clip.Source.Name),
            new("start", clip.Range.Start.TotalSeconds),
            new("end", clip.Range.End.TotalSeconds),
            new("caption_source", clip.GivenCaption is null ? clip.CaptionSource : "list"),
        };
        columns.AddRange(
            ScoreJson
                .Read(clip.Scores!)
                .Where(score => !StandardColumnNames.Contains(score.Key))
                .Select(score => KeyValuePair.Create(score.Key, score.Value.Number is { } number ? number : (ManifestValue)score.Value.Text))
        );
        return new()
        {
            Path = clip.Path,
            Text = clip.GivenCaption ?? clip.Caption ?? "",
            NumFrames = clip.Frames,
            Height = clip.Height,
            Width = clip.Width,
            AspectRatio = (double)clip.Height / clip.Width,
            Fps = clip.FramesPerSecond,
            Resolution = (long)clip.Height * clip.Width,
            Columns = ManifestColumns.Create([.. columns]),
        };
    }

    // Scores that the manifest has as its own columns.
    private static readonly HashSet<string> StandardColumnNames = new(
        ["path", "text", "num_frames", "height", "width", "aspect_ratio", "fps", "resolution"],
        StringComparer.OrdinalIgnoreCase
    );
}
