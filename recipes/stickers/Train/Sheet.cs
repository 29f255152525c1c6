using OpenSora.Diffusion;
using OpenSora.Media;
using OpenSora.Text;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace Stickers;

/// <summary>A look at what a checkpoint makes of the prompts.</summary>
internal static class Sheet
{
    public static async Task RenderAsync(
        Workplace place,
        string path,
        string prompts,
        string stage,
        int? count,
        int steps,
        double guidance,
        int seed,
        CancellationToken cancellation
    )
    {
        var (model, text) = Training.Models(place, Training.ConfigOf(place, stage));
        var frames = count ?? model.Config.InputSize[0]; // at the places in time that the stage knows
        using var vae = place.Vae();
        List<VideoFrames> tiles = [];
        using (model)
        using (text)
        using (no_grad())
        {
            using (var trainer = new StagedTrainer(model, text))
            {
                trainer.InitialiseFrom(place.Folder(stage));
            }

            model.eval();
            text.eval();
            var lines = (await File.ReadAllLinesAsync(prompts, cancellation)).Where(line => !string.IsNullOrWhiteSpace(line)).ToArray();
            var tokenizer = Tokenizers.SentencePiece(place.Tokenizer);
            foreach (var group in lines.Chunk(frames == 1 ? 12 : 2))
            {
                using var scope = NewDisposeScope();
                var ids = full([group.Length, place.Recipe.Tokens], tokenizer.PadId, dtype: ScalarType.Int64);
                for (var i = 0; i < group.Length; i++)
                {
                    var tokens = tokenizer.Encode(group[i], place.Recipe.Tokens).Select(id => (long)id).ToArray();
                    ids[i].narrow(0, 0, tokens.Length).copy_(tensor(tokens));
                }
                var mask = ids.ne(tokenizer.PadId);
                var states = text.forward(ids, mask);
                var nothing = model.NullCaption(group.Length).narrow(1, 0, place.Recipe.Tokens);
                var size = model.Config.InputSize;
                using var generator = new Generator((ulong)seed);
                var noise = stack(group.Select(_ => randn([place.Recipe.Model.InChannels, frames, size[1], size[2]], generator: generator)));
                Tensor Denoise(Tensor x, Tensor t, Tensor y) => model.forward(x, t, y, mask);
                var latents = new DpmSolver(steps, prediction: place.Recipe.Prediction).Sample(
                    Sampling.ClassifierFreeGuidance((x, t) => Denoise(x, t, states), (x, t) => Denoise(x, t, nothing), guidance),
                    noise,
                    generator,
                    cancellationToken: cancellation
                );
                var videos = vae.Decode(latents);
                tiles.AddRange(Enumerable.Range(0, group.Length).Select(i => VideoFrames.FromTensor(videos[i], 8)));
            }
        }
        await Workplace.SaveAsync(tiles, path, 4);
        Console.WriteLine(path);
    }
}
