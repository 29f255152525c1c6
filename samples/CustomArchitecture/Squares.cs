using OpenSora.Training.Data;
using static TorchSharp.torch;

namespace OpenSora.Samples;

/// <summary>Synthetic training data: a square in one of four colors moves in one of four directions.</summary>
internal sealed class Squares : ITrainingData
{
    public const int Frames = 6;
    public const int Size = 8;
    private const int Side = 3;

    private static readonly (string Name, float[] Rgb)[] Colors =
    [
        ("red", [1, -1, -1]),
        ("green", [-1, 1, -1]),
        ("blue", [-1, -1, 1]),
        ("yellow", [1, 1, -1]),
    ];
    private static readonly (string Name, int X, int Y)[] Directions = [("right", 1, 0), ("left", -1, 0), ("down", 0, 1), ("up", 0, -1)];

    /// <summary>Gets the names of the classes, such as "red right".</summary>
    public static IReadOnlyList<string> Names { get; } =
    [.. from color in Colors from direction in Directions select $"{color.Name} {direction.Name}"];

    public long Count => Names.Count * Size * Size;

    public string Fingerprint => "squares";

    /// <summary>Creates a batch. It depends only on its number and the seed, so a run can be resumed at any step.</summary>
    public ValueTask<TrainingBatch> GetBatchAsync(long number, int size, int seed, CancellationToken cancellationToken = default)
    {
        var random = TrainingData.RandomFor(seed, number);
        var (video, classes) = (new float[size, 3, Frames, Size, Size], new float[size]);
        for (var i = 0; i < size; i++)
        {
            var (kind, left, top) = (random.Next(Names.Count), random.Next(Size), random.Next(Size));
            classes[i] = kind;
            var (rgb, (_, dx, dy)) = (Colors[kind / Directions.Length].Rgb, Directions[kind % Directions.Length]);
            for (var channel = 0; channel < 3; channel++)
            {
                for (var frame = 0; frame < Frames; frame++)
                {
                    for (var y = 0; y < Size; y++)
                    {
                        for (var x = 0; x < Size; x++)
                        {
                            // The square wraps around at the edges.
                            var isInside = Wrap(x - left - frame * dx) < Side && Wrap(y - top - frame * dy) < Side;
                            video[i, channel, frame, y, x] = isInside ? rgb[channel] : -1;
                        }
                    }
                }
            }
        }
        return ValueTask.FromResult(new TrainingBatch(from_array(video), tensor(classes, [size, 1, 1])));

        static int Wrap(int coordinate) => (coordinate % Size + Size) % Size;
    }
}
