using OpenSora.Training.Data;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Benchmarks;

/// <summary>A small world that is known completely: four shapes in six colours that move in eight directions, drawn at any size. What leaves on one
/// side comes
/// back on the other. A caption is three words, each a state of its own. Pixels serve as latents.</summary>
/// <param name="size">Pixels of a side.</param>
/// <param name="frames">Frames of a clip.</param>
/// <param name="clips">Clips in the set; each is a caption and a place to start.</param>
/// <param name="noise">Deviation of the noise on every pixel: what makes data cheap or fine.</param>
internal sealed class MovingShapes(int size, int frames, int clips = 20_000, double noise = 0) : ITrainingData
{
    public const int Words = Shapes + Colours + Directions;
    private const int Shapes = 4,
        Colours = 6,
        Directions = 8;
    private const double Radius = 0.25,
        Step = 1.0 / 12; // of a side; a frame
    private static readonly float[][] Rgb =
    [
        [1, -1, -1],
        [-1, 1, -1],
        [-1, -1, 1],
        [1, 1, -1],
        [1, -1, 1],
        [-1, 1, 1],
    ];

    private readonly SampleOrder _order = new(clips);

    public readonly record struct Caption(int Shape, int Colour, int Direction);

    public long Count => clips;

    public string Fingerprint => FormattableString.Invariant($"shapes {size}x{size}, {frames} frames, {clips} clips, noise {noise}");

    public TrainingBatch GetBatch(long number, int count, int seed)
    {
        var random = Randomness.Of(seed, number, 1);
        var pixels = new float[count * 3 * frames * size * size];
        var captions = new Caption[count];
        foreach (var (i, clip) in _order.Batch(number, count, seed).Index())
        {
            var own = Randomness.Of(17, clip);
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
        return new TrainingBatch(tensor(pixels, [count, 3, frames, size, size]), Encode(captions));
    }

    public static Caption Draw(Random random) => new(random.Next(Shapes), random.Next(Colours), random.Next(Directions));

    /// <summary>Captions as states <c>[batch, 3, Words]</c>.</summary>
    public static Tensor Encode(IReadOnlyList<Caption> captions)
    {
        var states = new float[captions.Count * 3 * Words];
        foreach (var (i, caption) in captions.Index())
        {
            states[(3 * i + 0) * Words + caption.Shape] = 1;
            states[(3 * i + 1) * Words + Shapes + caption.Colour] = 1;
            states[(3 * i + 2) * Words + Shapes + Colours + caption.Direction] = 1;
        }
        return tensor(states, [captions.Count, 3, Words]);
    }

    /// <summary>Root mean squared error of a video against the nearest clip of its caption, wherever that starts.</summary>
    /// <param name="video">In [-1, 1], <c>[3, frames, size, size]</c>.</param>
    /// <param name="caption">What was asked for.</param>
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
                        pixels[((c * frames + frame) * size + y) * size + x] = (float)(covered * (Rgb[caption.Colour][c] + 1) - 1);
                    }
                }
            }
        }
    }

    // To -0.5 .. 0.5: the world is a torus.
    private static double Wrapped(double distance) => distance - Math.Round(distance);

    // How far outside the shape a place is; negative inside.
    private static double Outside(int shape, double x, double y) =>
        shape switch
        {
            0 => Math.Sqrt(x * x + y * y) - Radius, // a disc
            1 => Math.Max(Math.Abs(x), Math.Abs(y)) - 0.85 * Radius, // a square
            2 => Math.Max(Math.Min(Math.Abs(x), Math.Abs(y)) - 0.3 * Radius, Math.Max(Math.Abs(x), Math.Abs(y)) - Radius), // a cross
            _ => Math.Abs(Math.Sqrt(x * x + y * y) - 0.8 * Radius) - 0.25 * Radius, // a ring
        };
}
