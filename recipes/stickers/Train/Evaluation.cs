using System.Globalization;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.Training.Data;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace Stickers;

/// <summary>Whether a model shows what it is asked for, measured on pixels, plainly.</summary>
/// <remarks>
/// Prompts: things as they are, things on a colour, and things that are moved on a colour, the latter two half with combinations that training saw
/// and half
/// with others. All references are the stickers themselves, rendered as training rendered them.
/// </remarks>
/// <param name="place">The recipe and its data.</param>
/// <param name="stills">All stills.</param>
/// <param name="clips">All clips.</param>
/// <param name="asked">The things that prompts are about; null: all that are trained on. Pictures are compared with all of these in any case.</param>
internal sealed class Evaluation(Workplace place, StickerSet stills, StickerSet clips, IReadOnlySet<string>? asked = null)
{
    private const int Small = 32; // pixels of the pictures that are compared

    private int _frames; // of each video: the model's

    private HashSet<(string Style, string Thing, string Colour)> _shown = []; // what training shows on which colours

    private readonly int[] _chosenStills = place.Chosen(stills),
        _chosenClips = place.Chosen(clips),
        _chosenFlat = place.Recipe.HasFlat ? place.Chosen(stills, StickerSet.Flat) : [];

    private sealed record Question(
        string Kind,
        string Prompt,
        string Thing,
        PaletteColour Colour,
        Motion? Motion,
        bool Seen,
        int? Clip,
        string Style = StickerSet.Usual
    );

    /// <summary>Generates and measures.</summary>
    /// <param name="model">A model folder.</param>
    /// <param name="each">Prompts of each kind.</param>
    /// <param name="seeds">Seeds of each prompt.</param>
    /// <param name="seed">Which thousand of seeds to take.</param>
    /// <param name="steps">Sampling steps; null: the model's own.</param>
    /// <param name="guidance">Guidance scale; null: the model's own.</param>
    /// <param name="bfloat16">Whether products are in bfloat16, which is faster where the processor has it.</param>
    /// <param name="sheet">A contact sheet of some of the videos to write; null: none.</param>
    /// <param name="cancellation">Stops it.</param>
    public async Task RunAsync(
        string model,
        int each,
        int seeds,
        int seed,
        int? steps,
        double? guidance,
        bool bfloat16,
        string? sheet,
        CancellationToken cancellation
    )
    {
        using var generator = VideoGenerator
            .Create()
            .UseModel(model)
            .Configure(options => options.Precision = bfloat16 ? ScalarType.BFloat16 : null)
            .Build();
        await generator.LoadAsync(cancellationToken: cancellation);
        _frames = (await generator.DescribeAsync(cancellation)).Video.Frames;
        _shown = Shown();
        var questions = Questions(each);
        CheckMotions();

        List<(Question Question, VideoFrames Video)> answers = [];
        var clock = System.Diagnostics.Stopwatch.StartNew();
        var reportedAt = TimeSpan.Zero;
        foreach (var question in questions)
        {
            for (var i = 0; i < seeds; i++)
            {
                var video = await generator
                    .Request(question.Prompt)
                    .Frames(_frames)
                    .Steps(steps)
                    .GuidanceScale(guidance)
                    .Seed(1000 * seed + i)
                    .GenerateAsync(cancellationToken: cancellation);
                answers.Add((question, video.Frames));
            }
            if (clock.Elapsed - reportedAt > TimeSpan.FromSeconds(30))
            {
                reportedAt = clock.Elapsed;
                Console.Error.WriteLine(
                    FormattableString.Invariant(
                        $"{answers.Count} of {questions.Count * seeds} videos, {clock.Elapsed.TotalSeconds / answers.Count:F1} s each"
                    )
                );
            }
        }

        Print(
            "prompts",
            FormattableString.Invariant(
                $"{questions.Count}, {seeds} seeds each, {_frames} frames; {clock.Elapsed.TotalSeconds / answers.Count:F1} s a video"
            )
        );
        Things(answers);
        foreach (var seen in new[] { true, false })
        {
            var words = seen ? "seen" : "not seen";
            Print(
                $"background colour, combinations {words}",
                Share(
                    [
                        .. answers.Where(answer =>
                            _shown.Contains((answer.Question.Style, answer.Question.Thing, answer.Question.Colour.Name)) == seen
                        ),
                    ],
                    answer => Nearest(Border(answer.Video)) == answer.Question.Colour
                )
            );
            Print(
                $"motion, combinations {words}",
                Share([.. answers.Where(answer => answer.Question.Seen == seen && answer.Question.Motion is { Phrase.Length: > 0 })], IsMovedRightly)
            );
        }
        foreach (
            var motion in answers
                .Where(answer => answer.Question.Motion is not null)
                .GroupBy(answer => answer.Question.Motion!.Phrase, StringComparer.Ordinal)
                .OrderBy(group => group.Key, StringComparer.Ordinal)
        )
        {
            Print(motion.Key.Length == 0 ? "    still things that stand still" : "    " + motion.Key, Share([.. motion], IsMovedRightly));
        }

        Movement(answers);
        Distance(answers);
        if (sheet is not null)
        {
            var some = answers.Where((_, i) => i % seeds == 0).Chunk(Math.Max(1, questions.Count / 24)).Select(chunk => chunk[0].Video).ToArray();
            await Workplace.SaveAsync(some, sheet, 4);
        }
    }

    // A still thing, an animated thing, a thing on a colour (seen, not seen), a moved thing on a colour (held out or not), and where there are two
    // styles a flat thing on a colour.
    private List<Question> Questions(int each)
    {
        var white = stills.Palette[0];
        List<Question> questions = [];
        bool IsAsked(Sticker sticker) => asked?.Contains(sticker.Thing) != false;
        var animated = _chosenClips.Select(i => clips.Items[i].Thing).ToHashSet(StringComparer.Ordinal);
        var still = Shuffled([.. _chosenStills.Where(i => !animated.Contains(stills.Items[i].Thing) && IsAsked(stills.Items[i]))], 1);
        foreach (var i in still.Take(each))
        {
            questions.Add(new("still things", stills.Items[i].Plain[0], stills.Items[i].Thing, white, Motion.All[0], Seen: true, null));
        }
        // Half of the animated things on white, half on a colour on which training did not show them.
        foreach (var (turn, i) in Shuffled([.. _chosenClips.Where(i => IsAsked(clips.Items[i]))], 2).Take(each).Index())
        {
            var (clip, seen) = (clips.Items[i], turn % 2 == 0);
            var others = stills.Palette.Where(colour => !_shown.Contains((clip.Style, clip.Thing, colour.Name))).ToArray();
            if (!seen && others.Length == 0)
            {
                continue; // it is shown on all of them
            }

            var colour = seen ? white : others[turn / 2 % others.Length];
            questions.Add(
                new(
                    "animated things",
                    clip.Captions[0].Replace("{background}", colour.Phrase, StringComparison.Ordinal),
                    clip.Thing,
                    colour,
                    null,
                    seen,
                    i
                )
            );
        }
        OnColours("on a colour", _chosenStills, 3);
        if (_chosenFlat.Length > 0)
        {
            OnColours("flat", _chosenFlat, 8);
        }

        var moved = place.Moved(stills, clips);
        foreach (
            var i in Shuffled(
                    [
                        .. Enumerable
                            .Range(0, moved.Count)
                            .Where(i => moved.Clips[i].Motion.Phrase.Length > 0 && IsAsked(stills.Items[moved.Clips[i].Sticker])),
                    ],
                    4
                )
                .Take(each)
        )
        {
            var (sticker, colour, motion) = moved.Clips[i];
            questions.Add(Moving(sticker, colour, motion, seen: true));
        }
        var heldOut =
            from sticker in still
            from colour in stills.Palette
            from motion in Motion.All.Skip(1)
            where Motion.HeldOut(stills.Items[sticker].Thing, colour.Name, motion.Phrase)
            select (sticker, colour, motion);
        var all = heldOut.ToArray();
        TrainingData.RandomFor(5).Shuffle(all);
        questions.AddRange(all.Take(each).Select(combination => Moving(combination.sticker, combination.colour, combination.motion, seen: false)));
        return questions;

        void OnColours(string kind, int[] chosen, int key)
        {
            foreach (var (turn, i) in Shuffled([.. chosen.Where(i => IsAsked(stills.Items[i]))], key).Take(each).Index())
            {
                var (sticker, seen) = (stills.Items[i], turn % 2 == 0);
                var colours = stills.Palette.Where(colour => _shown.Contains((sticker.Style, sticker.Thing, colour.Name)) == seen).ToArray();
                if (colours.Length == 0)
                {
                    continue; // it is shown on all of them
                }

                var colour = colours[turn / 2 % colours.Length];
                questions.Add(
                    new(
                        kind,
                        sticker.Captions[0].Replace("{background}", colour.Phrase, StringComparison.Ordinal),
                        sticker.Thing,
                        colour,
                        null,
                        seen,
                        null,
                        sticker.Style
                    )
                );
            }
        }

        Question Moving(int sticker, PaletteColour colour, Motion motion, bool seen)
        {
            var item = stills.Items[sticker];
            var caption = item.Captions[0].Replace("{background}", colour.Phrase, StringComparison.Ordinal);
            return new("moved", motion.Describe(caption, item.Thing), item.Thing, colour, motion, seen, null);
        }
    }

    // What training shows on which colours, in whatever way.
    private HashSet<(string Style, string Thing, string Colour)> Shown()
    {
        HashSet<(string, string, string)> all = [];
        foreach (
            var (set, chosen, backgrounds) in new[]
            {
                (stills, _chosenStills, place.Recipe.StillBackgrounds),
                (stills, _chosenFlat, place.Recipe.StillBackgrounds),
                (clips, _chosenClips, place.Recipe.ClipBackgrounds),
            }
        )
        {
            var source = new StickersOnColours(set, chosen, backgrounds);
            all.UnionWith(
                from turn in Enumerable.Range(0, chosen.Length)
                from colour in set.Palette
                where source.Shows(turn, colour)
                select (set.Items[chosen[turn]].Style, set.Items[chosen[turn]].Thing, colour.Name)
            );
        }
        foreach (var style in place.Recipe.HasFlat ? new[] { StickerSet.Usual, StickerSet.Flat } : [StickerSet.Usual])
        {
            all.UnionWith(place.Moved(stills, clips, style: style).Clips.Select(clip => (style, stills.Items[clip.Sticker].Thing, clip.Colour.Name)));
        }

        return all;
    }

    private static int[] Shuffled(int[] values, int seed)
    {
        var copy = values.ToArray();
        TrainingData.RandomFor(seed).Shuffle(copy);
        return copy;
    }

    // The thing whose nearest still or frame of a clip is nearest to any of some frames of the video. Moved things are at other places and of other
    // sizes, and so left out.
    private void Things(List<(Question Question, VideoFrames Video)> answers)
    {
        List<(Question Question, string Style, string[] Nearest)> judged = [];
        foreach (
            var group in answers.Where(answer => answer.Question.Motion is null or { Phrase.Length: 0 }).GroupBy(answer => answer.Question.Colour)
        )
        {
            using var scope = NewDisposeScope();
            List<Sticker> shownBy = [];
            List<Tensor> pictures = [];
            foreach (var i in _chosenStills.Concat(_chosenFlat))
            {
                Add(stills.Items[i], stills.On(i, group.Key, 0, 1));
            }

            foreach (var i in _chosenClips)
            {
                Add(clips.Items[i], clips.On(i, group.Key, 0, clips.Frames));
            }

            var references = cat(pictures); // [R, 3 * 32 * 32]
            foreach (var (question, video) in group)
            {
                using var inner = NewDisposeScope();
                var small = Shrunk(Pixels(video));
                // |a - b|^2 = |a|^2 + |b|^2 - 2 a b
                var squared = small.square().sum([1L]).unsqueeze(1) + references.square().sum([1L]) - small.matmul(references.transpose(0, 1)) * 2;
                var order = shownBy
                    .Zip(squared.min(0).Item1.data<float>().ToArray())
                    .OrderBy(pair => pair.Second)
                    .Select(pair => pair.First)
                    .ToArray();
                judged.Add((question, order[0].Style, [.. order.Select(sticker => sticker.Thing).Distinct(StringComparer.Ordinal).Take(5)]));
            }

            void Add(Sticker sticker, Tensor video)
            {
                var some = Shrunk(video);
                pictures.Add(some);
                shownBy.AddRange(Enumerable.Repeat(sticker, (int)some.shape[0]));
            }
        }
        Print(
            string.Create(
                CultureInfo.InvariantCulture,
                $"thing, nearest of {_chosenStills.Select(i => stills.Items[i].Thing).Distinct(StringComparer.Ordinal).Count()}"
            ),
            Share(judged, IsFirst)
        );
        foreach (var kind in judged.GroupBy(answer => answer.Question.Kind, StringComparer.Ordinal))
        {
            Print("    " + kind.Key, Share([.. kind], IsFirst));
        }

        Print("thing, among the nearest five", Share(judged, answer => answer.Nearest.Contains(answer.Question.Thing, StringComparer.Ordinal)));
        if (_chosenFlat.Length > 0)
        {
            Print(
                "style, that of the nearest",
                Share(judged, answer => string.Equals(answer.Style, answer.Question.Style, StringComparison.Ordinal))
            );
        }

        Console.WriteLine(
            "taken for another: "
                + string.Join(", ", judged.Where(answer => !IsFirst(answer)).Select(answer => $"{answer.Question.Thing} ({answer.Nearest[0]})"))
        );

        static bool IsFirst((Question Question, string Style, string[] Nearest) answer) =>
            string.Equals(answer.Nearest[0], answer.Question.Thing, StringComparison.Ordinal);
    }

    // [3, F, H, W] to at most 8 frames of it, small and flat, [F', 3 * 32 * 32].
    private static Tensor Shrunk(Tensor video)
    {
        var step = Math.Max(1, video.shape[1] / 8);
        var some = video.index_select(1, arange(0, video.shape[1], step)).transpose(0, 1);
        return nn.functional.avg_pool2d(some, some.shape[2] / Small).reshape(some.shape[0], -1);
    }

    private PaletteColour Nearest(double[] rgb) => stills.Palette.MinBy(colour => colour.Rgb.Zip(rgb, (a, b) => (a - b) * (a - b)).Sum())!;

    // The median colour of the outermost two pixels.
    private static double[] Border(VideoFrames video)
    {
        var (h, w) = (video.Height, video.Width);
        var channels = new List<byte>[] { [], [], [] };
        for (var f = 0; f < video.Count; f++)
        {
            var pixels = video.Frame(f).Span;
            for (var i = 0; i < h * w; i++)
            {
                var (y, x) = Math.DivRem(i, w);
                for (var c = 0; c < 3 && (Math.Min(x, y) < 2 || x >= w - 2 || y >= h - 2); c++)
                {
                    channels[c].Add(pixels[3 * i + c]);
                }
            }
        }
        return Array.ConvertAll(channels, values =>
        {
            values.Sort();
            return (double)values[values.Count / 2];
        });
    }

    /// <summary>Recognizes a motion from the position, the size and the proportions of everything that is not background.</summary>
    private static string MotionOf(VideoFrames video)
    {
        var under = Border(video);
        var track = Enumerable
            .Range(0, video.Count)
            .Select(f =>
            {
                var pixels = video.Frame(f).Span;
                double area = 0,
                    sumX = 0,
                    sumY = 0,
                    squaresX = 0,
                    squaresY = 0;
                for (var y = 0; y < video.Height; y++)
                {
                    for (var x = 0; x < video.Width; x++)
                    {
                        var at = (y * video.Width + x) * 3;
                        if (Math.Abs(pixels[at] - under[0]) + Math.Abs(pixels[at + 1] - under[1]) + Math.Abs(pixels[at + 2] - under[2]) < 60)
                        {
                            continue;
                        }

                        (area, sumX, sumY, squaresX, squaresY) = (area + 1, sumX + x, sumY + y, squaresX + x * x, squaresY + y * y);
                    }
                }
                area = Math.Max(1, area);
                var (middleX, middleY) = (sumX / area, sumY / area);
                // How far it reaches sideways, of up and down.
                var breadth = Math.Sqrt((squaresX / area - middleX * middleX + 1) / (squaresY / area - middleY * middleY + 1));
                return (Area: area, X: middleX / video.Width, Y: middleY / video.Height, Breadth: breadth);
            })
            .ToArray();
        var (start, end) = (track[0], track[^1]);
        var (x, y, growth) = (end.X - start.X, end.Y - start.Y, Math.Log(end.Area / start.Area));
        if (Math.Max(Math.Abs(x), Math.Abs(y)) > 0.15)
        {
            return Math.Abs(x) > Math.Abs(y)
                ? x < 0
                    ? "moving left"
                    : "moving right"
                : y < 0
                    ? "moving up"
                    : "moving down";
        }

        if (Math.Abs(growth) > 0.4)
        {
            return growth > 0 ? "zooming in" : "zooming out";
        }

        return track.Min(frame => frame.Breadth) < 0.6 * start.Breadth ? "spinning" : "";
    }

    private static bool IsMovedRightly((Question Question, VideoFrames Video) answer) =>
        string.Equals(MotionOf(answer.Video), answer.Question.Motion!.Phrase, StringComparison.Ordinal);

    // [3, F, H, W] in [-1, 1].
    private static Tensor Pixels(VideoFrames video) => video.ToTensor().squeeze(0);

    // The mean absolute difference between frames that follow each other, of a full scale of 1.
    private static double Change(VideoFrames video)
    {
        using var scope = NewDisposeScope();
        var pixels = Pixels(video);
        return video.Count < 2 ? 0 : (pixels.narrow(1, 1, video.Count - 1) - pixels.narrow(1, 0, video.Count - 1)).abs().mean().item<float>() / 2;
    }

    // How often the measure of motion is right about true clips: the best that a model can reach.
    private void CheckMotions()
    {
        var moved = place.Moved(stills, clips);
        var right = 0;
        var some = Shuffled([.. Enumerable.Range(0, moved.Count)], 6).Take(100).ToArray();
        foreach (var i in some)
        {
            using var scope = NewDisposeScope();
            var video = VideoFrames.FromTensor(moved.Load(i, new Random(0)).Video.narrow(1, (clips.Frames - _frames) / 2, _frames), 8);
            right += string.Equals(MotionOf(video), moved.Clips[i].Motion.Phrase, StringComparison.Ordinal) ? 1 : 0;
        }
        Print("motion, as recognized in true clips", Share(right, some.Length));
    }

    private void Movement(List<(Question Question, VideoFrames Video)> answers)
    {
        var ratios = answers
            .Where(answer => answer.Question.Clip is not null)
            .Select(answer =>
            {
                using var scope = NewDisposeScope();
                var real = VideoFrames.FromTensor(clips.On(answer.Question.Clip!.Value, answer.Question.Colour, 0, _frames), 8);
                return Change(answer.Video) / Math.Max(1e-4, Change(real));
            })
            .Order()
            .ToArray();
        if (ratios.Length > 0)
        {
            Print("movement of animated things against their true clips", FormattableString.Invariant($"{ratios[ratios.Length / 2]:F2} (median)"));
        }

        var flicker = answers.Where(answer => answer.Question.Motion is { Phrase.Length: 0 }).Select(answer => Change(answer.Video)).ToArray();
        if (flicker.Length > 0)
        {
            Print("flicker of still things", FormattableString.Invariant($"{flicker.Average() * 255:F2} of 255 a frame"));
        }
    }

    // Frechet's distance between Gaussians of features: what the autoencoder's encoder sees of a frame, in 4 x 4 places, and its first 24 principal
    // components.
    private void Distance(List<(Question Question, VideoFrames Video)> answers)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var vae = place.Vae();
        // Clips under colours on which training did not show them, and what was made of prompts for just these.
        var wanted = answers.Where(answer => answer.Question is { Clip: not null, Seen: false }).ToArray();
        if (wanted.Length == 0)
        {
            return;
        }

        var heldOut = wanted
            .Select(answer => answer.Question)
            .Distinct()
            .Select(question => clips.On(question.Clip!.Value, question.Colour, 0, _frames))
            .ToArray();
        var real = cat([.. heldOut.Select(Features)]);
        var back = cat([.. heldOut.Select(video => Features(vae.Decode(vae.Encode(video.unsqueeze(0)))[0].clamp(-1, 1)))]);
        var made = cat([.. wanted.Select(answer => Features(Pixels(answer.Video)))]);
        var middle = real.mean([0L]);
        var axes = linalg.eigh(Covariance(real)).Item2.narrow(1, real.shape[1] - 24, 24); // the largest come last
        foreach (var (name, features) in new[] { ("generated videos", made), ("the autoencoder's reconstructions", back) })
        {
            Print(
                $"Frechet distance to held-out clips: {name}",
                FormattableString.Invariant($"{Frechet((real - middle).matmul(axes), (features - middle).matmul(axes)):F2}")
            );
        }

        Tensor Features(Tensor video)
        {
            using var inner = NewDisposeScope();
            var latents = vae.Encode(video.unsqueeze(0))[0].to(ScalarType.Float64).transpose(0, 1); // [F, C, 16, 16]
            var some = latents.index_select(0, arange(0, latents.shape[0], 2));
            return nn.functional.avg_pool2d(some, 4).reshape(some.shape[0], -1).MoveToOuterDisposeScope();
        }
    }

    private static Tensor Covariance(Tensor x)
    {
        var centred = x - x.mean([0L]);
        return centred.transpose(0, 1).matmul(centred) / (x.shape[0] - 1);
    }

    private static double Frechet(Tensor a, Tensor b)
    {
        var (meanA, meanB, covA, covB) = (a.mean([0L]), b.mean([0L]), Covariance(a), Covariance(b));
        // The trace of the root of A B is that of the root of the symmetric root(A) B root(A).
        var rootA = Root(covA);
        var cross = Root(rootA.matmul(covB).matmul(rootA));
        return ((meanA - meanB).square().sum() + (covA + covB - cross * 2).diagonal().sum()).item<double>();

        static Tensor Root(Tensor symmetric)
        {
            var (values, vectors) = linalg.eigh(symmetric);
            return (vectors * values.clamp(0).sqrt()).matmul(vectors.transpose(0, 1));
        }
    }

    private static string Share<T>(IReadOnlyCollection<T> all, Func<T, bool> right) => Share(all.Count(right), all.Count);

    private static string Share(int right, int all) => all == 0 ? "-" : FormattableString.Invariant($"{100.0 * right / all:F1} % ({right} of {all})");

    private static void Print(string name, string value) => Console.WriteLine($"{name, -70} {value}");
}
