using OpenSora.Models;
using OpenSora.Text;
using OpenSora.Training.Data;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace Stickers;

/// <summary>Teaches the text encoder words that it did not see when it learned what objects look like: those of motions and of the flat
/// style.</summary>
/// <remarks>In "a rocket moving left", the states of "a rocket" must equal those of the caption without a motion, and the states of "moving left"
/// must
/// not depend on the object. The transformer then recognizes objects that it knows, and learns each motion and the style only once. The target states
/// come from a copy of the encoder made before this training; captions without the new words keep their states.</remarks>
internal static class NewWords
{
    private const int Batch = 48;

    /// <summary>A caption that stays as it is, one that is known, the same with the new words, and these words.</summary>
    private readonly record struct Lesson(string Kept, string Known, string Changed, string Words);

    public static void Motions(Workplace place, int steps, CancellationToken cancellation)
    {
        using var stills = StickerSet.Stills(place.Data);
        var chosen = place.Chosen(stills);
        Teach(
            place,
            steps,
            random =>
            {
                var (caption, thing) = Caption(stills, chosen, random);
                var motion = Motion.All[random.Next(1, Motion.All.Count)];
                return new(caption, caption, motion.Describe(caption, thing), motion.Phrase);
            },
            cancellation
        );
    }

    /// <summary>"Flat" in the place of "3D", in captions with and without motion.</summary>
    public static void Flat(Workplace place, int steps, CancellationToken cancellation)
    {
        using var stills = StickerSet.Stills(place.Data);
        using var clips = StickerSet.Clips(place.Data);
        var (chosen, chosenClips) = (place.Chosen(stills), place.Chosen(clips));
        Teach(
            place,
            steps,
            random =>
            {
                var kept = random.Next(2) == 0 ? Caption(clips, chosenClips, random).Caption : KnownCaption(random);
                var known = KnownCaption(random);
                return new(kept, known, known.Replace(StickerSet.Usual, StickerSet.Flat, StringComparison.Ordinal), StickerSet.Flat);
            },
            cancellation
        );

        string KnownCaption(Random random)
        {
            var (caption, thing) = Caption(stills, chosen, random);
            return random.Next(2) == 0 ? caption : Motion.All[random.Next(1, Motion.All.Count)].Describe(caption, thing);
        }
    }

    private static (string Caption, string Thing) Caption(StickerSet set, int[] chosen, Random random)
    {
        var sticker = chosen[random.Next(chosen.Length)];
        var captions = set.CaptionsOn(sticker, set.Palette[random.Next(set.Palette.Length)]);
        return (captions[random.Next(captions.Length)], set.Items[sticker].Thing);
    }

    private static void Teach(Workplace place, int steps, Func<Random, Lesson> lesson, CancellationToken cancellation)
    {
        using var all = NewDisposeScope();
        var tokenizer = Tokenizers.SentencePiece(place.Tokenizer);
        var length = place.Recipe.Tokens;
        var before = new T5TextEncoder(place.Recipe.Text);
        var text = new T5TextEncoder(place.Recipe.Text);
        before.LoadWeights(place.TextWeights);
        text.LoadWeights(place.TextWeights, new LoadOptions { Copy = true });
        before.eval();
        using var optimizer = optim.AdamW(text.parameters(), 1e-3, beta2: 0.99, weight_decay: 0);
        for (var step = 0; step < steps; step++)
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            var random = TrainingData.RandomFor(21, step);
            var (kept, known, changed, words) = (new List<int[]>(), new List<int[]>(), new List<int[]>(), new List<int[]>());
            var places = new List<(int Before, int Behind)>();
            while (changed.Count < Batch)
            {
                var one = lesson(random);
                var (alone, together, own) = (Encode(one.Known), Encode(one.Changed), Encode(one.Words)[..^1]); // the last token is the end
                // The new words stand between others, whose tokens stay as they are but for rare captions, which are left out.
                var first = alone.Zip(together).TakeWhile(pair => pair.First == pair.Second).Count();
                var last = alone.Skip(first).Reverse().Zip(together.Skip(first).Reverse()).TakeWhile(pair => pair.First == pair.Second).Count();
                if (together.Length - first - last != own.Length || together.Length >= length)
                {
                    continue;
                }

                kept.Add(Encode(one.Kept));
                known.Add(alone);
                changed.Add(together);
                words.Add(own);
                places.Add((first, last));
            }

            Tensor target;
            using (no_grad())
            {
                var (things, alone) = (States(before, known), States(before, words));
                target = stack(
                    Enumerable
                        .Range(0, Batch)
                        .Select(i =>
                        {
                            var (first, last) = places[i];
                            var rest = length - first - words[i].Length - last;
                            return cat([
                                things[i].narrow(0, 0, first),
                                alone[i].narrow(0, 0, words[i].Length),
                                things[i].narrow(0, known[i].Length - last, last),
                                zeros([rest, things.shape[2]]),
                            ]);
                        })
                );
                target = cat([target, States(before, kept)]);
            }
            var both = changed.Concat(kept).ToList();
            var weight = Mask(both).unsqueeze(-1).to(ScalarType.Float32);
            var error = ((States(text, both) - target).square() * weight).sum() / (target.square() * weight).sum();
            optimizer.zero_grad();
            error.backward();
            nn.utils.clip_grad_norm_(text.parameters(), 1);
            foreach (var group in optimizer.ParamGroups)
            {
                group.LearningRate = 1e-3 * Math.Min(1, (step + 1) / 100.0) * (0.02 + 0.98 * (1 + Math.Cos(Math.PI * step / steps)) / 2);
            }

            optimizer.step();
            if (step % 100 == 0 || step == steps - 1)
            {
                Console.WriteLine(FormattableString.Invariant($"step {step}: {error.item<float>():F4} of the states' squares away"));
            }
        }
        text.SaveWeights(place.TextWeights, ScalarType.Float32);

        int[] Encode(string caption) => [.. tokenizer.Encode(caption, length)];

        Tensor Ids(List<int[]> captions)
        {
            var ids = full([captions.Count, length], tokenizer.PadId, dtype: ScalarType.Int64);
            foreach (var (i, caption) in captions.Index())
            {
                ids[i].narrow(0, 0, caption.Length).copy_(tensor(Array.ConvertAll(caption, id => (long)id)));
            }

            return ids;
        }

        Tensor Mask(List<int[]> captions) => Ids(captions).ne(tokenizer.PadId);

        Tensor States(T5TextEncoder encoder, List<int[]> captions) => encoder.forward(Ids(captions), Mask(captions)).to(ScalarType.Float32);
    }
}
