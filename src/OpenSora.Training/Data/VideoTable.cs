using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using OpenSora.Media;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training;

/// <summary>Videos and pictures listed in a CSV file with the columns <c>path</c> (relative to the file) and <c>caption</c>; others are ignored.
/// A path in several rows has several captions.</summary>
public sealed class VideoTable : IClipSource
{
    private readonly List<(string Path, List<string> Captions)> rows = [];
    private readonly IVideoReader reader;
    private readonly ClipOptions clip;

    /// <summary>Reads the table; the files are decoded when they are needed.</summary>
    /// <param name="csv">The CSV file.</param>
    /// <param name="reader">Decodes the files.</param>
    /// <param name="clip">Size and part of every clip. Where <see cref="ClipOptions.Frames"/> is set, a shorter clip repeats its last frame.</param>
    /// <exception cref="FileNotFoundException">The table, or a file that it lists, is not there.</exception>
    /// <exception cref="InvalidDataException">A column or every row is missing.</exception>
    public VideoTable(string csv, IVideoReader reader, ClipOptions clip)
    {
        ArgumentException.ThrowIfNullOrEmpty(csv);
        ArgumentNullException.ThrowIfNull(reader);
        ArgumentNullException.ThrowIfNull(clip);
        (this.reader, this.clip) = (reader, clip);
        var folder = Path.GetDirectoryName(Path.GetFullPath(csv))!;
        using var table = new StreamReader(csv);
        var header = Csv.Record(table) ?? [];
        var (pathColumn, captionColumn) = (header.IndexOf("path"), header.IndexOf("caption"));
        if (pathColumn < 0 || captionColumn < 0)
            throw new InvalidDataException($"'{csv}' needs the columns path and caption; it has {string.Join(", ", header)}.");
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        var known = new Dictionary<string, List<string>>(StringComparer.Ordinal);
        for (var row = 2; Csv.Record(table) is { } fields; row++)
        {
            if (fields is [""])
                continue; // an empty line
            if (fields.Count != header.Count || string.IsNullOrWhiteSpace(fields[pathColumn]))
                throw new InvalidDataException($"Record {row} of '{csv}' has {fields.Count} fields and the path '{fields.ElementAtOrDefault(pathColumn)}'; expected {header.Count} fields, as in the first line, and a path.");
            var (name, caption) = (fields[pathColumn], fields[captionColumn]);
            var file = new FileInfo(Path.Combine(folder, name));
            if (!file.Exists)
                throw new FileNotFoundException($"Record {row} of '{csv}' names '{file.FullName}', which does not exist.", file.FullName);
            if (!known.TryGetValue(file.FullName, out var captions))
            {
                known[file.FullName] = captions = [];
                rows.Add((file.FullName, captions));
            }
            captions.Add(caption);
            hash.AppendData(Encoding.UTF8.GetBytes(string.Create(CultureInfo.InvariantCulture, $"{name}|{caption}|{file.Length}|{file.LastWriteTimeUtc.Ticks}\n")));
        }
        if (rows.Count == 0)
            throw new InvalidDataException($"'{csv}' lists no files.");
        Fingerprint = string.Create(CultureInfo.InvariantCulture,
            $"{rows.Count} files {Convert.ToHexStringLower(hash.GetHashAndReset())[..16]}, {clip.Width}x{clip.Height} {clip.Fit}, {clip.Frames} frames from {clip.StartFrame} every {clip.FrameInterval} at {clip.FramesPerSecond}");
    }

    /// <inheritdoc/>
    public int Count => rows.Count;

    /// <summary>The files, each once.</summary>
    public IReadOnlyList<string> Paths => rows.ConvertAll(row => row.Path);

    /// <inheritdoc/>
    public string Fingerprint { get; }

    /// <inheritdoc/>
    public CaptionedClip Load(int index, Random random)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(index, rows.Count);
        var frames = reader.ReadAsync(rows[index].Path, clip).GetAwaiter().GetResult();
        using var scope = NewDisposeScope();
        var video = frames.ToTensor().squeeze(0);
        if (clip.Frames is { } wanted && wanted > video.shape[1])
            video = cat([video, video.narrow(1, video.shape[1] - 1, 1).expand(-1, wanted - video.shape[1], -1, -1)], 1);
        return new CaptionedClip(video.MoveToOuterDisposeScope(), rows[index].Captions);
    }
}

/// <summary>Reads comma-separated values (RFC 4180).</summary>
internal static class Csv
{
    /// <summary>The fields of the next record; null at the end. Quoted fields may hold commas, doubled quotes and line breaks.</summary>
    public static List<string>? Record(TextReader reader)
    {
        if (reader.Peek() < 0)
            return null;
        var fields = new List<string>();
        var field = new StringBuilder();
        for (var quoted = false; ;)
        {
            var c = reader.Read();
            if (quoted && c < 0)
                throw new InvalidDataException($"A quoted field is not closed: \"{field}");
            if (quoted)
            {
                if (c != '"')
                    field.Append((char)c);
                else if (reader.Peek() == '"')
                    field.Append((char)reader.Read());
                else
                    quoted = false;
            }
            else if (c == '"' && field.Length == 0)
                quoted = true;
            else if (c is ',' or '\n' or < 0)
            {
                fields.Add(field.ToString());
                field.Clear();
                if (c != ',')
                    return fields;
            }
            else if (c != '\r' || reader.Peek() is not ('\n' or < 0))
                field.Append((char)c);
        }
    }
}
