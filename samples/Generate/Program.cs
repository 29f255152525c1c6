// Generates a video from a prompt: dotnet run --project samples/Generate -- "a goat"
using System.CommandLine;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.Samples;

var prompt = new Argument<string>("prompt") { Description = "The description of the video.", DefaultValueFactory = _ => "a goat" };
var model = new Option<string?>("--model") { Description = "The name of a model, or the path of a model folder." };
var backend = new Option<string?>("--backend") { Description = "cpu or cuda; the best available backend by default." };
var output = new Option<string>("--out") { Description = "The folder to write to.", DefaultValueFactory = _ => "out" };
var seed = new Option<long?>("--seed") { Description = "The random seed. The same seed gives the same video; random by default." };
var frames = new Option<int?>("--frames") { Description = "The number of frames." };
var size = new Option<string?>("--size") { Description = "The width and height in pixels, such as 128x128." };
var steps = new Option<int?>("--steps") { Description = "The number of denoising steps. More steps take longer and give more detail." };
var guidance = new Option<double?>("--guidance") { Description = "The classifier-free guidance scale; 1 means no guidance." };
var negative = new Option<string?>("--negative") { Description = "The negative prompt: what the video should not show." };
var references = new Option<string[]>("--reference")
{
    Description = "Images and videos that provide conditioning frames, for models that were trained with them.",
};
var strategy = new Option<string>("--mask-strategy")
{
    Description =
        "The placement of the reference frames, as in Open-Sora: loop,reference,reference start,target start,length,edit ratio;... "
        + "The default animates an image; 0,0,-4,0,4 continues a video from its last four frames.",
    DefaultValueFactory = _ => "0",
};
size.Validators.Add(result =>
{
    if (result.GetValueOrDefault<string?>() is { } text && Names.ParseSize(text) is null)
    {
        result.AddError("--size expects a width and a height, such as 128x128.");
    }
});

var command = new RootCommand("Generates a video from a prompt and saves it as MP4, GIF and contact sheet.")
{
    prompt,
    model,
    backend,
    output,
    seed,
    frames,
    size,
    steps,
    guidance,
    negative,
    references,
    strategy,
};
command.SetAction(
    async (arguments, cancellationToken) =>
    {
        try
        {
            new VideoWriter().RequireSupport(VideoFormat.Mp4); // before the video is generated
            var (video, name) = await ConsoleProgress.ShowAsync(progress => GenerateAsync(arguments, progress, cancellationToken));
            Console.WriteLine($"\"{video.Prompt}\"");
            Console.WriteLine(
                $"  model {video.Model} on {video.Backend}, {video.Sampler} with {video.Steps} steps, guidance {video.GuidanceScale:0.##}, "
                    + $"seed {video.Seed}"
            );
            Console.WriteLine(
                $"  {video.Frames.Count} frames of {video.Frames.Width}x{video.Frames.Height} at {video.Frames.FramesPerSecond:0.##} fps, "
                    + $"generated in {video.Elapsed.TotalSeconds:0.0} s"
            );
            foreach (var warning in video.Warnings)
            {
                Console.WriteLine($"  Warning: {warning}");
            }

            foreach (var extension in new[] { "mp4", "gif", "png" })
            {
                Console.WriteLine($"  {name}.{extension}");
            }

            return 0;
        }
        catch (OperationCanceledException)
        {
            Console.Error.WriteLine("Canceled.");
            return 130;
        }
        catch (Exception e) // the library's messages explain the problem and how to resolve it
        {
            Console.Error.WriteLine(e.Message);
            return 1;
        }
    }
);

// On Ctrl+C, let the current step finish.
return await command.Parse(args).InvokeAsync(new InvocationConfiguration { ProcessTerminationTimeout = TimeSpan.FromSeconds(30) });

// Generates the video and saves it; returns the paths of its files without their extensions too.
async Task<(GeneratedVideo Video, string Name)> GenerateAsync(
    ParseResult arguments,
    IProgress<GenerationProgress> progress,
    CancellationToken cancellationToken
)
{
    using var generator = VideoGenerator
        .Create()
        .Configure(options => (options.Model, options.Backend) = (arguments.GetValue(model), arguments.GetValue(backend)))
        .Build();
    await generator.LoadAsync(progress, cancellationToken);

    var text = arguments.GetValue(prompt)!;
    var request = generator.Request(text);
    List<VideoFrames> given = [];
    foreach (var file in arguments.GetValue(references) ?? [])
    {
        given.Add(await new VideoReader().ReadAsync(file, cancellationToken: cancellationToken));
    }

    if (given.Count > 0)
    {
        request.ConditionOn(given, arguments.GetValue(strategy)!);
    }

    var pixels = Names.ParseSize(arguments.GetValue(size));
    var video = await request
        .Frames(arguments.GetValue(frames))
        .Size(pixels?.Width, pixels?.Height)
        .Steps(arguments.GetValue(steps))
        .GuidanceScale(arguments.GetValue(guidance))
        .Seed(arguments.GetValue(seed))
        .NegativePrompt(arguments.GetValue(negative))
        .GenerateAsync(progress, cancellationToken);

    var name = Path.Combine(arguments.GetValue(output)!, Names.ForFile(text, video.Seed));
    await video.SaveMp4Async($"{name}.mp4", progress, cancellationToken);
    await video.SaveGifAsync($"{name}.gif", progress, cancellationToken);
    await video.SaveContactSheetAsync($"{name}.png", cancellationToken: cancellationToken);
    return (video, name);
}
