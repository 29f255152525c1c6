namespace OpenSora.Media;

/// <summary>Specifies the output format of <see cref="VideoWriter"/>.</summary>
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

    /// <summary>One image: JPEG for the extensions <c>.jpg</c> and <c>.jpeg</c>, and PNG otherwise.</summary>
    Image,
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
