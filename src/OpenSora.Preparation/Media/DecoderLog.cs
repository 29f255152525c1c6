using System.Buffers.Text;
using System.Text;

namespace OpenSora.Preparation.Media;

/// <summary>Reads the log of ffmpeg while it decodes: the presentation times of the frames, which raw video does not contain, and errors.</summary>
internal sealed class DecoderLog
{
    /// <summary>Arguments for a log that this class can read.</summary>
    internal static readonly string[] Arguments = ["-hide_banner", "-nostats", "-v", "repeat+level+info"];

    /// <summary>The last filter of the chain, which logs every frame.</summary>
    internal const string Filter = "showinfo=checksum=0";

    private readonly Queue<double?> _times = [];
    private double _timeBase = double.NaN;
    private long _next;
    private bool _isComplete;

    /// <summary>Takes the presentation time of the next frame in seconds, and waits until it is logged; null for a frame without a time.</summary>
    /// <returns>False if the log ended, or the time was not logged within the longest time to wait.</returns>
    internal bool TryTake(TimeSpan wait, out double? time)
    {
        lock (_times)
        {
            while (!_times.TryDequeue(out time))
            {
                if (_isComplete || !Monitor.Wait(_times, wait))
                {
                    return false;
                }
            }

            return true;
        }
    }

    /// <summary>Gets the size of the frames, which is known when a time was taken.</summary>
    internal (int Width, int Height) Size { get; private set; }

    /// <summary>Reads a line of the log.</summary>
    /// <returns>The text of an error; null for a line that is not one.</returns>
    internal string? Read(ReadOnlySpan<byte> line)
    {
        if (!line.StartsWith("[Parsed_showinfo"u8))
        {
            return Error(line, "[error] "u8) ?? Error(line, "[fatal] "u8) ?? Error(line, "[panic] "u8);
        }

        // config in time_base: 1/30000, frame_rate: 30000/1001
        if (TryAfter(line, "config in time_base: "u8, out var rest))
        {
            _next = 0; // a new filter, because the size of the frames changes
            _timeBase =
                TryNumber(ref rest, out var over) && rest is [(byte)'/', ..] && TryNumber(rest[1..], out var under) && under > 0
                    ? (double)over / under
                    : double.NaN;
        }
        // n:   1 pts:   1001 pts_time:0.0333667 ... The time is rounded to six digits, so that it is useless after an hour; the stamp is exact.
        else if (TryAfter(line, "] n:"u8, out rest) && TryNumber(ref rest, out var number) && number == _next && rest.StartsWith(" pts:"u8))
        {
            double? time = TryNumber(rest[5..], out var stamp) && double.IsFinite(_timeBase) ? stamp * _timeBase : null;
            if (_next == 0 && Size == default && TryAfter(rest, " s:"u8, out rest) && TryNumber(ref rest, out var width))
            {
                Size = TryNumber(rest[1..], out var height) ? ((int)width, (int)height) : default;
            }

            _next++;
            Add(time);
        }

        return null;
    }

    /// <summary>Ends the times, so that no reader waits for one that will not come.</summary>
    internal void Complete()
    {
        lock (_times)
        {
            _isComplete = true;
            Monitor.Pulse(_times);
        }
    }

    private static string? Error(ReadOnlySpan<byte> line, ReadOnlySpan<byte> mark) =>
        TryAfter(line, mark, out var text) ? Encoding.UTF8.GetString(text) : null;

    private static bool TryAfter(ReadOnlySpan<byte> line, ReadOnlySpan<byte> mark, out ReadOnlySpan<byte> rest)
    {
        var at = line.IndexOf(mark);
        rest = at < 0 ? [] : line[(at + mark.Length)..];
        return at >= 0;
    }

    private static bool TryNumber(ReadOnlySpan<byte> text, out long number) => TryNumber(ref text, out number);

    // A number after spaces.
    private static bool TryNumber(ref ReadOnlySpan<byte> text, out long number)
    {
        var trimmed = text.TrimStart((byte)' ');
        var isNumber = Utf8Parser.TryParse(trimmed, out number, out var length);
        text = trimmed[length..];
        return isNumber;
    }

    private void Add(double? time)
    {
        lock (_times)
        {
            _times.Enqueue(time);
            Monitor.Pulse(_times);
        }
    }
}
