using System.Diagnostics;

namespace OpenSora.Benchmarks;

internal static class Timing
{
    /// <summary>Measures the median time of several runs, after one warm-up run that is not counted.</summary>
    public static TimeSpan Median(int runs, Action action)
    {
        action();
        var times = new long[runs];
        for (var i = 0; i < runs; i++)
        {
            var start = Stopwatch.GetTimestamp();
            action();
            times[i] = Stopwatch.GetTimestamp() - start;
        }

        Array.Sort(times);
        return Stopwatch.GetElapsedTime(0, times[runs / 2]);
    }
}
