using OpenSora.Models;
using OpenSora.Text;
using OpenSora.Training;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace Stickers;

/// <summary>
/// Teaches the text encoder the words of motions, which it has not met when it learned what things look like: in "a rocket moving left" the states of "a rocket" shall be
/// those that it has alone, and those of "moving left" the same whatever moves. So the transformer finds things that it knows, and has each motion to learn but once.
/// </summary>
/// <remarks>A copy of the encoder as it was gives the states to reach; captions without motion keep theirs.</remarks>
internal static class MotionWords
{
    private const int Batch = 48;

    public static void Teach(Workplace place, int steps, CancellationToken cancellation)
    {
        using var all = NewDisposeScope();
        using var stills = StickerSet.Stills(place.Data);
        var chosen = place.Chosen(stills);
        var tokenizer = SentencePieceTokenizer.Open(place.Tokenizer);
        var before = new T5Encoder(place.Recipe.Text);
        var text = new T5Encoder(place.Recipe.Text);
        before.LoadWeights(place.TextWeights);
        text.LoadWeights(place.TextWeights, new LoadOptions { Copy = true });
        before.eval();
        using var optimizer = optim.AdamW(text.parameters(), 1e-3, beta2: 0.99, weight_decay: 0);
        for (var step = 0; step < steps; step++)
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            var random = Randomness.Of(21, step);
            var (plain, moved) = (new List<int[]>(), new List<(int[] Ids, int Prefix, int[] Words)>());
            while (moved.Count < Batch)
            {
                var sticker = chosen[random.Next(chosen.Length)];
                var captions = stills.CaptionsOn(sticker, stills.Palette[random.Next(stills.Palette.Length)]);
                var (caption, motion) = (captions[random.Next(captions.Length)], Motion.All[random.Next(1, Motion.All.Count)]);
                var (alone, together) = (Encode(caption), Encode(motion.Told(caption, stills.Items[sticker].Thing)));
                // Told puts the motion's words between others, whose tokens stay as they are but for rare captions, which are left out.
                var words = together.Length - alone.Length;
                var prefix = alone.Zip(together).TakeWhile(pair => pair.First == pair.Second).Count();
                if (words <= 0 || together.Length >= place.Recipe.Tokens || !alone.AsSpan(prefix).SequenceEqual(together.AsSpan(prefix + words)))
                    continue;
                plain.Add(alone);
                moved.Add((together, prefix, Encode(motion.Phrase)));
            }

            Tensor target;
            using (no_grad())
            {
                var (things, motions) = (States(before, plain), States(before, moved.ConvertAll(caption => caption.Words)));
                target = stack(Enumerable.Range(0, Batch).Select(i =>
                {
                    var (ids, prefix, _) = moved[i];
                    var words = ids.Length - plain[i].Length;
                    return cat([things[i].narrow(0, 0, prefix), motions[i].narrow(0, 0, words), things[i].narrow(0, prefix, place.Recipe.Tokens - prefix - words)]);
                }));
                target = cat([target, things]);
            }
            var captionsOfBoth = moved.ConvertAll(caption => caption.Ids).Concat(plain).ToList();
            var weight = Mask(captionsOfBoth).unsqueeze(-1).to(ScalarType.Float32);
            var error = ((States(text, captionsOfBoth) - target).square() * weight).sum() / (target.square() * weight).sum();
            optimizer.zero_grad();
            error.backward();
            nn.utils.clip_grad_norm_(text.parameters(), 1);
            foreach (var group in optimizer.ParamGroups)
                group.LearningRate = 1e-3 * Math.Min(1, (step + 1) / 100.0) * (0.02 + 0.98 * (1 + Math.Cos(Math.PI * step / steps)) / 2);
            optimizer.step();
            if (step % 100 == 0 || step == steps - 1)
                Console.WriteLine(FormattableString.Invariant($"step {step}: {error.item<float>():F4} of the states' squares away"));
        }
        text.SaveWeights(place.TextWeights, ScalarType.Float32);

        int[] Encode(string caption) => [.. tokenizer.Encode(caption, place.Recipe.Tokens)];

        Tensor Ids(List<int[]> captions)
        {
            var ids = full([captions.Count, place.Recipe.Tokens], tokenizer.PadId, dtype: ScalarType.Int64);
            foreach (var (i, caption) in captions.Index())
                ids[i].narrow(0, 0, caption.Length).copy_(tensor(Array.ConvertAll(caption, id => (long)id)));
            return ids;
        }

        Tensor Mask(List<int[]> captions) => Ids(captions).ne(tokenizer.PadId);

        Tensor States(T5Encoder encoder, List<int[]> captions) => encoder.forward(Ids(captions), Mask(captions)).to(ScalarType.Float32);
    }
}
