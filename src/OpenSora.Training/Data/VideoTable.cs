using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using CsvHelper;
using CsvHelper.Configuration;
using OpenSora.Media;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Data;

/// <summary>A source of videos and images with captions, from a folder or from a CSV file. The file has the columns <c>path</c> (relative to the
/// file) and <c>caption</c>; other columns are ignored. A path in several rows has several captions.</summary>
public sealed class VideoTable : IClipSource
{
    private static readonly HashSet<string> Extensions = new(StringComparer.OrdinalIgnoreCase)
    {
        ".mp4",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".m4v",
        ".gif",
        ".png",
        ".jpg",
        ".jpeg",
        ".webp",
        ".bmp",
    };

    private readonly IReadOnlyList<Row> _rows;
    private readonly IVideoReader _reader;
    private readonly ClipOptions _clip;
    private readonly Variation? _vary;

    /// <summary>Reads a CSV file. The videos and images are decoded when they are loaded.</summary>
    /// <param name="csv">The path of the CSV file.</param>
    /// <param name="reader">The reader that decodes the files.</param>
    /// <param name="clip">The size and frames of every clip. If <see cref="ClipOptions.Frames"/> is set, shorter clips repeat their last
    /// frame.</param>
    /// <exception cref="FileNotFoundException">The CSV file, or a file that it lists, does not exist.</exception>
    /// <exception cref="InvalidDataException">The CSV file lacks a column or has no rows, or a row is malformed.</exception>
    public VideoTable(string csv, IVideoReader reader, ClipOptions clip)
        : this(Listed(csv), reader, clip, vary: null) { }

    private VideoTable(IReadOnlyList<Row> rows, IVideoReader reader, ClipOptions clip, Variation? vary)
    {
        ArgumentNullException.ThrowIfNull(reader);
        ArgumentNullException.ThrowIfNull(clip);
        (_rows, _reader, _clip, _vary) = (rows, reader, clip, vary);
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (var row in rows)
        {
            hash.AppendData(
                Encoding.UTF8.GetBytes(
                    string.Create(
                        CultureInfo.InvariantCulture,
                        $"{row.Name}|{string.Join('|', row.Captions)}|{row.File.Length}|{row.File.LastWriteTimeUtc.Ticks}\n"
                    )
                )
            );
        }

        Fingerprint =
            string.Create(
                CultureInfo.InvariantCulture,
                $"{rows.Count} files {Convert.ToHexStringLower(hash.GetHashAndReset())[..16]}, {clip.Width}x{clip.Height} {clip.Fit}, "
                    + $"{clip.Frames} frames from {clip.StartFrame} every {clip.FrameInterval} at {clip.FramesPerSecond}"
            ) + (vary is null ? "" : string.Create(CultureInfo.InvariantCulture, $", start {vary.Start}, crop {vary.Crop}, mirror {vary.Mirror}"));
    }

    /// <summary>Creates a source from all videos and images in a folder and its subfolders. The captions are the lines of a text file with the same
    /// name (<c>dog.txt</c> for <c>dog.mp4</c>). If there is none, the caption is the file name with spaces in place of dashes and
    /// underscores.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="reader">The reader that decodes the files.</param>
    /// <param name="clip">The size and frames of every clip.</param>
    /// <exception cref="InvalidDataException">The folder contains no videos or images.</exception>
    public static VideoTable FromFolder(string folder, IVideoReader reader, ClipOptions clip)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        Row[] files =
        [
            .. Directory
                .EnumerateFiles(folder, "*", SearchOption.AllDirectories)
                .Where(file => Extensions.Contains(Path.GetExtension(file)))
                .Order(StringComparer.Ordinal)
                .Select(file => new Row(Path.GetRelativePath(folder, file), new FileInfo(file), CaptionsOf(file))),
        ];
        return files.Length > 0
            ? new VideoTable(files, reader, clip, vary: null)
            : throw new InvalidDataException($"'{folder}' contains no videos or images ({string.Join(", ", Extensions)}).");
    }

    /// <inheritdoc/>
    public int Count => _rows.Count;

    /// <inheritdoc/>
    public string Fingerprint { get; }

    /// <summary>Gets the paths of the files, without duplicates.</summary>
    public IReadOnlyList<string> Paths => [.. _rows.Select(row => row.File.FullName)];

    /// <summary>Creates a source from some of the files, optionally with another clip size, such as for the clips of a
    /// <see cref="Bucket"/>.</summary>
    /// <param name="indices">The indices of the files.</param>
    /// <param name="other">The size and frames of every clip; null for those of this source.</param>
    public VideoTable Select(IEnumerable<int> indices, ClipOptions? other = null) =>
        new([.. indices.Select(index => _rows[index])], _reader, other ?? _clip, _vary);

    /// <summary>Creates a source that varies the clips at random each time they are loaded. Without variations, a clip starts at the first frame and
    /// shows the center of the image.</summary>
    /// <remarks>A cache of latents contains the variations that were drawn when it was created.</remarks>
    /// <param name="start">Starts at a random frame if a video is longer than the clip.</param>
    /// <param name="crop">Crops at a random position instead of the center if the aspect ratio differs.</param>
    /// <param name="mirror">The probability of mirroring a clip horizontally, from 0 to 1. Do not use it with captions that mention left or
    /// right.</param>
    /// <exception cref="ArgumentOutOfRangeException">The probability is not between 0 and 1.</exception>
    /// <exception cref="InvalidOperationException">A random crop is requested, but the clips are not cropped to a size.</exception>
    public VideoTable Vary(bool start = false, bool crop = false, double mirror = 0)
    {
        if (mirror is not (>= 0 and <= 1))
        {
            throw new ArgumentOutOfRangeException(nameof(mirror), mirror, "The probability must be between 0 and 1.");
        }

        return crop && (_clip.Width is null || _clip.Fit != FrameFit.Crop)
            ? throw new InvalidOperationException(
                $"A random crop requires clip options with Width, Height and {nameof(FrameFit)}.{nameof(FrameFit.Crop)}."
            )
            : new VideoTable(_rows, _reader, _clip, new Variation(start, crop, mirror));
    }

    /// <summary>Reads the size of every file for <see cref="Bucket.Sort"/>: the number of frames at the requested frame rate and interval, and the
    /// height and width in pixels.</summary>
    /// <param name="badClips">Receives the files that cannot be read. Their size is 0, which fills no bucket. If null, the first such file causes an
    /// exception.</param>
    /// <param name="cancellationToken">Stops reading.</param>
    /// <exception cref="MediaException">A file cannot be read, and <paramref name="badClips"/> is null.</exception>
    public async Task<IReadOnlyList<(int Frames, int Height, int Width)>> SizesAsync(
        IProgress<(int Index, string Reason)>? badClips = null,
        CancellationToken cancellationToken = default
    )
    {
        var sizes = new (int, int, int)[_rows.Count];
        await Parallel
            .ForAsync(0, _rows.Count, cancellationToken, async (i, token) =>
            {
                try
                {
                    var info = await _reader.ProbeAsync(_rows[i].File.FullName, token).ConfigureAwait(false);
                    sizes[i] = ((FramesOf(info) - _clip.StartFrame + _clip.FrameInterval - 1) / _clip.FrameInterval, info.Height, info.Width);
                }
                catch (IOException e) when (badClips is not null)
                {
                    badClips.Report((i, e.Message));
                }
            })
            .ConfigureAwait(false);
        return sizes;
    }

    /// <inheritdoc/>
    public async ValueTask<CaptionedClip> LoadAsync(int index, Random random, CancellationToken cancellationToken = default)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(index, _rows.Count);
        ArgumentNullException.ThrowIfNull(random);
        var path = _rows[index].File.FullName;
        if (_vary is null)
        {
            var frames = await _reader.ReadAsync(path, _clip, cancellationToken).ConfigureAwait(false);
            return new CaptionedClip(ToVideo(frames, window: null, isMirrored: false), _rows[index].Captions);
        }

        var (start, top, left, isMirrored) = (random.NextDouble(), random.NextDouble(), random.NextDouble(), random.NextDouble() < _vary.Mirror);
        var info = await _reader.ProbeAsync(path, cancellationToken).ConfigureAwait(false);
        var varied = await _reader.ReadAsync(path, Varied(info, start), cancellationToken).ConfigureAwait(false);
        return new CaptionedClip(ToVideo(varied, _vary.Crop ? (top, left) : null, isMirrored), _rows[index].Captions);
    }

    // The pixels, cropped to the size at a position from 0 to 1, with the last frame repeated up to the number of frames.
    private Tensor ToVideo(VideoFrames frames, (double Top, double Left)? window, bool isMirrored)
    {
        using var scope = NewDisposeScope();
        var video = frames.ToTensor().squeeze(0);
        if (window is var (top, left))
        {
            var (height, width) = (_clip.Height!.Value, _clip.Width!.Value);
            video = video
                .narrow(2, (long)(top * (video.shape[2] - height + 1)), height)
                .narrow(3, (long)(left * (video.shape[3] - width + 1)), width)
                .contiguous();
        }

        if (isMirrored)
        {
            video = video.flip(3);
        }

        if (_clip.Frames is { } wanted && wanted > video.shape[1])
        {
            video = cat([video, video.narrow(1, video.shape[1] - 1, 1).expand(-1, wanted - video.shape[1], -1, -1)], 1);
        }

        return video.MoveToOuterDisposeScope();
    }

    // The part of a video to read: from a random start, and, for a random crop, scaled to cover the size as in the other cases.
    private ClipOptions Varied(VideoInfo info, double start)
    {
        var part = new ClipOptions
        {
            Width = _clip.Width,
            Height = _clip.Height,
            Fit = _clip.Fit,
            FramesPerSecond = _clip.FramesPerSecond,
            StartFrame = _clip.StartFrame,
            FrameInterval = _clip.FrameInterval,
            Frames = _clip.Frames,
        };
        if (_vary!.Start && _clip.Frames is { } frames)
        {
            part.StartFrame += (int)(start * Math.Max(1, FramesOf(info) - _clip.StartFrame - (frames - 1) * _clip.FrameInterval));
        }

        if (_vary.Crop)
        {
            var (height, width) = (_clip.Height!.Value, _clip.Width!.Value);
            var scale = Math.Max((double)width / info.Width, (double)height / info.Height);
            (part.Width, part.Height, part.Fit) = (
                Math.Max(width, (int)Math.Round(info.Width * scale)),
                Math.Max(height, (int)Math.Round(info.Height * scale)),
                FrameFit.Stretch
            );
        }

        return part;
    }

    // Returns the number of frames at the requested frame rate; an image has one frame.
    private int FramesOf(VideoInfo info) =>
        info.Duration is { } duration ? Math.Max(1, (int)Math.Round(duration.TotalSeconds * (_clip.FramesPerSecond ?? info.FramesPerSecond))) : 1;

    private static string[] CaptionsOf(string file)
    {
        var text = Path.ChangeExtension(file, ".txt");
        return File.Exists(text) && File.ReadAllLines(text).Where(line => !string.IsNullOrWhiteSpace(line)).ToArray() is { Length: > 0 } lines
            ? lines
            : [Path.GetFileNameWithoutExtension(file).Replace('-', ' ').Replace('_', ' ').Trim()];
    }

    private static List<Row> Listed(string csv)
    {
        ArgumentException.ThrowIfNullOrEmpty(csv);
        var folder = Path.GetDirectoryName(Path.GetFullPath(csv))!;
        using var table = new StreamReader(csv);
        var records = Csv.Records(table).ToList();
        var header = records.FirstOrDefault() ?? [];
        var (pathColumn, captionColumn) = (Array.IndexOf(header, "path"), Array.IndexOf(header, "caption"));
        if (pathColumn < 0 || captionColumn < 0)
        {
            throw new InvalidDataException($"'{csv}' needs the columns path and caption; it has {string.Join(", ", header)}.");
        }

        var files = new List<Row>();
        var known = new Dictionary<string, List<string>>(StringComparer.Ordinal);
        foreach (var (row, fields) in records.Index().Skip(1))
        {
            if (fields.Length != header.Length || string.IsNullOrWhiteSpace(fields[pathColumn]))
            {
                throw new InvalidDataException(
                    $"Record {row + 1} of '{csv}' has {fields.Length} fields and the path '{fields.ElementAtOrDefault(pathColumn)}'; "
                        + $"expected {header.Length} fields, as in the first line, and a path."
                );
            }

            var file = new FileInfo(Path.Combine(folder, fields[pathColumn]));
            if (!file.Exists)
            {
                throw new FileNotFoundException($"Record {row + 1} of '{csv}' names '{file.FullName}', which does not exist.", file.FullName);
            }

            if (!known.TryGetValue(file.FullName, out var captions))
            {
                known[file.FullName] = captions = [];
                files.Add(new Row(fields[pathColumn], file, captions));
            }
            captions.Add(fields[captionColumn]);
        }
        return files.Count > 0 ? files : throw new InvalidDataException($"'{csv}' lists no files.");
    }

    private sealed record Variation(bool Start, bool Crop, double Mirror);

    private sealed record Row(string Name, FileInfo File, IReadOnlyList<string> Captions);
}

/// <summary>Reads comma-separated values (RFC 4180).</summary>
internal static class Csv
{
    /// <summary>Reads the fields of all records; blank lines are skipped. Quoted fields can contain commas, doubled quotation marks and line
    /// breaks.</summary>
    /// <exception cref="InvalidDataException">A record is malformed.</exception>
    public static IEnumerable<string[]> Records(TextReader reader)
    {
        var options = new CsvConfiguration(CultureInfo.InvariantCulture)
        {
            BadDataFound = bad => throw new InvalidDataException($"The record '{bad.RawRecord.Trim()}' is malformed: a quotation mark is misplaced."),
        };
        using var parser = new CsvParser(reader, options, leaveOpen: true);
        while (parser.Read())
        {
            yield return parser.Record ?? [];
        }
    }
}
