using System.Globalization;
using OpenSora.Preparation.Shots;

namespace OpenSora.Benchmarks.Shots;

/// <summary>Counts of found, missed and false boundaries.</summary>
internal readonly record struct Score(int Hits, int Misses, int False)
{
    internal double F1 => Hits == 0 ? 0 : 2.0 * Hits / ((2 * Hits) + Misses + False);

    public static Score operator +(Score a, Score b) => new(a.Hits + b.Hits, a.Misses + b.Misses, a.False + b.False);
}

/// <summary>Measures the accuracy of shot detectors against videos with known transitions.</summary>
internal static class ShotAccuracy
{
    // A boundary counts if it is in the transition or this close to it.
    private const int Tolerance = 2;

    internal static IReadOnlyDictionary<string, IShotDetector> Detectors { get; } =
        new Dictionary<string, IShotDetector>
        {
            ["content"] = new ContentDetector(),
            ["adaptive"] = new AdaptiveDetector(),
            ["threshold"] = new ThresholdDetector(),
            ["histogram"] = new HistogramDetector(),
            ["hash"] = new HashDetector(),
            ["default"] = new TransitionDetector(),
        };

    internal static Score Match(TrueVideo video, IEnumerable<int> found)
    {
        var truth = video.Events.Where(each => each.Kind is not "flash").ToList();
        var (hits, wrong) = (0, 0);
        foreach (var frame in found.Order())
        {
            var at = truth.FindIndex(each => frame >= each.Start - Tolerance && frame <= each.End + Tolerance);
            if (at < 0)
            {
                wrong++;
                continue;
            }

            hits++;
            truth.RemoveAt(at);
        }

        return new(hits, truth.Count, wrong);
    }

    internal static int[] Cuts(string path, IShotDetector detector)
    {
        var shots = new ShotDetection(detector).DetectAsync(path).GetAwaiter().GetResult().Shots;
        return [.. shots.Skip(1).Select(shot => shot.Frames.Start)];
    }

    /// <summary>Prints F1 of each detector for each group of videos, and that of another program where it is known.</summary>
    /// <param name="videos">The videos.</param>
    /// <param name="other">The boundaries that the other program found, by path and detector; null to leave it out.</param>
    internal static void Print(IReadOnlyList<TrueVideo> videos, IReadOnlyDictionary<(string Path, string Detector), int[]>? other)
    {
        var events = videos.SelectMany(video => video.Events).CountBy(each => each.Kind).OrderBy(each => each.Key, StringComparer.Ordinal);
        var counts = string.Join(", ", events.Select(each => $"{each.Value} {each.Key}"));
        Console.WriteLine($"{videos.Count} videos, {videos.Sum(video => video.Frames)} frames: {counts}\n");
        Console.WriteLine($"| detector | program | all | {string.Join(" | ", ShotVideos.Groups)} |");
        Console.WriteLine($"|---|---|---|{string.Concat(ShotVideos.Groups.Select(_ => "---|"))}");
        foreach (var (name, detector) in Detectors)
        {
            Row(name, "this library", video => Cuts(video.Path, detector));
            if (other is not null && name is not "default")
            {
                Row(name, "PySceneDetect", video => other[(video.Path, name)]);
            }
        }

        void Row(string name, string program, Func<TrueVideo, int[]> cuts)
        {
            var scores = videos.Select(video => (video.Group, Score: Match(video, cuts(video)))).ToArray();
            var groups = ShotVideos.Groups.Select(group =>
                Total(scores.Where(each => string.Equals(each.Group, group, StringComparison.Ordinal)).Select(each => each.Score))
            );
            var total = Total(scores.Select(each => each.Score));
            Console.WriteLine(
                $"| {name} | {program} | {Text(total)} ({total.Misses} missed, {total.False} false) | {string.Join(" | ", groups.Select(Text))} |"
            );
        }

        static Score Total(IEnumerable<Score> scores) => scores.Aggregate(default(Score), (a, b) => a + b);

        static string Text(Score score) => score.F1.ToString("P1", CultureInfo.InvariantCulture);
    }
}
