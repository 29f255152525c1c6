using System.Text.Json;
using OpenSora.Diffusion;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Training.Stages;
using OpenSora.Weights;
using static TorchSharp.torch;

namespace Stickers;

/// <summary>Makes a model folder of what was trained, and goes on from one.</summary>
internal static class Export
{
    /// <summary>Takes the autoencoder and the text encoder of a model folder into a run that has none. Its transformer is taken by a stage
    /// (<c>--from</c>).</summary>
    /// <exception cref="InvalidOperationException">The run has parts of its own.</exception>
    public static void Begin(Workplace place, string folder)
    {
        foreach (var part in new[] { place.VaeWeights, place.TextWeights }.Where(File.Exists))
        {
            throw new InvalidOperationException($"'{part}' is there already: the run has parts of its own. Name another folder (--run).");
        }

        Directory.CreateDirectory(place.Run);
        var model = ModelFolder.Open(folder);
        using var vae = new AutoencoderKL(place.Recipe.Vae);
        using var text = new T5TextEncoder(place.Recipe.Text);
        vae.LoadWeights(model.VaeWeights);
        text.LoadWeights(model.TextEncoderWeights);
        place.SaveVae(vae, model.Description.Vae.Config.GetProperty("scaling_factor").GetDouble());
        text.SaveWeights(place.TextWeights, ScalarType.Float32);
    }

    public static void Write(Workplace place, string folder, string stage, string licenses)
    {
        var recipe = place.Recipe;
        Directory.CreateDirectory(folder);
        var (model, text) = Training.Models(place);
        using var vae = place.Vae();
        using (model)
        using (text)
        {
            using (var trainer = new StagedTrainer(model, text))
            {
                trainer.InitializeFrom(place.Folder(stage), options: Training.PartsToKeep);
            }

            model.SaveWeights(Path.Combine(folder, "denoiser.safetensors"), ScalarType.Float16);
            text.SaveWeights(Path.Combine(folder, "text_encoder.safetensors"), ScalarType.Float16);
        }
        vae.SaveWeights(Path.Combine(folder, "vae.safetensors"), ScalarType.Float16);
        File.Copy(place.Tokenizer, Path.Combine(folder, "spiece.model"), overwrite: true);
        File.Copy(licenses, Path.Combine(folder, "LICENSES.md"), overwrite: true);
        using (var stills = StickerSet.Stills(place.Data))
        {
            File.WriteAllLines(Path.Combine(folder, "things.txt"), place.Chosen(stills).Select(i => string.Join(" | ", stills.Items[i].Names)));
        }

        var (height, width) = (recipe.Model.InputSize[1] * vae.SpatialFactor, recipe.Model.InputSize[2] * vae.SpatialFactor);
        const string fluent = "Copyright (c) Microsoft Corporation; packages: Copyright (c) 2023 LobeHub";
        var description = new ModelDescription
        {
            Name = "stickers",
            Description =
                $"Animated stickers, {width}x{height} pixels, trained on Fluent Emoji, and in the flat style on Noto Emoji, by recipes/stickers. "
                + "things.txt lists the things; the model knows a part of them in the flat style, too.",
            Denoiser = new ModelPart
            {
                Architecture = "stdit",
                Weights = "denoiser.safetensors",
                Config = Json(recipe.Model),
            },
            Vae = new ModelPart
            {
                Architecture = "autoencoder_kl",
                Weights = "vae.safetensors",
                Config = Json(vae.Config),
            },
            TextEncoder = new ModelPart
            {
                Architecture = "t5",
                Weights = "text_encoder.safetensors",
                Config = Json(recipe.Text),
                Tokenizer = "spiece.model",
                MaxTokens = recipe.Tokens,
                CleanCaptions = false,
            },
            Diffusion = new DiffusionProcess { Prediction = recipe.Prediction, Variance = recipe.Variance },
            Sampling = new SamplingDefaults
            {
                Sampler = SamplerKind.DpmSolver,
                Steps = recipe.SamplingSteps,
                GuidanceScale = recipe.Guidance,
            },
            Video = new VideoDefaults
            {
                Frames = recipe.Frames,
                Width = width,
                Height = height,
                Fps = 8,
                FramesRange = new AllowedRange(1, recipe.Frames),
                WidthRange = new AllowedRange(width, width, 16),
                HeightRange = new AllowedRange(height, height, 16),
            },
            Vocabulary = "things.txt",
            License = "MIT",
            LicenseFile = "LICENSES.md",
            Attribution =
            [
                new Attribution("Fluent Emoji, animated and 3D", "MIT", fluent, "@lobehub/fluent-emoji-anim-1 to -4, @lobehub/fluent-emoji-3d"),
                new Attribution("Noto Emoji", "Apache-2.0", "Copyright Google LLC", "emoji-datasource-google (pictures of the flat style)"),
                new Attribution(
                    "emojilib, emoji-datasource",
                    "MIT",
                    "Copyright (c) 2014 Mu-An Chiou; Copyright (c) 2013 Cal Henderson",
                    "names, keywords and categories"
                ),
            ],
        };
        ModelFolder.Save(folder, description);
        foreach (var file in Directory.EnumerateFiles(folder).Order(StringComparer.Ordinal))
        {
            Console.WriteLine(FormattableString.Invariant($"{Path.GetFileName(file), -28} {new FileInfo(file).Length / 1e6, 8:F2} MB"));
        }
    }

    private static JsonElement Json<T>(T config) => JsonSerializer.SerializeToElement(config, Recipe.Json);
}
