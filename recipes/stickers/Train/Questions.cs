using OpenSora.Training.Data;
using TorchSharp;
using static TorchSharp.torch;

namespace Stickers;

/// <summary>A prompt of the evaluation, and what it asks for.</summary>
/// <param name="Kind">The kind of prompt.</param>
/// <param name="Prompt">The prompt.</param>
/// <param name="Thing">The thing.</param>
/// <param name="Color">The background.</param>
/// <param name="Motion">The motion of a still thing; null if the prompt does not decide it.</param>
/// <param name="Seen">Whether training saw the combination.</param>
/// <param name="Clip">The true clip; null if the thing has none.</param>
/// <param name="Sticker">The true still; null for prompts about clips.</param>
/// <param name="Style">The style.</param>
internal sealed record Question(
    string Kind,
    string Prompt,
    string Thing,
    PaletteColor Color,
    Motion? Motion,
    bool Seen,
    int? Clip,
    int? Sticker,
    string Style = StickerSet.Usual
);

/// <summary>The prompts of the evaluation: things as they are, things on a color, and things that move on a color, the latter two half with
/// combinations that training saw and half with others.</summary>
/// <param name="place">The recipe and its data.</param>
/// <param name="stills">All stills.</param>
/// <param name="clips">All clips.</param>
/// <param name="asked">The things that prompts are about; null: all that are trained on.</param>
internal sealed class Questions(Workplace place, StickerSet stills, StickerSet clips, IReadOnlySet<string>? asked)
{
    private readonly HashSet<(string Style, string Thing, string Color)> _shown = Shown(place, stills, clips);

    private readonly int[] _chosenStills = place.Chosen(stills),
        _chosenClips = place.Chosen(clips),
        _chosenFlat = place.Recipe.HasFlat ? place.Chosen(stills, StickerSet.Flat) : [];

    /// <summary>Whether training shows a thing on a color, in whatever way.</summary>
    public bool IsShown(string style, string thing, PaletteColor color) => _shown.Contains((style, thing, color.Name));

    /// <summary>The video that a prompt asks for, <c>[3, F, H, W]</c>.</summary>
    public Tensor Truth(Question question, int frames)
    {
        if (question.Clip is { } clip)
        {
            return clips.On(clip, question.Color, 0, frames);
        }

        return question.Motion is { Phrase.Length: > 0 } motion
            ? motion.Render(stills.Rgba(question.Sticker!.Value), question.Color, frames)
            : stills.On(question.Sticker!.Value, question.Color, 0, 1).expand(-1, frames, -1, -1);
    }

    /// <summary>Chooses the prompts: still things, animated things, things on a color (seen or not), flat things on a color, and things that move on
    /// a color (held out or not).</summary>
    /// <param name="each">The number of prompts of each kind.</param>
    public List<Question> Choose(int each)
    {
        var white = stills.Palette[0];
        List<Question> questions = [];
        bool IsAsked(Sticker sticker) => asked?.Contains(sticker.Thing) != false;
        var animated = _chosenClips.Select(i => clips.Items[i].Thing).ToHashSet(StringComparer.Ordinal);
        var still = Shuffled([.. _chosenStills.Where(i => !animated.Contains(stills.Items[i].Thing) && IsAsked(stills.Items[i]))], 1);
        foreach (var i in still.Take(each))
        {
            questions.Add(new("still things", stills.Items[i].Plain[0], stills.Items[i].Thing, white, Motion.All[0], Seen: true, null, i));
        }
        // Half of the animated things on white, half on a color on which training did not show them.
        foreach (var (turn, i) in Shuffled([.. _chosenClips.Where(i => IsAsked(clips.Items[i]))], 2).Take(each).Index())
        {
            var (clip, seen) = (clips.Items[i], turn % 2 == 0);
            var others = stills.Palette.Where(color => !IsShown(clip.Style, clip.Thing, color)).ToArray();
            if (!seen && others.Length == 0)
            {
                continue; // it is shown on all of them
            }

            var color = seen ? white : others[turn / 2 % others.Length];
            questions.Add(
                new(
                    "animated things",
                    clip.Captions[0].Replace("{background}", color.Phrase, StringComparison.Ordinal),
                    clip.Thing,
                    color,
                    null,
                    seen,
                    i,
                    Sticker: null
                )
            );
        }
        OnColors("on a color", _chosenStills, 3);
        if (_chosenFlat.Length > 0)
        {
            OnColors("flat", _chosenFlat, 8);
        }

        var moved = place.Moved(stills, clips);
        foreach (
            var i in Shuffled(
                    [
                        .. Enumerable
                            .Range(0, moved.Count)
                            .Where(i => moved.Clips[i].Motion.Phrase.Length > 0 && IsAsked(stills.Items[moved.Clips[i].Sticker])),
                    ],
                    4
                )
                .Take(each)
        )
        {
            var (sticker, color, motion) = moved.Clips[i];
            questions.Add(Moving(sticker, color, motion, seen: true));
        }
        var heldOut =
            from sticker in _chosenStills.Where(i => IsAsked(stills.Items[i]))
            from color in stills.Palette
            from motion in Motion.All.Skip(1)
            where Motion.HeldOut(stills.Items[sticker].Thing, color.Name, motion.Phrase)
            select (sticker, color, motion);
        var all = heldOut.ToArray();
        TrainingData.RandomFor(5).Shuffle(all);
        questions.AddRange(all.Take(each).Select(combination => Moving(combination.sticker, combination.color, combination.motion, seen: false)));
        return questions;

        void OnColors(string kind, int[] chosen, int key)
        {
            foreach (var (turn, i) in Shuffled([.. chosen.Where(i => IsAsked(stills.Items[i]))], key).Take(each).Index())
            {
                var (sticker, seen) = (stills.Items[i], turn % 2 == 0);
                var colors = stills.Palette.Where(color => IsShown(sticker.Style, sticker.Thing, color) == seen).ToArray();
                if (colors.Length == 0)
                {
                    continue; // it is shown on all of them
                }

                var color = colors[turn / 2 % colors.Length];
                questions.Add(
                    new(
                        kind,
                        sticker.Captions[0].Replace("{background}", color.Phrase, StringComparison.Ordinal),
                        sticker.Thing,
                        color,
                        null,
                        seen,
                        ClipOf(sticker),
                        i,
                        sticker.Style
                    )
                );
            }
        }

        Question Moving(int sticker, PaletteColor color, Motion motion, bool seen)
        {
            var item = stills.Items[sticker];
            var caption = item.Captions[0].Replace("{background}", color.Phrase, StringComparison.Ordinal);
            return new("moved", motion.Describe(caption, item.Thing), item.Thing, color, motion, seen, null, sticker);
        }
    }

    // The clip of a thing of the usual style: without a word about motion, the thing moves as in its clip.
    private int? ClipOf(Sticker sticker) =>
        string.Equals(sticker.Style, StickerSet.Usual, StringComparison.Ordinal)
            ? _chosenClips
                .Select(i => (int?)i)
                .FirstOrDefault(i => string.Equals(clips.Items[i!.Value].Thing, sticker.Thing, StringComparison.Ordinal))
            : null;

    // What training shows on which colors, in whatever way.
    private static HashSet<(string Style, string Thing, string Color)> Shown(Workplace place, StickerSet stills, StickerSet clips)
    {
        HashSet<(string, string, string)> all = [];
        foreach (
            var (set, chosen, backgrounds) in new[]
            {
                (stills, place.Chosen(stills), place.Recipe.StillBackgrounds),
                (stills, place.Recipe.HasFlat ? place.Chosen(stills, StickerSet.Flat) : [], place.Recipe.StillBackgrounds),
                (clips, place.Chosen(clips), place.Recipe.ClipBackgrounds),
            }
        )
        {
            var source = new StickersOnColors(set, chosen, backgrounds);
            all.UnionWith(
                from turn in Enumerable.Range(0, chosen.Length)
                from color in set.Palette
                where source.Shows(turn, color)
                select (set.Items[chosen[turn]].Style, set.Items[chosen[turn]].Thing, color.Name)
            );
        }
        foreach (var style in place.Recipe.HasFlat ? new[] { StickerSet.Usual, StickerSet.Flat } : [StickerSet.Usual])
        {
            all.UnionWith(place.Moved(stills, clips, style: style).Clips.Select(clip => (style, stills.Items[clip.Sticker].Thing, clip.Color.Name)));
        }

        return all;
    }

    /// <summary>Returns the values in a random order that depends on the seed.</summary>
    public static int[] Shuffled(int[] values, int seed)
    {
        var copy = values.ToArray();
        TrainingData.RandomFor(seed).Shuffle(copy);
        return copy;
    }
}
