using OpenSora.Diffusion;
using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Text;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Data;
using OpenSora.Training.Objectives;
using OpenSora.Training.Stages;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace Stickers;

/// <summary>The steps of the recipe.</summary>
internal static class Training
{
    public static async Task VaeAsync(Workplace place, double? minutes, CancellationToken cancellation)
    {
        using var stills = StickerSet.Stills(place.Data);
        using var clips = StickerSet.Clips(place.Data);
        manual_seed(place.Recipe.VaeStage.Seed);
        using var vae = new AutoencoderKL(place.Recipe.Vae);
        vae.UseComputeType(ScalarType.BFloat16);
        var source = new LooseFrames(stills, stills, clips);
        using var trainer = new StagedTrainer(place.Recipe.VaeLoss.Of(vae))
            .AddStage(place.Recipe.VaeStage.ToStage("vae", source.AsPixels(place.Recipe.Crop), minutes))
            .AddConsoleProgress()
            .AddPreviews(place.Run, _ => Pictures(), every: TimeSpan.FromMinutes(2))
            .SaveTo(place.Checkpoints("vae"))
            .Resume(place.Folder("vae"), ifAny: true);
        await trainer.RunAsync(cancellationToken: cancellation);
        trainer.UseAverages();

        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        vae.eval();
        var sample = Sample(512);
        var latents = cat([.. sample.split(32).Select(part => vae.EncodeImages(part).Mean)]);
        var factor = 1 / latents.std().cpu().item<float>();
        var culture = System.Globalization.CultureInfo.InvariantCulture;
        var channels = latents.std([0L, 2L, 3L]).data<float>().Select(value => value.ToString("F2", culture));
        Console.WriteLine(string.Create(culture, $"latents: deviation {1 / factor:F4}, by channel {string.Join(' ', channels)}"));
        place.SaveVae(vae, factor);
        await Workplace.SaveAsync(Pictures(), Path.Combine(place.Run, "vae.png"), 4);

        Tensor Sample(int count) =>
            stack(
                Enumerable
                    .Range(0, count)
                    .Select(i => source.Load(TrainingData.RandomFor(7, i).Next(source.Count), TrainingData.RandomFor(8, i)).Video.squeeze(1))
            );

        // Originals in the odd rows, what comes back in the even ones.
        IReadOnlyList<VideoFrames> Pictures()
        {
            using var inner = NewDisposeScope();
            var originals = Sample(16);
            var back = vae.DecodeImages(vae.EncodeImages(originals).Mean);
            var error = (back.clamp(-1, 1) - originals).square().mean().cpu().item<float>();
            Console.WriteLine(FormattableString.Invariant($"reconstruction: {-10 * Math.Log10(error / 4):F2} dB"));
            return
            [
                .. from row in Enumerable.Range(0, 4)
                from images in new[] { originals, back }
                from column in Enumerable.Range(0, 4)
                select VideoFrames.FromTensor(images[4 * row + column].unsqueeze(1), 1),
            ];
        }
    }

    public static async Task CacheAsync(Workplace place, CancellationToken cancellation)
    {
        using var data = new StickerLatents(place, cancellation);
        var styles = place.Recipe.HasFlat ? new[] { StickerSet.Usual, StickerSet.Flat } : [StickerSet.Usual];
        foreach (var style in styles)
        {
            Console.WriteLine((await data.StillsAsync(style)).Fingerprint);
        }

        Console.WriteLine((await data.ClipsAsync()).Fingerprint);
        foreach (var style in styles)
        {
            Console.WriteLine((await data.MovedAsync(style)).Fingerprint);
        }
    }

    /// <summary>Some of the moved stills, four frames each, with their captions in the console.</summary>
    public static async Task LookAsync(Workplace place, string path)
    {
        using var stills = StickerSet.Stills(place.Data);
        using var clips = StickerSet.Clips(place.Data);
        var moved = place.Moved(stills, clips);
        List<VideoFrames> tiles = [];
        for (var i = 0; i < 16; i++)
        {
            using var scope = NewDisposeScope();
            var clip = moved.Load(i, TrainingData.RandomFor(0, i));
            tiles.Add(VideoFrames.FromTensor(clip.Video, 8));
            Console.WriteLine(clip.Captions[i % clip.Captions.Count]);
        }
        await Workplace.SaveAsync(tiles, path, 4);
    }

    /// <summary>Trains the text encoder alone: a small transformer that always starts from pure noise can reproduce the latents of a sticker only as
    /// far
    /// as the states of its caption describe them.</summary>
    public static async Task TextAsync(Workplace place, double? minutes, CancellationToken cancellation)
    {
        manual_seed(place.Recipe.TextStage.Seed);
        using var teacher = new StdiT(place.Recipe.Teacher);
        using var text = new T5TextEncoder(place.Recipe.Text);
        teacher.UseComputeType(ScalarType.BFloat16);
        text.UseComputeType(ScalarType.BFloat16);
        using var data = new StickerLatents(place, cancellation);
        var tokenizer = Tokenizers.SentencePiece(place.Tokenizer);
        using var trainer = new StagedTrainer(
            new DiffusionTraining(teacher, text, Process(place.Recipe with { Prediction = Prediction.Sample }), new OneTimestep(999))
        )
            .AddStage(place.Recipe.TextStage.ToStage("text", await data.StillsAsync(), minutes))
            .AddConsoleProgress()
            .AddCallback(new Deviation(text, await data.StillCaptionsAsync(), tokenizer, place.Recipe.Tokens))
            .SaveTo(place.Checkpoints("text"))
            .Resume(place.Folder("text"), ifAny: true);
        await trainer.RunAsync(cancellationToken: cancellation);
        trainer.UseAverages();
        text.SaveWeights(place.TextWeights, ScalarType.Float32);
    }

    /// <summary>Reports at intervals how far apart the states of objects are, as a fraction of their size. Near 0 the encoder has collapsed: all
    /// captions
    /// have the same states.</summary>
    private sealed class Deviation(T5TextEncoder text, IReadOnlyList<IReadOnlyList<string>> captions, ITokenizer tokenizer, int length)
        : ITrainingCallback
    {
        public async ValueTask StepDoneAsync(TrainingRun run, TrainingProgress progress)
        {
            if (run.Step % 200 != 0)
            {
                return;
            }

            var deviation = 0.0;
            run.Evaluate(() =>
            {
                var some = captions.Where((_, i) => i % 16 == 0).Select(all => all[^1]).ToArray();
                var ids = full([some.Length, length], tokenizer.PadId, dtype: ScalarType.Int64);
                foreach (var (i, caption) in some.Index())
                {
                    var tokens = tokenizer.Encode(caption, length).Select(id => (long)id).ToArray();
                    ids[i].narrow(0, 0, tokens.Length).copy_(tensor(tokens));
                }
                var mask = ids.ne(tokenizer.PadId);
                var weight = mask.unsqueeze(-1).to(ScalarType.Float32);
                var states = (text.forward(ids, mask).to(ScalarType.Float32) * weight).sum(1) / weight.sum(1);
                var share = (states - states.mean([0L])).square().mean().sqrt() / states.square().mean().sqrt();
                deviation = share.cpu().item<float>();
            });
            await run.ReportAsync(
                new TrainingObservation("text states")
                {
                    Scalars = new Dictionary<string, double>(StringComparer.Ordinal) { ["deviation"] = deviation },
                }
            );
        }
    }

    /// <summary>The transformer for the frames of a stage, which keep their positions.</summary>
    public static StdiTConfig ConfigOf(Workplace place, string stage)
    {
        var (config, interval) = (place.Recipe.Model, place.Recipe.Stage(stage).FrameInterval);
        return config with
        {
            InputSize = [(config.InputSize[0] - 1) / interval + 1, .. config.InputSize.Skip(1)],
            TimeScale = config.TimeScale / interval,
        };
    }

    /// <summary>How the weights of one stage begin the next: whole, but for the tables of positions, which belong to the size of the clips and are
    /// computed, not learned.</summary>
    public static LoadOptions PartsToKeep { get; } =
        new()
        {
            KeepInitial = key => key.Contains("pos_embed", StringComparison.Ordinal),
            KeyMap = key => key.Contains("pos_embed", StringComparison.Ordinal) ? null : key,
        };

    /// <summary>The stages of the transformer: images, videos, long. Images leave out temporal attention, whose output starts as zero.</summary>
    /// <param name="place">The recipe and its folders.</param>
    /// <param name="name">The stage.</param>
    /// <param name="minutes">Its length; null: the recipe's.</param>
    /// <param name="from">A checkpoint, or a model folder, to begin with; null: the stage before.</param>
    /// <param name="cancellation">Stops it.</param>
    public static async Task StageAsync(Workplace place, string name, double? minutes, string? from, CancellationToken cancellation)
    {
        string[] order = ["images", "videos", "long"];
        var (at, settings) = (Array.IndexOf(order, name), place.Recipe.Stage(name));
        var (model, text) = Models(place, ConfigOf(place, name));
        using (model)
        using (text)
        using (var data = new StickerLatents(place, cancellation, settings))
        {
            var stills = at == 0 ? 1 : model.Config.InputSize[0]; // as many as a clip has frames
            List<(ITrainingData Data, double Samples)> turns = [];
            foreach (var turn in settings.Turns)
            {
                turns.Add(
                    turn switch
                    {
                        Turn.Clips => (await data.ClipsAsync(), 1),
                        Turn.Moved => (await data.MovedAsync(), 1),
                        Turn.Spinning => (await data.MovedAsync(motion: "spinning"), 1),
                        Turn.FlatMoved => (await data.MovedAsync(StickerSet.Flat), 1),
                        Turn.FlatStills => (await data.StillsAsync(StickerSet.Flat), stills),
                        _ => (await data.StillsAsync(white: turn == Turn.WhiteStills), stills),
                    }
                );
            }

            var stage = settings.ToStage(name, TrainingData.Mix([.. turns]), minutes);
            stage.Trains = parameter =>
                parameter.StartsWith("model.", StringComparison.Ordinal) && (at > 0 || !parameter.Contains(".attn_temp.", StringComparison.Ordinal));
            model.TemporalAttention = at > 0;
            using var trainer = new StagedTrainer(Objective(place, model, text)).AddStage(stage).AddConsoleProgress().SaveTo(place.Checkpoints(name));
            if (from is not null && File.Exists(Path.Combine(from, ModelFolder.FileName)))
            {
                model.LoadWeights(ModelFolder.Open(from).DenoiserWeights, PartsToKeep);
            }
            else if (from is not null || at > 0)
            {
                trainer.InitializeFrom(from ?? place.Folder(order[at - 1]), options: PartsToKeep);
            }

            trainer.Resume(place.Folder(name), ifAny: true);
            text.LoadWeights(place.TextWeights); // words may have been taught since the stage before
            await trainer.RunAsync(cancellationToken: cancellation);
        }
    }

    /// <summary>What the text has taught: the loss of stills at some time steps with the right captions and with those of others.</summary>
    public static async Task GapAsync(Workplace place, string name, CancellationToken cancellation)
    {
        var (model, text) = Models(place, ConfigOf(place, name));
        using (model)
        using (text)
        using (var data = new StickerLatents(place, cancellation))
        {
            using (var trainer = new StagedTrainer(model, text))
            {
                trainer.InitializeFrom(place.Folder(name));
            }

            model.eval();
            using (var batch = await (await data.StillsAsync()).GetBatchAsync(0, 128, 77, cancellation))
            {
                Compare("stills", batch);
            }

            if (place.Recipe.HasFlat)
            {
                using var batch = await (await data.StillsAsync(StickerSet.Flat)).GetBatchAsync(0, 128, 77, cancellation);
                Compare("flat stills", batch);
            }

            void Compare(string what, TrainingBatch stills)
            {
                using var noGradients = no_grad();
                foreach (var timestep in new[] { 999, 900, 700, 500, 250 })
                {
                    using var scope = NewDisposeScope();
                    var objective = new DiffusionTraining(model, text, Process(place.Recipe), new OneTimestep(timestep));
                    var stage = new TrainingStage { CaptionDropout = 0 };
                    double Loss(TrainingBatch batch)
                    {
                        using var generator = new Generator(5);
                        return objective.Loss(batch, stage, generator).Total.item<float>();
                    }
                    var (right, others) = (Loss(stills), Loss(stills with { Text = stills.Text!.roll(1, 0), Mask = stills.Mask!.roll(1, 0) }));
                    Console.WriteLine(
                        FormattableString.Invariant(
                            $"{what}, time step {timestep, 3}: loss {right:F4} with the right captions, {others:F4} with others"
                        )
                    );
                }
            }
        }
    }

    /// <summary>The transformer with its starting values and the text encoder as it was taught, computing in bfloat16.</summary>
    public static (StdiT Model, T5TextEncoder Text) Models(Workplace place, StdiTConfig? config = null)
    {
        if (!File.Exists(place.TextWeights))
        {
            throw new FileNotFoundException($"'{place.TextWeights}' is missing: train the text encoder first (text).", place.TextWeights);
        }

        manual_seed(place.Recipe.ImageStage.Seed);
        var model = new StdiT(config ?? place.Recipe.Model);
        var text = new T5TextEncoder(place.Recipe.Text, Tokenizers.SentencePiece(place.Tokenizer), place.Recipe.Tokens, cleanCaptions: false);
        using (var weights = WeightsFile.Open(place.TextWeights))
        {
            text.LoadWeights(weights);
        }

        model.UseComputeType(ScalarType.BFloat16);
        text.UseComputeType(ScalarType.BFloat16);
        return (model, text);
    }

    public static DiffusionTraining Objective(Workplace place, StdiT model, T5TextEncoder text) =>
        new(model, text, Process(place.Recipe), DiffusionTraining.SkewedTimesteps(place.Recipe.TimestepExponent));

    private static Iddpm Process(Recipe recipe) => new(IddpmSchedule.Linear(), recipe.Prediction, recipe.Variance);

    private sealed class OneTimestep(int timestep) : ITimestepSampler
    {
        public (Tensor Timesteps, Tensor Weights) Sample(int batch, int steps, Generator? generator = null) =>
            (full([batch], timestep, dtype: ScalarType.Int64), ones([batch]));
    }
}
