using System.Text;

namespace OpenSora.Training.Data;

/// <summary>Reads text files of users. Text is UTF-8, or UTF-16 or UTF-32 with a byte order mark; anything else is an error, so that no character is
/// replaced silently.</summary>
internal static class TextFile
{
    private const char Invalid = '\uFFFF'; // not a character, so that valid text does not contain it

    /// <summary>Reads a text file.</summary>
    /// <param name="path">The path of the file.</param>
    /// <param name="read">Reads the text.</param>
    /// <exception cref="InvalidDataException">The file is not text in a supported encoding. The message contains the line.</exception>
    public static T Read<T>(string path, Func<TextReader, T> read)
    {
        using var stream = Open(path);
        var encoding = EncodingOf(stream);
        try
        {
            using var reader = new StreamReader(stream, encoding, detectEncodingFromByteOrderMarks: false, leaveOpen: true);
            return read(reader);
        }
        catch (DecoderFallbackException e)
        {
            stream.Position = 0;
            throw NotText(path, stream, encoding, e);
        }
    }

    /// <summary>Reads the lines of a text file that are not blank.</summary>
    public static string[] Lines(string path) =>
        Read(path, reader => reader.ReadToEnd().Split('\n', '\r').Where(line => !string.IsNullOrWhiteSpace(line)).Select(Checked).ToArray());

    /// <summary>Verifies that a part of the text has no null characters, which UTF-16 without a byte order mark contains.</summary>
    /// <exception cref="DecoderFallbackException">The text has a null character.</exception>
    public static string Checked(string text) => text.Contains('\0', StringComparison.Ordinal) ? throw new DecoderFallbackException() : text;

    /// <summary>Opens a text file. A pipe is read into memory, because a stream is read more than once.</summary>
    internal static Stream Open(string path)
    {
        var file = File.OpenRead(path);
        if (file.CanSeek)
        {
            return file;
        }

        using (file)
        {
            var copy = new MemoryStream();
            file.CopyTo(copy);
            copy.Position = 0;
            return copy;
        }
    }

    /// <summary>Determines the encoding from the first bytes, and returns to the beginning of the stream.</summary>
    internal static Encoding EncodingOf(Stream stream)
    {
        Span<byte> start = stackalloc byte[4];
        start = start[..stream.ReadAtLeast(start, start.Length, throwOnEndOfStream: false)];
        stream.Position = 0;
        return start switch
        {
            [0xFF, 0xFE, 0, 0] => new UTF32Encoding(bigEndian: false, byteOrderMark: true, throwOnInvalidCharacters: true),
            [0, 0, 0xFE, 0xFF] => new UTF32Encoding(bigEndian: true, byteOrderMark: true, throwOnInvalidCharacters: true),
            [0xFF, 0xFE, ..] => new UnicodeEncoding(bigEndian: false, byteOrderMark: true, throwOnInvalidBytes: true),
            [0xFE, 0xFF, ..] => new UnicodeEncoding(bigEndian: true, byteOrderMark: true, throwOnInvalidBytes: true),
            _ => new UTF8Encoding(encoderShouldEmitUTF8Identifier: true, throwOnInvalidBytes: true),
        };
    }

    /// <summary>Creates the exception for text that is not valid in its encoding.</summary>
    internal static InvalidDataException NotText(string path, Stream stream, Encoding strict, DecoderFallbackException inner)
    {
        const int shown = 80;
        var encoding = (Encoding)strict.Clone();
        encoding.DecoderFallback = new DecoderReplacementFallback($"{Invalid}");
        using var reader = new StreamReader(stream, encoding, detectEncodingFromByteOrderMarks: false);
        var (number, isNull, isFound, line) = (1, false, false, new StringBuilder());
        while (reader.Read() is >= 0 and var next)
        {
            if (next == '\n')
            {
                if (isFound)
                {
                    break;
                }

                number++;
                line.Clear();
                continue;
            }

            (isFound, isNull) = (isFound || next is Invalid or 0, isNull || next is 0);
            if (line.Length < shown)
            {
                line.Append(next is Invalid or 0 ? '?' : (char)next);
            }
        }

        var reason = isNull ? "null characters" : "bytes that are not a character";
        return new InvalidDataException(
            $"Line {number} of '{path}' has {reason} in {strict.WebName.ToUpperInvariant()}, shown as ?: {line.ToString().TrimEnd('\r')}. "
                + "Save the file as UTF-8, or as UTF-16 with a byte order mark.",
            inner
        );
    }
}
