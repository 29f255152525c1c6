using System.Globalization;
using System.Runtime.CompilerServices;
using OpenSora.Preparation.Media;
using OpenSora.Runtime;

namespace OpenSora.Preparation.Manifests;

/// <summary>Specifies how the files of a manifest are read.</summary>
public sealed class ManifestFileOptions
{
    /// <summary>Gets or sets the folder to which paths are relative; null for the current folder.</summary>
    public string? Folder { get; set; }

    /// <summary>Gets or sets the number of files that are decoded at the same time.</summary>
    public int Parallelism { get; set; } = Environment.ProcessorCount;

    /// <summary>Gets or sets the folder that contains ffmpeg and ffprobe; null to search PATH.</summary>
    public string? FFmpegFolder { get; set; }
}

/// <summary>A row of a manifest that does not agree with its file.</summary>
/// <param name="Row">The row.</param>
/// <param name="Reason">The reason in a few words, the same for all rows with this problem, such as <c>file does not exist</c>.</param>
/// <param name="Message">The message, which names the file.</param>
public sealed record ManifestProblem(ManifestRow Row, string Reason, string Message);

/// <summary>Compares manifests with their files, and corrects them.</summary>
/// <remarks>Every file is decoded, because the length that a file specifies can be wrong.</remarks>
public static class ManifestFiles
{
    private const double Tolerance = 1e-3; // of frame rates and aspect ratios, which manifests round
    private const int DecodedSize = 16;

    /// <summary>Finds rows whose files do not exist, cannot be decoded or are damaged, and rows whose values differ from the file. Values that a
    /// row does not have are not compared.</summary>
    /// <param name="rows">The rows.</param>
    /// <param name="options">Specifies how files are read; null for the default.</param>
    /// <param name="cancellationToken">Stops reading.</param>
    /// <returns>The problems in the order of the rows, at most one for each row.</returns>
    /// <exception cref="PreparationException">ffmpeg is missing.</exception>
    public static async IAsyncEnumerable<ManifestProblem> CheckFilesAsync(
        this IAsyncEnumerable<ManifestRow> rows,
        ManifestFileOptions? options = null,
        [EnumeratorCancellation] CancellationToken cancellationToken = default
    )
    {
        await foreach (var (row, measured, problem) in MeasureAsync(rows, options, cancellationToken).ConfigureAwait(false))
        {
            if ((problem ?? Compare(row, measured!)) is { } found)
            {
                yield return found;
            }
        }
    }

    /// <summary>Replaces the numbers of frames, sizes and frame rates of rows with those of their files. Rows whose files do not exist, cannot be
    /// decoded or are damaged are dropped.</summary>
    /// <param name="rows">The rows.</param>
    /// <param name="options">Specifies how files are read; null for the default.</param>
    /// <param name="dropped">Counts the dropped rows, by the stage <c>repair</c>.</param>
    /// <param name="problems">Receives the dropped rows.</param>
    /// <param name="cancellationToken">Stops reading.</param>
    /// <exception cref="PreparationException">ffmpeg is missing.</exception>
    public static async IAsyncEnumerable<ManifestRow> RepairAsync(
        this IAsyncEnumerable<ManifestRow> rows,
        ManifestFileOptions? options = null,
        DropReport? dropped = null,
        IProgress<ManifestProblem>? problems = null,
        [EnumeratorCancellation] CancellationToken cancellationToken = default
    )
    {
        await foreach (var (_, measured, problem) in MeasureAsync(rows, options, cancellationToken).ConfigureAwait(false))
        {
            if (problem is null)
            {
                yield return measured!;
            }
            else
            {
                dropped?.Add("repair", problem.Reason);
                problems?.Report(problem);
            }
        }
    }

    /// <summary>Gets the path of the file of a row. Backslashes separate folders if no file has them in its name, as in manifests from
    /// Windows.</summary>
    internal static string Locate(string? folder, string path)
    {
        var file = Path.GetFullPath(folder is null ? path : Path.Combine(folder, path));
        return !File.Exists(file) && path.Contains('\\', StringComparison.Ordinal) ? Locate(folder, path.Replace('\\', '/')) : file;
    }

    private static IAsyncEnumerable<(ManifestRow Row, ManifestRow? Measured, ManifestProblem? Problem)> MeasureAsync(
        IAsyncEnumerable<ManifestRow> rows,
        ManifestFileOptions? options,
        CancellationToken cancellationToken
    )
    {
        ArgumentNullException.ThrowIfNull(rows);
        options ??= new ManifestFileOptions();
        return rows.SelectAsync(options.Parallelism, (row, token) => MeasureAsync(row, options, token), cancellationToken);
    }

    private static async Task<(ManifestRow Row, ManifestRow? Measured, ManifestProblem? Problem)> MeasureAsync(
        ManifestRow row,
        ManifestFileOptions options,
        CancellationToken cancellationToken
    )
    {
        var file = Locate(options.Folder, row.Path);
        if (FileKinds.Of(file) is not FileKind.Regular and var kind)
        {
            var what = kind is FileKind.Missing ? "does not exist" : $"is {kind.Describe()}, not a file";
            return (row, null, new ManifestProblem(row, kind is FileKind.Missing ? "file does not exist" : "not a file", $"'{file}' {what}."));
        }

        try
        {
            var source = await SourceProbe.ReadAsync(file, options.FFmpegFolder, cancellationToken).ConfigureAwait(false);
            var decoded = new FrameStreamOptions
            {
                Width = DecodedSize,
                Height = DecodedSize,
                Layout = PixelLayout.Gray,
                FFmpegFolder = options.FFmpegFolder,
            };
            var (frames, damage) = await FrameStream.ReadAsync(source, decoded, static _ => { }, cancellationToken).ConfigureAwait(false);
            return damage is null
                ? (row, Measured(row, source, frames), null)
                : (row, null, new ManifestProblem(row, "damaged file", $"'{file}' is damaged: {damage}"));
        }
        catch (PreparationException e) when (e.Reason is not "ffmpeg is missing")
        {
            return (row, null, new ManifestProblem(row, e.Reason, e.Message));
        }
    }

    private static ManifestRow Measured(ManifestRow row, SourceInfo source, int frames) =>
        row with
        {
            NumFrames = frames,
            Height = source.Height,
            Width = source.Width,
            AspectRatio = (double)source.Height / source.Width,
            Fps = frames == 1 ? null : source.FramesPerSecond,
            Resolution = (long)source.Height * source.Width,
        };

    private static ManifestProblem? Compare(ManifestRow row, ManifestRow measured)
    {
        for (var i = StandardColumns.NumFrames; i <= StandardColumns.Resolution; i++)
        {
            if (
                StandardColumns.Get(row, i).Number is { } stated
                && StandardColumns.Get(measured, i).Number is { } actual
                && Math.Abs(stated - actual) > (i is StandardColumns.Fps or StandardColumns.AspectRatio ? Tolerance * actual : 0)
            )
            {
                var name = StandardColumns.Names[i];
                return new ManifestProblem(
                    row,
                    $"wrong {name}",
                    string.Create(CultureInfo.InvariantCulture, $"The manifest has {name} {stated} for '{row.Path}'; the file has {actual}.")
                );
            }
        }

        return null;
    }
}
