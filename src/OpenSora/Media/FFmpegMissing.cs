namespace OpenSora.Media;

/// <summary>Tells that ffmpeg is missing, and how it is had.</summary>
internal static class FFmpegMissing
{
    /// <summary>The exception to throw.</summary>
    /// <param name="program">ffmpeg or ffprobe.</param>
    /// <param name="purpose">What it is needed for: <c>write 'a.mp4'</c>.</param>
    /// <param name="folder">Where it was looked for; null: in PATH.</param>
    /// <param name="cause">What the system said, if it was asked.</param>
    public static MediaException Told(string program, string purpose, string? folder, Exception? cause = null) =>
        new(
            $"{program} is needed to {purpose} and was not found in {(folder is null ? "PATH" : $"'{folder}'")}. "
                + "Install ffmpeg (Debian, Ubuntu: apt install ffmpeg; macOS: brew install ffmpeg; Windows: winget install ffmpeg), "
                + "or name its folder in the FFmpegFolder option.",
            cause
        );
}
