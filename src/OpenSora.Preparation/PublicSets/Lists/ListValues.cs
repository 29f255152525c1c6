using System.Globalization;
using System.Text;

namespace OpenSora.Preparation.PublicSets.Lists;

/// <summary>Parses the values of published lists, and makes their errors.</summary>
internal static class ListValues
{
    /// <summary>Creates the error for an invalid line.</summary>
    internal static PreparationException Error(string file, long line, string message, Exception? cause = null) =>
        new("invalid list", $"{file}, line {line.ToString(CultureInfo.InvariantCulture)}: {message}", cause);

    /// <summary>Parses a time such as <c>0:01:30.250</c>, <c>90.25</c> or <c>00:00:07.107</c>; null if the text is not a time.</summary>
    internal static TimeSpan? Time(string text)
    {
        var parts = text.Trim().Split(':');
        if (parts.Length > 3)
        {
            return null;
        }

        var total = 0m;
        for (var i = 0; i < parts.Length; i++)
        {
            var isLast = i == parts.Length - 1;
            if (
                !decimal.TryParse(parts[i], isLast ? NumberStyles.AllowDecimalPoint : NumberStyles.None, CultureInfo.InvariantCulture, out var part)
                || (i > 0 && part >= 60)
                || part > 1_000_000
            )
            {
                return null;
            }

            total = (total * 60) + part;
        }

        return new TimeSpan((long)decimal.Round(total * TimeSpan.TicksPerSecond));
    }

    /// <summary>Splits a name in camel case into words: "ApplyEyeMakeup" to "Apply Eye Makeup".</summary>
    internal static string Words(string name)
    {
        var words = new StringBuilder();
        for (var i = 0; i < name.Length; i++)
        {
            if (i > 0 && char.IsUpper(name[i]) && !(char.IsUpper(name[i - 1]) && (i + 1 == name.Length || char.IsUpper(name[i + 1]))))
            {
                words.Append(' ');
            }

            words.Append(name[i]);
        }

        return words.ToString();
    }

    /// <summary>Parses a Python list of strings, numbers and lists, as pandas writes it to CSV files. JSON lists are accepted too.</summary>
    /// <returns>Strings (numbers as they are written) and lists.</returns>
    /// <exception cref="FormatException">The text is not a list.</exception>
    internal static List<object> PythonList(string text)
    {
        var position = 0;
        SkipSpace();
        var list = position < text.Length && text[position] is '[' or '(' ? List(0) : throw Unexpected("a list");
        SkipSpace();
        return position == text.Length ? list : throw Unexpected("the end");

        List<object> List(int depth)
        {
            if (depth > 8)
            {
                throw Unexpected("a list that is not nested so deeply");
            }

            var close = text[position++] == '[' ? ']' : ')';
            List<object> items = [];
            while (true)
            {
                SkipSpace();
                if (Peek() == close)
                {
                    position++;
                    return items;
                }

                items.Add(
                    Peek() switch
                    {
                        '[' or '(' => List(depth + 1),
                        '\'' or '"' => Quoted(),
                        _ => Bare(),
                    }
                );
                SkipSpace();
                if (Peek() == ',')
                {
                    position++;
                }
                else if (Peek() != close)
                {
                    throw Unexpected($"',' or '{close}'");
                }
            }
        }

        string Bare()
        {
            var start = position;
            while (position < text.Length && (char.IsAsciiLetterOrDigit(text[position]) || text[position] is '.' or '-' or '+' or '_'))
            {
                position++;
            }

            return position > start ? text[start..position] : throw Unexpected("a value");
        }

        string Quoted()
        {
            var quote = text[position++];
            var value = new StringBuilder();
            while (Peek() is var next && next != quote)
            {
                position++;
                value.Append(next != '\\' ? next.ToString() : Escaped());
            }

            position++;
            return value.ToString();
        }

        string Escaped()
        {
            var kind = Peek();
            position++;
            return kind switch
            {
                'n' => "\n",
                'r' => "\r",
                't' => "\t",
                'x' => Code(2),
                'u' => Code(4),
                'U' => Code(8),
                '\\' or '\'' or '"' or '/' => kind.ToString(),
                _ => "\\" + kind, // as Python does
            };
        }

        string Code(int digits)
        {
            if (
                position + digits > text.Length
                || !int.TryParse(text.AsSpan(position, digits), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var code)
                || code is < 0 or > 0x10FFFF
            )
            {
                throw Unexpected($"{digits} hexadecimal digits");
            }

            position += digits;
            return code < 0x10000 ? ((char)code).ToString() : char.ConvertFromUtf32(code);
        }

        char Peek() => position < text.Length ? text[position] : throw Unexpected("more text");

        void SkipSpace()
        {
            while (position < text.Length && char.IsWhiteSpace(text[position]))
            {
                position++;
            }
        }

        FormatException Unexpected(string expected) =>
            new($"expected {expected} at character {position + 1} of '{(text.Length > 60 ? text[..60] + "..." : text)}'.");
    }
}
