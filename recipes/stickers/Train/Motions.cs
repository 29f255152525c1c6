using System.Globalization;
using System.Text;
using OpenSora.Training.Data;
using TorchSharp;
using static TorchSharp.torch;

namespace Stickers;

/// <summary>A way in which a still is moved: what captions call it, and where it is after a share of the clip.</summary>
/// <param name="Phrase">Follows the thing in a caption; empty: it stands still.</param>
/// <param name="At">Size (1: as it is), width as a share of that (below 0: mirrored), and offset from the middle (1: half the picture) at a time from
/// 0 to 1.</param>
internal sealed record Motion(string Phrase, Func<double, (double Size, double Width, double X, double Y)> At)
{
    /// <summary>All motions; the first one stands still.</summary>
    /// <remarks>An object starts in the middle, and an approaching object is smaller than a receding one, so that every single frame shows its
    /// motion. If
    /// objects crossed the whole image, "left" and "right" would differ only in the order of the frames, which a transformer is slow to learn. A
    /// spinning
    /// object turns about its upright axis, like a coin on its edge.</remarks>
    public static IReadOnlyList<Motion> All { get; } =
    [
        new("", _ => (1, 1, 0, 0)),
        new("moving left", time => (0.8, 1, -0.75 * time, 0)),
        new("moving right", time => (0.8, 1, 0.75 * time, 0)),
        new("moving up", time => (0.8, 1, 0, -0.75 * time)),
        new("moving down", time => (0.8, 1, 0, 0.75 * time)),
        new("zooming in", time => (0.35 + 0.55 * time, 1, 0, 0)),
        new("zooming out", time => (1.1 - 0.5 * time, 1, 0, 0)),
        new("spinning", time => (0.8, Math.Cos(2 * Math.PI * time), 0, 0)),
    ];

    /// <summary>Whether a combination is held out from training: about one in seven, always the same ones.</summary>
    public static bool HeldOut(string thing, string color, string motion) =>
        TrainingData.Hash(15, [.. Encoding.UTF8.GetBytes($"{thing}/{color}/{motion}").Select(b => (long)b)]) % 100 < 15;

    /// <summary>The frames of a moved sticker on a background.</summary>
    /// <param name="rgba">The sticker, premultiplied, <c>[4, H, W]</c> in [0, 1].</param>
    /// <param name="background">What is under it.</param>
    /// <param name="frames">Frames of the whole motion.</param>
    /// <returns><c>[3, frames, H, W]</c> in [-1, 1].</returns>
    public Tensor Render(Tensor rgba, PaletteColor background, int frames)
    {
        using var scope = NewDisposeScope();
        var maps = new float[frames * 6];
        for (var i = 0; i < frames; i++)
        {
            // From a place of the frame back to the sticker's.
            var (size, width, x, y) = At(frames == 1 ? 0.5 : i / (frames - 1.0));
            var across = size * Math.CopySign(Math.Max(0.06, Math.Abs(width)), width); // an edge can be seen too
            float[] map = [(float)(1 / across), 0, (float)(-x / across), 0, (float)(1 / size), (float)(-y / size)];
            map.CopyTo(maps, 6 * i);
        }
        var all = rgba.unsqueeze(0).expand(frames, -1, -1, -1);
        var places = nn.functional.affine_grid(tensor(maps, [frames, 2, 3]), all.shape);
        var moved = nn.functional.grid_sample(all, places, align_corners: false); // [F, 4, H, W]
        var under = tensor(Array.ConvertAll(background.Rgb, value => value / 255f)).view(1, 3, 1, 1);
        var pixels = moved.narrow(1, 0, 3) + (1 - moved.narrow(1, 3, 1)) * under;
        return (pixels * 2 - 1).transpose(0, 1).contiguous().MoveToOuterDisposeScope();
    }

    /// <summary>Returns a caption with the motion after the object.</summary>
    public string Describe(string caption, string thing)
    {
        var end = caption.IndexOf(thing, StringComparison.Ordinal) + thing.Length;
        return Phrase.Length == 0 || end < thing.Length ? caption : $"{caption[..end]} {Phrase}{caption[end..]}";
    }
}

/// <summary>Stills that are moved: each in some motions on some backgrounds, none of which is held out.</summary>
internal sealed class MovedStickers : IClipSource
{
    private readonly StickerSet _set;
    private readonly int _frames;
    private readonly List<(int Sticker, PaletteColor Color, Motion Motion)> _clips = [];

    public MovedStickers(StickerSet set, IReadOnlyList<int> chosen, Func<string, bool> stands, int each, int frames)
    {
        (_set, _frames) = (set, frames);
        foreach (var (i, sticker) in chosen.Index())
        {
            var (random, thing) = (TrainingData.RandomFor(16, sticker), set.Items[sticker].Thing);
            // The first clip of a thing that may stand still does so; the motions of the others go round.
            for (var turn = stands(thing) ? 0 : 1; turn < each; turn++)
            {
                var motion = Motion.All[turn == 0 ? 0 : 1 + (i * (each - 1) + turn - 1) % (Motion.All.Count - 1)];
                var colors = set.Palette.Where((color, place) => !Motion.HeldOut(thing, color.Name, motion.Phrase)).ToArray();
                // Half of them on white, which captions need not name.
                _clips.Add(
                    (
                        sticker,
                        random.Next(2) == 0 && ReferenceEquals(colors[0], set.Palette[0]) ? colors[0] : colors[random.Next(colors.Length)],
                        motion
                    )
                );
            }
        }
    }

    public int Count => _clips.Count;

    /// <summary>What is moved, and how.</summary>
    public IReadOnlyList<(int Sticker, PaletteColor Color, Motion Motion)> Clips => _clips;

    public string Fingerprint =>
        string.Create(
            CultureInfo.InvariantCulture,
            $"{_set.Fingerprint} moved, {_clips.Count} clips of {_frames} "
                + $"({TrainingData.Hash(0, [.. _clips.Select(clip => (long)clip.Sticker)]):x}), "
                + $"{string.Join(", ", Motion.All.Select(motion => $"{motion.Phrase} {motion.At(0)} {motion.At(0.3)} {motion.At(1)}"))}"
        );

    public ValueTask<CaptionedClip> LoadAsync(int index, Random random, CancellationToken cancellationToken = default) =>
        ValueTask.FromResult(Load(index, random));

    public CaptionedClip Load(int index, Random random)
    {
        var (sticker, color, motion) = _clips[index];
        using var scope = NewDisposeScope();
        var video = motion.Render(_set.Rgba(sticker), color, _frames);
        return new CaptionedClip(
            video.MoveToOuterDisposeScope(),
            [.. _set.CaptionsOn(sticker, color).Select(caption => motion.Describe(caption, _set.Items[sticker].Thing))]
        );
    }
}
