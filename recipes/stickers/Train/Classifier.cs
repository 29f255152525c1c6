using System.Diagnostics;
using OpenSora.Models;
using OpenSora.Training.Data;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Stickers;

/// <summary>Recognizes things in pictures, independently of the models that are evaluated: a small convolutional network that is trained on true
/// stickers of both styles and on frames of clips, on backgrounds of any color, moved, turned, squeezed, blurred and with noise.</summary>
internal sealed class Classifier : nn.Module<Tensor, Tensor>
{
    private const int Side = 64; // pixels of the pictures that it sees
    private const int Batch = 64;

    private readonly string[] _things;
    private readonly Sequential layers;

    private Classifier(string[] things)
        : base(nameof(Classifier))
    {
        _things = things;
        nn.Module<Tensor, Tensor>[] parts =
        [
            .. Block(3, 32, 2),
            .. Block(32, 64, 2),
            .. Block(64, 64, 1),
            .. Block(64, 128, 2),
            .. Block(128, 128, 1),
            .. Block(128, 256, 2),
            nn.Flatten(),
            nn.Linear(256 * (Side / 16) * (Side / 16), 256),
            nn.ReLU(),
            nn.Linear(256, things.Length),
        ];
        layers = nn.Sequential(parts);
        RegisterComponents();
    }

    /// <summary>Returns logits <c>[N, things]</c> for pictures <c>[N, 3, H, W]</c> in [-1, 1].</summary>
    public override Tensor forward(Tensor pictures) =>
        layers.call(pictures.shape[3] == Side ? pictures : nn.functional.adaptive_avg_pool2d(pictures, [Side, Side]));

    /// <summary>The things of some pictures of one video, the most likely first: probabilities are averaged over the pictures.</summary>
    public string[] Recognize(Tensor pictures)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var likely = nn.functional.softmax(forward(pictures), 1).mean([0L]);
        return [.. likely.argsort(descending: true).data<long>().Select(i => _things[i])];
    }

    /// <summary>Loads the classifier of a run, or trains it if it has none.</summary>
    public static Classifier Of(Workplace place, StickerSet stills, StickerSet clips, CancellationToken cancellation)
    {
        var samples = new Samples(place, stills, clips);
        var classifier = new Classifier(samples.Things);
        var path = Path.Combine(place.Run, "classifier.safetensors");
        if (File.Exists(path))
        {
            classifier.LoadWeights(path);
        }
        else
        {
            classifier.Train(samples, place.Recipe.ClassifierSteps, cancellation);
            Directory.CreateDirectory(place.Run);
            classifier.SaveWeights(path, ScalarType.Float32);
        }

        classifier.eval();
        return classifier;
    }

    /// <summary>How often it is right about pictures that it did not see: new augmentations, a third of them on white.</summary>
    /// <returns>Shares from 0 to 1: the most likely thing is right; one of the five most likely.</returns>
    public (double First, double Five) Accuracy(Workplace place, StickerSet stills, StickerSet clips, int count = 2048)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var samples = new Samples(place, stills, clips);
        var (first, five) = (0L, 0L);
        for (var batch = 0; batch < count / Batch; batch++)
        {
            using var inner = NewDisposeScope();
            var (pictures, labels) = samples.Draw(TrainingData.RandomFor(91, batch), Batch);
            var best = forward(pictures).topk(Math.Min(5, _things.Length)).indexes;
            var right = best.eq(labels.unsqueeze(1));
            first += right.narrow(1, 0, 1).sum().item<long>();
            five += right.sum().item<long>();
        }

        var all = count / Batch * Batch;
        return ((double)first / all, (double)five / all);
    }

    private void Train(Samples samples, int steps, CancellationToken cancellation)
    {
        manual_seed(1);
        train();
        using var optimizer = optim.AdamW(parameters(), 2e-3, weight_decay: 0.01);
        var (clock, reportedAt) = (Stopwatch.StartNew(), TimeSpan.Zero);
        for (var step = 0; step < steps; step++)
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            foreach (var group in optimizer.ParamGroups)
            {
                group.LearningRate = 2e-3 * Math.Min(1, (step + 1) / 100.0) * (1 + Math.Cos(Math.PI * step / steps)) / 2;
            }

            var (pictures, labels) = samples.Draw(TrainingData.RandomFor(90, step), Batch);
            var loss = nn.functional.cross_entropy(forward(pictures), labels, label_smoothing: 0.05);
            optimizer.zero_grad();
            loss.backward();
            optimizer.step();
            if (clock.Elapsed - reportedAt > TimeSpan.FromSeconds(30) || step == steps - 1)
            {
                reportedAt = clock.Elapsed;
                Console.Error.WriteLine(FormattableString.Invariant($"classifier: step {step + 1} of {steps}, loss {loss.item<float>():F3}"));
            }
        }
    }

    private static nn.Module<Tensor, Tensor>[] Block(int from, int to, int stride) =>
        [nn.Conv2d(from, to, 3, stride, 1, bias: false), nn.BatchNorm2d(to), nn.ReLU()];

    /// <summary>Augmented pictures of things.</summary>
    private sealed class Samples(Workplace place, StickerSet stills, StickerSet clips)
    {
        private readonly ILookup<string, (StickerSet Set, int Item)> _ofThing = place
            .Chosen(stills)
            .Concat(place.Chosen(stills, StickerSet.Flat))
            .Select(i => (Set: stills, Item: i))
            .Concat(place.Chosen(clips).Select(i => (Set: clips, Item: i)))
            .ToLookup(one => one.Set.Items[one.Item].Thing, StringComparer.Ordinal);

        private string[]? _things;

        public string[] Things => _things ??= [.. _ofThing.Select(group => group.Key).Order(StringComparer.Ordinal)];

        /// <summary>Draws pictures <c>[N, 3, 64, 64]</c> and the numbers of their things.</summary>
        public (Tensor Pictures, Tensor Labels) Draw(Random random, int count)
        {
            var things = Things;
            var labels = new long[count];
            List<Tensor> pictures = [];
            for (var i = 0; i < count; i++)
            {
                labels[i] = random.Next(things.Length);
                var of = _ofThing[things[labels[i]]].ToArray();
                var (set, item) = of[random.Next(of.Length)];
                pictures.Add(Augmented(set.Rgba(item, random.Next(set.Frames)), random));
            }

            return (stack(pictures), tensor(labels));
        }

        // A premultiplied sticker [4, 128, 128] in [0, 1] to a picture [3, 64, 64] in [-1, 1].
        private static Tensor Augmented(Tensor rgba, Random random)
        {
            using var scope = NewDisposeScope();
            double Between(double low, double high) => low + (high - low) * random.NextDouble();
            var (size, angle, squeeze) = (Between(0.4, 1.15), Between(-0.25, 0.25), random.Next(4) == 0 ? Between(0.4, 1) : 1);
            var (x, y) = (Between(-1, 1) * Math.Max(0.05, 1 - size) * 0.8, Between(-1, 1) * Math.Max(0.05, 1 - size) * 0.8);
            var (sine, cosine) = (Math.Sin(angle), Math.Cos(angle));
            var map = tensor(
                [
                    (float)(cosine / size / squeeze),
                    (float)(sine / size / squeeze),
                    (float)(-(cosine * x + sine * y) / size / squeeze),
                    (float)(-sine / size),
                    (float)(cosine / size),
                    (float)((sine * x - cosine * y) / size),
                ],
                [1, 2, 3]
            );
            var sampled = nn.functional.adaptive_avg_pool2d(rgba.unsqueeze(0), [Side, Side]);
            var moved = nn.functional.grid_sample(sampled, nn.functional.affine_grid(map, sampled.shape), align_corners: false);
            float[] under = random.Next(3) == 0 ? [1, 1, 1] : [random.NextSingle(), random.NextSingle(), random.NextSingle()];
            var picture = moved.narrow(1, 0, 3) + (1 - moved.narrow(1, 3, 1)) * tensor(under).view(1, 3, 1, 1);
            var blurred = random.Next(28, Side + 1); // the pixels to which it is reduced
            if (random.Next(2) == 0)
            {
                picture = nn.functional.interpolate(
                    nn.functional.adaptive_avg_pool2d(picture, [blurred, blurred]),
                    [Side, Side],
                    mode: InterpolationMode.Bilinear,
                    align_corners: false
                );
            }

            using var generator = new Generator((ulong)random.NextInt64());
            var noise = randn([1, 3, Side, Side], generator: generator) * Between(0, 0.08);
            return (picture * Between(0.85, 1.15) * 2 - 1 + Between(-0.1, 0.1) + noise).clamp(-1, 1).squeeze(0).MoveToOuterDisposeScope();
        }
    }
}
