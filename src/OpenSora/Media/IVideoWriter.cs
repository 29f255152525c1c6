namespace OpenSora.Media;

/// <summary>Specifies the output format of <see cref="IVideoWriter"/>.</summary>
public enum VideoFormat
{
    /// <summary>H.264 video in an MP4 file (yuv420p, BT.709, index at the start of the file). If the width or height is odd, the last column or row
    /// is repeated.</summary>
    Mp4,

    /// <summary>A GIF animation that loops forever, with a palette computed from the video.</summary>
    Gif,

    /// <summary>A folder of PNG files named <c>frame_00001.png</c>, <c>frame_00002.png</c> and so on. The folder must be empty or not
    /// exist.</summary>
    PngSequence,
}

/// <summary>Encodes videos.</summary>
/// <remarks>Implementations are stateless and thread-safe. Output is atomic: a file appears under its name only when it is
/// complete.</remarks>
public interface IVideoWriter
{
    /// <summary>Encodes a video to a file, replacing any existing file. The folder of the file is created if it does not exist.</summary>
    /// <param name="frames">The video to encode.</param>
    /// <param name="path">The path of the file, or of the folder for <see cref="VideoFormat.PngSequence"/>.</param>
    /// <param name="format">The output format.</param>
    /// <param name="cancellationToken">Stops the encoder; no partial output is left behind.</param>
    /// <exception cref="MediaException">The encoder failed (the message includes the encoder's message), or ffmpeg is missing.</exception>
    /// <exception cref="IOException">The file cannot be moved to its final path, or the folder is not empty.</exception>
    Task WriteAsync(VideoFrames frames, string path, VideoFormat format = VideoFormat.Mp4, CancellationToken cancellationToken = default);
}

/// <summary>Reads and writes images, which are represented as videos of one frame.</summary>
public interface IImageCodec
{
    /// <summary>Decodes an image. Transparency is discarded: transparent pixels keep their stored color.</summary>
    /// <param name="path">The path of the file.</param>
    /// <param name="cancellationToken">Stops the decoder.</param>
    /// <exception cref="FileNotFoundException">The file does not exist.</exception>
    /// <exception cref="MediaException">The file is not a readable image.</exception>
    Task<VideoFrames> ReadAsync(string path, CancellationToken cancellationToken = default);

    /// <summary>Encodes an image, replacing any existing file. The format is JPEG for the extensions <c>.jpg</c> and <c>.jpeg</c>, and PNG
    /// otherwise.</summary>
    /// <param name="image">A video of one frame.</param>
    /// <param name="path">The path of the file.</param>
    /// <param name="cancellationToken">Stops the encoder; no partial output is left behind.</param>
    /// <exception cref="ArgumentException">The video has more than one frame.</exception>
    /// <exception cref="MediaException">The encoder failed.</exception>
    Task WriteAsync(VideoFrames image, string path, CancellationToken cancellationToken = default);
}

/// <summary>The exception that is thrown when a video or image cannot be read or written. The message explains the cause and how to resolve
/// it.</summary>
public sealed class MediaException : IOException
{
    /// <summary>Initializes a new exception.</summary>
    /// <param name="message">The cause, and how to resolve it.</param>
    /// <param name="innerException">The underlying exception, if any.</param>
    public MediaException(string message, Exception? innerException = null)
        : base(message, innerException) { }
}
