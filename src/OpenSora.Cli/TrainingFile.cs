using System.Text.Json;
using System.Text.Json.Serialization;
using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Options;
using OpenSora.Generation;
using OpenSora.Training.Data;
using OpenSora.Training.Stages;

namespace OpenSora.Cli;

/// <summary>The section <c>Run</c> of a training configuration: what the stages are applied to.</summary>
internal sealed record TrainingRunOptions
{
    /// <summary>The model to start from: a name or a folder. The new model has its autoencoder and its text encoder.</summary>
    public string Model { get; init; } = OpenSoraOptions.DefaultModel;

    /// <summary>The configuration of a new transformer with random weights, as in <c>model.json</c>; null to continue with the model's
    /// transformer.</summary>
    public JsonElement? Denoiser { get; init; }

    /// <summary>The folder for the trained model.</summary>
    public string Output { get; init; } = "";

    /// <summary>The folder for encoded clips.</summary>
    public string Cache { get; init; } = "latents";

    /// <summary>The data type of large matrix multiplications: <c>Float32</c>, <c>BFloat16</c> or <c>Float16</c>.</summary>
    public string Precision { get; init; } = "Float32";

    /// <summary>The sources that the stages name.</summary>
    public IReadOnlyDictionary<string, TrainingSource> Sources { get; init; } = new Dictionary<string, TrainingSource>(StringComparer.Ordinal);
}

/// <summary>A source of clips.</summary>
internal sealed record TrainingSource
{
    /// <summary>A folder with clips, or a manifest (CSV or Parquet).</summary>
    public string Path { get; init; } = "";

    /// <summary>The number of frames of a sample; null for that of the model.</summary>
    public int? Frames { get; init; }

    /// <summary>The width of the clips in pixels; null for that of the model.</summary>
    public int? Width { get; init; }

    /// <summary>The height of the clips in pixels; null for that of the model.</summary>
    public int? Height { get; init; }

    /// <summary>The frame rate of the clips; null for that of the model.</summary>
    public double? FramesPerSecond { get; init; }
}

/// <summary>A training configuration: the section <c>OpenSora:Training</c> with the stages and the checkpoints, and the section
/// <c>Run</c>.</summary>
/// <param name="Section">The section with the stages.</param>
/// <param name="Training">The stages and the checkpoints.</param>
/// <param name="Run">What the stages are applied to.</param>
internal sealed record TrainingFile(IConfiguration Section, TrainingOptions Training, TrainingRunOptions Run)
{
    private static readonly string[] s_precisions = ["Float32", "BFloat16", "Float16"];

    private static readonly JsonSerializerOptions s_json = new()
    {
        PropertyNameCaseInsensitive = true,
        UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow,
        ReadCommentHandling = JsonCommentHandling.Skip,
        AllowTrailingCommas = true,
    };

    /// <summary>Reads and validates a configuration.</summary>
    /// <exception cref="InvalidDataException">The configuration is not valid; the message lists all problems.</exception>
    public static async Task<TrainingFile> ReadAsync(string path, CancellationToken cancellationToken)
    {
        var bytes = await File.ReadAllBytesAsync(path, cancellationToken).ConfigureAwait(false);
        List<string> problems = [];
        var run = ReadRun(path, bytes, problems);
        using var stream = new MemoryStream(bytes);
        IConfiguration configuration = new ConfigurationBuilder().AddJsonStream(stream).Build();
        var services = new ServiceCollection().AddSingleton(configuration).AddOpenSoraTraining();
        foreach (var name in run.Sources.Keys)
        {
            services.AddKeyedSingleton<ITrainingData>(name, (_, _) => throw new NotSupportedException());
        }

        var provider = services.BuildServiceProvider();
        await using var disposed = provider.ConfigureAwait(false);
        TrainingOptions? options = null;
        try
        {
            options = provider.GetRequiredService<IOptions<TrainingOptions>>().Value;
        }
        catch (OptionsValidationException exception)
        {
            problems.AddRange(exception.Failures);
        }

        foreach (var (name, source) in run.Sources)
        {
            if (!Directory.Exists(source.Path) && !File.Exists(source.Path))
            {
                problems.Add($"Run:Sources:{name}:Path is '{source.Path}'; it must be a folder with clips or a manifest.");
            }

            if (source is { Frames: < 1 } or { Width: < 1 } or { Height: < 1 } or { FramesPerSecond: <= 0 })
            {
                problems.Add($"Run:Sources:{name} has Frames, Width, Height or FramesPerSecond that is not above 0.");
            }
        }

        if (!s_precisions.Contains(run.Precision, StringComparer.OrdinalIgnoreCase))
        {
            problems.Add($"Run:Precision is '{run.Precision}'; it must be one of {string.Join(", ", s_precisions)}.");
        }

        return problems.Count == 0
            ? new TrainingFile(configuration.GetSection(TrainingOptions.SectionName), options!, run)
            : throw new InvalidDataException($"'{path}' is not valid:{Environment.NewLine}{string.Join(Environment.NewLine, problems)}");
    }

    private static TrainingRunOptions ReadRun(string path, byte[] bytes, List<string> problems)
    {
        try
        {
            using var document = JsonDocument.Parse(bytes, new() { CommentHandling = JsonCommentHandling.Skip, AllowTrailingCommas = true });
            if (document.RootElement.ValueKind == JsonValueKind.Object && document.RootElement.TryGetProperty("Run", out var section))
            {
                return section.Deserialize<TrainingRunOptions>(s_json) ?? new TrainingRunOptions();
            }

            problems.Add(
                "There is no section Run; it names the model and the sources, "
                    + "such as \"Run\": { \"Sources\": { \"clips\": { \"Path\": \"clips\" } } }."
            );
        }
        catch (JsonException exception)
        {
            throw new InvalidDataException($"'{path}' is not valid: {exception.Message}", exception);
        }

        return new TrainingRunOptions();
    }
}
