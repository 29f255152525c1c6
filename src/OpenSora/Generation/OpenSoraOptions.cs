using Microsoft.Extensions.Options;
using OpenSora.Diffusion;
using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Runtime;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>The application's options for video generation: the settings of requests that do not set them, and how the model is run. For every
/// option, null means the model's default.</summary>
/// <remarks>The options are bound from the configuration section <c>OpenSora</c> and validated when the application starts.</remarks>
public sealed class OpenSoraOptions : GenerationSettings
{
    /// <summary>The name of the configuration section that <c>AddOpenSora</c> reads.</summary>
    public const string SectionName = "OpenSora";

    /// <summary>The name of the model that is used by default.</summary>
    public const string DefaultModel = "stickers";

    /// <summary>Gets or sets the name of a model that ships with the library, or the path of a model folder; null for
    /// <see cref="DefaultModel"/>.</summary>
    public string? Model { get; set; }

    /// <summary>Gets or sets the name of the backend, such as <c>cpu</c> or <c>cuda</c>; null or <c>auto</c> for the best available one.</summary>
    public string? Backend { get; set; }

    /// <summary>Gets or sets the kind of sampler.</summary>
    public SamplerKind? Sampler { get; set; }

    /// <summary>Gets or sets the data type of large matrix multiplications, such as bfloat16, which halves the memory traffic; null for float32.
    /// The weights keep their own data type.</summary>
    public ScalarType? Precision { get; set; }

    /// <summary>Gets or sets when the weights of the text encoder are in memory; null for <see cref="Residency.Keep"/>. With
    /// <see cref="Residency.Release"/>, it is unloaded after the prompts of a request are encoded.</summary>
    public Residency? TextEncoderResidency { get; set; }

    /// <summary>Gets or sets when the weights of the transformer are in memory; null for <see cref="Residency.Keep"/>. With
    /// <see cref="Residency.Release"/>, it is unloaded after denoising.</summary>
    public Residency? TransformerResidency { get; set; }

    /// <summary>Gets or sets when the weights of the autoencoder are in memory; null for <see cref="Residency.Keep"/>. With
    /// <see cref="Residency.Release"/>, it is unloaded after decoding.</summary>
    public Residency? AutoencoderResidency { get; set; }

    /// <summary>Gets or sets the memory in bytes that decoding a video may use in addition to the weights of the autoencoder; null for half of the
    /// available memory. A video is decoded in pieces of a few frames. If a piece needs more memory, it has fewer frames; if a single frame needs
    /// more, it is divided into tiles that overlap. Tiles change the pixels slightly: set this option if videos must be identical on machines with
    /// different amounts of memory.</summary>
    public long? DecodeMemory { get; set; }

    /// <summary>Gets or sets the number of requests that are generated at the same time; further ones wait in order. Null for no limit. Each request
    /// needs memory of its own for its latents and activations.</summary>
    public int? MaxConcurrentRequests { get; set; }

    /// <summary>Gets or sets the number of requests that can wait; further ones are refused with an <see cref="InvalidOperationException"/> that
    /// has the key <see cref="VideoGenerator.QueueFullKey"/>. Null for no limit.</summary>
    public int? MaxWaitingRequests { get; set; }

    /// <summary>Gets or sets the folder that contains ffmpeg and ffprobe; null to search PATH.</summary>
    public string? FFmpegFolder { get; set; }

    /// <summary>The values that <see cref="Precision"/> can have.</summary>
    internal static readonly IReadOnlyList<ScalarType> Precisions = [ScalarType.Float32, ScalarType.BFloat16, ScalarType.Float16];

    /// <summary>The problems with the configuration that these options were bound from, one sentence each.</summary>
    internal List<string> BindingProblems { get; } = [];

    /// <inheritdoc/>
    public override OpenSoraOptions Clone() => (OpenSoraOptions)base.Clone();

    /// <summary>Validates the options without a model, and returns one sentence for each problem.</summary>
    internal new IEnumerable<string> Problems()
    {
        foreach (var problem in BindingProblems)
        {
            yield return problem;
        }

        if (Model is not null && string.IsNullOrWhiteSpace(Model))
        {
            yield return $"{SectionName}:Model is empty. Set it to a model name or the path of a model folder, or omit it to use '{DefaultModel}'.";
        }

        if (Sampler is { } sampler && !Enum.IsDefined(sampler))
        {
            yield return $"{SectionName}:Sampler is '{Sampler}'; it must be one of {string.Join(", ", Enum.GetNames<SamplerKind>())}.";
        }

        if (Precision is { } precision && !Precisions.Contains(precision))
        {
            yield return $"{SectionName}:Precision is {Precision}; it must be one of {string.Join(", ", Precisions)}.";
        }

        foreach (var problem in base.Problems())
        {
            yield return $"{SectionName}:{problem}";
        }

        foreach (
            var (name, value) in new[]
            {
                (nameof(TextEncoderResidency), TextEncoderResidency),
                (nameof(TransformerResidency), TransformerResidency),
                (nameof(AutoencoderResidency), AutoencoderResidency),
            }
        )
        {
            if (value is { } residency && !Enum.IsDefined(residency))
            {
                yield return $"{SectionName}:{name} is '{residency}'; it must be one of {string.Join(", ", Enum.GetNames<Residency>())}.";
            }
        }

        if (DecodeMemory < 1)
        {
            yield return $"{SectionName}:DecodeMemory is {DecodeMemory}; it must be at least 1 byte. Omit it for half of the available memory.";
        }

        if (MaxConcurrentRequests < 1)
        {
            yield return $"{SectionName}:MaxConcurrentRequests is {MaxConcurrentRequests}; it must be at least 1.";
        }

        if (MaxWaitingRequests < 0)
        {
            yield return $"{SectionName}:MaxWaitingRequests is {MaxWaitingRequests}; it must not be negative.";
        }

        if (FFmpegFolder is not null && !Directory.Exists(FFmpegFolder))
        {
            yield return $"{SectionName}:FFmpegFolder is '{FFmpegFolder}', but this folder does not exist.";
        }
        else if (FFmpegFolder is not null && !FFmpeg.Exists(FFmpegFolder))
        {
            yield return $"{SectionName}:FFmpegFolder is '{FFmpegFolder}', but this folder does not contain ffmpeg.";
        }
    }
}

/// <summary>Validates the options, including the choice of backend and the model folder, when the application starts.</summary>
internal sealed class OpenSoraOptionsValidator(BackendSelector backends, PartFactories parts) : IValidateOptions<OpenSoraOptions>
{
    public ValidateOptionsResult Validate(string? name, OpenSoraOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        List<string> problems = [.. options.Problems(), .. BackendProblems(options), .. ModelProblems(options), .. ResidencyProblems(options)];
        return problems.Count == 0 ? ValidateOptionsResult.Success : ValidateOptionsResult.Fail(problems);
    }

    private IEnumerable<string> BackendProblems(OpenSoraOptions options)
    {
        string? problem = null;
        try
        {
            backends.Select(options.Backend);
        }
        catch (BackendUnavailableException e)
        {
            problem = e.Message;
        }

        return problem is null ? [] : [$"{OpenSoraOptions.SectionName}:Backend: {problem}"];
    }

    // Custom parts load their weights themselves.
    private IEnumerable<string> ResidencyProblems(OpenSoraOptions options)
    {
        if (parts.TextEncoder is not null && options.TextEncoderResidency is Residency.Stream)
        {
            yield return $"{OpenSoraOptions.SectionName}:{nameof(options.TextEncoderResidency)} is {Residency.Stream}, but the text encoder is a "
                + $"custom one (UseTextEncoder), which loads its weights itself; it can be {Residency.Keep} or {Residency.Release}.";
        }

        if (parts.Vae is not null && options.AutoencoderResidency is not (null or Residency.Keep))
        {
            yield return $"{OpenSoraOptions.SectionName}:{nameof(options.AutoencoderResidency)} is {options.AutoencoderResidency}, but the "
                + $"autoencoder is a custom one (UseVae), which loads its weights itself; it can only be {Residency.Keep}.";
        }
    }

    // Reads model.json, but no weights.
    private IEnumerable<string> ModelProblems(OpenSoraOptions options)
    {
        if (options.Model is not null && string.IsNullOrWhiteSpace(options.Model))
        {
            return [];
        }

        try
        {
            var folder = ModelFolder.Open(options.Model ?? OpenSoraOptions.DefaultModel);
            PartLoader.Check(folder, parts);
            return RequestPlan.Problems(options, folder.Description).Select(problem => $"{OpenSoraOptions.SectionName}:{problem}");
        }
        catch (InvalidModelException e)
        {
            return [$"{OpenSoraOptions.SectionName}:Model is '{options.Model ?? OpenSoraOptions.DefaultModel}': {e.Message}"];
        }
    }
}
