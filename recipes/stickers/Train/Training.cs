using OpenSora.Diffusion;
using OpenSora.Media;
using OpenSora.Models;
using OpenSora.Text;
using OpenSora.Training;
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
        using var trainer = new StagedTrainer(new VaeTraining(vae, place.Recipe.VaeLoss))
            .AddStage(place.Recipe.VaeStage.ToStage("vae", new PixelData(source) { Crop = place.Recipe.Crop }, minutes))
            .SaveTo(place.Checkpoints("vae"))
            .Resume(place.Folder("vae"), ifAny: true);
        await trainer.RunAsync(new Lines(_ => PictureAsync("vae-now.png"), TimeSpan.FromMinutes(2)), cancellation);
        trainer.UseAverages();

        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        vae.eval();
        var sample = Sample(512);
        var latents = cat([.. sample.split(32).Select(part => vae.EncodeImages(part).Mean)]);
        var factor = 1 / latents.std().cpu().item<float>();
        Console.WriteLine(FormattableString.Invariant($"latents: deviation {1 / factor:F4}, by channel {string.Join(' ', latents.std([0L, 2L, 3L]).data<float>().Select(value => value.ToString("F2", System.Globalization.CultureInfo.InvariantCulture)))}"));
        vae.SaveWeights(place.VaeWeights, ScalarType.Float32, new Dictionary<string, string>(StringComparer.Ordinal) { ["scaling_factor"] = FormattableString.Invariant($"{factor:R}") });
        await PictureAsync("vae.png");

        Tensor Sample(int count) => stack(Enumerable.Range(0, count).Select(i =>
            source.Load(Randomness.Of(7, i).Next(source.Count), Randomness.Of(8, i)).Video.squeeze(1)));

        // Originals in the odd rows, what comes back in the even ones.
        async Task PictureAsync(string name)
        {
            List<VideoFrames> tiles = [];
            using (no_grad())
            using (NewDisposeScope())
            {
                var originals = Sample(16);
                var back = vae.DecodeImages(vae.EncodeImages(originals).Mean);
                for (var row = 0; row < 4; row++)
                {
                    foreach (var images in new[] { originals, back })
                        tiles.AddRange(Enumerable.Range(4 * row, 4).Select(i => VideoFrames.FromTensor(images[i].unsqueeze(1), 1)));
                }
                var error = (back.clamp(-1, 1) - originals).square().mean().cpu().item<float>();
                Console.WriteLine(FormattableString.Invariant($"reconstruction: {-10 * Math.Log10(error / 4):F2} dB"));
            }
            await Workplace.SaveAsync(tiles, Path.Combine(place.Run, name), 4);
        }
    }

    public static Task CacheAsync(Workplace place, CancellationToken cancellation)
    {
        using var vae = place.Vae();
        foreach (var (set, backgrounds) in new[] { (StickerSet.Stills(place.Data), place.Recipe.StillBackgrounds), (StickerSet.Clips(place.Data), place.Recipe.ClipBackgrounds) })
        {
            using (set)
            {
                var clock = System.Diagnostics.Stopwatch.StartNew();
                var (count, next) = (place.Chosen(set).Length * backgrounds, TimeSpan.Zero);
                using var cache = place.Cache(set, backgrounds, vae, new Told(done =>
                {
                    if (clock.Elapsed < next && done < count)
                        return;
                    next = clock.Elapsed + TimeSpan.FromSeconds(15);
                    Console.WriteLine(FormattableString.Invariant($"{DateTime.UtcNow:HH:mm:ss} {set.Fingerprint}: {done} of {count}, {done * set.Frames / clock.Elapsed.TotalSeconds:F0} frames/s"));
                }), cancellation);
                Console.WriteLine(FormattableString.Invariant($"{cache.Path}: [{string.Join(", ", cache.Latents.shape)}]"));
            }
        }
        return Task.CompletedTask;
    }

    /// <summary>The text encoder, taught by itself: a small transformer that always begins with pure noise can only give back a sticker's latents as far
    /// as the states of its caption tell them.</summary>
    public static async Task TextAsync(Workplace place, double? minutes, CancellationToken cancellation)
    {
        manual_seed(place.Recipe.TextStage.Seed);
        using var teacher = new Stdit(place.Recipe.Teacher);
        using var text = new T5Encoder(place.Recipe.Text);
        teacher.UseComputeType(ScalarType.BFloat16);
        text.UseComputeType(ScalarType.BFloat16);
        using var data = new StickerLatents(place, cancellation);
        var tokenizer = SentencePieceTokenizer.Open(place.Tokenizer);
        using var trainer = new StagedTrainer(new DiffusionTraining(teacher, text, Process(place.Recipe with { Prediction = Prediction.Sample }), new LastTimestep()))
            .AddStage(place.Recipe.TextStage.ToStage("text", new MixedData((data.Stills, 1), (data.OneFrames, 1)), minutes))
            .SaveTo(place.Checkpoints("text"))
            .Resume(place.Folder("text"), ifAny: true);
        await trainer.RunAsync(new Lines(_ => TellDeviation(), TimeSpan.FromMinutes(1)), cancellation);
        trainer.UseAverages();
        await TellDeviation();
        text.SaveWeights(place.TextWeights, ScalarType.Float32);

        // How far the states of things lie apart, as a share of their size. Near 0 the encoder has collapsed: all captions say the same.
        Task TellDeviation()
        {
            using var scope = NewDisposeScope();
            using var noGradients = no_grad();
            var captions = data.StillCaptions.Where((_, i) => i % 16 == 0).Select(all => all[^1]).ToArray();
            var ids = full([captions.Length, place.Recipe.Tokens], tokenizer.PadId, dtype: ScalarType.Int64);
            foreach (var (i, caption) in captions.Index())
            {
                var tokens = tokenizer.Encode(caption, place.Recipe.Tokens).Select(id => (long)id).ToArray();
                ids[i].narrow(0, 0, tokens.Length).copy_(tensor(tokens));
            }
            var mask = ids.ne(tokenizer.PadId);
            var weight = mask.unsqueeze(-1).to(ScalarType.Float32);
            var states = (text.forward(ids, mask).to(ScalarType.Float32) * weight).sum(1) / weight.sum(1);
            var share = (states - states.mean([0L])).square().mean().sqrt() / states.square().mean().sqrt();
            Console.WriteLine(FormattableString.Invariant($"{DateTime.UtcNow:HH:mm:ss} deviation of text states between things: {share.cpu().item<float>():F3}"));
            return Task.CompletedTask;
        }
    }

    public static async Task ImagesAsync(Workplace place, double? minutes, string? from, CancellationToken cancellation)
    {
        var (model, text) = Models(place);
        using (model)
        using (text)
        using (var data = new StickerLatents(place, cancellation))
        {
            var stage = place.Recipe.ImageStage.ToStage("images", new MixedData((data.Stills, 1), (data.Stills, 1), (data.OneFrames, 1)), minutes);
            stage.Trains = name => !name.Contains(".attn_temp.", StringComparison.Ordinal) && name.StartsWith("model.", StringComparison.Ordinal);
            model.TemporalAttention = false;
            using var trainer = new StagedTrainer(Objective(place, model, text)).AddStage(stage).SaveTo(place.Checkpoints("images"));
            trainer.Resume(place.Folder("images"), ifAny: true);
            if (from is not null)
                trainer.InitialiseFrom(from, averages: false);
            await trainer.RunAsync(new Lines(), cancellation);
        }
    }

    public static async Task ClipsAsync(Workplace place, double? minutes, CancellationToken cancellation)
    {
        var (model, text) = Models(place);
        using (model)
        using (text)
        using (var data = new StickerLatents(place, cancellation))
        {
            var turns = Enumerable.Repeat<(ITrainingData, double)>((data.Videos, 1), place.Recipe.ImagesEvery - 1).Append((data.Stills, place.Recipe.Frames));
            var stage = place.Recipe.ClipStage.ToStage("clips", new MixedData([.. turns]), minutes);
            stage.Trains = name => name.StartsWith("model.", StringComparison.Ordinal); // the text encoder stays as it is
            using var trainer = new StagedTrainer(Objective(place, model, text)).AddStage(stage).SaveTo(place.Checkpoints("clips"));
            if (Directory.Exists(place.Folder("clips")))
                trainer.Resume(place.Folder("clips"), ifAny: true);
            trainer.InitialiseFrom(place.Folder("images"));
            await trainer.RunAsync(new Lines(), cancellation);
        }
    }

    /// <summary>The transformer with its starting values and the text encoder as it was taught, computing in bfloat16.</summary>
    public static (Stdit Model, T5Encoder Text) Models(Workplace place)
    {
        if (!File.Exists(place.TextWeights))
            throw new FileNotFoundException($"'{place.TextWeights}' is missing: train the text encoder first (text).", place.TextWeights);
        manual_seed(place.Recipe.ImageStage.Seed);
        var model = new Stdit(place.Recipe.Model);
        var text = new T5Encoder(place.Recipe.Text);
        using (var weights = SafetensorsFile.Open(place.TextWeights))
            text.LoadWeights(weights);
        model.UseComputeType(ScalarType.BFloat16);
        text.UseComputeType(ScalarType.BFloat16);
        return (model, text);
    }

    public static DiffusionTraining Objective(Workplace place, Stdit model, T5Encoder text) =>
        new(model, text, Process(place.Recipe), new SkewedTimesteps(place.Recipe.TimestepExponent));

    private static Iddpm Process(Recipe recipe) => new(IddpmSchedule.Linear(), new IddpmOptions { Prediction = recipe.Prediction, Variance = recipe.Variance });

    /// <summary>Always the noisiest time step.</summary>
    private sealed class LastTimestep : ITimestepSampler
    {
        public TimestepBatch Sample(int batch, int steps, Generator? generator = null) =>
            new(full([batch], steps - 1, dtype: ScalarType.Int64), ones([batch]));
    }

    /// <summary>The cached latents with tokenized captions.</summary>
    private sealed class StickerLatents : IDisposable
    {
        private readonly LatentCache stills, clips;

        public StickerLatents(Workplace place, CancellationToken cancellation)
        {
            using var vae = place.Vae();
            using var stillSet = StickerSet.Stills(place.Data);
            using var clipSet = StickerSet.Clips(place.Data);
            stills = place.Cache(stillSet, place.Recipe.StillBackgrounds, vae, cancellation: cancellation);
            clips = place.Cache(clipSet, place.Recipe.ClipBackgrounds, vae, cancellation: cancellation);
            var tokenizer = SentencePieceTokenizer.Open(place.Tokenizer);
            Stills = new LatentData(stills, tokenizer, place.Recipe.Tokens);
            OneFrames = new LatentData(clips, tokenizer, place.Recipe.Tokens) { Frames = 1 };
            Videos = new LatentData(clips, tokenizer, place.Recipe.Tokens) { Frames = place.Recipe.Frames };
        }

        public LatentData Stills { get; }

        public IReadOnlyList<IReadOnlyList<string>> StillCaptions => stills.Captions;

        /// <summary>Single frames of clips.</summary>
        public LatentData OneFrames { get; }

        public LatentData Videos { get; }

        public void Dispose()
        {
            Stills.Dispose();
            OneFrames.Dispose();
            Videos.Dispose();
            stills.Dispose();
            clips.Dispose();
        }
    }

    private sealed class Told(Action<int> tell) : IProgress<int>
    {
        public void Report(int value) => tell(value);
    }
}
