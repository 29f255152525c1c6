using OpenSora.ModelFolders;
using OpenSora.Models;

namespace OpenSora.Cli;

/// <summary>Files of a repository on a model hub.</summary>
/// <param name="Repository">The name of the repository.</param>
/// <param name="License">The license that the publisher states.</param>
/// <param name="Folder">The subfolder of the model folder that receives the files; empty for the model folder itself.</param>
/// <param name="Include">The patterns of the files; each must match at least one.</param>
internal sealed record CatalogSource(string Repository, string License, string Folder, params IReadOnlyList<string> Include);

/// <summary>A published model, or a published part of one.</summary>
/// <param name="Name">The name for <c>opensora models download</c>.</param>
/// <param name="Title">A description.</param>
/// <param name="Sources">The files.</param>
internal sealed record CatalogEntry(string Name, string Title, params IReadOnlyList<CatalogSource> Sources)
{
    /// <summary>Gets the description that makes a model of the files; null for a part of a model.</summary>
    public Func<ModelDescription>? Description { get; init; }

    /// <summary>Gets the reason why the model cannot be downloaded or run; null if it can.</summary>
    public string? Problem { get; init; }

    /// <summary>Gets the kind of the entry in a word.</summary>
    public string Kind =>
        Problem is not null ? "not supported"
        : Description is null ? "part"
        : "model";
}

/// <summary>The published models and parts of models that docs/models.md lists. Sizes and hashes are those that the hub reports.</summary>
internal static class Catalog
{
    private const string T5 = "t5-v1_1-xxl",
        Vae = "sd-vae-ft-ema",
        Apache = "Apache-2.0",
        Mit = "MIT",
        OpenRail = "OpenRAIL++-M",
        Safetensors = "diffusion_pytorch_model.safetensors";

    private static readonly CatalogSource s_t5 = new(
        "DeepFloyd/t5-v1_1-xxl",
        Apache,
        T5,
        "config.json",
        "spiece.model",
        "pytorch_model.bin.index.json",
        "pytorch_model-*.bin"
    );

    private static readonly CatalogSource s_vae = new("stabilityai/sd-vae-ft-ema", Mit, Vae, "config.json", Safetensors);

    /// <summary>Gets all entries: models first, then parts.</summary>
    public static IReadOnlyList<CatalogEntry> Entries { get; } =
    [
        OpenSora10("open-sora-1.0", "OpenSora-v1-HQ-16x256x256.pth", 256, "Open-Sora 1.0: 16 frames of 256x256, fine-tuned on clips of high quality"),
        OpenSora10("open-sora-1.0-512", "OpenSora-v1-HQ-16x512x512.pth", 512, "Open-Sora 1.0: 16 frames of 512x512"),
        OpenSora10("open-sora-1.0-pretrained", "OpenSora-v1-16x256x256.pth", 256, "Open-Sora 1.0: 16 frames of 256x256, before fine-tuning"),
        OpenSora11("open-sora-1.1", "hpcai-tech/OpenSora-STDiT-v2-stage3", "Open-Sora 1.1: videos of 144p to 720p, also from images and videos"),
        OpenSora11("open-sora-1.1-stage2", "hpcai-tech/OpenSora-STDiT-v2-stage2", "Open-Sora 1.1, second stage: videos of 144p to 480p"),
        new("open-sora-1.2", "Open-Sora 1.2: videos of 240p to 720p")
        {
            Problem =
                "The autoencoder of Open-Sora 1.2, which encodes 17 frames as 5 latent frames, is not implemented, so this library cannot run "
                + "the model. 'opensora models download open-sora-1.2-transformer' downloads the transformer alone.",
        },
        PixArt("pixart-alpha-512", "PixArt-XL-2-512x512.pth", 512, StdiTConfig.Preset("PixArt-XL/2"), "PixArt-alpha: images of 512x512"),
        PixArt("pixart-alpha-1024", "PixArt-XL-2-1024-MS.pth", 1024, StdiTConfig.Preset("PixArtMS-XL/2"), "PixArt-alpha: images of 1024x1024"),
        new(
            "latte-ucf101",
            "Latte: 16 frames of 256x256 of the 101 classes of UCF101; the prompt is the number of a class",
            new("maxin-cn/Latte", Apache, "", "ucf101.pt"),
            s_vae
        )
        {
            Description = () => Latte("latte-ucf101", "ucf101.pt"),
        },
        new("dit-xl-2-256", "DiT: images of 256x256 of the 1000 classes of ImageNet")
        {
            Problem =
                "DiT-XL-2-256x256.pt is not on a model hub. Download it from its publisher (CC-BY-NC-4.0); docs/how-to/use-published-weights.md "
                + "describes how to make a model folder of it.",
        },
        new(
            "open-sora-1.2-transformer",
            "The transformer of Open-Sora 1.2, STDiT3",
            new CatalogSource("hpcai-tech/OpenSora-STDiT-v3", Apache, "", "config.json", "model.safetensors")
        ),
        Part("t5-v1.1-xxl", "The text encoder of Open-Sora and PixArt-alpha, T5-v1.1-XXL", s_t5),
        Part("clip-vit-b-32", "CLIP's text encoder, ViT-B/32", Clip("openai/clip-vit-base-patch32", "pytorch_model.bin")),
        Part("clip-vit-l-14", "CLIP's text encoder, ViT-L/14", Clip("openai/clip-vit-large-patch14", "model.safetensors")),
        Part("sd-vae-ft-ema", "Stable Diffusion's autoencoder, ft-EMA", s_vae),
        Part("sd-vae-ft-mse", "Stable Diffusion's autoencoder, ft-MSE", s_vae with { Repository = "stabilityai/sd-vae-ft-mse" }),
        Part("taesd", "A tiny autoencoder with the latents of Stable Diffusion", Tiny("madebyollin/taesd")),
        Part("taesdxl", "A tiny autoencoder with the latents of SDXL", Tiny("madebyollin/taesdxl")),
        Part("taesd3", "A tiny autoencoder with the latents of Stable Diffusion 3", Tiny("madebyollin/taesd3")),
        Part("taef1", "A tiny autoencoder with the latents of FLUX.1", Tiny("madebyollin/taef1")),
        Part(
            "taef2",
            "A tiny autoencoder with the latents of FLUX.2; the repository has no config.json",
            new CatalogSource("madebyollin/taef2", Apache, "", "taef2.safetensors")
        ),
        Part(
            "svd-temporal-decoder",
            "Stable Video Diffusion's autoencoder",
            new CatalogSource(
                "stabilityai/stable-video-diffusion-img2vid-xt",
                "Stability AI Community License",
                "",
                "vae/config.json",
                "vae/" + Safetensors
            )
        ),
    ];

    /// <summary>Finds an entry.</summary>
    /// <exception cref="ArgumentException">There is no such entry.</exception>
    public static CatalogEntry Find(string name) =>
        Entries.FirstOrDefault(entry => entry.Name.Equals(name, StringComparison.OrdinalIgnoreCase))
        ?? throw new ArgumentException($"There is no published model '{name}'. 'opensora models list' lists them.", nameof(name));

    private static CatalogEntry Part(string name, string title, CatalogSource source) => new(name, title, source with { Folder = "" });

    private static CatalogSource Tiny(string repository) => new(repository, Mit, "", "config.json", Safetensors);

    private static CatalogSource Clip(string repository, string weights) =>
        new(repository, Mit, "", "config.json", "vocab.json", "merges.txt", weights);

    private static ModelPart Autoencoder => new() { Architecture = "autoencoder_kl", Weights = $"{Vae}/{Safetensors}" };

    private static ModelPart TextEncoder(int tokens) =>
        new()
        {
            Architecture = "t5",
            Weights = $"{T5}/pytorch_model.bin.index.json",
            Tokenizer = $"{T5}/spiece.model",
            MaxTokens = tokens,
            CleanCaptions = true,
        };

    private static CatalogEntry OpenSora10(string name, string weights, int side, string title) =>
        new(name, title, new("hpcai-tech/Open-Sora", Apache, "", weights), s_vae, s_t5)
        {
            Description = () =>
                new ModelDescription
                {
                    Name = name,
                    Description = title,
                    Denoiser = new ModelPart
                    {
                        Architecture = "stdit",
                        Weights = weights,
                        Config = ModelFolder.WriteConfig(new StdiTConfig { InputSize = [16, side / 8, side / 8], SpaceScale = side / 512.0 }),
                    },
                    Vae = Autoencoder,
                    TextEncoder = TextEncoder(120),
                    Video = Square(side, 16),
                    License = Apache,
                },
        };

    private static CatalogEntry OpenSora11(string name, string repository, string title) =>
        new(name, title, new(repository, Apache, "", "config.json", "model.safetensors"), s_vae, s_t5)
        {
            Description = () =>
                new ModelDescription
                {
                    Name = name,
                    Description = title,
                    Denoiser = new ModelPart { Architecture = "stdit2", Weights = "model.safetensors" },
                    Vae = Autoencoder,
                    TextEncoder = TextEncoder(200),
                    Diffusion = new DiffusionProcess { SinglePrecision = true },
                    Sampling = new SamplingDefaults { GuidedChannels = 4 },
                    Video = new VideoDefaults
                    {
                        Width = 424,
                        Height = 240,
                        GivenFrames = true,
                        FramesRange = new AllowedRange(1, 128),
                        WidthRange = new AllowedRange(64, 1280, 8),
                        HeightRange = new AllowedRange(64, 1280, 8),
                    },
                    License = Apache,
                },
        };

    private static CatalogEntry PixArt(string name, string weights, int side, StdiTConfig config, string title) =>
        new(name, title, new("PixArt-alpha/PixArt-alpha", OpenRail, "", weights), s_vae, s_t5)
        {
            Description = () =>
                new ModelDescription
                {
                    Name = name,
                    Description = title,
                    Denoiser = new ModelPart
                    {
                        Architecture = "pixart",
                        Weights = weights,
                        Config = ModelFolder.WriteConfig(config),
                    },
                    Vae = Autoencoder,
                    TextEncoder = TextEncoder(120),
                    Sampling = new SamplingDefaults
                    {
                        Sampler = SamplerKind.DpmSolver,
                        Steps = 20,
                        GuidanceScale = 4.5,
                    },
                    Video = Square(side, 1),
                    License = OpenRail,
                },
        };

    private static ModelDescription Latte(string name, string weights) =>
        new()
        {
            Name = name,
            Description = "Videos of the classes of UCF101; the prompt is the number of a class.",
            Denoiser = new ModelPart
            {
                Architecture = "latte",
                Weights = weights,
                Config = ModelFolder.WriteConfig(DiTConfig.Latte with { Condition = "label_101", CaptionChannels = 1, ModelMaxLength = 1 }),
            },
            Vae = Autoencoder,
            TextEncoder = new ModelPart
            {
                Architecture = "class_labels",
                Config = System.Text.Json.JsonSerializer.SerializeToElement(new { count = 101 }),
            },
            Video = Square(256, 16),
            License = Apache,
        };

    private static VideoDefaults Square(int side, int frames) =>
        new()
        {
            Frames = frames,
            Width = side,
            Height = side,
            FramesRange = new AllowedRange(1, frames),
            WidthRange = new AllowedRange(side, side, 16),
            HeightRange = new AllowedRange(side, side, 16),
        };
}
