// Trains a model on your own clips in three stages, starting from the included sticker model, and generates sample videos:
// dotnet run -c Release --project samples/TrainYourOwn -- FOLDER_OF_CLIPS --minutes 6
using System.CommandLine;
using System.Runtime.Intrinsics.X86;
using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Data;
using OpenSora.Training.Objectives;
using OpenSora.Training.Stages;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

var clips = new Argument<string>("clips")
{
    Description = "A folder of clips. Captions: the lines of dog.txt beside dog.mp4, or else the file name; or captions.csv with path,caption.",
};
var minutes = new Option<double>("--minutes") { Description = "The total training time in minutes, for all stages.", DefaultValueFactory = _ => 6 };
var output = new Option<string>("--out") { Description = "The folder for checkpoints, previews and model.", DefaultValueFactory = _ => "out/mine" };
var start = new Option<string>("--model") { Description = "The initial model: a model name or a folder.", DefaultValueFactory = _ => "stickers" };
var command = new RootCommand("Trains a model on a folder of clips in three stages.") { clips, minutes, output, start };
command.SetAction(
    async (parsed, cancellationToken) =>
    {
        try
        {
            return await TrainAsync(
                parsed.GetValue(clips)!,
                parsed.GetValue(minutes),
                parsed.GetValue(output)!,
                parsed.GetValue(start)!,
                cancellationToken
            );
        }
        catch (OperationCanceledException)
        {
            Console.WriteLine("Stopped. Run the same command again to resume.");
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

static async Task<int> TrainAsync(string folder, double minutes, string output, string start, CancellationToken cancellationToken)
{
    // Load the parts of the model to start from.
    var origin = ModelFolder.Open(start);
    var (about, config, size) = (origin.Description, origin.ReadConfig<StdiTConfig>(origin.Description.Denoiser), origin.Description.Video);
    using var vae = new AutoencoderKL(origin.ReadConfig<AutoencoderKLConfig>(about.Vae));
    vae.LoadWeights(origin.VaeWeights);
    using var text = T5TextEncoder.Load(
        origin.ReadConfig<T5Config>(about.TextEncoder),
        origin.TextEncoderWeights,
        origin.Tokenizer,
        about.TextEncoder.MaxTokens,
        about.TextEncoder.CleanCaptions
    );
    using var model = new StdiT(config);
    model.LoadWeights(origin.DenoiserWeights);
    if (Avx512BW.IsSupported) // bfloat16 is faster on processors that support it
    {
        vae.UseComputeType(ScalarType.BFloat16);
        model.UseComputeType(ScalarType.BFloat16);
    }

    // Encode every frame of the clips once with the autoencoder.
    var wanted = new ClipOptions
    {
        Width = size.Width,
        Height = size.Height,
        FramesPerSecond = size.Fps,
        Frames = size.Frames,
    };
    var csv = Path.Combine(folder, "captions.csv");
    var table = File.Exists(csv) ? new VideoTable(csv, new VideoReader(), wanted) : VideoTable.FromFolder(folder, new VideoReader(), wanted);
    foreach (var (path, reason) in table.PassedOver)
    {
        Console.WriteLine($"skipped {path}: {reason}");
    }

    var all = table.PadShortClips(); // images and short videos repeat their last frame
    var sizes = await all.SizesAsync(
        new Progress<(int Index, string Reason)>(bad => Console.WriteLine($"skipped {all.Paths[bad.Index]}: {bad.Reason}")),
        cancellationToken
    );
    table = all.Select(Enumerable.Range(0, all.Count).Where(i => sizes[i].Frames > 0));
    sizes = [.. sizes.Where(size => size.Frames > 0)];
    using var cache = await LatentCache.OpenOrCreateAsync(
        Path.Combine(output, "latents.safetensors"),
        LatentCache.KeyOf(table, vae),
        table,
        vae,
        cancellationToken: cancellationToken
    );
    Console.WriteLine($"{table.Count} clips, {cache.Captions.SelectMany(all => all).Distinct(StringComparer.Ordinal).Count()} captions");

    // Select the tenth of the clips with the most pixels, at least one clip.
    var finest = Enumerable
        .Range(0, table.Count)
        .OrderByDescending(i => (long)sizes[i].Frames * sizes[i].Height * sizes[i].Width)
        .Take(Math.Max(1, table.Count / 10))
        .ToArray();
    Console.WriteLine($"highest resolution: {string.Join(", ", finest.Select(i => Path.GetFileName(table.Paths[i])))}");

    // Train in three stages: single frames, clips of half the model's length, and the highest-resolution clips at full length.
    var images = cache.AsData(text, frames: 1);
    var shorter = cache.AsData(text, frames: Math.Max(1, size.Frames / 2));
    var longer = cache.AsData(text, finest, size.Frames);
    TrainingStage Stage(string name, ITrainingData data, int batch, double share, double rate) =>
        new()
        {
            Name = name,
            Data = data,
            Steps = 100_000,
            TimeLimit = TimeSpan.FromMinutes(minutes * share),
            BatchSize = batch,
            Workers = Math.Min(2, Environment.ProcessorCount),
            LearningRate = rate,
            FinalLearningRate = rate / 10,
            WarmUpSteps = 10,
            Beta2 = 0.99,
            EmaDecay = 0.98,
            EmaWarmUp = true,
        };
    var first = Stage("images", images, 8, 0.35, 4e-4);
    first.Parameters = TrainedParameters.NotTemporal;

    var process = new Iddpm(IddpmSchedule.Linear(), about.Diffusion.Prediction, about.Diffusion.Variance);
    var prompts = cache.Captions.Select(all => all[0]).Distinct(StringComparer.Ordinal).Take(8).ToArray();
    using var trainer = new StagedTrainer(new DiffusionTraining(model, process: process))
        .AddStage(first)
        .AddStage(Stage("clips", shorter, 2, 0.45, 3e-4))
        .AddStage(Stage("fine clips", longer, 1, 0.2, 1e-4))
        .AddConsoleProgress()
        .AddPreviews(
            Path.Combine(output, "previews"),
            model,
            text,
            vae,
            prompts,
            new GenerationSettings
            {
                Steps = about.Sampling.Steps,
                GuidanceScale = about.Sampling.GuidanceScale,
                FramesPerSecond = size.Fps,
            }
        )
        .SaveTo(new CheckpointOptions { Folder = Path.Combine(output, "checkpoints"), KeepLast = 1 })
        .Resume(Path.Combine(output, "checkpoints"), ifAny: true); // continues from the latest checkpoint, if any
    await trainer.RunAsync(cancellationToken: cancellationToken);

    // Save the trained model as a model folder, and generate a video for each prompt from it.
    trainer.UseAverages();
    var mine = Path.Combine(output, "model");
    Directory.CreateDirectory(mine);
    foreach (var file in Directory.EnumerateFiles(origin.Path))
    {
        File.Copy(file, Path.Combine(mine, Path.GetFileName(file)), overwrite: true);
    }

    model.SaveWeights(Path.Combine(mine, Path.GetFileName(origin.DenoiserWeights)), ScalarType.Float16);
    ModelFolder.Save(mine, about with { Name = "mine", Description = $"{about.Name}, trained further on {table.Count} clips." });

    using var generator = VideoGenerator.Create().UseModel(mine).Build();
    List<VideoFrames> videos = [];
    foreach (var prompt in prompts)
    {
        videos.Add((await generator.Request(prompt).Seed(1).GenerateAsync(cancellationToken: cancellationToken)).Frames);
    }

    await new VideoWriter().WriteAsync(VideoFrames.ContactSheet(videos, 6), Path.Combine(output, "result.png"), cancellationToken: cancellationToken);
    await new VideoWriter().WriteAsync(VideoFrames.Tile(videos, 4), Path.Combine(output, "result.mp4"), cancellationToken: cancellationToken);
    Console.WriteLine($"{Path.Combine(output, "result.mp4")} and .png show: {string.Join("; ", prompts)}");
    Console.WriteLine($"The model was saved to {mine}; use it in samples/Generate with --model.");
    return 0;
}
