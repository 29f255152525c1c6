using OpenSora.Models;
using OpenSora.Training.Data;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Samples;

/// <summary>Synthetic training data: squares in four colors move in four directions. A caption consists of two words, encoded as one one-hot state
/// each.</summary>
internal sealed class MovingSquares(int frames) : ITrainingData
{
    public const int Frames = 6;
    public const int Size = 8;
    public const int Words = 8;
    private const int Side = 3;

    private static readonly float[][] Colors =
    [
        [1, -1, -1],
        [-1, 1, -1],
        [-1, -1, 1],
        [1, 1, -1],
    ]; // red, green, blue, yellow
    private static readonly (int X, int Y)[] Directions = [(1, 0), (-1, 0), (0, 1), (0, -1)]; // right, left, down, up

    public long Count => Colors.Length * Directions.Length * Size * Size;

    public string Fingerprint => $"squares, {frames} frames";

    /// <summary>Creates a batch. It depends only on its number and the seed, so a run can be resumed at any step.</summary>
    public ValueTask<TrainingBatch> GetBatchAsync(long number, int size, int seed, CancellationToken cancellationToken = default)
    {
        var random = TrainingData.RandomFor(seed, number);
        var captions = new (int Color, int Direction)[size];
        var pixels = new float[size * 3 * frames * Size * Size];
        Array.Fill(pixels, -1);
        for (var i = 0; i < size; i++)
        {
            var (color, direction, x, y) = (random.Next(Colors.Length), random.Next(Directions.Length), random.Next(Size), random.Next(Size));
            captions[i] = (color, direction);
            for (var frame = 0; frame < frames; frame++)
            {
                Draw(
                    pixels.AsSpan(i * 3 * frames * Size * Size),
                    frame,
                    Colors[color],
                    x + frame * Directions[direction].X,
                    y + frame * Directions[direction].Y
                );
            }
        }
        return ValueTask.FromResult(new TrainingBatch(tensor(pixels, [size, 3, frames, Size, Size]), Encode(captions)));
    }

    /// <summary>Encodes captions as one-hot states, <c>[batch, 2, Words]</c>.</summary>
    public static Tensor Encode(IReadOnlyList<(int Color, int Direction)> captions)
    {
        var states = new float[captions.Count * 2 * Words];
        for (var i = 0; i < captions.Count; i++)
        {
            states[i * 2 * Words + captions[i].Color] = 1;
            states[(i * 2 + 1) * Words + Colors.Length + captions[i].Direction] = 1;
        }
        return tensor(states, [captions.Count, 2, Words]);
    }

    // The square wraps around at the edges.
    private void Draw(Span<float> video, int frame, float[] color, int left, int top)
    {
        for (var dy = 0; dy < Side; dy++)
        {
            for (var dx = 0; dx < Side; dx++)
            {
                for (var c = 0; c < 3; c++)
                {
                    video[((c * frames + frame) * Size + (top + dy + Size) % Size) * Size + (left + dx + Size) % Size] = color[c];
                }
            }
        }
    }
}

/// <summary>Encodes captions such as "red right" for the model of this sample.</summary>
internal sealed class SquareCaptions : ITextEncoder
{
    private static readonly string[] Colors = ["red", "green", "blue", "yellow"];
    private static readonly string[] Directions = ["right", "left", "down", "up"];

    public int Width => MovingSquares.Words;

    public int MaxTokens => 2;

    public TextStates Encode(IReadOnlyList<string> prompts)
    {
        var captions = prompts.Select(prompt => prompt.Split(' ')).Select(words => (Find(Colors, words[0]), Find(Directions, words[^1])));
        return new TextStates(MovingSquares.Encode([.. captions]), ones([prompts.Count, 2], ScalarType.Bool));
    }

    public void Dispose() { }

    private static int Find(string[] words, string word) =>
        Array.IndexOf(words, word) is >= 0 and var index
            ? index
            : throw new ArgumentException($"'{word}' is unknown. Expected one of: {string.Join(", ", words)}.", nameof(word));
}
