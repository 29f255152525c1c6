using System.Globalization;
using System.Threading.Channels;
using OpenSora.Media;

namespace OpenSora.Cli;

/// <summary>The files or folders that a command writes videos to.</summary>
/// <param name="Path">The path of the first video, or the pattern of the names of several.</param>
/// <param name="Format">The format.</param>
/// <param name="Count">The number of videos.</param>
internal sealed record VideoOutput(string Path, VideoFormat Format, int Count)
{
    /// <summary>Gets the path of the preview.</summary>
    public string Preview => WithSuffix("-preview", ".png");

    /// <summary>Determines the format from a path.</summary>
    /// <exception cref="IOException">Videos cannot be written to files of this type.</exception>
    public static VideoOutput Of(string path, int count)
    {
        var extension = System.IO.Path.GetExtension(path);
        var isFolder = extension.Length == 0 || System.IO.Path.EndsInDirectorySeparator(path) || Directory.Exists(path);
        return new VideoOutput(
            System.IO.Path.TrimEndingDirectorySeparator(path),
            extension.ToUpperInvariant() switch
            {
                _ when isFolder => VideoFormat.PngSequence,
                ".MP4" => VideoFormat.Mp4,
                ".GIF" => VideoFormat.Gif,
                ".PNG" or ".JPG" or ".JPEG" => VideoFormat.Image,
                _ => throw new IOException(
                    $"'{path}' ends in '{extension}'; a video can be written to a file that ends in .mp4, .gif, .png or .jpg, or to a folder."
                ),
            },
            count
        );
    }

    /// <summary>Gets the path of a video by its number, starting at 0.</summary>
    public string FileOf(int number) =>
        Count == 1
            ? Path
            : WithSuffix(
                string.Create(CultureInfo.InvariantCulture, $"-{number + 1}"),
                Format == VideoFormat.PngSequence ? "" : System.IO.Path.GetExtension(Path)
            );

    /// <summary>Checks what would otherwise fail after the work: ffmpeg, and folders that are not empty.</summary>
    /// <exception cref="IOException">The output cannot be written.</exception>
    public void Check()
    {
        new VideoWriter().RequireSupport(Format);
        for (var i = 0; i < Count; i++)
        {
            var path = FileOf(i);
            if (Format != VideoFormat.PngSequence && Directory.Exists(path))
            {
                throw new IOException($"'{path}' is a folder, but a file is to be written there.");
            }

            if (Format == VideoFormat.PngSequence && Directory.Exists(path) && Directory.EnumerateFileSystemEntries(path).Any())
            {
                throw new IOException($"The folder '{path}' is not empty. Frames are written to an empty or a new folder.");
            }
        }
    }

    /// <summary>Writes a video; as an image, a contact sheet of its frames if it has several.</summary>
    public Task WriteAsync(VideoFrames frames, string file, CancellationToken cancellationToken) =>
        new VideoWriter().WriteAsync(
            Format == VideoFormat.Image && frames.Count > 1 ? frames.ContactSheet() : frames,
            file,
            Format,
            cancellationToken
        );

    private string WithSuffix(string suffix, string extension) =>
        System.IO.Path.Combine(
            System.IO.Path.GetDirectoryName(Path) ?? "",
            (Format == VideoFormat.PngSequence ? System.IO.Path.GetFileName(Path) : System.IO.Path.GetFileNameWithoutExtension(Path))
                + suffix
                + extension
        );
}

/// <summary>Writes previews to a file in the background. If they come faster than they can be written, only the newest is written.</summary>
internal sealed class PreviewFiles : IAsyncDisposable
{
    private readonly Channel<VideoFrames> _previews = Channel.CreateBounded<VideoFrames>(
        new BoundedChannelOptions(1) { FullMode = BoundedChannelFullMode.DropOldest }
    );
    private readonly Task _writing;

    public PreviewFiles(string path, Stages stages) => _writing = WriteAsync(path, stages);

    public void Add(VideoFrames preview) => _previews.Writer.TryWrite(preview);

    public async ValueTask DisposeAsync()
    {
        _previews.Writer.Complete();
        await _writing.ConfigureAwait(false);
    }

    private async Task WriteAsync(string path, Stages stages)
    {
        await foreach (var preview in _previews.Reader.ReadAllAsync().ConfigureAwait(false))
        {
            await new VideoWriter().WriteAsync(preview.ContactSheet(), path, VideoFormat.Image).ConfigureAwait(false);
            stages.Report("Preview", 1, 1, path);
        }
    }
}
