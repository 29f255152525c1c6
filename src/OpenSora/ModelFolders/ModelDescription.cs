using System.Text.Json;
using System.Text.Json.Serialization;
using OpenSora.Diffusion;
using OpenSora.Weights;

namespace OpenSora.ModelFolders;

/// <summary>The contents of the <c>model.json</c> file in a model folder. Property names in the file are in snake case, such as
/// <c>guidance_scale</c>.</summary>
public sealed record ModelDescription
{
    /// <summary>The name of the format; always <see cref="ModelFolder.Format"/>.</summary>
    public string Format { get; init; } = ModelFolder.Format;

    /// <summary>The version of the format; at most <see cref="ModelFolder.Version"/>.</summary>
    public int Version { get; init; } = ModelFolder.Version;

    /// <summary>The name of the model.</summary>
    public required string Name { get; init; }

    /// <summary>A description, in one or two sentences, of the videos that the model generates.</summary>
    public string? Description { get; init; }

    /// <summary>The model that denoises latents.</summary>
    public required ModelPart Denoiser { get; init; }

    /// <summary>The autoencoder between pixels and latents.</summary>
    public required ModelPart Vae { get; init; }

    /// <summary>The text encoder, which converts prompts to embeddings.</summary>
    public required ModelPart TextEncoder { get; init; }

    /// <summary>The small autoencoder with the same latents that shows previews; null for none.</summary>
    public ModelPart? Preview { get; init; }

    /// <summary>The diffusion process that the denoiser was trained with.</summary>
    public DiffusionProcess Diffusion { get; init; } = new();

    /// <summary>The sampling settings used if a request does not specify them.</summary>
    public SamplingDefaults Sampling { get; init; } = new();

    /// <summary>The default and the supported sizes and lengths of generated videos.</summary>
    public required VideoDefaults Video { get; init; }

    /// <summary>A file in the folder that lists what the model knows, for models of a small world: one thing in a line, followed by synonyms,
    /// separated by <c>|</c>. Null if prompts are not limited.</summary>
    public string? Vocabulary { get; init; }

    /// <summary>The license of the weights: an SPDX identifier, such as <c>MIT</c>.</summary>
    public required string License { get; init; }

    /// <summary>The file in the folder that contains the full text of the license; null if there is none.</summary>
    public string? LicenseFile { get; init; }

    /// <summary>The data sets, weights and other sources that the model was made from and that must be credited.</summary>
    public IReadOnlyList<Attribution> Attribution { get; init; } = [];

    /// <summary>Information about the training for readers, such as steps, data and losses. Can be any JSON object.</summary>
    public JsonElement? Training { get; init; }
}

/// <summary>One of a model's networks: its architecture, the settings of the architecture, its weights and, for a text encoder, the
/// tokenizer.</summary>
public sealed record ModelPart
{
    /// <summary>The name of the architecture, such as <c>stdit</c>, <c>autoencoder_kl</c> or <c>t5</c>.</summary>
    public required string Architecture { get; init; }

    /// <summary>The settings of the architecture; see <see cref="ModelFolder.ReadConfig{T}"/>.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingDefault)]
    public JsonElement Config { get; init; }

    /// <summary>The weights file in the folder, in a format supported by <see cref="WeightsFile"/>: safetensors, a PyTorch checkpoint, or the index
    /// of a sharded file. Null for a part without weights.</summary>
    public string? Weights { get; init; }

    /// <summary>The tokenizer file of a text encoder in the folder: a SentencePiece model for T5. Null for a part without a tokenizer.</summary>
    public string? Tokenizer { get; init; }

    /// <summary>The number of tokens that a text encoder pads or truncates prompts to; 120 if the file does not contain it. Other parts do not
    /// use it.</summary>
    [JsonIgnore]
    public int MaxTokens
    {
        get => MaxTokensInFile ?? 120;
        init => MaxTokensInFile = value;
    }

    /// <summary>Indicates whether a text encoder cleans captions (<see cref="Text.Tokenizers.PrepareCaption"/>); true if the file does not contain
    /// it. If false, it only converts them to lowercase. Other parts do not use it.</summary>
    [JsonIgnore]
    public bool CleanCaptions
    {
        get => CleanCaptionsInFile ?? true;
        init => CleanCaptionsInFile = value;
    }

    /// <summary>The value in the file; null for a part other than a text encoder.</summary>
    [JsonInclude]
    [JsonPropertyName("max_tokens")]
    internal int? MaxTokensInFile { get; init; }

    /// <summary>The value in the file; null for a part other than a text encoder.</summary>
    [JsonInclude]
    [JsonPropertyName("clean_captions")]
    internal bool? CleanCaptionsInFile { get; init; }

    /// <summary>Indicates whether the part has settings that only a text encoder has.</summary>
    internal bool HasTextSettings => Tokenizer is not null || MaxTokensInFile is not null || CleanCaptionsInFile is not null;
}

/// <summary>The forward process used in training, and the quantity that the denoiser predicts.</summary>
/// <remarks>A model with the sampler <see cref="SamplerKind.RectifiedFlow"/> is a rectified flow, which ignores <see cref="SquaredCosine"/>,
/// <see cref="Prediction"/> and <see cref="Variance"/>. A model with another sampler is a Gaussian process.</remarks>
public sealed record DiffusionProcess
{
    /// <summary>The kind of process in the file, which follows from the sampler.</summary>
    [JsonInclude]
    internal DiffusionKind Kind { get; init; }

    /// <summary>The number of steps of the process.</summary>
    public int Steps { get; init; } = 1000;

    /// <summary>The noise schedule in the file.</summary>
    [JsonInclude]
    internal NoiseSchedule Schedule { get; init; }

    /// <summary>Indicates whether the noise of a Gaussian process follows the squared cosine schedule (Nichol and Dhariwal, 2021). If false, its
    /// variance is linear in the step (Ho et al., 2020).</summary>
    [JsonIgnore]
    public bool SquaredCosine
    {
        get => Schedule == NoiseSchedule.SquaredCosine;
        init => Schedule = value ? NoiseSchedule.SquaredCosine : NoiseSchedule.Linear;
    }

    /// <summary>The quantity that the denoiser predicts.</summary>
    public Prediction Prediction { get; init; }

    /// <summary>The source of the variance of each step.</summary>
    public Variance Variance { get; init; }

    /// <summary>Indicates whether a Gaussian process is sampled in single precision (<see cref="IddpmSchedule.InSinglePrecision"/>; true for
    /// Open-Sora 1.1).</summary>
    public bool SinglePrecision { get; init; }

    /// <summary>Indicates whether the timesteps of a rectified flow are shifted according to the size of the video
    /// (see <see cref="RectifiedFlow"/>; true for Open-Sora 1.2).</summary>
    public bool ShiftBySize { get; init; }

    /// <summary>Indicates whether the timesteps of a rectified flow are rounded to integers
    /// (see <see cref="RectifiedFlow"/>).</summary>
    public bool WholeSteps { get; init; }
}

/// <summary>Kinds of forward diffusion processes.</summary>
internal enum DiffusionKind
{
    /// <summary>A Gaussian process, which adds noise step by step (<see cref="Diffusion.Iddpm"/>).</summary>
    Gaussian,

    /// <summary>A rectified flow, with straight paths between data and noise (<see cref="Diffusion.RectifiedFlow"/>).</summary>
    RectifiedFlow,
}

/// <summary>Schedules of the noise over the steps.</summary>
internal enum NoiseSchedule
{
    /// <summary>A variance that is linear in the step (Ho et al. 2020).</summary>
    Linear,

    /// <summary>A squared cosine schedule (Nichol and Dhariwal 2021).</summary>
    SquaredCosine,
}

/// <summary>The available samplers.</summary>
public enum SamplerKind
{
    /// <summary>Ancestral sampling with a learned variance.</summary>
    Iddpm,

    /// <summary>The DDIM sampler.</summary>
    Ddim,

    /// <summary>The second-order multistep DPM-Solver++.</summary>
    DpmSolver,

    /// <summary>Euler integration of a rectified flow; the only sampler for models trained as rectified flows.</summary>
    RectifiedFlow,
}

/// <summary>The default sampling settings, used if a request does not specify them.</summary>
public sealed record SamplingDefaults
{
    /// <summary>The sampler.</summary>
    public SamplerKind Sampler { get; init; }

    /// <summary>The number of sampling steps.</summary>
    public int Steps { get; init; } = 100;

    /// <summary>The scale of classifier-free guidance; 1 disables guidance.</summary>
    public double GuidanceScale { get; init; } = 7;

    /// <summary>The number of latent channels that guidance is applied to, or null for the sampler's published default.</summary>
    public int? GuidedChannels { get; init; }

    /// <summary>The amount of noise that DDIM adds, from 0 (none) to 1.</summary>
    public double Eta { get; init; }
}

/// <summary>The default size and length of generated videos, and the supported ranges.</summary>
public sealed record VideoDefaults
{
    /// <summary>The default number of frames.</summary>
    public int Frames { get; init; } = 16;

    /// <summary>The default width in pixels.</summary>
    public int Width { get; init; } = 256;

    /// <summary>The default height in pixels.</summary>
    public int Height { get; init; } = 256;

    /// <summary>The frame rate in frames per second.</summary>
    public double Fps { get; init; } = 8;

    /// <summary>Indicates whether the model was trained with conditioning frames, which are used to animate images and to extend or fill in
    /// videos.</summary>
    public bool GivenFrames { get; init; }

    /// <summary>The numbers of frames that the model can generate.</summary>
    public AllowedRange FramesRange { get; init; } = new(1, 16, 1);

    /// <summary>The widths in pixels that the model can generate.</summary>
    public AllowedRange WidthRange { get; init; } = new(256, 256, 16);

    /// <summary>The heights in pixels that the model can generate.</summary>
    public AllowedRange HeightRange { get; init; } = new(256, 256, 16);
}

/// <summary>A range of integers from <see cref="Min"/> to <see cref="Max"/> in steps of <see cref="Step"/>.</summary>
/// <param name="Min">The smallest value.</param>
/// <param name="Max">The largest value.</param>
/// <param name="Step">The distance between adjacent values.</param>
public sealed record AllowedRange(int Min, int Max, int Step = 1)
{
    /// <summary>Determines whether the range contains a value.</summary>
    public bool Contains(int value) => value >= Min && value <= Max && (value - Min) % Step == 0;

    /// <summary>Returns a description of the range, such as <c>128 to 256 in steps of 16</c>.</summary>
    public override string ToString() =>
        Min == Max ? $"{Min} only"
        : Step == 1 ? $"{Min} to {Max}"
        : $"{Min} to {Max} in steps of {Step}";
}

/// <summary>A source that a model was made from and that must be credited.</summary>
/// <param name="Name">The name of the source, such as a data set or pretrained weights.</param>
/// <param name="License">The SPDX identifier of its license.</param>
/// <param name="By">The author or owner.</param>
/// <param name="Source">The origin, such as an address.</param>
public sealed record Attribution(string Name, string License, string? By = null, string? Source = null);
