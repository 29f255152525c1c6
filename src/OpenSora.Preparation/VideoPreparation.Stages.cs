using System.Security.Cryptography;
using System.Threading.Channels;
using Microsoft.Extensions.Logging;
using OpenSora.Preparation.Captions;
using OpenSora.Preparation.Cutting;
using OpenSora.Preparation.Media;
using OpenSora.Preparation.Pipeline;
using OpenSora.Preparation.Scores;
using OpenSora.Preparation.Shots;

namespace OpenSora.Preparation;

public sealed partial class VideoPreparation
{
    // Detects the shots of all sources that are not done, and records the clips to cut.
    private async Task DetectAsync(Ledger ledger, StageCounts counts, SemaphoreSlim planned, CancellationToken cancellationToken)
    {
        var parts = _parts.Sources?.Where(source => source.Parts is not null).ToDictionary(source => source.Name, StringComparer.Ordinal);
        await Parallel
            .ForEachAsync(
                ledger.PendingSources(),
                new ParallelOptions { MaxDegreeOfParallelism = Math.Max(1, _processors / 2), CancellationToken = cancellationToken },
                async (source, token) =>
                {
                    try
                    {
                        await DetectAsync(ledger, counts, source, parts?.GetValueOrDefault(source.Name)?.Parts, token).ConfigureAwait(false);
                    }
                    catch (Exception exception) when (ReasonOf(exception) is { } reason)
                    {
                        ledger.DropSource(source, reason, exception.Message);
                        counts.Drop(PreparationStage.Shots);
                        LogDropped(_logger, exception.Message);
                    }

                    planned.Release();
                }
            )
            .ConfigureAwait(false);
    }

    private async Task DetectAsync(
        Ledger ledger,
        StageCounts counts,
        SourceRow source,
        IReadOnlyList<SourcePart>? parts,
        CancellationToken cancellationToken
    )
    {
        var folder = ClipFolder(source.Name);
        if (Directory.Exists(Path.Combine(_output, folder)))
        {
            Directory.Delete(Path.Combine(_output, folder), recursive: true); // clips of an earlier version of the file
        }

        var info = await SourceProbe.ReadAsync(source.Path, _options.FFmpegFolder, cancellationToken).ConfigureAwait(false);
        List<(TimeRange Range, string? Caption)> ranges = [];
        var (shots, tooShort, damage) = (0, 0, (string?)null);
        if (parts is not null)
        {
            foreach (var part in parts)
            {
                var end = part.End ?? info.Duration ?? throw NoEnd(source);
                ranges.Add((new(part.Start, end), part.Caption));
            }

            shots = ranges.Count;
        }
        else
        {
            using var share = counts.BeginShare(PreparationStage.Shots, info.Duration);
            var found = await _detection.DetectAsync(info, share, cancellationToken).ConfigureAwait(false);
            (info, shots, damage) = (found.Source, found.Shots.Count, found.Damage);
            foreach (var shot in found.Shots)
            {
                var clips = _cutter.Divide(new(shot.Steady.StartTime, shot.Steady.EndTime));
                tooShort += clips.Count == 0 ? 1 : 0;
                ranges.AddRange(clips.Select(clip => (clip, (string?)null)));
            }
        }

        ledger.AddClips(
            source,
            info,
            damage,
            shots,
            tooShort,
            [.. ranges.Select((each, i) => (each.Range, FormattableString.Invariant($"{folder}/{i + 1:D5}.mp4"), each.Caption))]
        );
        counts.Add(PreparationStage.Clips, ranges.Count);
        counts.Done(PreparationStage.Shots);

        static PreparationException NoEnd(SourceRow source) =>
            new("unknown duration", $"'{source.Path}' does not specify its duration, so a part needs an end time.");
    }

    private async Task CutAsync(Ledger ledger, StageCounts counts, ClipRow clip, ChannelWriter<ClipRow> next, CancellationToken cancellationToken)
    {
        try
        {
            var path = Path.Combine(_output, clip.Path);
            var file = await _cutter.CutAsync(clip.Info, clip.Range, path, clip.IsDamaged, cancellationToken).ConfigureAwait(false);
            var hash = await HashAsync(path, cancellationToken).ConfigureAwait(false);
            ledger.SetCut(clip, file, hash);
            counts.Done(PreparationStage.Clips);
            counts.Add(PreparationStage.Scores, 1);
            await next.WriteAsync(
                    clip with
                    {
                        Frames = file.Frames,
                        Width = file.Width,
                        Height = file.Height,
                        FramesPerSecond = file.FramesPerSecond,
                        Hash = hash,
                    },
                    cancellationToken
                )
                .ConfigureAwait(false);
        }
        catch (Exception exception) when (ReasonOf(exception) is { } reason)
        {
            ledger.DropClip(clip.Id, "cut", reason, exception.Message);
            counts.Drop(PreparationStage.Clips);
            LogDropped(_logger, exception.Message);
        }
    }

    private async Task ScoreAsync(Ledger ledger, StageCounts counts, ClipRow clip, CancellationToken cancellationToken)
    {
        try
        {
            var scores = await _scorer.ScoreAsync(Path.Combine(_output, clip.Path), clip.GivenCaption, cancellationToken).ConfigureAwait(false);
            ledger.SetScores(clip, ScoreJson.Write(scores));
            counts.Done(PreparationStage.Scores);
        }
        catch (Exception exception) when (ReasonOf(exception) is { } reason)
        {
            ledger.DropClip(clip.Id, "score", reason, exception.Message);
            counts.Drop(PreparationStage.Scores);
            LogDropped(_logger, exception.Message);
        }
    }

    // Drops the clips that do not match the filters, and then near-duplicates. This is quick, so every run does it again.
    private void Select(Ledger ledger, StageCounts counts, CancellationToken cancellationToken)
    {
        counts.Begin(PreparationStage.Selection, total: ledger.OrderedCount());
        var duplicates = new NearDuplicates();
        Dictionary<string, long> kept = new(StringComparer.Ordinal);
        foreach (var clip in Ordered(ledger))
        {
            cancellationToken.ThrowIfCancellationRequested();
            var scores = ScoreJson.Read(clip.Scores!);
            if (_filter.Check(scores) is { Condition: { } failed } decision)
            {
                ledger.DropClip(clip.Id, "filter", decision.IsMissing ? $"{_filter.Conditions[failed]} (no value)" : _filter.Conditions[failed]);
                counts.Drop(PreparationStage.Selection);
                continue;
            }

            if (_options.DropDuplicates && scores.GetValueOrDefault(StandardScores.HashColumn).Text is { } hash)
            {
                duplicates.Add(clip.Path, ClipHash.Parse(hash), (double)clip.Width * clip.Height);
                kept[clip.Path] = clip.Id;
            }

            counts.Done(PreparationStage.Selection);
        }

        foreach (var duplicate in duplicates.Find(cancellationToken))
        {
            ledger.DropClip(kept[duplicate.Id], "duplicate", "near-duplicate", $"It looks like '{duplicate.KeptId}'.");
            counts.Drop(PreparationStage.Selection);
        }
    }

    private async Task CaptionAsync(Ledger ledger, StageCounts counts, CancellationToken cancellationToken)
    {
        if (_parts.Captioner is not { } captioner)
        {
            return;
        }

        ledger.ForgetCaptions(captioner.Identity);
        counts.Begin(PreparationStage.Captions, total: ledger.OrderedCount());
        Dictionary<string, ClipRow> asked = new(StringComparer.Ordinal);
        await foreach (var (clip, result) in captioner.CaptionAllAsync(ToCaptionAsync(), cancellationToken: cancellationToken).ConfigureAwait(false))
        {
            asked.Remove(clip.Path, out var row);
            if (result.HasCaption)
            {
                ledger.SetCaption(row!, captioner.Identity, result.Text, result.Source);
                counts.Done(PreparationStage.Captions);
                continue;
            }

            if (!result.IsTemporary)
            {
                ledger.SetCaption(row!, captioner.Identity, null, result.Reason);
            }

            ledger.DropClip(row!.Id, "caption", result.Reason, result.Detail);
            counts.Drop(PreparationStage.Captions);
        }

        async IAsyncEnumerable<ClipToCaption> ToCaptionAsync()
        {
            foreach (var row in Ordered(ledger))
            {
                if (row.GivenCaption is not null || row.Caption is not null)
                {
                    counts.Done(PreparationStage.Captions);
                    continue;
                }

                if (row.CaptionSource is { } reason) // an earlier run got no caption for it
                {
                    ledger.DropClip(row.Id, "caption", reason);
                    counts.Drop(PreparationStage.Captions);
                    continue;
                }

                var path = Path.Combine(_output, row.Path);
                asked[path] = row;
                yield return new()
                {
                    Path = path,
                    Info = await SourceProbe.ReadAsync(path, _options.FFmpegFolder, cancellationToken).ConfigureAwait(false),
                    ContentHash = row.Hash,
                    SourcePath = row.Source.Path,
                    SourceStart = row.Range.Start,
                    SourceEnd = row.Range.End,
                };
            }
        }
    }

    // The scored clips that were not dropped, in the order of the manifest. The ledger can be changed meanwhile.
    private static IEnumerable<ClipRow> Ordered(Ledger ledger)
    {
        for (var page = ledger.OrderedClips(null); page.Count > 0; page = ledger.OrderedClips(page[^1]))
        {
            foreach (var clip in page)
            {
                yield return clip;
            }
        }
    }

    // The reason to count if a failure concerns one source or clip; null if the whole run must stop.
    private static string? ReasonOf(Exception exception) =>
        exception switch
        {
            PreparationException { Reason: not "ffmpeg is missing" } preparation => preparation.Reason,
            FileNotFoundException => "missing",
            UnauthorizedAccessException => "cannot be read",
            _ => null,
        };

    private static async Task<string> HashAsync(string path, CancellationToken cancellationToken)
    {
        var stream = File.OpenRead(path);
        await using (stream.ConfigureAwait(false))
        {
            return Convert.ToHexStringLower(await SHA256.HashDataAsync(stream, cancellationToken).ConfigureAwait(false));
        }
    }

    [LoggerMessage(Level = LogLevel.Warning, Message = "{Problem}")]
    private static partial void LogDropped(ILogger logger, string problem);
}
