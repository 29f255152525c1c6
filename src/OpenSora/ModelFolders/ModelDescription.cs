using System.Text.Json;
using System.Text.Json.Serialization;
using OpenSora.Diffusion;
using OpenSora.Weights;

namespace OpenSora.ModelFolders;

/// <summary>The contents of a model folder's <c>model.json</c>. Names in the file are in snake case, such as <c>guidance_scale</c>.</summary>
public sealed record ModelDescription
{
    /// <summary>Always <see cref="ModelFolder.Format"/>.</summary>
    public string Format { get; init; } = ModelFolder.Format;

    /// <summary>The format's version; <see cref="ModelFolder.Version"/> or less.</summary>
    public int Version { get; init; } = ModelFolder.Version;

    /// <summary>The model's name.</summary>
    public required string Name { get; init; }

    /// <summary>What it makes, in a sentence or two.</summary>
    public string? Description { get; init; }

    /// <summary>The model that denoises latents.</summary>
    public required ModelPart Denoiser { get; init; }

    /// <summary>The autoencoder between pixels and latents.</summary>
    public required ModelPart Vae { get; init; }

    /// <summary>What turns prompts into states.</summary>
    public required TextEncoderPart TextEncoder { get; init; }

    /// <summary>The diffusion process that the denoiser was trained with.</summary>
    public DiffusionProcess Diffusion { get; init; } = new();

    /// <summary>How to sample where a request does not say.</summary>
    public SamplingDefaults Sampling { get; init; } = new();

    /// <summary>What videos it makes.</summary>
    public required VideoDefaults Video { get; init; }

    /// <summary>Under what terms the weights may be used.</summary>
    public required Licence Licence { get; init; }

    /// <summary>What the model was made of and must be named.</summary>
    public IReadOnlyList<Attribution> Attribution { get; init; } = [];

    /// <summary>Facts about its training, for people: steps, data, losses. Any JSON object.</summary>
    public JsonElement? Training { get; init; }
}

/// <summary>A network of a model: its architecture, that architecture's own settings and its weights.</summary>
public record ModelPart
{
    /// <summary>The architecture, such as <c>stdit</c>, <c>autoencoder_kl</c> or <c>t5</c>.</summary>
    public required string Architecture { get; init; }

    /// <summary>The architecture's settings; see <see cref="ModelFolder.ReadConfig{T}"/>.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingDefault)]
    public JsonElement Config { get; init; }

    /// <summary>A file in the folder as <see cref="WeightsFile"/> opens it: safetensors, a PyTorch checkpoint, or the index of shards; null for a
    /// part without numbers of its own.</summary>
    public string? Weights { get; init; }
}

/// <summary>A text encoder with its tokenizer.</summary>
public sealed record TextEncoderPart : ModelPart
{
    /// <summary>What cuts prompts into tokens, a file in the folder: a SentencePiece model for T5; null for a text encoder without.</summary>
    public string? Tokenizer { get; init; }

    /// <summary>Tokens a prompt is padded or cut to.</summary>
    public int MaxTokens { get; init; } = 120;

    /// <summary>Whether captions are cleaned (<see cref="Text.CaptionCleaner"/>) or only lower-cased.</summary>
    public bool CleanCaptions { get; init; } = true;
}

/// <summary>The forward process of training, and what the denoiser predicts.</summary>
public sealed record DiffusionProcess
{
    /// <summary>The kind of process; a rectified flow has no use for schedule, prediction and variance.</summary>
    public DiffusionKind Kind { get; init; }

    /// <summary>Steps of the process.</summary>
    public int Steps { get; init; } = 1000;

    /// <summary>How the noise grows.</summary>
    public NoiseSchedule Schedule { get; init; }

    /// <summary>What the denoiser predicts.</summary>
    public Prediction Prediction { get; init; }

    /// <summary>Where the variance of a step comes from.</summary>
    public Variance Variance { get; init; }

    /// <summary>Whether a Gaussian process is sampled in single precision (<see cref="IddpmSchedule.InSinglePrecision"/>; Open-Sora 1.1:
    /// yes).</summary>
    public bool SinglePrecision { get; init; }

    /// <summary>Whether a rectified flow's times are shifted by the size of the video (<see cref="RectifiedFlowOptions.ShiftBySize"/>; Open-Sora 1.2:
    /// yes).</summary>
    public bool ShiftBySize { get; init; }

    /// <summary>Whether a rectified flow's times are rounded to whole steps (<see cref="RectifiedFlowOptions.WholeSteps"/>).</summary>
    public bool WholeSteps { get; init; }
}

/// <summary>How a forward process turns data into noise.</summary>
public enum DiffusionKind
{
    /// <summary>Noise is added step by step (<see cref="Diffusion.Iddpm"/>).</summary>
    Gaussian,

    /// <summary>Straight paths between data and noise (<see cref="Diffusion.RectifiedFlow"/>).</summary>
    RectifiedFlow,
}

/// <summary>How the noise grows over the steps.</summary>
public enum NoiseSchedule
{
    /// <summary>Variance linear in the step (Ho et al. 2020).</summary>
    Linear,

    /// <summary>Squared cosine (Nichol and Dhariwal 2021).</summary>
    SquaredCosine,
}

/// <summary>A sampler by name.</summary>
public enum SamplerKind
{
    /// <summary>Ancestral sampling with learned variance.</summary>
    Iddpm,

    /// <summary>DDIM.</summary>
    Ddim,

    /// <summary>DPM-Solver++, second order, multistep.</summary>
    DpmSolver,

    /// <summary>Euler's steps along a rectified flow; the one sampler of models that were trained with it.</summary>
    RectifiedFlow,
}

/// <summary>How to sample where a request does not say.</summary>
public sealed record SamplingDefaults
{
    /// <summary>The sampler.</summary>
    public SamplerKind Sampler { get; init; }

    /// <summary>Its steps.</summary>
    public int Steps { get; init; } = 100;

    /// <summary>Scale of classifier-free guidance; 1 is none.</summary>
    public double GuidanceScale { get; init; } = 7;

    /// <summary>How many of the latent channels are guided; null: as the sampler was published.</summary>
    public int? GuidedChannels { get; init; }

    /// <summary>Noise of DDIM, from 0 (none) to 1.</summary>
    public double Eta { get; init; }
}

/// <summary>The videos a model makes where a request does not say, and those it can make.</summary>
public sealed record VideoDefaults
{
    /// <summary>Frames.</summary>
    public int Frames { get; init; } = 16;

    /// <summary>Width in pixels.</summary>
    public int Width { get; init; } = 256;

    /// <summary>Height in pixels.</summary>
    public int Height { get; init; } = 256;

    /// <summary>Frames a second.</summary>
    public double Fps { get; init; } = 8;

    /// <summary>Whether it was trained to go on from frames that are given: to animate images, to extend and to fill in videos.</summary>
    public bool GivenFrames { get; init; }

    /// <summary>The numbers of frames it can make.</summary>
    public AllowedRange FramesRange { get; init; } = new(1, 16, 1);

    /// <summary>The widths it can make.</summary>
    public AllowedRange WidthRange { get; init; } = new(256, 256, 16);

    /// <summary>The heights it can make.</summary>
    public AllowedRange HeightRange { get; init; } = new(256, 256, 16);
}

/// <summary>The numbers from <see cref="Min"/> to <see cref="Max"/> in steps of <see cref="Step"/>.</summary>
/// <param name="Min">The least.</param>
/// <param name="Max">The greatest.</param>
/// <param name="Step">The distance between neighbours.</param>
public sealed record AllowedRange(int Min, int Max, int Step = 1)
{
    /// <summary>Whether a number is one of them.</summary>
    public bool Contains(int value) => value >= Min && value <= Max && (value - Min) % Step == 0;

    /// <summary>The range in words, such as <c>128 to 256 in steps of 16</c>.</summary>
    public override string ToString() =>
        Min == Max ? $"{Min} only"
        : Step == 1 ? $"{Min} to {Max}"
        : $"{Min} to {Max} in steps of {Step}";
}

/// <summary>Terms of use.</summary>
/// <param name="Name">An SPDX identifier, such as <c>MIT</c>.</param>
/// <param name="File">A file in the folder with the full text.</param>
public sealed record Licence(string Name, string? File = null);

/// <summary>Something the model was made of.</summary>
/// <param name="Name">What, such as the name of a data set or of weights.</param>
/// <param name="Licence">Its terms, an SPDX identifier.</param>
/// <param name="By">Whose it is.</param>
/// <param name="Source">Where it was from.</param>
public sealed record Attribution(string Name, string Licence, string? By = null, string? Source = null);
