using OpenSora.Media;

namespace OpenSora.Generation;

/// <summary>A generated video: its frames, and the settings that it was generated with. The same settings, model and backend reproduce the
/// video.</summary>
/// <remarks>The pixels are in managed memory, so a video does not need to be disposed.</remarks>
public sealed class GeneratedVideo
{
    private readonly VideoWriter _writer;

    /// <summary>Initializes a video.</summary>
    /// <param name="frames">The frames.</param>
    /// <param name="writer">Writes files; null for ffmpeg on PATH.</param>
    public GeneratedVideo(VideoFrames frames, VideoWriter? writer = null)
    {
        ArgumentNullException.ThrowIfNull(frames);
        (Frames, _writer) = (frames, writer ?? new VideoWriter());
    }

    /// <summary>Gets the decoded frames.</summary>
    public VideoFrames Frames { get; }

    /// <summary>Gets the prompt of the request.</summary>
    public string Prompt { get; init; } = "";

    /// <summary>Gets the negative prompt of the request, or null.</summary>
    public string? NegativePrompt { get; init; }

    /// <summary>Gets the seed of the request, or the random one that was drawn if the request had none.</summary>
    public long Seed { get; init; }

    /// <summary>Gets the number of denoising steps.</summary>
    public int Steps { get; init; }

    /// <summary>Gets the classifier-free guidance scale; 1 means no guidance.</summary>
    public double GuidanceScale { get; init; } = 1;

    /// <summary>Gets the name of the sampler.</summary>
    public string Sampler { get; init; } = "";

    /// <summary>Gets the name of the model.</summary>
    public string Model { get; init; } = "";

    /// <summary>Gets the name of the backend.</summary>
    public string Backend { get; init; } = "";

    /// <summary>Gets the time that generation took, excluding the time to load the model.</summary>
    public TimeSpan Elapsed { get; init; }

    /// <summary>Gets the warnings for the user, such as that the prompt names nothing that the model knows.</summary>
    public IReadOnlyList<string> Warnings { get; init; } = [];

    /// <summary>Saves the video as an MP4 file (H.264), replacing any existing file. It requires ffmpeg.</summary>
    /// <param name="path">The path of the file to write.</param>
    /// <param name="progress">Receives a report before and after writing.</param>
    /// <param name="cancellationToken">Cancels the operation; no partial file is left behind.</param>
    /// <exception cref="MediaException">The output could not be written; the message explains why.</exception>
    public Task SaveMp4Async(string path, IProgress<GenerationProgress>? progress = null, CancellationToken cancellationToken = default) =>
        WriteAsync(() => _writer.WriteAsync(Frames, path, VideoFormat.Mp4, cancellationToken), progress);

    /// <summary>Writes the video to a stream as MP4 (H.264), for example to the body of an HTTP response. Progress is not reported.</summary>
    /// <param name="stream">The stream, which need not support seeking.</param>
    /// <param name="cancellationToken">Cancels the operation.</param>
    /// <exception cref="MediaException">The video could not be encoded; the message explains why.</exception>
    public Task SaveMp4Async(Stream stream, CancellationToken cancellationToken = default) =>
        _writer.WriteAsync(Frames, stream, VideoFormat.Mp4, cancellationToken);

    /// <summary>Writes the video to a stream as a GIF that loops forever. Progress is not reported.</summary>
    /// <inheritdoc cref="SaveMp4Async(Stream, CancellationToken)"/>
    public Task SaveGifAsync(Stream stream, CancellationToken cancellationToken = default) =>
        _writer.WriteAsync(Frames, stream, VideoFormat.Gif, cancellationToken);

    /// <summary>Saves the video as a GIF that loops forever, replacing any existing file. It does not require ffmpeg.</summary>
    /// <inheritdoc cref="SaveMp4Async(string, IProgress{GenerationProgress}?, CancellationToken)"/>
    public Task SaveGifAsync(string path, IProgress<GenerationProgress>? progress = null, CancellationToken cancellationToken = default) =>
        WriteAsync(() => _writer.WriteAsync(Frames, path, VideoFormat.Gif, cancellationToken), progress);

    /// <summary>Saves every frame as a PNG file, named <c>frame_00001.png</c>, <c>frame_00002.png</c> and so on.</summary>
    /// <param name="folder">The folder to write to. It must be empty or not exist.</param>
    /// <param name="progress">Receives a report before and after writing.</param>
    /// <param name="cancellationToken">Cancels the operation; no partial folder is left behind.</param>
    /// <exception cref="MediaException">The output could not be written; the message explains why.</exception>
    /// <exception cref="IOException">The folder is not empty.</exception>
    public Task SavePngSequenceAsync(string folder, IProgress<GenerationProgress>? progress = null, CancellationToken cancellationToken = default) =>
        WriteAsync(() => _writer.WriteAsync(Frames, folder, VideoFormat.PngSequence, cancellationToken), progress);

    /// <summary>Saves a contact sheet of evenly spaced frames as one PNG file, replacing any existing file.</summary>
    /// <param name="path">The path of the file to write.</param>
    /// <param name="columns">The number of frames per row.</param>
    /// <param name="progress">Receives a report before and after writing.</param>
    /// <param name="cancellationToken">Cancels the operation; no partial file is left behind.</param>
    /// <exception cref="MediaException">The output could not be written; the message explains why.</exception>
    public Task SaveContactSheetAsync(
        string path,
        int columns = 4,
        IProgress<GenerationProgress>? progress = null,
        CancellationToken cancellationToken = default
    ) => WriteAsync(() => _writer.WriteAsync(Frames.ContactSheet(columns), path, VideoFormat.Image, cancellationToken), progress);

    private static async Task WriteAsync(Func<Task> write, IProgress<GenerationProgress>? progress)
    {
        progress?.Report(new(GenerationStage.Writing, 0, 1));
        await write().ConfigureAwait(false);
        progress?.Report(new(GenerationStage.Writing, 1, 1));
    }
}
