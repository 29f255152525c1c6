using System.Diagnostics;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Training.Data;
using TorchSharp;
using static TorchSharp.torch;

namespace Stickers;

/// <summary>The settings of an evaluation.</summary>
internal sealed record EvaluationSettings
{
    /// <summary>The model folder.</summary>
    public required string Model { get; init; }

    /// <summary>The number of prompts of each kind.</summary>
    public int Each { get; init; } = 40;

    /// <summary>The number of seeds for each prompt.</summary>
    public int Seeds { get; init; } = 2;

    /// <summary>The thousand of seeds to use.</summary>
    public int Seed { get; init; } = 1;

    /// <summary>The number of sampling steps; null for that of the model.</summary>
    public int? Steps { get; init; }

    /// <summary>The guidance scale; null for that of the model.</summary>
    public double? Guidance { get; init; }

    /// <summary>Whether to generate in bfloat16, which is faster on processors that support it.</summary>
    public bool BFloat16 { get; init; }

    /// <summary>The path of a contact sheet of some of the videos; null for none.</summary>
    public string? Sheet { get; init; }

    /// <summary>The path of a Markdown table; null for none.</summary>
    public string? Table { get; init; }
}

/// <summary>Measures whether a model shows what its prompts ask for, and how well, on pixels.</summary>
/// <remarks>All references are the stickers themselves, rendered as training rendered them. The best result that the transformer can reach is that of
/// the autoencoder, so each measure is also taken of the autoencoder's reconstructions of the true videos.</remarks>
/// <param name="place">The recipe and its data.</param>
/// <param name="stills">All stills.</param>
/// <param name="clips">All clips.</param>
/// <param name="asked">The things that prompts are about; null: all that are trained on. Pictures are compared with all of these in any case.</param>
internal sealed class Evaluation(Workplace place, StickerSet stills, StickerSet clips, IReadOnlySet<string>? asked = null)
{
    private readonly Questions _questions = new(place, stills, clips, asked);
    private readonly EvaluationTable _table = new();

    /// <summary>A generated video, and the autoencoder's reconstruction of the true one.</summary>
    private sealed record Answer(Question Question, VideoFrames Video, VideoFrames Reconstruction);

    /// <summary>Generates and measures.</summary>
    public async Task RunAsync(EvaluationSettings settings, CancellationToken cancellation)
    {
        using var vae = Autoencoder(settings.Model);
        using var classifier = Classifier.Of(place, stills, clips, cancellation);
        var answers = await AnswerAsync(settings, vae, cancellation);

        Recognized(answers, classifier);
        Nearest([.. answers.Where(answer => answer.Question.Motion is null or { Phrase.Length: 0 })]);
        ColorsAndMotions(answers);
        Sharpness(answers);
        Movement(answers);
        Distance(answers, vae);
        if (settings.Table is { } table)
        {
            await File.WriteAllTextAsync(table, _table.ToMarkdown(), cancellation);
        }

        if (settings.Sheet is { } sheet)
        {
            var some = answers.Where((_, i) => i % settings.Seeds == 0).ToArray();
            var tiles = some.Chunk(Math.Max(1, some.Length / 24)).Select(chunk => chunk[0].Video).ToArray();
            await Workplace.SaveAsync(tiles, sheet, 4);
        }
    }

    private AutoencoderKL Autoencoder(string model)
    {
        var folder = ModelFolder.Open(model);
        var factor = folder.Description.Vae.Config.GetProperty("scaling_factor").GetDouble();
        var vae = new AutoencoderKL(place.Recipe.Vae with { ScalingFactor = factor });
        vae.LoadWeights(folder.VaeWeights);
        vae.UseComputeType(ScalarType.BFloat16);
        vae.eval();
        return vae;
    }

    private async Task<List<Answer>> AnswerAsync(EvaluationSettings settings, AutoencoderKL vae, CancellationToken cancellation)
    {
        using var generator = VideoGenerator
            .Create()
            .UseModel(settings.Model)
            .Configure(options => options.Precision = settings.BFloat16 ? ScalarType.BFloat16 : null)
            .Build();
        await generator.LoadAsync(cancellationToken: cancellation);
        var frames = (await generator.DescribeAsync(cancellation)).Video.Frames;
        var questions = _questions.Choose(settings.Each);
        List<Answer> answers = [];
        var (spent, reportedAt) = (new Stopwatch(), TimeSpan.Zero);
        foreach (var question in questions)
        {
            var reconstruction = Reconstruct(vae, question, frames);
            for (var i = 0; i < settings.Seeds; i++)
            {
                spent.Start();
                var video = await generator
                    .Request(question.Prompt)
                    .Frames(frames)
                    .Steps(settings.Steps)
                    .GuidanceScale(settings.Guidance)
                    .Seed(1000 * settings.Seed + i)
                    .GenerateAsync(cancellationToken: cancellation);
                spent.Stop();
                answers.Add(new(question, video.Frames, reconstruction));
            }
            if (spent.Elapsed - reportedAt > TimeSpan.FromSeconds(30))
            {
                reportedAt = spent.Elapsed;
                Console.Error.WriteLine(FormattableString.Invariant($"{answers.Count} of {questions.Count * settings.Seeds} videos"));
            }
        }

        _table.Add(
            "videos",
            FormattableString.Invariant($"{answers.Count} of {frames} frames, {spent.Elapsed.TotalSeconds / answers.Count:F1} s each"),
            FormattableString.Invariant($"{questions.Count} prompts, {settings.Seeds} seeds each")
        );
        return answers;
    }

    private VideoFrames Reconstruct(AutoencoderKL vae, Question question, int frames)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var truth = _questions.Truth(question, frames);
        return VideoFrames.FromTensor(vae.Decode(vae.Encode(truth.unsqueeze(0)))[0].clamp(-1, 1), 8);
    }

    // The thing, as the classifier sees it.
    private void Recognized(List<Answer> answers, Classifier classifier)
    {
        var (first, five) = classifier.Accuracy(place, stills, clips);
        _table.Add(
            "classifier: true stickers with new augmentations, first / among five",
            FormattableString.Invariant($"{first:P1} / {five:P1}"),
            ""
        );
        var made = answers.ConvertAll(answer => (answer.Question, Things: Recognize(answer.Video)));
        var best = answers.ConvertAll(answer => (answer.Question, Things: Recognize(answer.Reconstruction)));
        _table.Share("thing: recognized by the classifier", made, IsFirst, best);
        foreach (var kind in made.Select(one => one.Question.Kind).Distinct(StringComparer.Ordinal))
        {
            bool IsOfKind((Question Question, string[] Things) one) => string.Equals(one.Question.Kind, kind, StringComparison.Ordinal);
            _table.Share("– " + kind, [.. made.Where(IsOfKind)], IsFirst, [.. best.Where(IsOfKind)]);
        }

        _table.Share("thing: among the classifier's five most likely", made, IsAmongFive, best);
        Console.WriteLine(
            "taken for another: "
                + string.Join(", ", made.Where(one => !IsFirst(one)).Select(one => $"{one.Question.Thing} ({one.Things[0]})").Distinct())
        );

        string[] Recognize(VideoFrames video)
        {
            using var scope = NewDisposeScope();
            var pixels = Pixels(video);
            return classifier.Recognize(pixels.index_select(1, arange(0, pixels.shape[1], 3)).transpose(0, 1));
        }

        static bool IsFirst((Question Question, string[] Things) one) => string.Equals(one.Things[0], one.Question.Thing, StringComparison.Ordinal);
        static bool IsAmongFive((Question Question, string[] Things) one) => one.Things.Take(5).Contains(one.Question.Thing, StringComparer.Ordinal);
    }

    // The thing and the style of the nearest image. Things that move are at other places and of other sizes, and so left out.
    private void Nearest(List<Answer> answers)
    {
        var nearest = new NearestImage(place, stills, clips);
        var made = answers.ConvertAll(answer => (answer.Question, Sticker: nearest.To(answer.Video, answer.Question.Color)));
        var best = answers.ConvertAll(answer => (answer.Question, Sticker: nearest.To(answer.Reconstruction, answer.Question.Color)));
        _table.Share(
            "thing: that of the nearest image",
            made,
            one => string.Equals(one.Sticker.Thing, one.Question.Thing, StringComparison.Ordinal),
            best
        );
        _table.Share(
            "style: that of the nearest image",
            made,
            one => string.Equals(one.Sticker.Style, one.Question.Style, StringComparison.Ordinal),
            best
        );
    }

    private void ColorsAndMotions(List<Answer> answers)
    {
        foreach (var seen in new[] { true, false })
        {
            var words = seen ? "that training saw" : "held out";
            bool IsSeen(Question question) => _questions.IsShown(question.Style, question.Thing, question.Color);
            Compare($"background color, combinations {words}", [.. answers.Where(answer => IsSeen(answer.Question) == seen)], answer =>
                Recognition.Nearest(stills.Palette, Recognition.Border(answer.Video)) == answer.Question.Color
            );
            Compare(
                $"motion, combinations {words}",
                [.. answers.Where(answer => answer.Question.Seen == seen && answer.Question.Motion is { Phrase.Length: > 0 })],
                IsMovedRightly
            );
        }
        foreach (
            var motion in answers
                .Where(answer => answer.Question.Motion is not null)
                .GroupBy(answer => answer.Question.Motion!.Phrase, StringComparer.Ordinal)
                .OrderBy(group => group.Key, StringComparer.Ordinal)
        )
        {
            Compare(motion.Key.Length == 0 ? "– still things that stand still" : "– " + motion.Key, [.. motion], IsMovedRightly);
        }
    }

    // Against the autoencoder's reconstruction of the true video.
    private void Sharpness(List<Answer> answers)
    {
        foreach (var kind in answers.GroupBy(answer => answer.Question.Kind, StringComparer.Ordinal))
        {
            List<double> psnr = [],
                energy = [],
                drift = [];
            foreach (var (_, video, reconstruction) in kind)
            {
                using var scope = NewDisposeScope();
                var (made, best) = (Pixels(video), Pixels(reconstruction));
                double Ratio(long frame) => Quality.GradientEnergy(made.select(1, frame)) / Quality.GradientEnergy(best.select(1, frame));
                psnr.Add(Quality.Psnr(made, best));
                energy.Add(Quality.GradientEnergy(made) / Quality.GradientEnergy(best));
                var first = Ratio(0);
                drift.Add(Enumerable.Range(0, video.Count).Max(frame => Math.Abs(Ratio(frame) / first - 1)));
            }

            _table.Add($"PSNR, median: {kind.Key}", FormattableString.Invariant($"{Quality.Median(psnr):F1} dB"), "");
            _table.Add($"gradient energy, median: {kind.Key}", FormattableString.Invariant($"{Quality.Median(energy):F2}"), "1");
            _table.Add(
                $"largest change of gradient energy in a video, median: {kind.Key}",
                FormattableString.Invariant($"{100 * Quality.Median(drift):F0} %"),
                "0 %"
            );
        }
    }

    private void Movement(List<Answer> answers)
    {
        var animated = answers
            .Where(answer => answer.Question.Clip is not null)
            .Select(answer => Change(answer.Video) / Math.Max(0.03, Change(answer.Reconstruction)));
        _table.Add("movement of animated things, median ratio", FormattableString.Invariant($"{Quality.Median(animated):F2}"), "1");
        var still = answers.Where(answer => answer.Question.Motion is { Phrase.Length: 0 }).ToArray();
        if (still.Length > 0)
        {
            _table.Add(
                "flicker of still things, change between frames of 255",
                FormattableString.Invariant($"{still.Average(answer => Change(answer.Video)):F2}"),
                FormattableString.Invariant($"{still.Average(answer => Change(answer.Reconstruction)):F2}")
            );
        }
    }

    // The Frechet distance between features: what the autoencoder's encoder sees of a frame, in 4 x 4 places, and its first 24 principal components.
    // The reference is clips on colors on which training did not show them.
    private void Distance(List<Answer> answers, AutoencoderKL vae)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var wanted = answers.Where(answer => answer.Question is { Clip: not null, Sticker: null, Seen: false }).ToArray();
        if (wanted.Length == 0)
        {
            return;
        }

        var frames = wanted[0].Video.Count;
        var each = wanted.DistinctBy(answer => answer.Question).ToArray();
        var real = cat([.. each.Select(answer => Features(_questions.Truth(answer.Question, frames)))]);
        var back = cat([.. each.Select(answer => Features(Pixels(answer.Reconstruction)))]);
        var made = cat([.. wanted.Select(answer => Features(Pixels(answer.Video)))]);
        var middle = real.mean([0L]);
        var count = Math.Min(24, real.shape[1]);
        var axes = linalg.eigh(Quality.Covariance(real)).Item2.narrow(1, real.shape[1] - count, count); // the largest come last
        string To(Tensor features) =>
            FormattableString.Invariant($"{Quality.Frechet((real - middle).matmul(axes), (features - middle).matmul(axes)):F2}");
        _table.Add("Frechet distance to held-out clips", To(made), To(back));

        Tensor Features(Tensor video)
        {
            using var inner = NewDisposeScope();
            var latents = vae.Encode(video.unsqueeze(0))[0].to(ScalarType.Float64).transpose(0, 1); // [F, C, 16, 16]
            var some = latents.index_select(0, arange(0, latents.shape[0], 2));
            return nn.functional.avg_pool2d(some, 4).reshape(some.shape[0], -1).MoveToOuterDisposeScope();
        }
    }

    private void Compare(string name, IReadOnlyCollection<Answer> some, Func<Answer, bool> isRight) =>
        _table.Share(name, some, isRight, [.. some.Select(OfReconstruction)]);

    private static Answer OfReconstruction(Answer answer) => answer with { Video = answer.Reconstruction };

    private static bool IsMovedRightly(Answer answer) =>
        string.Equals(Recognition.MotionOf(answer.Video), answer.Question.Motion!.Phrase, StringComparison.Ordinal);

    private static double Change(VideoFrames video)
    {
        using var scope = NewDisposeScope();
        return Quality.Change(Pixels(video));
    }

    // [3, F, H, W] in [-1, 1].
    private static Tensor Pixels(VideoFrames video) => video.ToTensor().squeeze(0);

    /// <summary>The still or the frame of a clip that is nearest to any of some frames of a video, at 32x32 pixels. Blur hardly changes it.</summary>
    private sealed class NearestImage(Workplace place, StickerSet stills, StickerSet clips)
    {
        private const int Small = 32;

        private readonly Dictionary<PaletteColor, (Tensor Pictures, List<Sticker> Stickers)> _references = [];

        public Sticker To(VideoFrames video, PaletteColor color)
        {
            using var scope = NewDisposeScope();
            var (pictures, stickers) = References(color);
            var small = Shrunk(Pixels(video));
            // |a - b|^2 = |a|^2 + |b|^2 - 2 a b
            var squared = small.square().sum([1L]).unsqueeze(1) + pictures.square().sum([1L]) - small.matmul(pictures.transpose(0, 1)) * 2;
            return stickers[(int)squared.min(0).values.argmin().item<long>()];
        }

        private (Tensor Pictures, List<Sticker> Stickers) References(PaletteColor color)
        {
            if (!_references.TryGetValue(color, out var known))
            {
                using var scope = NewDisposeScope();
                List<Tensor> pictures = [];
                List<Sticker> stickers = [];
                var flat = place.Recipe.HasFlat ? place.Chosen(stills, StickerSet.Flat) : [];
                foreach (
                    var (set, i) in place.Chosen(stills).Concat(flat).Select(i => (stills, i)).Concat(place.Chosen(clips).Select(i => (clips, i)))
                )
                {
                    pictures.Add(Shrunk(set.On(i, color, 0, set.Frames)));
                    stickers.AddRange(Enumerable.Repeat(set.Items[i], (int)pictures[^1].shape[0]));
                }

                known = _references[color] = (cat(pictures).DetachFromDisposeScope(), stickers); // [R, 3 * 32 * 32]
            }

            return known;
        }

        // [3, F, H, W] to at most 8 frames of it, small and flat, [F', 3 * 32 * 32].
        private static Tensor Shrunk(Tensor video)
        {
            var some = video.index_select(1, arange(0, video.shape[1], Math.Max(1, video.shape[1] / 8))).transpose(0, 1);
            return nn.functional.avg_pool2d(some, some.shape[2] / Small).reshape(some.shape[0], -1);
        }
    }
}
