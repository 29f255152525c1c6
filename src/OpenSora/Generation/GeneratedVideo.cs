using OpenSora.Diffusion;
using OpenSora.Media;

namespace OpenSora.Generation;

/// <summary>A generated video, in managed memory: there is nothing to dispose of.</summary>
public sealed class GeneratedVideo
{
    private readonly IVideoWriter _writer;
    private readonly IImageCodec _images;

    internal GeneratedVideo(VideoFrames frames, VideoMetadata metadata, IVideoWriter writer, IImageCodec images) =>
        (Frames, Metadata, this._writer, this._images) = (frames, metadata, writer, images);

    /// <summary>The pixels.</summary>
    public VideoFrames Frames { get; }

    /// <summary>How it came about.</summary>
    public VideoMetadata Metadata { get; }

    /// <summary>The seed that makes it again.</summary>
    public long Seed => Metadata.Seed;

    /// <summary>Writes H.264 in MP4, replacing an older file.</summary>
    /// <param name="path">The file.</param>
    /// <param name="progress">Told before and after.</param>
    /// <param name="cancellationToken">Stops the writing; no file is left then.</param>
    /// <exception cref="MediaException">It could not be written; the message says why.</exception>
    public Task SaveMp4Async(string path, IProgress<GenerationProgress>? progress = null, CancellationToken cancellationToken = default) =>
        WriteAsync(() => _writer.WriteAsync(Frames, path, VideoFormat.Mp4, cancellationToken), progress);

    /// <summary>Writes an endless GIF, replacing an older file.</summary>
    /// <inheritdoc cref="SaveMp4Async"/>
    public Task SaveGifAsync(string path, IProgress<GenerationProgress>? progress = null, CancellationToken cancellationToken = default) =>
        WriteAsync(() => _writer.WriteAsync(Frames, path, VideoFormat.Gif, cancellationToken), progress);

    /// <summary>Writes every frame as <c>frame_00001.png</c> and on.</summary>
    /// <param name="folder">Must not exist, or be empty.</param>
    /// <param name="progress">Told before and after.</param>
    /// <param name="cancellationToken">Stops the writing; no folder is left then.</param>
    /// <exception cref="MediaException">It could not be written; the message says why.</exception>
    /// <exception cref="IOException">The folder is not empty.</exception>
    public Task SavePngSequenceAsync(string folder, IProgress<GenerationProgress>? progress = null, CancellationToken cancellationToken = default) =>
        WriteAsync(() => _writer.WriteAsync(Frames, folder, VideoFormat.PngSequence, cancellationToken), progress);

    /// <summary>Writes one PNG of frames spread evenly over the video, replacing an older file.</summary>
    /// <param name="path">The file.</param>
    /// <param name="columns">Frames in a row.</param>
    /// <param name="progress">Told before and after.</param>
    /// <param name="cancellationToken">Stops the writing; no file is left then.</param>
    /// <exception cref="MediaException">It could not be written; the message says why.</exception>
    public Task SaveContactSheetAsync(
        string path,
        int columns = 4,
        IProgress<GenerationProgress>? progress = null,
        CancellationToken cancellationToken = default
    ) => WriteAsync(() => _images.WriteAsync(ContactSheet.OfFrames(Frames, columns), path, cancellationToken), progress);

    private static async Task WriteAsync(Func<Task> write, IProgress<GenerationProgress>? progress)
    {
        progress?.Report(new(GenerationStage.Writing, 0, 1));
        await write().ConfigureAwait(false);
        progress?.Report(new(GenerationStage.Writing, 1, 1));
    }
}

/// <summary>How a video came about: with the same model, backend and values it comes about again.</summary>
/// <param name="Prompt">As given.</param>
/// <param name="NegativePrompt">As given.</param>
/// <param name="Seed">The seed, drawn where none was given.</param>
/// <param name="Steps">Denoising steps.</param>
/// <param name="Guidance">Guidance scale; 1 = none.</param>
/// <param name="Sampler">The sampler's name.</param>
/// <param name="Model">The model's name.</param>
/// <param name="Backend">The backend's name.</param>
/// <param name="Elapsed">How long it took, loading not included.</param>
public sealed record VideoMetadata(
    string Prompt,
    string? NegativePrompt,
    long Seed,
    int Steps,
    double Guidance,
    string Sampler,
    string Model,
    string Backend,
    TimeSpan Elapsed
);
