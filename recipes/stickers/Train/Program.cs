using System.CommandLine;
using System.Globalization;
using OpenSora.Diffusion;
using Stickers;
using TorchSharp;

var here = Path.GetFullPath(Path.Combine(AppContext.BaseDirectory, "../../../.."));
var recipe = new Option<string>("--recipe")
{
    Description = "The recipe: sizes of the networks and settings of the stages.",
    DefaultValueFactory = _ => Path.Combine(here, "recipe.json"),
    Recursive = true,
};
var data = new Option<string>("--data")
{
    Description = "The folder with the packed data of prepare.mjs.",
    DefaultValueFactory = _ => Path.Combine(here, ".work/stickers"),
    Recursive = true,
};
var run = new Option<string>("--run")
{
    Description = "The folder for checkpoints and caches.",
    DefaultValueFactory = _ => Path.Combine(here, ".work/run"),
    Recursive = true,
};
var tokenizer = new Option<string>("--tokenizer")
{
    Description = "The SentencePiece model.",
    DefaultValueFactory = _ => Path.Combine(here, "tokenizer/spiece.model"),
    Recursive = true,
};
var threads = new Option<int>("--threads")
{
    Description = "The number of threads.",
    DefaultValueFactory = _ => Environment.ProcessorCount,
    Recursive = true,
};
var minutes = new Option<double?>("--minutes")
{
    Description = "The length of the stage, which the learning rate schedule follows; by default, that of the recipe.",
};
var output = new Option<string>("--out") { Description = "The file or folder to write." };
var prompts = new Option<string>("--prompts")
{
    Description = "A file with one prompt per line.",
    DefaultValueFactory = _ => Path.Combine(here, "prompts.txt"),
};
var from = new Option<string?>("--from") { Description = "A checkpoint of another run, or a model folder, to start from." };
var stage = new Option<string>("--stage")
{
    Description = "The stage that provides the weights: images, videos or long.",
    DefaultValueFactory = _ => "long",
};
var frames = new Option<int?>("--frames") { Description = "The number of frames; by default, that of the stage." };
var steps = new Option<int>("--steps") { Description = "The number of sampling steps.", DefaultValueFactory = _ => 20 };
var guidance = new Option<double?>("--guidance") { Description = "The guidance scale; by default, that of the recipe or the model." };
var model = new Option<string>("--model")
{
    Description = "The model folder.",
    DefaultValueFactory = _ => Path.Combine(here, "../../models/stickers"),
};
var each = new Option<int>("--each") { Description = "The number of prompts of each kind.", DefaultValueFactory = _ => 40 };
var seeds = new Option<int>("--seeds") { Description = "The number of seeds for each prompt.", DefaultValueFactory = _ => 2 };
var bfloat16 = new Option<bool>("--bfloat16") { Description = "Generate in bfloat16, which is faster on processors that support it." };
var fine = new Option<bool>("--fine")
{
    Description = "Use only the objects of fine-things.txt in prompts. Images are always compared with all objects.",
};
var fewer = new Option<int?>("--steps") { Description = "The number of sampling steps; by default, that of the model." };
var table = new Option<string?>("--table") { Description = "The file to which the results are written as a Markdown table." };
var seed = new Option<int>("--seed")
{
    Description = "The seed of the noise; an evaluation uses a range of 1,000 seeds.",
    DefaultValueFactory = _ => 1,
};

Command Verb(string name, string description, Func<Workplace, ParseResult, CancellationToken, Task> action, params Option[] options)
{
    var command = new Command(name, description);
    foreach (var option in options)
    {
        command.Options.Add(option);
    }

    command.SetAction(
        async (parsed, cancellation) =>
        {
            CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
            torch.set_num_threads(parsed.GetValue(threads));
            try
            {
                await action(
                    new Workplace(parsed.GetValue(recipe)!, parsed.GetValue(data)!, parsed.GetValue(run)!, parsed.GetValue(tokenizer)!),
                    parsed,
                    cancellation
                );
                return 0;
            }
            catch (OperationCanceledException)
            {
                Console.WriteLine("Stopped. Run the same command again to resume.");
                return 130;
            }
        }
    );
    return command;
}

Command Stage(string name, string description) =>
    Verb(
        name,
        description,
        (place, parsed, cancellation) => Training.StageAsync(place, name, parsed.GetValue(minutes), parsed.GetValue(from), cancellation),
        minutes,
        from
    );

var root = new RootCommand(
    "Trains the sticker model: vae (or begin), cache, text, motions, flat, images, videos, long, export. "
        + "Every step resumes where it was stopped."
)
{
    Verb(
        "vae",
        "Trains the autoencoder.",
        (place, parsed, cancellation) => Training.VaeAsync(place, parsed.GetValue(minutes), cancellation),
        minutes
    ),
    Verb(
        "begin",
        "Copies the autoencoder and the text encoder of a model folder, instead of training them.",
        (place, parsed, _) =>
        {
            Export.Begin(place, parsed.GetValue(model)!);
            return Task.CompletedTask;
        },
        model
    ),
    Verb("cache", "Encodes all stickers to latents.", (place, _, cancellation) => Training.CacheAsync(place, cancellation)),
    Verb(
        "look",
        "Writes some of the moving stills as an image.",
        (place, parsed, _) => Training.LookAsync(place, parsed.GetValue(output) ?? Path.Combine(place.Run, "moved.png")),
        output
    ),
    Verb(
        "text",
        "Trains the text encoder.",
        (place, parsed, cancellation) => Training.TextAsync(place, parsed.GetValue(minutes), cancellation),
        minutes
    ),
    Verb("motions", "Teaches the text encoder the words for motions.", (place, parsed, cancellation) =>
    {
        NewWords.Motions(place, 300, cancellation);
        return Task.CompletedTask;
    }),
    Verb("flat", "Teaches the text encoder the word for the flat style.", (place, parsed, cancellation) =>
    {
        NewWords.Flat(place, 300, cancellation);
        return Task.CompletedTask;
    }),
    Stage("images", "Stage 1: stills."),
    Stage("videos", "Stage 2: some frames of clips and moving stills, and stills."),
    Stage("long", "Stage 3: all frames."),
    Verb(
        "gap",
        "Compares the loss with the right captions and with wrong ones.",
        (place, parsed, cancellation) => Training.GapAsync(place, parsed.GetValue(stage)!, cancellation),
        stage
    ),
    Verb(
        "sheet",
        "Generates the prompts with the latest checkpoint.",
        (place, parsed, cancellation) =>
            Sheet.RenderAsync(
                place,
                parsed.GetValue(output) ?? Path.Combine(place.Run, "sheet.png"),
                parsed.GetValue(prompts)!,
                parsed.GetValue(stage)!,
                parsed.GetValue(frames),
                parsed.GetValue(steps),
                parsed.GetValue(guidance) ?? place.Recipe.Guidance,
                parsed.GetValue(seed),
                cancellation
            ),
        output,
        prompts,
        stage,
        frames,
        steps,
        guidance,
        seed
    ),
    Verb(
        "evaluate",
        "Measures how well the videos of a model match their prompts.",
        async (place, parsed, cancellation) =>
        {
            using var stills = StickerSet.Stills(place.Data);
            using var clips = StickerSet.Clips(place.Data);
            await new Evaluation(place, stills, clips, parsed.GetValue(fine) ? place.FineThings : null).RunAsync(
                new EvaluationSettings
                {
                    Model = parsed.GetValue(model)!,
                    Each = parsed.GetValue(each),
                    Seeds = parsed.GetValue(seeds),
                    Seed = parsed.GetValue(seed),
                    Steps = parsed.GetValue(fewer),
                    Guidance = parsed.GetValue(guidance),
                    BFloat16 = parsed.GetValue(bfloat16),
                    Sheet = parsed.GetValue(output),
                    Table = parsed.GetValue(table),
                },
                cancellation
            );
        },
        model,
        each,
        seeds,
        seed,
        fewer,
        guidance,
        bfloat16,
        fine,
        output,
        table
    ),
    Verb(
        "export",
        "Writes the model folder.",
        (place, parsed, _) =>
        {
            Export.Write(
                place,
                parsed.GetValue(output) ?? Path.Combine(here, "../../models/stickers"),
                parsed.GetValue(stage)!,
                Path.Combine(here, "DATA_LICENSES.md")
            );
            return Task.CompletedTask;
        },
        output,
        stage
    ),
    recipe,
    data,
    run,
    tokenizer,
    threads,
};

// Time to write a checkpoint when the program is asked to stop.
return await root.Parse(args).InvokeAsync(new InvocationConfiguration { ProcessTerminationTimeout = TimeSpan.FromMinutes(1) });
