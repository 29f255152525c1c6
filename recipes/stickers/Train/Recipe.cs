using System.Text.Json;
using System.Text.Json.Serialization;
using OpenSora.Diffusion;
using OpenSora.Models;
using OpenSora.Training.Data;
using OpenSora.Training.Objectives;
using OpenSora.Training.Stages;

namespace Stickers;

/// <summary>How long and how fast one stage learns.</summary>
internal sealed record StageSettings
{
    public int Steps { get; init; }

    public double Minutes { get; init; }

    public int BatchSize { get; init; }

    public int Workers { get; init; } = 1;

    public double LearningRate { get; init; }

    public double FinalLearningRate { get; init; }

    public int WarmUpSteps { get; init; } = 100;

    public double Beta2 { get; init; } = 0.99;

    public double WeightDecay { get; init; }

    public double EmaDecay { get; init; } = 0.999;

    public int Seed { get; init; } = 42;

    /// <summary>Of clips, every n-th frame is taken.</summary>
    public int FrameInterval { get; init; } = 1;

    /// <summary>The frame of clips that is taken first; null: any.</summary>
    public int? FirstFrame { get; init; }

    /// <summary>What the batches contain, in turns. In stages with clips, as many stills are drawn as a clip has frames.</summary>
    public IReadOnlyList<Turn> Turns { get; init; } = [Turn.Stills];

    /// <summary>The scale of Muon for the matrices of the blocks; null: AdamW trains all parameters.</summary>
    public double? MuonScale { get; init; }

    public TrainingStage ToStage(string name, ITrainingData data, double? minutes) =>
        new()
        {
            Name = name,
            Data = data,
            Steps = Steps,
            TimeLimit = TimeSpan.FromMinutes(minutes ?? Minutes),
            BatchSize = BatchSize,
            Workers = Workers,
            LearningRate = LearningRate,
            FinalLearningRate = FinalLearningRate,
            WarmUpSteps = WarmUpSteps,
            Beta2 = Beta2,
            WeightDecay = WeightDecay,
            MuonScale = MuonScale,
            EmaDecay = EmaDecay,
            EmaWarmUp = true,
            Seed = Seed,
        };
}

/// <summary>The weights of the parts of the autoencoder's loss.</summary>
internal sealed record VaeLoss(double Absolute = 1, double Squared = 1, double Edges = 1, double Divergence = 1e-4)
{
    public VaeTraining Of(AutoencoderKL vae) =>
        new(vae)
        {
            Absolute = Absolute,
            Squared = Squared,
            Edges = Edges,
            Divergence = Divergence,
        };
}

/// <summary>What a batch is of.</summary>
internal enum Turn
{
    /// <summary>Things that move by themselves.</summary>
    Clips,

    /// <summary>Stills that are moved.</summary>
    Moved,

    /// <summary>Stills that spin: a motion that only the width of things shows, and that therefore needs more training than the others.</summary>
    Spinning,

    /// <summary>Stills.</summary>
    Stills,

    /// <summary>Stills on white, the background of captions that name no color.</summary>
    WhiteStills,

    /// <summary>Stills of the flat style.</summary>
    FlatStills,

    /// <summary>Stills of the flat style that are moved.</summary>
    FlatMoved,
}

/// <summary>All sizes of the sticker model and its training: recipe.json.</summary>
internal sealed record Recipe
{
    public int Frames { get; init; } = 16;

    public int Tokens { get; init; } = 24;

    public required AutoencoderKLConfig Vae { get; init; }

    public required T5Config Text { get; init; }

    public required StdiTConfig Model { get; init; }

    /// <summary>What the model predicts. The clean sample is learned faster than the noise where data are few.</summary>
    public Prediction Prediction { get; init; }

    /// <summary>Where the variance of a denoising step comes from.</summary>
    public Variance Variance { get; init; }

    /// <summary>Sampling steps, and the scale of guidance, where a request does not say.</summary>
    public int SamplingSteps { get; init; } = 20;

    public double Guidance { get; init; } = 4;

    /// <summary>The number of steps of 64 pictures that train the classifier of the evaluation.</summary>
    public int ClassifierSteps { get; init; } = 2500;

    /// <summary>The small transformer that teaches the text encoder.</summary>
    public required StdiTConfig Teacher { get; init; }

    /// <summary>Below 1, noisy time steps are drawn more often (<see cref="DiffusionTraining.SkewedTimesteps"/>).</summary>
    public double TimestepExponent { get; init; } = 1;

    /// <summary>A file beside the recipe with the things that are trained on, one a line; null: all.</summary>
    public string? Things { get; init; }

    /// <summary>A file beside the recipe with the things that are taught in the flat style too.</summary>
    public string FineThings { get; init; } = "fine-things.txt";

    /// <summary>Categories of things that are left out, of stills and of clips.</summary>
    public IReadOnlyList<string> LeaveOut { get; init; } = [];

    /// <summary>Side of the squares that the autoencoder is trained on.</summary>
    public int Crop { get; init; } = 64;

    public required VaeLoss VaeLoss { get; init; }

    public required StageSettings VaeStage { get; init; }

    public required StageSettings TextStage { get; init; }

    public required StageSettings ImageStage { get; init; }

    public required StageSettings VideoStage { get; init; }

    public required StageSettings LongStage { get; init; }

    /// <summary>The settings of a stage by the name of its verb.</summary>
    /// <exception cref="ArgumentException">There is none of that name.</exception>
    public StageSettings Stage(string name) =>
        name switch
        {
            "images" => ImageStage,
            "videos" => VideoStage,
            "long" => LongStage,
            _ => throw new ArgumentException($"There is no stage '{name}'.", nameof(name)),
        };

    /// <summary>Whether the flat style is taught.</summary>
    public bool HasFlat =>
        new[] { ImageStage, VideoStage, LongStage }.Any(stage => stage.Turns.Any(turn => turn is Turn.FlatStills or Turn.FlatMoved));

    /// <summary>Colors of the palette under which each still, and each clip, is encoded.</summary>
    public int StillBackgrounds { get; init; } = 5;

    public int ClipBackgrounds { get; init; } = 2;

    /// <summary>Clips made of each still: one stands still, unless the thing has a clip of its own, and the others are moved.</summary>
    public int ClipsOfStill { get; init; } = 4;

    public static Recipe Read(string path) =>
        JsonSerializer.Deserialize<Recipe>(File.ReadAllBytes(path), Json) ?? throw new InvalidDataException($"'{path}' is empty.");

    public static JsonSerializerOptions Json { get; } =
        new()
        {
            PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
            WriteIndented = true,
            ReadCommentHandling = JsonCommentHandling.Skip,
            AllowTrailingCommas = true,
            UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow,
            Converters = { new JsonStringEnumConverter(JsonNamingPolicy.SnakeCaseLower) },
        };
}
