using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Threading.Channels;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using OpenSora.Preparation.Captions;
using OpenSora.Preparation.Cutting;
using OpenSora.Preparation.Media;
using OpenSora.Preparation.Pipeline;
using OpenSora.Preparation.Scores;
using OpenSora.Preparation.Shots;

namespace OpenSora.Preparation;

/// <summary>Turns long videos into clips for training: detects shots, cuts clips, scores and filters them, writes captions, and lists the result in a
/// manifest.</summary>
/// <remarks>
/// <para>All finished work is recorded in a ledger in the output folder. A run that is stopped at any moment, even by the loss of power, continues
/// where it was when the same preparation is started again, and results in the same manifest.</para>
/// <para>A video that cannot be prepared does not stop the run; it is counted with its reason. A missing ffmpeg, a full disk or a caption server that
/// cannot be used stops the run.</para>
/// </remarks>
/// <example><code>
/// var preparation = VideoPreparation.Create().From("films").To("data").Where("motion &gt; 0.5").Build();
/// var report = await preparation.RunAsync();
/// Console.WriteLine(report);
/// </code></example>
public sealed partial class VideoPreparation
{
    private readonly PreparationOptions _options;
    private readonly PreparationParts _parts;
    private readonly ShotDetection _detection;
    private readonly ClipCutter _cutter;
    private readonly ClipScorer _scorer;
    private readonly ClipFilter _filter;
    private readonly ILogger _logger;
    private readonly int _processors;
    private string _output = "";

    internal VideoPreparation(PreparationOptions options, PreparationParts parts, ILogger? logger)
    {
        (_options, _parts, _logger) = (options, parts, logger ?? NullLogger.Instance);
        if (options.Problems().ToArray() is { Length: > 0 } problems)
        {
            throw new ArgumentException(string.Join(' ', problems), nameof(options));
        }

        _detection = new ShotDetection(parts.Detector, new() { FFmpegFolder = options.FFmpegFolder });
        _cutter = new ClipCutter(options.Cut, options.FFmpegFolder);
        _scorer = new ClipScorer(parts.Scores, options.Frames);
        _filter = ClipFilter.Parse(options.Filters, _scorer.Columns);
        _processors = options.Processors ?? Environment.ProcessorCount;
    }

    /// <summary>Begins the configuration of a preparation.</summary>
    public static VideoPreparationBuilder Create() => new();

    /// <summary>Prepares the videos, or continues an earlier run.</summary>
    /// <param name="progress">Receives the progress of each stage; calls come from several threads.</param>
    /// <param name="cancellationToken">Stops the run. The next run continues it.</param>
    /// <exception cref="DirectoryNotFoundException">The input folder does not exist.</exception>
    /// <exception cref="PreparationException">ffmpeg is missing, or the output folder belongs to a run with other settings.</exception>
    /// <exception cref="IOException">The output folder cannot be written, the disk is full, or another process prepares the folder.</exception>
    /// <exception cref="CaptionServerException">The server that writes the captions cannot be used.</exception>
    public async Task<PreparationReport> RunAsync(IProgress<PreparationProgress>? progress = null, CancellationToken cancellationToken = default)
    {
        _output = Path.GetFullPath(_options.Output);
        foreach (var program in new[] { "ffmpeg", "ffprobe" })
        {
            await FFmpegProcess
                .RunAsync(_options.FFmpegFolder, program, "prepare videos", ["-version"], read: null, cancellationToken)
                .ConfigureAwait(false);
        }

        var (sources, passedOver) = _parts.Sources is { } given ? (given, []) : ListInput();
        if (_options.Restart)
        {
            DeleteEarlierRun();
        }

        Directory.CreateDirectory(_output);
        using var ledger = new Ledger(Path.Combine(_output, "ledger.db"));
        DeleteUnfinishedFiles();
        var counts = new StageCounts(progress);

        // 1. Record the sources, and check that the settings are those of the earlier run.
        Begin(ledger, sources);
        BeginCounts(ledger, counts);

        // 2. Detect shots, cut clips and score them, all at the same time.
        var (cut, score) = (Channel.CreateBounded<ClipRow>(64), Channel.CreateBounded<ClipRow>(64));
        using var planned = new SemaphoreSlim(0);
        var detected = false;
        await StreamingStages
            .RunAsync(
                cancellationToken,
                async token =>
                {
                    try
                    {
                        await DetectAsync(ledger, counts, planned, token).ConfigureAwait(false);
                    }
                    finally
                    {
                        Volatile.Write(ref detected, true);
                        planned.Release();
                    }
                },
                token => QueuePlannedAsync(ledger, cut.Writer, planned, () => Volatile.Read(ref detected), token),
                async token =>
                {
                    await QueueCutAsync(ledger, score.Writer, token).ConfigureAwait(false);
                    await StreamingStages
                        .ProcessAsync(
                            cut.Reader,
                            _processors,
                            score.Writer,
                            (clip, stop) => CutAsync(ledger, counts, clip, score.Writer, stop),
                            token
                        )
                        .ConfigureAwait(false);
                },
                token =>
                    StreamingStages.ProcessAsync<ClipRow, ClipRow>(
                        score.Reader,
                        Math.Max(1, _processors / 2),
                        next: null,
                        (clip, stop) => ScoreAsync(ledger, counts, clip, stop),
                        token
                    )
            )
            .ConfigureAwait(false);

        // 3. Apply the filters, and keep the first of several near-duplicates.
        Select(ledger, counts, cancellationToken);

        // 4. Write captions.
        await CaptionAsync(ledger, counts, cancellationToken).ConfigureAwait(false);

        // 5. Write the manifest and the statistics.
        return await WriteAsync(ledger, counts, passedOver, cancellationToken).ConfigureAwait(false);
    }

    private (IReadOnlyList<PreparationSource> Sources, IReadOnlyList<(string Path, string Reason)> PassedOver) ListInput()
    {
        var input = Path.GetFullPath(_options.Input!);
        var folder = SourceFolder.List(input);
        return (
            [.. folder.Files.Select(file => new PreparationSource(file) { Name = Path.GetRelativePath(input, file).Replace('\\', '/') })],
            [.. folder.PassedOver.Select(entry => (entry.Path, entry.Message))]
        );
    }

    private void DeleteEarlierRun()
    {
        foreach (var file in new[] { "ledger.db", "ledger.db-wal", "ledger.db-shm" })
        {
            File.Delete(Path.Combine(_output, file));
        }

        if (Directory.Exists(Path.Combine(_output, "clips")))
        {
            Directory.Delete(Path.Combine(_output, "clips"), recursive: true);
        }
    }

    // A process that was killed leaves the files that it was writing.
    private void DeleteUnfinishedFiles()
    {
        var clips = Path.Combine(_output, "clips");
        foreach (var file in Directory.Exists(clips) ? Directory.EnumerateFiles(clips, "*.tmp", SearchOption.AllDirectories) : [])
        {
            File.Delete(file);
        }
    }

    private void Begin(Ledger ledger, IReadOnlyList<PreparationSource> sources)
    {
        // Clips of other settings must not be mixed in one manifest.
        CheckSetting("clips", JsonSerializer.Serialize(_options.Cut, PipelineJson.Default.CutOptions));
        CheckSetting("shot detector", _parts.Detector!.ToString() ?? "");

        // Scores of other settings are computed again.
        var columns = _parts.Scores.SelectMany(score => score.Columns, (score, column) => $"{score.GetType().FullName}:{column.Name}");
        var scores = string.Join(' ', columns) + JsonSerializer.Serialize(_options.Frames, PipelineJson.Default.ClipFramesOptions);
        if (ledger.Setting("scores") is { } before && !string.Equals(before, scores, StringComparison.Ordinal))
        {
            ledger.ForgetScores();
        }

        ledger.SetSetting("scores", scores);
        ledger.ForgetSelection();

        foreach (var source in sources)
        {
            var file = new FileInfo(source.Path);
            var version = file.Exists ? $"{file.Length}:{file.LastWriteTimeUtc.Ticks}" : "missing";
            ledger.AddSource(source.Name, Path.GetFullPath(source.Path), $"{version}{source.Version}");
        }

        ledger.KeepSources(sources.Select(source => source.Name).ToHashSet(StringComparer.Ordinal));

        void CheckSetting(string name, string value)
        {
            if (ledger.Setting(name) is { } earlier && !string.Equals(earlier, value, StringComparison.Ordinal))
            {
                throw new PreparationException(
                    "other settings",
                    $"'{_output}' was prepared with other settings of the {name}: {earlier}; now they are {value}. "
                        + "Use the earlier settings, another output folder, or Restart to delete what was prepared."
                );
            }

            ledger.SetSetting(name, value);
        }
    }

    // Counts what earlier runs have done.
    private static void BeginCounts(Ledger ledger, StageCounts counts)
    {
        counts.Begin(PreparationStage.Shots, Sources("detected = 1"), Sources("1"), Sources("reason IS NOT NULL"));
        counts.Begin(PreparationStage.Clips, Clips("state > 0"), Clips("1"), Clips("stage = 'cut'"));
        counts.Begin(PreparationStage.Scores, Clips("state = 2"), Clips("state > 0"), Clips("stage = 'score'"));

        long Sources(string condition) => ledger.Count($"SELECT COUNT(*) FROM source WHERE {condition}");
        long Clips(string condition) => ledger.Count($"SELECT COUNT(*) FROM clip WHERE {condition}");
    }

    // Passes planned clips on, those of earlier runs first, in the order in which they were recorded.
    private static async Task QueuePlannedAsync(
        Ledger ledger,
        ChannelWriter<ClipRow> queue,
        SemaphoreSlim planned,
        Func<bool> isLast,
        CancellationToken cancellationToken
    )
    {
        try
        {
            var last = 0L;
            while (true)
            {
                var ends = isLast(); // read before the ledger, so that no clip is missed
                for (var page = ledger.Clips(ClipState.Planned, last); page.Count > 0; page = ledger.Clips(ClipState.Planned, last))
                {
                    foreach (var clip in page)
                    {
                        await queue.WriteAsync(clip, cancellationToken).ConfigureAwait(false);
                        last = clip.Id;
                    }
                }

                if (ends)
                {
                    return;
                }

                await planned.WaitAsync(cancellationToken).ConfigureAwait(false);
            }
        }
        finally
        {
            queue.TryComplete();
        }
    }

    // Passes on the clips that earlier runs cut but did not score. It ends before others are cut, so that none is scored twice.
    private static async Task QueueCutAsync(Ledger ledger, ChannelWriter<ClipRow> queue, CancellationToken cancellationToken)
    {
        var last = 0L;
        for (var page = ledger.Clips(ClipState.Cut, last); page.Count > 0; page = ledger.Clips(ClipState.Cut, last))
        {
            foreach (var clip in page)
            {
                await queue.WriteAsync(clip, cancellationToken).ConfigureAwait(false);
                last = clip.Id;
            }
        }
    }

    // The folder of the clips of a source: a readable name, and a hash that makes it unique.
    private static string ClipFolder(string name)
    {
        const int longest = 60;
        StringBuilder readable = new();
        foreach (var character in Path.GetFileNameWithoutExtension(name).Take(longest))
        {
            readable.Append(char.IsAsciiLetterOrDigit(character) || character is '-' or '_' ? character : '_');
        }

        return $"clips/{readable}-{Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(name)))[..8]}";
    }
}
