using OpenSora.Media;
using OpenSora.Models;
using OpenSora.Training.Data;
using OpenSora.Training.Stages;
using OpenSora.Weights;
using static TorchSharp.torch;

namespace Stickers;

/// <summary>The recipe, and where its inputs and outputs are.</summary>
internal sealed class Workplace(string recipe, string data, string run, string tokenizer)
{
    public Recipe Recipe { get; } = Recipe.Read(recipe);

    public string Data => data;

    public string Run => run;

    public string Tokenizer => tokenizer;

    public string VaeWeights => Path.Combine(run, "vae.safetensors");

    public string TextWeights => Path.Combine(run, "text.safetensors");

    public string Folder(string stage) => Path.Combine(run, stage);

    /// <summary>Checkpoints often enough that a kill costs little.</summary>
    public CheckpointOptions Checkpoints(string stage) =>
        new()
        {
            Folder = Folder(stage),
            Every = TimeSpan.FromMinutes(4),
            KeepLast = 2,
        };

    /// <summary>Keeps the trained autoencoder, with its latents' factor in the weights file's header.</summary>
    public void SaveVae(AutoencoderKL vae, double factor) =>
        vae.SaveWeights(
            VaeWeights,
            ScalarType.Float32,
            new Dictionary<string, string>(StringComparer.Ordinal)
            {
                ["scaling_factor"] = factor.ToString("R", System.Globalization.CultureInfo.InvariantCulture),
            }
        );

    /// <summary>The trained autoencoder. Its latents' factor was measured after training and is in the weights file's header.</summary>
    public AutoencoderKL Vae()
    {
        if (!File.Exists(VaeWeights))
        {
            throw new FileNotFoundException($"'{VaeWeights}' is missing: train the autoencoder first (vae).", VaeWeights);
        }

        using var file = WeightsFile.Open(VaeWeights);
        var factor = double.Parse(file.Metadata["scaling_factor"], System.Globalization.CultureInfo.InvariantCulture);
        var vae = new AutoencoderKL(Recipe.Vae with { ScalingFactor = factor });
        vae.LoadWeights(file);
        vae.UseComputeType(ScalarType.BFloat16);
        vae.eval();
        return vae;
    }

    /// <summary>The stickers of a style that the transformer is trained on: of the usual one those of the recipe's things, of the flat one
    /// those of its list.</summary>
    public int[] Chosen(StickerSet set, string style = StickerSet.Usual)
    {
        var things =
            !string.Equals(style, StickerSet.Usual, StringComparison.Ordinal) ? FineThings
            : Recipe.Things is null ? null
            : Listed(Recipe.Things);
        return
        [
            .. Enumerable
                .Range(0, set.Items.Length)
                .Where(i =>
                    string.Equals(set.Items[i].Style, style, StringComparison.Ordinal)
                    && !Recipe.LeaveOut.Contains(set.Items[i].Category, StringComparer.Ordinal)
                    && things?.Contains(set.Items[i].Thing) != false
                ),
        ];
    }

    /// <summary>The stills of a style, moved. Those of things that have no clip of this style also stand still.</summary>
    public MovedStickers Moved(StickerSet stills, StickerSet clips, string style = StickerSet.Usual)
    {
        var animated = clips
            .Items.Where(item => string.Equals(item.Style, style, StringComparison.Ordinal))
            .Select(item => item.Thing)
            .ToHashSet(StringComparer.Ordinal);
        return new MovedStickers(stills, Chosen(stills, style), thing => !animated.Contains(thing), Recipe.ClipsOfStill, clips.Frames);
    }

    /// <summary>The things of the flat style.</summary>
    public IReadOnlySet<string> FineThings => Listed(Recipe.FineThings);

    private HashSet<string> Listed(string file) =>
        File.ReadLines(Path.Combine(Path.GetDirectoryName(Path.GetFullPath(recipe))!, file)).ToHashSet(StringComparer.Ordinal);

    /// <summary>The latents of a source's clips, encoded where they are not there yet.</summary>
    public Task<LatentCache> CacheAsync(string name, IClipSource source, AutoencoderKL vae, CancellationToken cancellation = default)
    {
        var clock = System.Diagnostics.Stopwatch.StartNew();
        var next = TimeSpan.FromSeconds(5);
        return LatentCache.OpenOrCreateAsync(
            Path.Combine(run, $"{name}.safetensors"),
            LatentCache.KeyOf(source, vae),
            source,
            vae,
            progress: new ActionProgress(done =>
            {
                if (clock.Elapsed < next && done < source.Count)
                {
                    return;
                }

                next = clock.Elapsed + TimeSpan.FromSeconds(15);
                Console.WriteLine(
                    FormattableString.Invariant(
                        $"{DateTime.UtcNow:HH:mm:ss} {name}: {done} of {source.Count}, {done / clock.Elapsed.TotalSeconds:F0} a second"
                    )
                );
            }),
            cancellationToken: cancellation
        );
    }

    private sealed class ActionProgress(Action<int> tell) : IProgress<int>
    {
        public void Report(int value) => tell(value);
    }

    /// <summary>A picture with a tile for each video, or a row of four of its frames.</summary>
    public static Task SaveAsync(IReadOnlyList<VideoFrames> videos, string path, int columns) =>
        new VideoWriter().WriteAsync(videos[0].Count == 1 ? VideoFrames.Tile(videos, columns) : VideoFrames.ContactSheet(videos, columns), path);
}
