namespace OpenSora.Media;

/// <summary>Creates the exception that reports that ffmpeg is missing and how to install it.</summary>
internal static class FFmpegMissing
{
    /// <summary>Creates the exception.</summary>
    /// <param name="program">The missing program: ffmpeg or ffprobe.</param>
    /// <param name="purpose">The operation that requires it, such as <c>write 'a.mp4'</c>.</param>
    /// <param name="folder">The folder that was searched; null for PATH.</param>
    /// <param name="cause">The exception of the operating system, if any.</param>
    public static MediaException Error(string program, string purpose, string? folder, Exception? cause = null) =>
        new(
            $"{program} is required to {purpose}, but was not found in {(folder is null ? "PATH" : $"'{folder}'")}. "
                + "Install ffmpeg (Debian, Ubuntu: apt install ffmpeg; macOS: brew install ffmpeg; Windows: winget install ffmpeg), "
                + "or set the FFmpegFolder option to its folder.",
            cause
        );
}
