using OpenSora.Training.Data;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Benchmarks;

/// <summary>A synthetic data set that is known completely: four shapes in six colors that move in eight directions, drawn at any size. Shapes that
/// leave on one side reappear on the opposite side. A caption has three words, each with its own one-hot embedding. Pixels serve as
/// latents.</summary>
/// <param name="size">The width and height in pixels.</param>
/// <param name="frames">The number of frames per clip.</param>
/// <param name="clips">The number of clips in the data set. A clip is defined by its caption and its starting position.</param>
/// <param name="noise">The standard deviation of the noise added to every pixel; low-quality data has more noise.</param>
internal sealed class MovingShapes(int size, int frames, int clips = 20_000, double noise = 0) : ITrainingData
{
    public const int Words = Shapes + Colors + Directions;
    private const int Shapes = 4,
        Colors = 6,
        Directions = 8;
    private const double Radius = 0.25,
        Step = 1.0 / 12; // fraction of the width, per frame
    private static readonly float[][] Rgb =
    [
        [1, -1, -1],
        [-1, 1, -1],
        [-1, -1, 1],
        [1, 1, -1],
        [1, -1, 1],
        [-1, 1, 1],
    ];

    public readonly record struct Caption(int Shape, int Color, int Direction);

    public int Frames => frames;

    public int Size => size;

    public long Count => clips;

    public string Fingerprint => FormattableString.Invariant($"shapes {size}x{size}, {frames} frames, {clips} clips, noise {noise}");

    public ValueTask<TrainingBatch> GetBatchAsync(long number, int count, int seed, CancellationToken cancellationToken = default)
    {
        var random = TrainingData.RandomFor(seed, number, 1);
        var pixels = new float[count * 3 * frames * size * size];
        var captions = new Caption[count];
        foreach (var (i, clip) in TrainingData.ShuffledBatch(clips, number, count, seed).Index())
        {
            var own = TrainingData.RandomFor(17, clip);
            captions[i] = Draw(own);
            Render(pixels.AsSpan(i * 3 * frames * size * size), captions[i], own.NextDouble(), own.NextDouble());
        }
        if (noise > 0)
        {
            for (var i = 0; i < pixels.Length; i++)
            {
                pixels[i] += (float)(noise * Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble()));
            }
        }
        return ValueTask.FromResult(new TrainingBatch(tensor(pixels, [count, 3, frames, size, size]), Encode(captions)));
    }

    public static Caption Draw(Random random) => new(random.Next(Shapes), random.Next(Colors), random.Next(Directions));

    /// <summary>Encodes captions as one-hot embeddings <c>[batch, 3, Words]</c>.</summary>
    public static Tensor Encode(IReadOnlyList<Caption> captions)
    {
        var states = new float[captions.Count * 3 * Words];
        foreach (var (i, caption) in captions.Index())
        {
            states[(3 * i + 0) * Words + caption.Shape] = 1;
            states[(3 * i + 1) * Words + Shapes + caption.Color] = 1;
            states[(3 * i + 2) * Words + Shapes + Colors + caption.Direction] = 1;
        }
        return tensor(states, [captions.Count, 3, Words]);
    }

    /// <summary>Computes the root mean squared error between a video and the nearest clip with the same caption, over all starting
    /// positions.</summary>
    /// <param name="video">The video <c>[3, frames, size, size]</c>, with values in [-1, 1].</param>
    /// <param name="caption">The caption that the video was generated from.</param>
    public double DistanceToNearest(Tensor video, Caption caption)
    {
        const int places = 24;
        var shown = video.to(ScalarType.Float32).cpu().contiguous().data<float>().ToArray();
        var best = double.MaxValue;
        var clip = new float[shown.Length];
        for (var start = 0; start < places * places; start++)
        {
            Render(clip, caption, start / places / (double)places, start % places / (double)places);
            var sum = 0.0;
            for (var i = 0; i < clip.Length && sum < best; i++)
            {
                sum += (clip[i] - shown[i]) * (clip[i] - shown[i]);
            }

            best = Math.Min(best, sum);
        }
        return Math.Sqrt(best / shown.Length);
    }

    private void Render(Span<float> pixels, Caption caption, double startX, double startY)
    {
        var angle = 2 * Math.PI * caption.Direction / Directions;
        for (var frame = 0; frame < frames; frame++)
        {
            var (centreX, centreY) = (startX + Step * frame * Math.Cos(angle), startY + Step * frame * Math.Sin(angle));
            for (var y = 0; y < size; y++)
            {
                for (var x = 0; x < size; x++)
                {
                    var covered = Math.Clamp(
                        0.5 - size * Outside(caption.Shape, Wrapped((x + 0.5) / size - centreX), Wrapped((y + 0.5) / size - centreY)),
                        0,
                        1
                    );
                    for (var c = 0; c < 3; c++)
                    {
                        pixels[((c * frames + frame) * size + y) * size + x] = (float)(covered * (Rgb[caption.Color][c] + 1) - 1);
                    }
                }
            }
        }
    }

    // Wraps a distance to [-0.5, 0.5], because the scene is a torus.
    private static double Wrapped(double distance) => distance - Math.Round(distance);

    // The distance of a point from the shape; negative inside the shape.
    private static double Outside(int shape, double x, double y) =>
        shape switch
        {
            0 => Math.Sqrt(x * x + y * y) - Radius, // a disk
            1 => Math.Max(Math.Abs(x), Math.Abs(y)) - 0.85 * Radius, // a square
            2 => Math.Max(Math.Min(Math.Abs(x), Math.Abs(y)) - 0.3 * Radius, Math.Max(Math.Abs(x), Math.Abs(y)) - Radius), // a cross
            _ => Math.Abs(Math.Sqrt(x * x + y * y) - 0.8 * Radius) - 0.25 * Radius, // a ring
        };
}
