namespace OpenSora.Media;

/// <summary>What <see cref="IVideoWriter"/> writes.</summary>
public enum VideoFormat
{
    /// <summary>H.264 in MP4: yuv420p, BT.709, index at the front. An odd width or height is padded by repeating the last column or row.</summary>
    Mp4,

    /// <summary>An endless animation with a palette of its own.</summary>
    Gif,

    /// <summary>A folder of <c>frame_00001.png</c> and on. The folder must not exist, or be empty.</summary>
    PngSequence,
}

/// <summary>Encodes videos.</summary>
/// <remarks>Implementations hold no state and may be shared between threads. A file appears under its name when it is complete, or not at
/// all.</remarks>
public interface IVideoWriter
{
    /// <summary>Encodes a video to a file, whose folder is made where it is missing; an older file is replaced.</summary>
    /// <param name="frames">The video.</param>
    /// <param name="path">The file, or for <see cref="VideoFormat.PngSequence"/> the folder.</param>
    /// <param name="format">What to write.</param>
    /// <param name="cancellationToken">Stops the encoder; nothing is left then.</param>
    /// <exception cref="MediaException">The encoder failed (its message is included), or ffmpeg is missing.</exception>
    /// <exception cref="IOException">The file cannot be put in its place.</exception>
    Task WriteAsync(VideoFrames frames, string path, VideoFormat format = VideoFormat.Mp4, CancellationToken cancellationToken = default);
}

/// <summary>Reads and writes still pictures, as videos of one frame.</summary>
public interface IImageCodec
{
    /// <summary>Decodes a picture; a transparent background becomes whatever colour lies under it.</summary>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="MediaException">It cannot be read as a picture.</exception>
    Task<VideoFrames> ReadAsync(string path, CancellationToken cancellationToken = default);

    /// <summary>Encodes a picture as PNG, without loss, or by a <c>.jpg</c> ending as JPEG; an older file is replaced.</summary>
    /// <param name="image">A video of one frame.</param>
    /// <param name="path">The file.</param>
    /// <param name="cancellationToken">Stops the encoder; nothing is left then.</param>
    /// <exception cref="ArgumentException">The video has more frames than one.</exception>
    /// <exception cref="MediaException">The encoder failed.</exception>
    Task WriteAsync(VideoFrames image, string path, CancellationToken cancellationToken = default);
}

/// <summary>A video or picture could not be read or written. The message says why and what to do.</summary>
public sealed class MediaException : IOException
{
    /// <summary>Makes the exception.</summary>
    public MediaException(string message, Exception? innerException = null)
        : base(message, innerException) { }
}
