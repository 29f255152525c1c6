using System.Numerics.Tensors;

namespace OpenSora.Preparation.Scores;

/// <summary>Prepares frames as inputs of models.</summary>
internal static class FrameInput
{
    /// <summary>Scales a frame to the input of a model, and normalizes it.</summary>
    /// <param name="frames">The frames of a clip.</param>
    /// <param name="index">The index of the frame.</param>
    /// <param name="options">The size and the normalization.</param>
    /// <param name="target">Receives the pixels in the layout of the options.</param>
    internal static void Prepare(ClipFrames frames, int index, OnnxFrameOptions options, Span<float> target)
    {
        var (width, height) = (options.Width, options.Height);
        double scaleX = (double)frames.Width / width,
            scaleY = (double)frames.Height / height;
        if (options.Fit == FrameFit.Crop)
        {
            scaleX = scaleY = Math.Min(scaleX, scaleY);
        }

        var columns = Taps(frames.Width, width, scaleX);
        var rows = Taps(frames.Height, height, scaleY);
        var rgb = frames.Rgb(index);

        // Rows first, whole lines at a time; then columns of the few lines that are left.
        var line = new float[frames.Width * 3];
        var source = new float[frames.Width * 3];
        for (var y = 0; y < height; y++)
        {
            Array.Clear(line);
            for (var tap = 0; tap < rows[y].Weights.Length; tap++)
            {
                TensorPrimitives.ConvertChecked<byte, float>(rgb.Slice((rows[y].First + tap) * line.Length, line.Length), source);
                TensorPrimitives.MultiplyAdd<float>(source, rows[y].Weights[tap], line, line);
            }

            for (var x = 0; x < width; x++)
            {
                var (first, weights) = columns[x];
                for (var channel = 0; channel < 3; channel++)
                {
                    var sum = 0f;
                    for (var tap = 0; tap < weights.Length; tap++)
                    {
                        sum += weights[tap] * line[(3 * (first + tap)) + channel];
                    }

                    var value = ((sum / 255) - options.Mean[channel]) / options.StandardDeviation[channel];
                    var place = options.BlueFirst ? 2 - channel : channel;
                    target[options.ChannelsLast ? (((y * width) + x) * 3) + place : (((place * height) + y) * width) + x] = value;
                }
            }
        }
    }

    // For each target pixel, the source pixels that it consists of: a triangle about its center that is as wide as the reduction needs
    // (antialiasing).
    private static (int First, float[] Weights)[] Taps(int source, int target, double scale)
    {
        var offset = (source - (target * scale)) / 2;
        var support = Math.Max(1, scale);
        return
        [
            .. Enumerable
                .Range(0, target)
                .Select(i =>
                {
                    var center = offset + ((i + 0.5) * scale);
                    var first = Math.Clamp((int)Math.Floor(center - support + 0.5), 0, source - 1);
                    var end = Math.Clamp((int)Math.Floor(center + support + 0.5), first + 1, source);
                    var weights = Enumerable.Range(first, end - first).Select(x => Math.Max(0, 1 - (Math.Abs(x + 0.5 - center) / support))).ToArray();
                    var sum = weights.Sum();
                    return (first, sum > 0 ? [.. weights.Select(each => (float)(each / sum))] : new[] { 1f });
                }),
        ];
    }
}
