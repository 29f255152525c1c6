using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using OpenSora.Media;
using OpenSora.Runtime;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Data;

/// <summary>A source of videos and images with captions, from a folder or from a CSV file.</summary>
/// <remarks>Lengths are numbers of frames that can be decoded, because the length that a file specifies can be wrong. A damaged file causes a
/// <see cref="MediaException"/> unless <see cref="ClipOptions.AllowDamage"/> is set, and a file that is shorter than
/// <see cref="ClipOptions.Frames"/> an <see cref="InvalidDataException"/> unless the source pads short clips (<see cref="PadShortClips"/>). Text is
/// UTF-8, or UTF-16 with a byte order mark.</remarks>
public sealed class VideoTable : IClipSource
{
    private readonly IReadOnlyList<CaptionedFile> _rows;
    private readonly MeasuredFiles _files;
    private readonly ClipOptions _clip;
    private readonly Variation? _vary;
    private readonly bool _pad;

    /// <summary>Reads a CSV file with a line of column names. Commas, semicolons or tabs separate the fields; column names are compared without
    /// regard to case. Other columns are ignored. A path in several rows has several captions. The videos and images are decoded when they are
    /// loaded.</summary>
    /// <param name="csv">The path of the CSV file.</param>
    /// <param name="reader">The reader that decodes the files.</param>
    /// <param name="clip">The size and frames of every clip.</param>
    /// <param name="pathColumn">The name of the column with paths, which are relative to the folder of the CSV file and can contain backslashes on
    /// every system; null for <c>path</c>.</param>
    /// <param name="captionColumn">The name of the column with captions; null for <c>caption</c> or, if there is none, <c>text</c>.</param>
    /// <param name="leaveOutMissing">true to leave out files that do not exist and list them in <see cref="PassedOver"/>; false to fail.</param>
    /// <exception cref="FileNotFoundException">The CSV file does not exist, or it lists files that do not exist.</exception>
    /// <exception cref="InvalidDataException">The CSV file lacks a column or has no rows, a row is malformed, or the text is neither UTF-8 nor UTF-16
    /// with a byte order mark. The message contains the record or the line.</exception>
    public VideoTable(
        string csv,
        VideoReader reader,
        ClipOptions clip,
        string? pathColumn = null,
        string? captionColumn = null,
        bool leaveOutMissing = false
    )
        : this(Listed(csv, pathColumn, captionColumn, leaveOutMissing), reader, clip) { }

    private VideoTable(
        (IReadOnlyList<CaptionedFile> Files, IReadOnlyList<(string Path, string Reason)> PassedOver) listed,
        VideoReader reader,
        ClipOptions clip
    )
        : this(listed.Files, new MeasuredFiles(reader), clip, vary: null, pad: false) => PassedOver = listed.PassedOver;

    private VideoTable(IReadOnlyList<CaptionedFile> rows, MeasuredFiles files, ClipOptions clip, Variation? vary, bool pad)
    {
        ArgumentNullException.ThrowIfNull(clip);
        (_rows, _files, _clip, _vary, _pad) = (rows, files, clip, vary, pad);
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (var row in rows)
        {
            var file = row.File.LinkTarget is null ? row.File : new FileInfo(OutputPath.FollowLinks(row.File.FullName));
            hash.AppendData(
                Encoding.UTF8.GetBytes(
                    string.Create(
                        CultureInfo.InvariantCulture,
                        $"{row.Name}|{string.Join('|', row.Captions)}|{file.Length}|{file.LastWriteTimeUtc.Ticks}\n"
                    )
                )
            );
        }

        Fingerprint =
            string.Create(
                CultureInfo.InvariantCulture,
                $"{rows.Count} files {Convert.ToHexStringLower(hash.GetHashAndReset())[..16]}, {clip.Width}x{clip.Height} {clip.Fit}, "
                    + $"{clip.Frames} frames from {clip.StartFrame} every {clip.FrameInterval} at {clip.FramesPerSecond}"
            )
            + (clip.AllowDamage ? ", damage allowed" : "")
            + (pad ? ", padded" : "")
            + (vary is null ? "" : string.Create(CultureInfo.InvariantCulture, $", start {vary.Start}, crop {vary.Crop}, mirror {vary.Mirror}"));
    }

    /// <summary>Creates a source from all videos and images in a folder and its subfolders, in the order of their paths. The captions are the lines
    /// of a text file with the same name (<c>dog.txt</c> for <c>dog.mp4</c>). If there is none, the caption is the file name with spaces in place of
    /// dashes and underscores.</summary>
    /// <remarks>Symbolic links are followed, and every file is listed once. Hidden files and folders, files that macOS adds (<c>._dog.mp4</c>,
    /// <c>__MACOSX</c>), pipes and devices, links that lead to nothing, and folders that cannot be read are passed over; see
    /// <see cref="PassedOver"/>.</remarks>
    /// <param name="folder">The folder.</param>
    /// <param name="reader">The reader that decodes the files.</param>
    /// <param name="clip">The size and frames of every clip.</param>
    /// <exception cref="InvalidDataException">The folder contains no videos or images, or a file of captions is neither UTF-8 nor UTF-16 with a byte
    /// order mark.</exception>
    public static VideoTable FromFolder(string folder, VideoReader reader, ClipOptions clip)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        var (files, passedOver) = new ClipFolder(folder).List();
        if (files.Count == 0)
        {
            throw new InvalidDataException(
                $"'{folder}' contains no videos or images ({ClipFolder.Extensions})."
                    + (passedOver.Count == 0 ? "" : $" {passedOver.Count} entries were passed over; '{passedOver[0].Path}' {passedOver[0].Reason}.")
            );
        }

        IReadOnlyList<CaptionedFile> rows =
        [
            .. files.Select(file => new CaptionedFile(file, new FileInfo(Path.Combine(folder, file)), CaptionsOf(Path.Combine(folder, file)))),
        ];
        return new VideoTable((rows, passedOver), reader, clip);
    }

    /// <summary>Gets the files and folders that were passed over when the source was created, and the reasons: sentences without their subject, or
    /// the record of the CSV file.</summary>
    public IReadOnlyList<(string Path, string Reason)> PassedOver { get; private init; } = [];

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
        new([.. indices.Select(index => _rows[index])], _files, other ?? _clip, _vary, _pad) { PassedOver = PassedOver };

    /// <summary>Creates a source that repeats the last frame of clips that are shorter than <see cref="ClipOptions.Frames"/>, such as of images. By
    /// default, a clip that is too short is an error.</summary>
    public VideoTable PadShortClips() => new(_rows, _files, _clip, _vary, pad: true) { PassedOver = PassedOver };

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
            : new VideoTable(_rows, _files, _clip, new Variation(start, crop, mirror), _pad) { PassedOver = PassedOver };
    }

    /// <summary>Reads the size of every file for <see cref="Bucket.Sort"/>: the number of frames that can be decoded, at the requested frame rate and
    /// interval, and the height and width in pixels as the video is shown.</summary>
    /// <remarks>Every file is decoded once, because the length that it specifies can be wrong. The source, and sources created from it, keep the
    /// result.</remarks>
    /// <param name="badClips">Receives the files that cannot be read or are damaged. Their size is 0, which fills no bucket. If null, the first such
    /// file causes an exception.</param>
    /// <param name="cancellationToken">Stops reading.</param>
    /// <exception cref="MediaException">A file cannot be read or is damaged, and <paramref name="badClips"/> is null.</exception>
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
                    var path = _rows[i].File.FullName;
                    var info = await _files.ProbeAsync(path, token).ConfigureAwait(false);
                    var frames = await _files.CountAsync(path, _clip, token).ConfigureAwait(false) - _clip.StartFrame;
                    sizes[i] = (Math.Max(0, (frames + _clip.FrameInterval - 1) / _clip.FrameInterval), info.Height, info.Width);
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
            var frames = await _files.ReadAsync(path, _clip, cancellationToken).ConfigureAwait(false);
            return new CaptionedClip(ToVideo(path, frames, _clip, window: null, isMirrored: false), _rows[index].Captions);
        }

        var (start, top, left, isMirrored) = (random.NextDouble(), random.NextDouble(), random.NextDouble(), random.NextDouble() < _vary.Mirror);
        var part = await VariedAsync(path, start, cancellationToken).ConfigureAwait(false);
        var varied = await _files.ReadAsync(path, part, cancellationToken).ConfigureAwait(false);
        return new CaptionedClip(ToVideo(path, varied, part, _vary.Crop ? (top, left) : null, isMirrored), _rows[index].Captions);
    }

    // The pixels, cropped to the size at a position from 0 to 1, and padded if requested.
    private Tensor ToVideo(string path, VideoFrames frames, ClipOptions part, (double Top, double Left)? window, bool isMirrored)
    {
        if (_clip.Frames is { } needed && frames.Count < needed && !_pad)
        {
            var every = part.FrameInterval == 1 ? "" : $", every {part.FrameInterval} frames";
            throw new InvalidDataException(
                $"'{path}' has {frames.Count} frames for a clip of {needed} (from frame {part.StartFrame}{every}). Leave it out "
                    + $"({nameof(SizesAsync)} returns lengths), request fewer frames, or call {nameof(PadShortClips)} to repeat the last frame."
            );
        }

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
    private async ValueTask<ClipOptions> VariedAsync(string path, double start, CancellationToken cancellationToken)
    {
        var part = _clip.Clone();
        if (_vary!.Start && _clip.Frames is { } frames)
        {
            var count = await _files.CountAsync(path, _clip, cancellationToken).ConfigureAwait(false);
            part.StartFrame += (int)(start * Math.Max(1, count - _clip.StartFrame - (frames - 1) * _clip.FrameInterval));
        }

        if (_vary.Crop)
        {
            var info = await _files.ProbeAsync(path, cancellationToken).ConfigureAwait(false);
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

    private static string[] CaptionsOf(string file)
    {
        // Beside the file, or beside the file that a link leads to.
        string[] places = [Path.ChangeExtension(file, ".txt"), Path.ChangeExtension(OutputPath.FollowLinks(file), ".txt")];
        return places.FirstOrDefault(text => FileKinds.Of(text) == FileKind.Regular) is { } found && TextFile.Lines(found) is { Length: > 0 } lines
            ? lines
            : [Path.GetFileNameWithoutExtension(file).Replace('-', ' ').Replace('_', ' ').Trim()];
    }

    private static (IReadOnlyList<CaptionedFile>, IReadOnlyList<(string Path, string Reason)>) Listed(
        string csv,
        string? pathColumn,
        string? captionColumn,
        bool leaveOutMissing
    )
    {
        ArgumentException.ThrowIfNullOrEmpty(csv);
        return new CaptionTable(csv, pathColumn, captionColumn).Read(leaveOutMissing);
    }

    private sealed record Variation(bool Start, bool Crop, double Mirror);
}
