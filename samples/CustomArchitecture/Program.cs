// Defines a custom transformer outside the library (TokenTransformer.cs), trains it, generates videos with the model in memory, saves it as a model
// folder and generates a video from that folder.
// The default 1,500 steps take some minutes and teach the colors; whole squares and their motion take several times as long.
// dotnet run -c Release --project samples/CustomArchitecture [steps] [folder]
using System.Globalization;
using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Samples;
using OpenSora.Training.Objectives;
using OpenSora.Training.Stages;
using OpenSora.Weights;
using static TorchSharp.torch;

var steps = args.Length > 0 ? int.Parse(args[0], CultureInfo.InvariantCulture) : 1500;
var folder = Path.GetFullPath(args.Length > 1 ? args[1] : "out/custom");
Directory.CreateDirectory(folder);

// 1. Train the model. It predicts the clean sample, which is learned quickly.
random.manual_seed(1);
var config = new TokenTransformerConfig { InputSize = [Squares.Frames, Squares.Size, Squares.Size], Classes = Squares.Names.Count };
using var model = new TokenTransformer(config);
var process = new DiffusionProcess { Prediction = Prediction.Sample, Variance = Variance.FixedSmall };
using (
    var trainer = new StagedTrainer(new DiffusionTraining(model, process: new Iddpm(IddpmSchedule.Linear(), process.Prediction, process.Variance)))
)
{
    trainer
        .AddStage(
            new TrainingStage
            {
                Name = "squares",
                Data = new Squares(),
                Steps = steps,
                BatchSize = 32,
                LearningRate = 1e-3,
                WarmUpSteps = 20,
                EmaDecay = 0.99,
            }
        )
        .AddConsoleProgress();
    await trainer.RunAsync();
    trainer.UseAverages();
}
model.eval();

// 2. Generate videos with the model in memory.
string[] prompts = ["red right", "green left", "blue down", "yellow up"];
var labels = new ClassLabelEncoder(Squares.Names);
using var autoencoder = new PixelAutoencoder();
var size = Squares.Size * autoencoder.SpatialFactor;
var pipeline = new VideoPipeline(model, labels, autoencoder, new DpmSolver(steps: 20, prediction: process.Prediction));
var videos = pipeline.Generate(
    prompts,
    new GenerationSettings
    {
        Frames = Squares.Frames,
        Height = size,
        Width = size,
        GuidanceScale = 2,
        FramesPerSecond = 6,
        Seed = 7,
    }
);
await new VideoWriter().WriteAsync(VideoFrames.Tile(videos, columns: 4), Path.Combine(folder, "squares.gif"), VideoFormat.Gif);

// 3. Save the model as a model folder.
model.SaveWeights(Path.Combine(folder, "transformer.safetensors"));
ModelFolder.Save(
    folder,
    new ModelDescription
    {
        Name = "squares",
        Denoiser = new ModelPart
        {
            Architecture = TokenTransformer.Architecture.Name,
            Config = ModelFolder.WriteConfig(config),
            Weights = "transformer.safetensors",
        },
        Vae = new ModelPart { Architecture = "pixels" },
        TextEncoder = new ModelPart { Architecture = "class_labels", Config = labels.WriteConfig() },
        Diffusion = process,
        Sampling = new SamplingDefaults
        {
            Sampler = SamplerKind.DpmSolver,
            Steps = 20,
            GuidanceScale = 2,
        },
        Video = new VideoDefaults
        {
            Frames = Squares.Frames,
            Width = size,
            Height = size,
            Fps = 6,
            FramesRange = new(Squares.Frames, Squares.Frames),
            WidthRange = new(size, size),
            HeightRange = new(size, size),
        },
        License = "MIT",
    }
);

// 4. Generate a video from the folder. The application registers the custom architecture and autoencoder.
using var generator = VideoGenerator
    .Create()
    .UseModel(folder)
    .UseBackend("cpu")
    .AddArchitecture(TokenTransformer.Architecture)
    .UseVae(_ => new PixelAutoencoder())
    .Build();
var video = await generator.Request("red right").Seed(7).GenerateAsync();
await video.SaveGifAsync(Path.Combine(folder, "red-right.gif"));

// 5. Recognize the weights, as the command "opensora inspect" does for the built-in architectures, and count the parameters.
using var weights = WeightsFile.Open(Path.Combine(folder, "transformer.safetensors"));
var match = Architectures.BuiltIn.Add(TokenTransformer.Architecture).Recognize(weights)[0];
Console.WriteLine($"The weights belong to a {match.Architecture} with {model.CountParameters().Values.Sum():N0} parameters: {match.Config}");

var isSame = video.Frames.Pixels.Span.SequenceEqual(videos[0].Pixels.Span);
Console.WriteLine(
    $"{folder}: squares.gif shows {string.Join(", ", prompts)}; "
        + $"red-right.gif was generated from the folder and is {(isSame ? "the same video" : "ANOTHER video")}."
);
return isSame ? 0 : 1;
