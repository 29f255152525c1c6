// Turns a folder of long videos into captioned clips, trains a small model on them, starting from the included sticker model, and generates videos:
// dotnet run -c Release --project samples/PrepareAndTrain -- FOLDER_OF_VIDEOS --minutes 10 --ollama llava
// Both parts continue where they were stopped if the same command is run again.
using System.CommandLine;
using OllamaSharp;
using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Preparation;
using OpenSora.Preparation.Captions;
using OpenSora.Training.Data;
using OpenSora.Training.Objectives;
using OpenSora.Training.Stages;

var videos = new Argument<string>("videos") { Description = "A folder of long videos. Subfolders are included." };
var minutes = new Option<double>("--minutes") { Description = "The training time in minutes.", DefaultValueFactory = _ => 10 };
var output = new Option<string>("--out")
{
    Description = "The folder for clips, checkpoints and results.",
    DefaultValueFactory = _ => "out/prepared",
};
var start = new Option<string>("--model") { Description = "The initial model: a model name or a folder.", DefaultValueFactory = _ => "stickers" };
var ollama = new Option<string?>("--ollama")
{
    Description = "A vision model of a local Ollama server that writes the captions. By default, they are read from text files and subtitles.",
};
var command = new RootCommand("Prepares long videos and trains a model on them.") { videos, minutes, output, start, ollama };
command.SetAction(
    async (parsed, cancellationToken) =>
    {
        try
        {
            var folder = parsed.GetValue(output)!;
            var origin = ModelFolder.Open(parsed.GetValue(start)!);
            var manifest = await PrepareAsync(parsed.GetValue(videos)!, folder, origin, parsed.GetValue(ollama), cancellationToken);
            await TrainAsync(manifest, folder, origin, TimeSpan.FromMinutes(parsed.GetValue(minutes)), cancellationToken);
            return 0;
        }
        catch (OperationCanceledException)
        {
            Console.WriteLine("Stopped. Run the same command again to continue.");
            return 130;
        }
        catch (Exception e) // the library's messages explain the problem and how to resolve it
        {
            Console.Error.WriteLine(e.Message);
            return 1;
        }
    }
);
return await command.Parse(args).InvokeAsync(new InvocationConfiguration { ProcessTerminationTimeout = TimeSpan.FromSeconds(30) });

// From long videos to a manifest of captioned clips.
static async Task<string> PrepareAsync(string videos, string output, ModelFolder model, string? vision, CancellationToken cancellationToken)
{
    var size = model.Description.Video;
    using var http = ChatStatusHandler.CreateClient(new Uri("http://localhost:11434"));
    using var chat = vision is null ? null : new OllamaApiClient(http, vision);
    using var described = chat is null ? null : new ChatCaptioner(chat);
    ICaptioner[] captioners = [new SidecarCaptioner(), new SubtitleCaptioner()];
    var report = await VideoPreparation
        .Create()
        .From(videos)
        .To(Path.Combine(output, "data"))
        .Cut(cut =>
        {
            cut.FramesPerSecond = size.Fps;
            cut.ShortSide = Math.Min(size.Width, size.Height);
            cut.MinLength = TimeSpan.FromSeconds(size.Frames / size.Fps / 2);
        })
        .Where("black < 0.5")
        .CaptionWith(CombinedCaptioner.FirstOf(described is null ? captioners : [.. captioners, described]))
        .Build()
        .RunAsync(cancellationToken: cancellationToken);
    Console.WriteLine(report);
    return report.Kept > 0 ? report.Manifest : throw new InvalidDataException($"No clip was kept. '{report.Statistics}' shows why.");
}

// From a manifest to a trained model and its videos.
static async Task TrainAsync(string manifest, string output, ModelFolder origin, TimeSpan time, CancellationToken cancellationToken)
{
    // Load the parts of the initial model.
    var (about, size) = (origin.Description, origin.Description.Video);
    using var vae = new AutoencoderKL(origin.ReadConfig<AutoencoderKLConfig>(about.Vae));
    vae.LoadWeights(origin.VaeWeights);
    using var text = T5TextEncoder.Load(
        origin.ReadConfig<T5Config>(about.TextEncoder),
        origin.TextEncoderWeights,
        origin.Tokenizer,
        about.TextEncoder.MaxTokens,
        about.TextEncoder.CleanCaptions
    );
    using var model = new StdiT(origin.ReadConfig<StdiTConfig>(about.Denoiser));
    model.LoadWeights(origin.DenoiserWeights);

    // Encode the clips once.
    var clip = new ClipOptions
    {
        Width = size.Width,
        Height = size.Height,
        FramesPerSecond = size.Fps,
        Frames = size.Frames,
    };
    var table = (await VideoTable.OpenAsync(manifest, new VideoReader(), clip)).PadShortClips();
    using var cache = await LatentCache.OpenOrCreateAsync(
        Path.Combine(output, "latents.safetensors"),
        LatentCache.KeyOf(table, vae),
        table,
        vae,
        cancellationToken: cancellationToken
    );

    // Train on single frames and on clips.
    TrainingStage Stage(string name, int frames, int batchSize, double share) =>
        new()
        {
            Name = name,
            Data = cache.AsData(text, frames: frames),
            Steps = 100_000,
            TimeLimit = time * share,
            BatchSize = batchSize,
            LearningRate = 3e-4,
            FinalLearningRate = 3e-5,
            WarmUpSteps = 10,
            EmaDecay = 0.98,
            EmaWarmUp = true,
        };
    var (prediction, variance) = (about.Diffusion.Prediction, about.Diffusion.Variance);
    var process = new Iddpm(IddpmSchedule.Linear(), prediction, variance);
    using var trainer = new StagedTrainer(new DiffusionTraining(model, process: process))
        .AddStage(Stage("images", 1, 8, 0.4))
        .AddStage(Stage("clips", size.Frames, 1, 0.6))
        .AddConsoleProgress()
        .SaveTo(new CheckpointOptions { Folder = Path.Combine(output, "checkpoints"), KeepLast = 1 })
        .Resume(Path.Combine(output, "checkpoints"), ifAny: true);
    await trainer.RunAsync(cancellationToken: cancellationToken);
    trainer.UseAverages();
    model.eval();

    // Generate a video for each of the first captions with the trained model in memory.
    var prompts = cache.Captions.Select(captions => captions[0]).Distinct(StringComparer.Ordinal).Take(4).ToArray();
    var pipeline = new VideoPipeline(model, text, vae, new DpmSolver(about.Sampling.Steps, prediction: prediction));
    var videos = pipeline.Generate(
        prompts,
        new GenerationSettings
        {
            Frames = size.Frames,
            Width = size.Width,
            Height = size.Height,
            GuidanceScale = about.Sampling.GuidanceScale,
            FramesPerSecond = size.Fps,
            Seed = 1,
        },
        cancellationToken: cancellationToken
    );
    var result = Path.Combine(output, "result.mp4");
    await new VideoWriter().WriteAsync(VideoFrames.Tile(videos, columns: 2), result, cancellationToken: cancellationToken);
    Console.WriteLine($"{result} shows: {string.Join("; ", prompts)}");
}
