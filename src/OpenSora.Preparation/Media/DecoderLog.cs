using System.Globalization;
using System.Threading.Channels;

namespace OpenSora.Preparation.Media;

/// <summary>Reads the log of ffmpeg while it decodes: the presentation times of the frames, which raw video does not contain, and errors.</summary>
internal sealed class DecoderLog
{
    /// <summary>Arguments for a log that this class can read.</summary>
    internal static readonly string[] Arguments = ["-hide_banner", "-nostats", "-v", "repeat+level+info"];

    /// <summary>The last filter of the chain, which logs every frame.</summary>
    internal const string Filter = "showinfo=checksum=0";

    private readonly Channel<double?> _times = Channel.CreateUnbounded<double?>(new() { SingleReader = true, SingleWriter = true });
    private double _timeBase = double.NaN;
    private long _next;

    /// <summary>Gets the presentation times of the frames in seconds; null for a frame without a time.</summary>
    internal ChannelReader<double?> Times => _times.Reader;

    /// <summary>Reads a line of the log.</summary>
    /// <returns>The text of an error; null for a line that is not one.</returns>
    internal string? Read(string line)
    {
        if (!line.StartsWith("[Parsed_showinfo", StringComparison.Ordinal))
        {
            return After(line, "[error] ") ?? After(line, "[fatal] ") ?? After(line, "[panic] ");
        }

        // config in time_base: 1/30000, frame_rate: 30000/1001
        if (After(line, "config in time_base: ") is { } config)
        {
            var ratio = config.Split(',')[0].Split('/');
            _next = 0; // a new filter, because the size of the frames changes
            _timeBase = Parse(ratio[0]) is { } over && Parse(ratio[^1]) is { } under && under > 0 ? over / under : double.NaN;
        }
        // n:   1 pts:   1001 pts_time:0.0333667 ... The time is rounded to six digits, so that it is useless after an hour; the stamp is exact.
        else if (After(line, "] n:") is { } text && text.IndexOf(" pts:", StringComparison.Ordinal) is var at and > 0)
        {
            var end = text.IndexOf(" pts_time:", at, StringComparison.Ordinal);
            if (end > 0 && Parse(text[..at]) == _next)
            {
                _next++;
                var time = Parse(text[(at + 5)..end]) * _timeBase;
                _times.Writer.TryWrite(time is { } seconds && double.IsFinite(seconds) ? seconds : null);
            }
        }

        return null;
    }

    /// <summary>Ends the times, so that no reader waits for one that will not come.</summary>
    internal void Complete() => _times.Writer.TryComplete();

    private static string? After(string line, string mark)
    {
        var at = line.IndexOf(mark, StringComparison.Ordinal);
        return at < 0 ? null : line[(at + mark.Length)..];
    }

    private static double? Parse(string text) =>
        double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out var number) ? number : null;
}
