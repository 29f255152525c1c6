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

    public static async Task ImagesAsync(Workplace place, double? minutes, string? from, CancellationToken cancellation)
    {
        using var stills = StickerSet.Stills(place.Data);
        using var vae = place.Vae();
        using var cache = place.Cache(stills, place.Recipe.StillBackgrounds, vae, cancellation: cancellation);
        var (model, text) = Models(place);
        using (model)
        using (text)
        {
            using var data = new LatentData(cache, SentencePieceTokenizer.Open(place.Tokenizer), place.Recipe.Tokens);
            var stage = place.Recipe.ImageStage.ToStage("images", data, minutes);
            stage.Trains = name => !name.Contains(".attn_temp.", StringComparison.Ordinal)
                && (place.Recipe.TrainText || name.StartsWith("model.", StringComparison.Ordinal));
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
        using var stills = StickerSet.Stills(place.Data);
        using var clips = StickerSet.Clips(place.Data);
        using var vae = place.Vae();
        using var stillCache = place.Cache(stills, place.Recipe.StillBackgrounds, vae, cancellation: cancellation);
        using var clipCache = place.Cache(clips, place.Recipe.ClipBackgrounds, vae, cancellation: cancellation);
        var (model, text) = Models(place);
        using (model)
        using (text)
        {
            var tokenizer = SentencePieceTokenizer.Open(place.Tokenizer);
            using var images = new LatentData(stillCache, tokenizer, place.Recipe.Tokens);
            using var videos = new LatentData(clipCache, tokenizer, place.Recipe.Tokens) { Frames = place.Recipe.Frames };
            var turns = Enumerable.Repeat<(ITrainingData, double)>((videos, 1), place.Recipe.ImagesEvery - 1).Append((images, place.Recipe.Frames));
            var stage = place.Recipe.ClipStage.ToStage("clips", new MixedData([.. turns]), minutes);
            stage.Trains = name => name.StartsWith("model.", StringComparison.Ordinal); // the text encoder stays as stage 1 made it
            using var trainer = new StagedTrainer(Objective(place, model, text)).AddStage(stage).SaveTo(place.Checkpoints("clips"));
            if (Directory.Exists(place.Folder("clips")))
                trainer.Resume(place.Folder("clips"), ifAny: true);
            trainer.InitialiseFrom(place.Folder("images"));
            await trainer.RunAsync(new Lines(), cancellation);
        }
    }

    /// <summary>The transformer and the text encoder with their starting values, computing in bfloat16.</summary>
    public static (Stdit Model, T5Encoder Text) Models(Workplace place)
    {
        manual_seed(place.Recipe.ImageStage.Seed);
        var model = new Stdit(place.Recipe.Model);
        var text = new T5Encoder(place.Recipe.Text);
        model.UseComputeType(ScalarType.BFloat16);
        text.UseComputeType(ScalarType.BFloat16);
        return (model, text);
    }

    public static DiffusionTraining Objective(Workplace place, Stdit model, T5Encoder text) =>
        new(model, text, new Iddpm(IddpmSchedule.Linear(), new IddpmOptions { Prediction = place.Recipe.Prediction, Variance = place.Recipe.Variance }),
            new SkewedTimesteps(place.Recipe.TimestepExponent));

    private sealed class Told(Action<int> tell) : IProgress<int>
    {
        public void Report(int value) => tell(value);
    }
}
