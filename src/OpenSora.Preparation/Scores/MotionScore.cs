namespace OpenSora.Preparation.Scores;

/// <summary>How much a clip moves, and how: by the camera or within the scene.</summary>
internal sealed class MotionScore : IClipScore
{
    private const int WorkingSide = 128; // the shorter side of the images that are compared
    private const int MinSide = 16;
    private const double MinBlocks = 0.03; // of all blocks: with fewer, a pair of frames says nothing about the camera
    private const double StillSpeed = 1.5; // percent of the shorter side in a second
    private const double LocalBlocks = 0.03; // the fraction of blocks that move in a scene that is not static
    private const double CameraBlocks = 0.5; // the fraction of blocks that follow the camera where it moves

    public IReadOnlyList<ScoreColumn> Columns { get; } =
    [
        new("motion", "The mean speed of the image by optical flow, in percent of its shorter side in a second."),
        new("motion_kind", "The kind of motion: static, local (within the scene), or of the camera: pan, tilt, zoom, roll.", IsText: true),
        new("pan", "The camera's turn to the right in percent of the shorter side in a second; negative to the left."),
        new("tilt", "The camera's turn upward in percent of the shorter side in a second; negative downward."),
        new("zoom", "The enlargement of the image in percent in a second; negative when zooming out."),
    ];

    public ValueTask<IReadOnlyList<ScoreValue>> ComputeAsync(ClipFrames frames, CancellationToken cancellationToken = default)
    {
        if (frames.Count < 2 || Math.Min(frames.Width, frames.Height) < MinSide)
        {
            return new([ScoreValue.Missing, ScoreValue.Missing, ScoreValue.Missing, ScoreValue.Missing, ScoreValue.Missing]);
        }

        var total = new Totals();
        Pyramid? before = null;
        for (var i = 0; i < frames.Count; i++)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var after = Prepare(frames, i);
            if (before is not null)
            {
                total.Add(OpticalFlow.Between(before, after), before.Levels[0].Width, before.Levels[0].Height);
            }

            before = after;
        }

        return new(total.Values(frames.FramesPerSecond));
    }

    private static Pyramid Prepare(ClipFrames frames, int index)
    {
        var luma = frames.Luma(index);
        var (width, height) = (frames.Width, frames.Height);
        if (Math.Min(width, height) < 2 * MinSide || Math.Min(width, height) <= WorkingSide)
        {
            var pixels = new float[luma.Length];
            for (var i = 0; i < pixels.Length; i++)
            {
                pixels[i] = luma[i];
            }

            return new(pixels, width, height);
        }

        var half = Pixels.Half(luma, width, height);
        for ((width, height) = (width / 2, height / 2); Math.Min(width, height) >= 2 * WorkingSide; (width, height) = (width / 2, height / 2))
        {
            half = Pixels.Half(half, width, height);
        }

        return new(half, width, height);
    }

    /// <summary>Sums over the pairs of frames; distances are in shorter sides of the image.</summary>
    private sealed class Totals
    {
        private int _pairs;
        private int _measured;
        private double _motion;
        private double _camera;
        private double _following;
        private double _moving;
        private (double Pan, double Tilt, double Zoom, double Roll) _amount;
        private (double Pan, double Tilt, double Zoom) _signed;

        internal void Add(List<BlockFlow> blocks, int width, int height)
        {
            _pairs++;
            var side = Math.Min(width, height);
            if (blocks.Count < Math.Max(4, MinBlocks * width * height / 64))
            {
                return;
            }

            // Blocks that leave the image with the camera cannot be found again.
            var camera = CameraMotion.Fit(blocks);
            blocks.RemoveAll(block =>
                !IsInside(block.X + camera.At(block.X, block.Y).U, width) || !IsInside(block.Y + camera.At(block.X, block.Y).V, height)
            );
            if (blocks.Count == 0)
            {
                return;
            }

            _measured++;
            var (motion, cameraMotion, distance, following, moving) = (0.0, 0.0, 0.0, 0, 0);
            foreach (var block in blocks)
            {
                var (u, v) = camera.At(block.X, block.Y);
                var byCamera = Math.Sqrt((u * u) + (v * v));
                var speed = Math.Sqrt((block.U * block.U) + (block.V * block.V));
                var isFollowing = camera.Residual(block) <= Math.Max(0.4, 0.2 * byCamera);
                motion += speed;
                cameraMotion += byCamera;
                distance += (block.X * block.X) + (block.Y * block.Y);
                following += isFollowing ? 1 : 0;
                moving += !isFollowing && speed > 0.4 ? 1 : 0;
            }

            var scale = 1.0 / (blocks.Count * side);
            _motion += motion * scale;
            _camera += cameraMotion * scale;
            _following += (double)following / blocks.Count;
            _moving += (double)moving / blocks.Count;
            var radius = Math.Sqrt(distance / blocks.Count);
            _amount.Pan += Math.Abs(camera.Pan) / side;
            _amount.Tilt += Math.Abs(camera.Tilt) / side;
            _amount.Zoom += Math.Abs(camera.Zoom) * radius / side;
            _amount.Roll += Math.Abs(camera.Roll) * radius / side;
            _signed.Pan -= camera.Pan / side; // the image moves against the camera
            _signed.Tilt += camera.Tilt / side;
            _signed.Zoom += camera.Zoom;
        }

        private static bool IsInside(float center, int size) => Math.Abs(center) < (size / 2f) - 4;

        internal IReadOnlyList<ScoreValue> Values(double framesPerSecond)
        {
            if (_measured == 0)
            {
                // Nothing has texture, as in black clips, or nothing is found again.
                return [ScoreValue.Missing, ScoreValue.Missing, ScoreValue.Missing, ScoreValue.Missing, ScoreValue.Missing];
            }

            var percent = 100 * framesPerSecond / _measured;
            return
            [
                ScoreValue.Rounded(_motion * percent),
                Kind(_motion * percent, _camera * percent),
                ScoreValue.Rounded(_signed.Pan * percent),
                ScoreValue.Rounded(_signed.Tilt * percent),
                ScoreValue.Rounded(_signed.Zoom * percent),
            ];
        }

        private string Kind(double motion, double camera)
        {
            if (camera >= StillSpeed && _following >= CameraBlocks * _measured)
            {
                var largest = Math.Max(Math.Max(_amount.Pan, _amount.Tilt), Math.Max(_amount.Zoom, _amount.Roll));
                return largest == _amount.Pan ? "pan"
                    : largest == _amount.Tilt ? "tilt"
                    : largest == _amount.Zoom ? "zoom"
                    : "roll";
            }

            return motion >= StillSpeed || _moving >= LocalBlocks * _measured ? "local" : "static";
        }
    }
}
