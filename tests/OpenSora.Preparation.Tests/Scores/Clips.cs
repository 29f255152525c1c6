using OpenSora.Preparation.Media;
using OpenSora.Preparation.Scores;

namespace OpenSora.Preparation.Tests.Scores;

/// <summary>Clips in memory and files with known content.</summary>
internal static class Clips
{
    internal const int Width = 228;
    internal const int Height = 128;

    /// <summary>A smooth random texture: a sum of waves whose phases depend on the seed.</summary>
    internal static Func<double, double, double> Texture(int seed)
    {
        var random = new Random(seed);
        var waves = Enumerable
            .Range(0, 24)
            .Select(_ =>
            {
                var (angle, length) = (random.NextDouble() * Math.PI, 8 + (random.NextDouble() * 60));
                var k = 2 * Math.PI / length;
                return (X: k * Math.Cos(angle), Y: k * Math.Sin(angle), Phase: random.NextDouble() * 2 * Math.PI);
            })
            .ToArray();
        return (x, y) =>
        {
            var sum = 0.0;
            foreach (var wave in waves)
            {
                sum += Math.Sin((wave.X * x) + (wave.Y * y) + wave.Phase);
            }

            return 128 + (11 * sum);
        };
    }

    /// <summary>Frames whose gray pixels are a function of the frame and the position about the center of the image.</summary>
    internal static ClipFrames Make(
        int count,
        Func<int, double, double, double> gray,
        double framesPerSecond = 10,
        int width = Width,
        int height = Height,
        string? caption = null
    )
    {
        var frames = Enumerable
            .Range(0, count)
            .Select(frame =>
            {
                var rgb = new byte[width * height * 3];
                for (var y = 0; y < height; y++)
                {
                    for (var x = 0; x < width; x++)
                    {
                        var value = (byte)Math.Clamp(Math.Round(gray(frame, x - ((width - 1) / 2.0), y - ((height - 1) / 2.0))), 0, 255);
                        rgb.AsSpan(((y * width) + x) * 3, 3).Fill(value);
                    }
                }

                return rgb;
            })
            .ToArray();
        return new(Info(width, height, framesPerSecond), width, height, framesPerSecond, frames) { Caption = caption };
    }

    internal static SourceInfo Info(int width, int height, double framesPerSecond = 10) =>
        new()
        {
            Path = "memory",
            Width = width,
            Height = height,
            FramesPerSecond = framesPerSecond,
        };

    /// <summary>Computes the standard scores that contain some columns.</summary>
    internal static Task<IReadOnlyDictionary<string, ScoreValue>> ScoreAsync(ClipFrames frames, params string[] columns) =>
        new ClipScorer(StandardScores.Create(columns)).ScoreAsync(frames, TestContext.Current.CancellationToken);

    internal static Task<IReadOnlyDictionary<string, ScoreValue>> ScoreAsync(string path, params string[] columns) =>
        new ClipScorer(StandardScores.Create(columns)).ScoreAsync(path, cancellationToken: TestContext.Current.CancellationToken);
}
