// Trains a small STDiT from scratch in two stages, first on images and then on clips, and generates sample videos.
// The data are synthetic: moving colored squares. They are so small that the model can be trained on pixels instead of latents.
// With the default of 1000 steps per stage, training takes a few minutes; the model learns the colors and roughly the shape. Motion requires a few
// thousand more steps.
// dotnet run -c Release --project samples/ComposeTrainingStage [steps per stage]
using System.Globalization;
using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.Models;
using OpenSora.Samples;
using OpenSora.Training.Objectives;
using OpenSora.Training.Stages;

var steps = args.Length > 0 ? int.Parse(args[0], CultureInfo.InvariantCulture) : 1000;
using var cancel = new CancellationTokenSource();
Console.CancelKeyPress += (_, e) => (e.Cancel, _) = (true, cancel.CancelAsync());

using var model = new StdiTBuilder()
    .Latents(MovingSquares.Frames, MovingSquares.Size, MovingSquares.Size, channels: 3)
    .Transformer(channels: 96, depth: 4, heads: 4)
    .Text(MovingSquares.Words, tokens: 2)
    .LearnedVariance(false)
    .Seed(1)
    .Build();

// A stage is a plain object: start from a stage of the published recipe and change it, or create a new one.
var images = TrainingStage.ImagePretraining(new MovingSquares(frames: 1), steps);
(images.BatchSize, images.LearningRate, images.WarmUpSteps, images.EmaDecay) = (32, 1e-3, 20, 0.99);
var clips = new TrainingStage
{
    Name = "clips",
    Data = new MovingSquares(MovingSquares.Frames),
    Steps = steps,
    BatchSize = 16,
    LearningRate = 1e-3,
    WarmUpSteps = 20,
    EmaDecay = 0.99,
};

// Published models predict the noise and a variance. Predicting the clean sample is learned faster, which suits short runs.
var process = new Iddpm(IddpmSchedule.Linear(), Prediction.Sample, Variance.FixedSmall);
using var trainer = new StagedTrainer(new DiffusionTraining(model, process: process))
    .AddStage(images)
    .AddStage(clips)
    .SaveTo(new CheckpointOptions { Folder = "out/squares", KeepLast = 1 })
    .Resume("out/squares", ifAny: true); // continues from the latest checkpoint, if any
try
{
    await trainer.RunAsync(new Printer(), cancel.Token);
}
catch (OperationCanceledException)
{
    Console.WriteLine("Stopped. Run the program again to resume.");
    return;
}

// Generate one video of each color in a single batch, and tile them into one GIF.
trainer.UseAverages();
model.eval();
using var captions = new SquareCaptions();
var pipeline = new VideoPipeline(model, captions, autoencoder: null, new DpmSolver(steps: 20, prediction: Prediction.Sample));
var videos = pipeline.Generate(
    ["red right", "green left", "blue down", "yellow up"],
    new GenerationSettings
    {
        GuidanceScale = 2,
        FramesPerSecond = 6,
        Seed = 7,
    }
);
using var pixels = VideoFrames.Tile(videos, columns: 4, gap: 1).ToTensor();
using var enlarged = pixels.repeat_interleave(16, 3).repeat_interleave(16, 4);
await new VideoWriter().WriteAsync(VideoFrames.FromTensor(enlarged, 6), "out/squares.gif", VideoFormat.Gif);
Console.WriteLine("Saved out/squares.gif. Prompts: red to the right, green to the left, blue down, yellow up.");

internal sealed class Printer : IProgress<TrainingProgress>
{
    public void Report(TrainingProgress value)
    {
        if (value.Step % 100 == 0 || value.Step == value.Steps)
        {
            Console.WriteLine(
                $"{value.Stage} {value.Step}/{value.Steps}: loss {value.Loss:0.000}, "
                    + $"{value.SamplesPerSecond:0} samples/s, {value.TimeLeft:mm\\:ss} left"
            );
        }
    }
}
