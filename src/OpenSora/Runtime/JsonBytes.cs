using System.Text;
using System.Text.Json;

namespace OpenSora.Runtime;

/// <summary>Reads JSON files of users. Editors and other programs write them with a byte order mark or in UTF-16; System.Text.Json expects UTF-8
/// without a byte order mark.</summary>
internal static class JsonBytes
{
    /// <summary>Reads a file as UTF-8 without a byte order mark. Text in UTF-16 or UTF-32 is converted.</summary>
    /// <exception cref="JsonException">The text is not valid in the encoding that it begins with.</exception>
    public static byte[] Read(string path) => Normalize(File.ReadAllBytes(path));

    /// <summary>Converts the bytes of a JSON text to UTF-8 without a byte order mark.</summary>
    /// <exception cref="JsonException">The text is not valid in the encoding that it begins with.</exception>
    internal static byte[] Normalize(byte[] bytes)
    {
        // The first two characters of a JSON text are ASCII (RFC 4627, section 3), so the positions of zeros show the encoding.
        Encoding? encoding = bytes switch
        {
            [0xEF, 0xBB, 0xBF, ..] => null,
            [0xFF, 0xFE, 0, 0, ..] or [not 0, 0, 0, 0, ..] => new UTF32Encoding(
                bigEndian: false,
                byteOrderMark: true,
                throwOnInvalidCharacters: true
            ),
            [0, 0, 0xFE, 0xFF, ..] or [0, 0, 0, not 0, ..] => new UTF32Encoding(bigEndian: true, byteOrderMark: true, throwOnInvalidCharacters: true),
            [0xFF, 0xFE, ..] or [not 0, 0, ..] => new UnicodeEncoding(bigEndian: false, byteOrderMark: true, throwOnInvalidBytes: true),
            [0xFE, 0xFF, ..] or [0, not 0, ..] => new UnicodeEncoding(bigEndian: true, byteOrderMark: true, throwOnInvalidBytes: true),
            _ => null,
        };
        if (encoding is null)
        {
            return bytes is [0xEF, 0xBB, 0xBF, .. var rest] ? rest : bytes;
        }

        try
        {
            var text = encoding.GetString(bytes);
            return Encoding.UTF8.GetBytes(text is ['\uFEFF', ..] ? text[1..] : text);
        }
        catch (DecoderFallbackException exception)
        {
            throw new JsonException(
                $"The text begins like {encoding.WebName}, but is not valid in this encoding. Save the file as UTF-8.",
                exception
            );
        }
    }
}
