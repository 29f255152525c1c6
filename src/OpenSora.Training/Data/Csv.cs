using System.Globalization;
using CsvHelper;
using CsvHelper.Configuration;

namespace OpenSora.Training.Data;

/// <summary>Reads values that are separated by commas or another character (RFC 4180).</summary>
internal static class Csv
{
    /// <summary>Reads the fields of all records; blank lines are skipped. Quoted fields can contain separators, doubled quotation marks and line
    /// breaks.</summary>
    /// <param name="reader">The text.</param>
    /// <param name="separator">The character between fields.</param>
    /// <param name="isTrimmed">true to remove spaces around fields, outside quotation marks.</param>
    /// <exception cref="InvalidDataException">A record is malformed.</exception>
    public static IEnumerable<string[]> Records(TextReader reader, char separator = ',', bool isTrimmed = false)
    {
        using var parser = Parser(reader, separator, isTrimmed);
        while (parser.Read())
        {
            yield return parser.Record ?? [];
        }
    }

    /// <summary>Creates a parser of records, which leaves the reader open. A field longer than a number of characters (0 for any length) causes a
    /// <see cref="MaxFieldSizeException"/>.</summary>
    internal static CsvParser Parser(TextReader reader, char separator, bool isTrimmed, int longestField = 0)
    {
        var options = new CsvConfiguration(CultureInfo.InvariantCulture)
        {
            Delimiter = separator.ToString(),
            MaxFieldSize = longestField,
            TrimOptions = isTrimmed ? TrimOptions.Trim : TrimOptions.None,
            WhiteSpaceChars = separator == '\t' ? [' '] : [' ', '\t'],
            BadDataFound = bad => throw new InvalidDataException($"The record '{bad.RawRecord.Trim()}' is malformed: a quotation mark is misplaced."),
        };
        return new CsvParser(reader, options, leaveOpen: true);
    }
}
