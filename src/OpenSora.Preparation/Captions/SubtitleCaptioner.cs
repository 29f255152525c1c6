using System.Globalization;
using System.Text;
using OpenSora.Preparation.Media;
using OpenSora.Runtime;
using OpenSora.Training.Data;

namespace OpenSora.Preparation.Captions;

/// <summary>Uses the subtitles of a video that are shown during a clip as its caption: from <c>.srt</c> and <c>.vtt</c> files beside the video, or
/// from the first stream of text in it.</summary>
/// <remarks>For <c>a.mp4</c>, the files are <c>a.srt</c>, <c>a.vtt</c>, the same with a language, such as <c>a.en.srt</c>, and after the full name. A
/// line belongs to a clip if at least half of its time lies in the clip, or if it is shown during the whole clip.</remarks>
public sealed class SubtitleCaptioner : ICaptioner, IDisposable
{
    private const long MostBytes = 16 << 20;
    private const int MostSources = 8;
    private static readonly string[] Extensions = [".srt", ".vtt"];
    private static readonly string[] ImageCodecs = ["dvb_subtitle", "dvd_subtitle", "hdmv_pgs_subtitle", "xsub"]; // as on discs
    private static readonly char[] Brackets = ['[', '(', '♪'];

    private readonly SemaphoreSlim _gate = new(1);
    private readonly LinkedList<(string Path, Subtitles Subtitles)> _recent = []; // clips of a video usually follow each other

    private sealed record Subtitles(IReadOnlyList<SubtitleLine> Lines, CaptionResult? Failure);

    /// <summary>Gets or initializes the least number of words of a caption.</summary>
    public int MinWords { get; init; } = 3;

    /// <summary>Gets or initializes the most words of a caption. Longer texts are cut at the end of a sentence, a clause or a word.</summary>
    public int MaxWords { get; init; } = 90;

    /// <summary>Gets or initializes the language of subtitle files that is preferred, as in their names, such as <c>en</c>; null for any.</summary>
    public string? Language { get; init; }

    /// <summary>Gets or initializes whether sounds such as <c>[door closes]</c> and <c>♪ music ♪</c> are kept.</summary>
    public bool KeepSounds { get; init; }

    /// <summary>Gets or initializes the folder that contains ffmpeg; null to search PATH.</summary>
    public string? FFmpegFolder { get; init; }

    /// <inheritdoc/>
    public void Dispose() => _gate.Dispose();

    /// <inheritdoc/>
    public async Task<CaptionResult> CaptionAsync(ClipToCaption clip, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(clip);
        var subtitles = await ReadAsync(clip.SourcePath ?? clip.Path, cancellationToken).ConfigureAwait(false);
        if (subtitles.Failure is { } failure)
        {
            return failure;
        }

        var (start, end) = (clip.SourceStart, clip.SourceEnd ?? TimeSpan.MaxValue);
        List<string> texts = [];
        foreach (var line in subtitles.Lines)
        {
            var shown = (line.End < end ? line.End : end) - (line.Start > start ? line.Start : start);
            if (
                shown > TimeSpan.Zero
                && (shown * 2 >= line.End - line.Start || (line.Start <= start && line.End >= end))
                && (KeepSounds || line.Text.IndexOfAny(Brackets) != 0)
                && (texts.Count == 0 || !string.Equals(texts[^1], line.Text, StringComparison.Ordinal)) // automatic subtitles repeat lines
            )
            {
                texts.Add(line.Text);
            }
        }

        if (texts.Count == 0)
        {
            return CaptionResult.None("no subtitles during the clip");
        }

        var result = CaptionAnswer.Limit(string.Join(' ', texts), MinWords, MaxWords);
        return result.HasCaption ? result with { Source = "subtitles" } : result;
    }

    private async Task<Subtitles> ReadAsync(string source, CancellationToken cancellationToken)
    {
        await _gate.WaitAsync(cancellationToken).ConfigureAwait(false);
        try
        {
            var known = _recent.First;
            while (known is not null && !string.Equals(known.Value.Path, source, StringComparison.Ordinal))
            {
                known = known.Next;
            }

            if (known is not null)
            {
                _recent.Remove(known);
                _recent.AddFirst(known);
                return known.Value.Subtitles;
            }

            Subtitles subtitles;
            try
            {
                var lines = FileFor(source) is { } file ? FromFile(file) : await FromVideoAsync(source, cancellationToken).ConfigureAwait(false);
                subtitles = new Subtitles(lines, lines.Count == 0 ? CaptionResult.None("no subtitles") : null);
            }
            catch (PreparationException e)
            {
                subtitles = new Subtitles([], CaptionResult.None(e.Reason, e.Message));
            }

            _recent.AddFirst((source, subtitles));
            if (_recent.Count > MostSources)
            {
                _recent.RemoveLast();
            }

            return subtitles;
        }
        finally
        {
            _gate.Release();
        }
    }

    private string? FileFor(string source)
    {
        IEnumerable<string> extensions = Language is null ? Extensions : Extensions.Select(each => $".{Language}{each}").Concat(Extensions);
        if (SidecarCaptioner.Beside(source, extensions).FirstOrDefault(each => FileKinds.Of(each) == FileKind.Regular) is { } file)
        {
            return file;
        }

        var (folder, name) = (Path.GetDirectoryName(Path.GetFullPath(source))!, Path.GetFileNameWithoutExtension(source) + ".");
        return !Directory.Exists(folder)
            ? null
            : Directory
                .EnumerateFiles(folder)
                .Where(each =>
                    Path.GetFileName(each).StartsWith(name, StringComparison.Ordinal)
                    && Extensions.Contains(Path.GetExtension(each), StringComparer.OrdinalIgnoreCase)
                    && !Path.GetFileNameWithoutExtension(each)[name.Length..].Contains('.', StringComparison.Ordinal)
                    && FileKinds.Of(each) == FileKind.Regular
                )
                .Order(StringComparer.Ordinal)
                .FirstOrDefault();
    }

    private static IReadOnlyList<SubtitleLine> FromFile(string file)
    {
        try
        {
            return new FileInfo(file).Length <= MostBytes
                ? TextFile.Read(file, SubtitleFile.Parse)
                : throw new PreparationException("subtitles are too large", $"The subtitles '{file}' have more than {MostBytes >> 20} MB.");
        }
        catch (Exception e) when (e is InvalidDataException or UnauthorizedAccessException or (IOException and not PreparationException))
        {
            throw new PreparationException("unreadable subtitles", $"The subtitles '{file}' cannot be read: {e.Message}", e);
        }
    }

    private async Task<IReadOnlyList<SubtitleLine>> FromVideoAsync(string source, CancellationToken cancellationToken)
    {
        var streams = new StringBuilder();
        var (exitCode, errors) = await FFmpegProcess
            .RunAsync(
                FFmpegFolder,
                "ffprobe",
                $"read '{source}'",
                ["-v", "error", "-select_streams", "s", "-show_entries", "stream=codec_name", "-of", "csv=p=0", .. FFmpegProcess.Input(source)],
                async (pipe, token) =>
                {
                    using var reader = new StreamReader(pipe, Encoding.UTF8, leaveOpen: true);
                    streams.Append(await reader.ReadToEndAsync(token).ConfigureAwait(false));
                },
                cancellationToken
            )
            .ConfigureAwait(false);
        if (exitCode != 0)
        {
            throw new PreparationException("not a readable video", $"'{source}' is not a readable video: {errors.Trim()}");
        }

        var codecs = streams.ToString().Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        if (codecs.Length == 0)
        {
            return [];
        }

        var index = Array.FindIndex(codecs, each => !ImageCodecs.Contains(each.Trim(','), StringComparer.Ordinal));
        if (index < 0)
        {
            throw new PreparationException(
                "subtitles are not text",
                $"The subtitles of '{source}' are images ({string.Join(", ", codecs)}). Convert them to text with a program for text recognition."
            );
        }

        using var output = new MemoryStream();
        try
        {
            await FFmpegProcess
                .RunAsync(
                    FFmpegFolder,
                    $"read the subtitles of '{source}'",
                    [.. FFmpegProcess.Input(source), "-map", string.Create(CultureInfo.InvariantCulture, $"0:s:{index}"), "-f", "srt", "pipe:1"],
                    (pipe, token) => pipe.CopyToAsync(output, token),
                    cancellationToken
                )
                .ConfigureAwait(false);
        }
        catch (PreparationException e) when (e.Reason is "cannot be decoded")
        {
            throw new PreparationException("subtitles are not text", e.Message, e);
        }

        output.Position = 0;
        using var text = new StreamReader(output, Encoding.UTF8);
        return SubtitleFile.Parse(text);
    }
}
