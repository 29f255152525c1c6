using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.Models;
using OpenSora.Text;
using OpenSora.Training.Stages;

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
        var settings = new GenerationSettings
        {
            Frames = frames,
            GuidanceScale = guidance,
            Seed = seed,
        };
        var lines = (await File.ReadAllLinesAsync(prompts, cancellation)).Where(line => !string.IsNullOrWhiteSpace(line)).ToArray();
        List<VideoFrames> tiles = [];
        using (var vae = place.Vae())
        using (model)
        using (text)
        {
            using (var trainer = new StagedTrainer(model, text))
            {
                trainer.InitializeFrom(place.Folder(stage));
            }

            model.eval();
            var pipeline = new VideoPipeline(model, text, vae, new DpmSolver(steps, prediction: place.Recipe.Prediction));
            foreach (var group in lines.Chunk(frames == 1 ? 12 : 2))
            {
                tiles.AddRange(pipeline.Generate(group, settings, cancellationToken: cancellation));
            }
        }

        await Workplace.SaveAsync(tiles, path, 4);
        Console.WriteLine(path);
    }
}
