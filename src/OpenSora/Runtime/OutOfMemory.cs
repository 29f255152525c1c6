using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;

namespace OpenSora.Runtime;

/// <summary>Recognizes failed memory allocations of libtorch, which TorchSharp reports as an <see cref="ExternalException"/> with a
/// message.</summary>
internal static partial class OutOfMemory
{
    private static readonly string[] Messages =
    [
        "not enough memory", // the CPU allocator on Windows
        "can't allocate memory", // the CPU allocator on Linux and macOS
        "out of memory", // CUDA and its libraries
        "ALLOC_FAILED", // cuBLAS and cuDNN
        "bad_alloc",
    ];

    /// <summary>Determines whether an exception, or one that caused it, is a failed memory allocation.</summary>
    /// <param name="exception">The exception. An <see cref="InsufficientMemoryException"/>, which explains one already, does not count.</param>
    public static bool Is(Exception? exception) =>
        exception switch
        {
            null or InsufficientMemoryException => false,
            OutOfMemoryException => true,
            ExternalException => Messages.Any(text => exception.Message.Contains(text, StringComparison.OrdinalIgnoreCase)),
            _ => Is(exception.InnerException),
        };

    /// <summary>Gets the amount that could not be allocated, such as <c>4.0 GB</c> or <c>20.00 GiB</c>; null if the message does not contain
    /// it.</summary>
    /// <param name="exception">The failed allocation, or an exception that it caused.</param>
    public static string? Requested(Exception exception)
    {
        for (var each = exception; each is not null; each = each.InnerException)
        {
            var match = Amount().Match(each.Message);
            if (match.Success)
            {
                var (count, unit) = (match.Groups["count"].Value, match.Groups["unit"].Value);
                return string.Equals(unit, "bytes", StringComparison.OrdinalIgnoreCase)
                    ? Sizes.Text(double.Parse(count, CultureInfo.InvariantCulture))
                    : $"{count} {unit}";
            }
        }

        return null;
    }

    /// <summary>Creates the exception for a request that needs more memory than there is.</summary>
    /// <param name="message">What ran out of memory, and what to do.</param>
    /// <param name="cause">The failed allocation; null for a check before the work.</param>
    /// <returns>An <see cref="InsufficientMemoryException"/>.</returns>
    public static SystemException Insufficient(string message, Exception? cause = null) => new InsufficientMemoryException(message, cause);

    [GeneratedRegex(
        @"tried to allocate (?<count>[0-9]+(\.[0-9]+)?) (?<unit>bytes|[KMGT]iB)",
        RegexOptions.IgnoreCase | RegexOptions.ExplicitCapture | RegexOptions.NonBacktracking
    )]
    private static partial Regex Amount();
}
