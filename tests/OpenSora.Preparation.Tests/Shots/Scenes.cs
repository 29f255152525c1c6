using OpenSora.Preparation.Shots;

namespace OpenSora.Preparation.Tests.Shots;

/// <summary>Frames with known transitions, made in memory.</summary>
internal sealed class Scenes
{
    internal const int Width = 64;
    internal const int Height = 36;
    internal const int Rate = 25;
    private const double Speed = 0.05;
    private readonly List<byte[]> _frames = [];

    /// <summary>Gets the frames, RGB24.</summary>
    internal IReadOnlyList<byte[]> Frames => _frames;

    internal int Count => _frames.Count;

    /// <summary>Adds a shot: colored blobs that move slowly. Different seeds give different pictures.</summary>
    internal Scenes Shot(int seed, int frames, double speed = Speed, Func<int, double>? gain = null, int from = 0)
    {
        for (var i = 0; i < frames; i++)
        {
            _frames.Add(Picture(seed, (from + i) * speed, gain?.Invoke(i) ?? 1));
        }

        return this;
    }

    /// <summary>Mixes the last frames with the first frames of another shot, and continues with it.</summary>
    internal Scenes Dissolve(int seed, int length, int frames)
    {
        var start = _frames.Count - length;
        for (var i = 0; i < length; i++)
        {
            _frames[start + i] = Mix(_frames[start + i], Picture(seed, i * Speed, 1), (i + 1.0) / (length + 1));
        }

        for (var i = length; i < length + frames; i++)
        {
            _frames.Add(Picture(seed, i * Speed, 1));
        }

        return this;
    }

    /// <summary>Adds frames of one gray level.</summary>
    internal Scenes Blank(int level, int frames)
    {
        var picture = new byte[Width * Height * 3];
        Array.Fill(picture, (byte)level);
        _frames.AddRange(Enumerable.Repeat(picture, frames));
        return this;
    }

    /// <summary>Fades the frames of a range from visible to blank or back.</summary>
    internal Scenes Fade(int start, int length, int level, bool isOut)
    {
        var blank = new byte[Width * Height * 3];
        Array.Fill(blank, (byte)level);
        for (var i = 0; i < length; i++)
        {
            var part = (i + 1.0) / (length + 1);
            _frames[start + i] = Mix(_frames[start + i], blank, isOut ? part : 1 - part);
        }

        return this;
    }

    /// <summary>Shows all frames to a detector.</summary>
    internal List<ShotTransition> Detect(IShotDetector detector)
    {
        var analysis = detector.Start();
        List<ShotTransition> transitions = [];
        ShotFrame? previous = null;
        ShotFrame? free = null;
        for (var i = 0; i < _frames.Count; i++)
        {
            var frame = free ?? new(Width, Height);
            frame.SetRgb(_frames[i], i, TimeSpan.FromSeconds((double)i / Rate), previous);
            transitions.AddRange(analysis.Add(frame));
            (free, previous) = (previous, frame);
        }

        transitions.AddRange(analysis.Complete());
        return transitions;
    }

    /// <summary>Shows all frames to a detector, and returns the first frames of the shots after the first one.</summary>
    internal int[] Cuts(IShotDetector detector) => [.. Detect(detector).Select(each => each.Frame)];

    internal static byte[] Picture(int seed, double shift, double gain)
    {
        var random = new Random(seed);
        var blobs = Enumerable
            .Range(0, 6)
            .Select(_ => (X: random.Next(Width), Y: random.Next(Height), Size: 6 + random.Next(14), Color: new[] { Level(), Level(), Level() }))
            .ToArray();
        var ground = new[] { Level() * 0.6, Level() * 0.6, Level() * 0.6 };
        var (waveX, waveY) = (0.5 + (random.NextDouble() * 0.4), 0.3 + (random.NextDouble() * 0.4));
        var picture = new byte[Width * Height * 3];
        var color = new double[3];
        for (var y = 0; y < Height; y++)
        {
            for (var x = 0; x < Width; x++)
            {
                ground.CopyTo(color, 0);
                foreach (var blob in blobs)
                {
                    var distance = Math.Pow((x + shift - blob.X) / blob.Size, 2) + Math.Pow((double)(y - blob.Y) / blob.Size, 2);
                    var part = Math.Exp(-distance * 2);
                    for (var c = 0; c < 3; c++)
                    {
                        color[c] += (blob.Color[c] - color[c]) * part;
                    }
                }

                // A texture, which moves with the picture.
                var texture = 30 * Math.Sin((waveX * (x + shift)) + (waveY * y)) * Math.Sin((waveY * (x + shift)) - (waveX * y));
                for (var c = 0; c < 3; c++)
                {
                    picture[(((y * Width) + x) * 3) + c] = (byte)Math.Clamp((color[c] + texture) * gain, 0, 255);
                }
            }
        }

        return picture;

        double Level() => 20 + (random.NextDouble() * 220);
    }

    private static byte[] Mix(byte[] a, byte[] b, double part) => [.. a.Zip(b, (x, y) => (byte)Math.Round((x * (1 - part)) + (y * part)))];
}

/// <summary>Fills frames with pixels of tests.</summary>
internal static class ShotFrameExtensions
{
    internal static void SetRgb(this ShotFrame frame, ReadOnlySpan<byte> rgb, int index, TimeSpan time, ShotFrame? previous)
    {
        for (var i = 0; i < rgb.Length / 3; i++)
        {
            (frame.Color.Red[i], frame.Color.Green[i], frame.Color.Blue[i]) = (rgb[3 * i], rgb[(3 * i) + 1], rgb[(3 * i) + 2]);
        }

        frame.Set(index, time, previous);
    }
}
