using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using OpenSora.Media;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Data;

/// <summary>What a clip is cut and turned to at random, each time that it is loaded. Nothing is, by default: the middle of the picture from the first
/// frame on.</summary>
/// <remarks>A cache of latents holds what was drawn when it was made.</remarks>
public sealed class ClipVariation
{
    /// <summary>Starts at a random frame, where a video is longer than the clip.</summary>
    public bool Start { get; set; }

    /// <summary>Cuts at a random place what another aspect ratio cuts off, rather than keeping the middle.</summary>
    public bool Crop { get; set; }

    /// <summary>How often pictures are mirrored, left and right: not for captions that speak of either.</summary>
    public double Mirror { get; set; }
}

/// <summary>Videos and pictures with captions: listed in a CSV file with the columns <c>path</c> (relative to the file) and <c>caption</c>, where
/// others are ignored
/// and a path in several rows has several captions; or all those of a folder.</summary>
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
    private readonly ClipVariation? _vary;

    /// <summary>Reads the table; the files are decoded when they are needed.</summary>
    /// <param name="csv">The CSV file.</param>
    /// <param name="reader">Decodes the files.</param>
    /// <param name="clip">Size and part of every clip. Where <see cref="ClipOptions.Frames"/> is set, a shorter clip repeats its last frame.</param>
    /// <param name="vary">What is drawn at random; null: nothing.</param>
    /// <exception cref="FileNotFoundException">The table, or a file that it lists, is not there.</exception>
    /// <exception cref="InvalidDataException">A column or every row is missing.</exception>
    public VideoTable(string csv, IVideoReader reader, ClipOptions clip, ClipVariation? vary = null)
        : this(Listed(csv), reader, clip, vary) { }

    private VideoTable(IReadOnlyList<Row> rows, IVideoReader reader, ClipOptions clip, ClipVariation? vary)
    {
        ArgumentNullException.ThrowIfNull(reader);
        ArgumentNullException.ThrowIfNull(clip);
        if (vary?.Mirror is < 0 or > 1 or double.NaN)
        {
            throw new ArgumentException($"Mirror is {vary.Mirror}; it must be from 0 to 1.", nameof(vary));
        }

        if (vary is { Crop: true } && (clip.Width is null || clip.Fit != FrameFit.Crop))
        {
            throw new ArgumentException(
                $"A random crop needs the clips' Width and Height and {nameof(FrameFit)}.{nameof(FrameFit.Crop)}.",
                nameof(vary)
            );
        }

        (this._rows, this._reader, this._clip, this._vary) = (rows, reader, clip, vary);
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
                $"{rows.Count} files {Convert.ToHexStringLower(hash.GetHashAndReset())[..16]}, {clip.Width}x{clip.Height} {clip.Fit}, {clip.Frames} frames from {clip.StartFrame} every {clip.FrameInterval} at {clip.FramesPerSecond}"
            ) + (vary is null ? "" : string.Create(CultureInfo.InvariantCulture, $", start {vary.Start}, crop {vary.Crop}, mirror {vary.Mirror}"));
    }

    /// <summary>All videos and pictures in a folder and the folders in it. Captions are the lines of a text file of the same name (<c>dog.mp4</c>,
    /// <c>dog.txt</c>), or else the
    /// file's name with spaces for dashes and underscores.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="reader">Decodes the files.</param>
    /// <param name="clip">Size and part of every clip.</param>
    /// <param name="vary">What is drawn at random; null: nothing.</param>
    /// <exception cref="InvalidDataException">It holds no video and no picture.</exception>
    public static VideoTable FromFolder(string folder, IVideoReader reader, ClipOptions clip, ClipVariation? vary = null)
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
            ? new VideoTable(files, reader, clip, vary)
            : throw new InvalidDataException($"'{folder}' holds no videos and no pictures ({string.Join(", ", Extensions)}).");
    }

    /// <inheritdoc/>
    public int Count => _rows.Count;

    /// <inheritdoc/>
    public string Fingerprint { get; }

    /// <summary>The files, each once.</summary>
    public IReadOnlyList<string> Paths => [.. _rows.Select(row => row.File.FullName)];

    /// <summary>Some of the files, perhaps at another size: the clips of a <see cref="Bucket"/>.</summary>
    /// <param name="indices">Which.</param>
    /// <param name="other">Size and part of every clip; null: as here.</param>
    public VideoTable Select(IEnumerable<int> indices, ClipOptions? other = null) =>
        new([.. indices.Select(index => _rows[index])], _reader, other ?? _clip, _vary);

    /// <summary>What <see cref="Bucket.Sort"/> wants to know of every file: its size, and how many frames of the asked rate and interval it
    /// has.</summary>
    /// <param name="told">Told of files that cannot be read; they have the size 0, which fills no bucket. Null: the first such file ends the
    /// reading.</param>
    /// <param name="cancellationToken">Stops reading.</param>
    /// <exception cref="MediaException">A file cannot be read, and nobody is told.</exception>
    public async Task<IReadOnlyList<(int Frames, int Height, int Width)>> SizesAsync(
        IProgress<BadClip>? told = null,
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
                catch (IOException e) when (told is not null)
                {
                    told.Report(new BadClip(i, e.Message));
                }
            })
            .ConfigureAwait(false);
        return sizes;
    }

    /// <inheritdoc/>
    public CaptionedClip Load(int index, Random random)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(index, _rows.Count);
        ArgumentNullException.ThrowIfNull(random);
        var path = _rows[index].File.FullName;
        using var scope = NewDisposeScope();
        var video = _vary is null ? Read(path, _clip) : Vary(path, _vary, random);
        if (_clip.Frames is { } wanted && wanted > video.shape[1])
        {
            video = cat([video, video.narrow(1, video.shape[1] - 1, 1).expand(-1, wanted - video.shape[1], -1, -1)], 1);
        }

        return new CaptionedClip(video.MoveToOuterDisposeScope(), _rows[index].Captions);
    }

    private Tensor Read(string path, ClipOptions part) => _reader.ReadAsync(path, part).GetAwaiter().GetResult().ToTensor().squeeze(0);

    private Tensor Vary(string path, ClipVariation vary, Random random)
    {
        var (start, top, left, mirrored) = (random.NextDouble(), random.NextDouble(), random.NextDouble(), random.NextDouble() < vary.Mirror);
        var info = _reader.ProbeAsync(path).GetAwaiter().GetResult();
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
        if (vary.Start && _clip.Frames is { } frames)
        {
            part.StartFrame += (int)(start * Math.Max(1, FramesOf(info) - _clip.StartFrame - (frames - 1) * _clip.FrameInterval));
        }

        if (!vary.Crop)
        {
            return Turned(Read(path, part));
        }

        // Scaled until it covers the size, as otherwise, but cut here.
        var (height, width) = (_clip.Height!.Value, _clip.Width!.Value);
        var scale = Math.Max((double)width / info.Width, (double)height / info.Height);
        (part.Width, part.Height, part.Fit) = (
            Math.Max(width, (int)Math.Round(info.Width * scale)),
            Math.Max(height, (int)Math.Round(info.Height * scale)),
            FrameFit.Stretch
        );
        var whole = Read(path, part);
        return Turned(
            whole
                .narrow(2, (long)(top * (whole.shape[2] - height + 1)), height)
                .narrow(3, (long)(left * (whole.shape[3] - width + 1)), width)
                .contiguous()
        );

        Tensor Turned(Tensor video) => mirrored ? video.flip(3) : video;
    }

    // Counted at the asked rate; a picture is one frame.
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
        var header = Csv.Record(table) ?? [];
        var (pathColumn, captionColumn) = (header.IndexOf("path"), header.IndexOf("caption"));
        if (pathColumn < 0 || captionColumn < 0)
        {
            throw new InvalidDataException($"'{csv}' needs the columns path and caption; it has {string.Join(", ", header)}.");
        }

        var files = new List<Row>();
        var known = new Dictionary<string, List<string>>(StringComparer.Ordinal);
        for (var row = 2; Csv.Record(table) is { } fields; row++)
        {
            if (fields is [""])
            {
                continue; // an empty line
            }

            if (fields.Count != header.Count || string.IsNullOrWhiteSpace(fields[pathColumn]))
            {
                throw new InvalidDataException(
                    $"Record {row} of '{csv}' has {fields.Count} fields and the path '{fields.ElementAtOrDefault(pathColumn)}'; expected {header.Count} fields, as in the first line, and a path."
                );
            }

            var file = new FileInfo(Path.Combine(folder, fields[pathColumn]));
            if (!file.Exists)
            {
                throw new FileNotFoundException($"Record {row} of '{csv}' names '{file.FullName}', which does not exist.", file.FullName);
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

    private sealed record Row(string Name, FileInfo File, IReadOnlyList<string> Captions);
}

/// <summary>Reads comma-separated values (RFC 4180).</summary>
internal static class Csv
{
    /// <summary>The fields of the next record; null at the end. Quoted fields may hold commas, doubled quotes and line breaks.</summary>
    public static List<string>? Record(TextReader reader)
    {
        if (reader.Peek() < 0)
        {
            return null;
        }

        var fields = new List<string>();
        var field = new StringBuilder();
        for (var quoted = false; ; )
        {
            var c = reader.Read();
            if (quoted && c < 0)
            {
                throw new InvalidDataException($"A quoted field is not closed: \"{field}");
            }

            if (quoted)
            {
                if (c != '"')
                {
                    field.Append((char)c);
                }
                else if (reader.Peek() == '"')
                {
                    field.Append((char)reader.Read());
                }
                else
                {
                    quoted = false;
                }
            }
            else if (c == '"' && field.Length == 0)
            {
                quoted = true;
            }
            else if (c is ',' or '\n' or < 0)
            {
                fields.Add(field.ToString());
                field.Clear();
                if (c != ',')
                {
                    return fields;
                }
            }
            else if (c != '\r' || reader.Peek() is not ('\n' or < 0))
            {
                field.Append((char)c);
            }
        }
    }
}
