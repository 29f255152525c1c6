namespace OpenSora.Preparation.Scores;

/// <summary>The motion of a whole image: shifted, enlarged and rotated about its center.</summary>
/// <param name="Pan">The shift of the image to the right, in pixels.</param>
/// <param name="Tilt">The shift of the image downward, in pixels.</param>
/// <param name="Zoom">The enlargement; 0.01 is one percent.</param>
/// <param name="Roll">The clockwise rotation in radians.</param>
internal readonly record struct CameraMotion(float Pan, float Tilt, float Zoom, float Roll)
{
    private const int Iterations = 12;

    /// <summary>Returns the distance between the motion of a block and that of the whole image, in pixels.</summary>
    internal float Residual(BlockFlow block)
    {
        var (u, v) = At(block.X, block.Y);
        return MathF.Sqrt(((block.U - u) * (block.U - u)) + ((block.V - v) * (block.V - v)));
    }

    /// <summary>Returns the motion at a position.</summary>
    internal (float U, float V) At(float x, float y) => (Pan + (Zoom * x) - (Roll * y), Tilt + (Zoom * y) + (Roll * x));

    /// <summary>Finds the motion that most blocks share, by least squares with weights that ignore the blocks that move otherwise.</summary>
    internal static CameraMotion Fit(IReadOnlyList<BlockFlow> blocks)
    {
        var motion = new CameraMotion(Median(blocks.Select(each => each.U)), Median(blocks.Select(each => each.V)), 0, 0);
        for (var i = 0; i < Iterations; i++)
        {
            // Geman-McClure weights, with a scale from the residuals' median.
            var current = motion;
            var scale = MathF.Max(0.3f, 2 * Median(blocks.Select(current.Residual)));
            double w = 0,
                wx = 0,
                wy = 0,
                wu = 0,
                wv = 0,
                wrr = 0,
                wZoom = 0,
                wRoll = 0;
            foreach (var block in blocks)
            {
                var ratio = current.Residual(block) / scale;
                var weight = 1 / ((1 + (double)(ratio * ratio)) * (1 + (ratio * ratio)));
                w += weight;
                wx += weight * block.X;
                wy += weight * block.Y;
                wu += weight * block.U;
                wv += weight * block.V;
                wrr += weight * ((block.X * block.X) + (block.Y * block.Y));
                wZoom += weight * ((block.X * block.U) + (block.Y * block.V));
                wRoll += weight * ((block.X * block.V) - (block.Y * block.U));
            }

            // The normal equations of (pan, tilt, zoom, roll), solved in coordinates about the blocks' center.
            var spread = wrr - (((wx * wx) + (wy * wy)) / w);
            var zoom = spread < 1 ? 0 : (wZoom - (((wx * wu) + (wy * wv)) / w)) / spread;
            var roll = spread < 1 ? 0 : (wRoll - (((wx * wv) - (wy * wu)) / w)) / spread;
            motion = new((float)((wu - (zoom * wx) + (roll * wy)) / w), (float)((wv - (zoom * wy) - (roll * wx)) / w), (float)zoom, (float)roll);
        }

        return motion;
    }

    private static float Median(IEnumerable<float> values)
    {
        var sorted = values.ToArray();
        Array.Sort(sorted);
        return sorted[sorted.Length / 2];
    }
}
