using System.Diagnostics.CodeAnalysis;
using OpenSora.Preparation.Media;

namespace OpenSora.Preparation.Captions;

/// <summary>Describes clips in text.</summary>
/// <remarks>Implementations are thread-safe: several clips can be captioned at the same time.</remarks>
public interface ICaptioner
{
    /// <summary>Gets a text that differs for captioners that describe the same clip differently, such as with another model or prompt. Captions of a
    /// captioner with another identity are not reused.</summary>
    string Identity => GetType().ToString();

    /// <summary>Describes a clip.</summary>
    /// <param name="clip">The clip.</param>
    /// <param name="cancellationToken">Stops the work.</param>
    /// <returns>A caption, or the reason why the clip has none.</returns>
    /// <exception cref="CaptionServerException">The server that writes the captions cannot be used at all, so that it is useless to continue with
    /// other clips.</exception>
    Task<CaptionResult> CaptionAsync(ClipToCaption clip, CancellationToken cancellationToken = default);
}

/// <summary>A clip or an image that needs a caption.</summary>
public sealed record ClipToCaption
{
    private static readonly string[] ImageExtensions = [".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"];
    private readonly bool? _isImage;

    /// <summary>The path of the file.</summary>
    public required string Path { get; init; }

    /// <summary>The metadata of the file.</summary>
    public required SourceInfo Info { get; init; }

    /// <summary>A hash of the file's contents; null to compute one from its frames. With it, a cached caption is found without decoding the
    /// file.</summary>
    public string? ContentHash { get; init; }

    /// <summary>Indicates whether the file is a still image, which is described without motion. The default follows from the extension.</summary>
    public bool IsImage
    {
        get => _isImage ?? ImageExtensions.Contains(System.IO.Path.GetExtension(Path), StringComparer.OrdinalIgnoreCase);
        init => _isImage = value;
    }

    /// <summary>The path of the video that the clip was cut from; null if the clip is a whole file. Its sidecar files and subtitles also describe
    /// the clip.</summary>
    public string? SourcePath { get; init; }

    /// <summary>The time at which the clip begins in the video that it was cut from.</summary>
    public TimeSpan SourceStart { get; init; }

    /// <summary>The time at which the clip ends in the video that it was cut from; null for the end of the video.</summary>
    public TimeSpan? SourceEnd { get; init; }

    /// <summary>Reads the metadata of a file that needs a caption.</summary>
    /// <param name="path">The path of a video or an image.</param>
    /// <param name="ffmpegFolder">The folder that contains ffprobe; null to search PATH.</param>
    /// <param name="cancellationToken">Stops the program.</param>
    /// <exception cref="FileNotFoundException">The file does not exist.</exception>
    /// <exception cref="PreparationException">The file is not a readable video or image, or ffprobe is missing.</exception>
    public static async Task<ClipToCaption> ReadAsync(string path, string? ffmpegFolder = null, CancellationToken cancellationToken = default) =>
        new() { Path = path, Info = await SourceProbe.ReadAsync(path, ffmpegFolder, cancellationToken).ConfigureAwait(false) };
}

/// <summary>The caption of a clip, or the reason why it has none.</summary>
public sealed record CaptionResult
{
    /// <summary>The caption; null if there is none.</summary>
    public string? Text { get; init; }

    /// <summary>The origin of the caption: the name of a model, <c>sidecar file</c> or <c>subtitles</c>; empty if there is no caption.</summary>
    public string Source { get; init; } = "";

    /// <summary>The reason why there is no caption, in a few words that are the same for all clips with this problem, such as <c>refused</c>; null
    /// if there is a caption.</summary>
    public string? Reason { get; init; }

    /// <summary>The reason in detail, such as the answer that was refused or the server's error; null if there is nothing to add.</summary>
    public string? Detail { get; init; }

    /// <summary>Indicates that the reason lies in the server or the connection, not in the clip, so that a later attempt can succeed.</summary>
    public bool IsTemporary { get; init; }

    /// <summary>Indicates that the answer comes from a <see cref="CaptionCache"/>.</summary>
    public bool IsFromCache { get; init; }

    /// <summary>Indicates that the caption was longer than the limit and was cut at the end of a sentence, a clause or a word.</summary>
    public bool IsShortened { get; init; }

    /// <summary>The number of tokens that the model read for this answer; null if the server does not report it.</summary>
    public long? InputTokens { get; init; }

    /// <summary>The number of tokens that the model wrote for this answer; null if the server does not report it.</summary>
    public long? OutputTokens { get; init; }

    /// <summary>Indicates whether there is a caption.</summary>
    [MemberNotNullWhen(true, nameof(Text))]
    [MemberNotNullWhen(false, nameof(Reason))]
    public bool HasCaption => Text is not null;

    /// <summary>Creates a result with a caption.</summary>
    /// <param name="text">The caption.</param>
    /// <param name="source">The origin of the caption.</param>
    public static CaptionResult Of(string text, string source) => new() { Text = text, Source = source };

    /// <summary>Creates a result without a caption.</summary>
    /// <param name="reason">The reason in a few words, the same for all clips with this problem.</param>
    /// <param name="detail">The reason in detail.</param>
    /// <param name="isTemporary">true if a later attempt can succeed.</param>
    public static CaptionResult None(string reason, string? detail = null, bool isTemporary = false) =>
        new()
        {
            Reason = reason,
            Detail = detail,
            IsTemporary = isTemporary,
        };
}
