using Microsoft.Extensions.Options;
using OpenSora.Diffusion;
using OpenSora.ModelFolders;
using OpenSora.Runtime;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>How this program generates. Null means the model's own default everywhere.</summary>
/// <remarks>Bound from the configuration section <c>OpenSora</c> and checked when the program starts.</remarks>
public sealed class OpenSoraOptions
{
    /// <summary>The configuration section that <c>AddOpenSora</c> reads.</summary>
    public const string SectionName = "OpenSora";

    /// <summary>The model that is used where none is named.</summary>
    public const string DefaultModel = "stickers";

    /// <summary>The name of a model that ships with the library, or the path of a model folder; null = <see cref="DefaultModel"/>.</summary>
    public string? Model { get; set; }

    /// <summary>The backend's name, such as <c>cpu</c> or <c>cuda</c>; null or <c>auto</c> = the best available one.</summary>
    public string? Backend { get; set; }

    /// <summary>The sampler.</summary>
    public SamplerKind? Sampler { get; set; }

    /// <summary>The type in which large matrix products are computed, such as bfloat16, which takes half the memory traffic; null = float32. Weights
    /// keep theirs.</summary>
    public ScalarType? Precision { get; set; }

    /// <summary>Denoising steps of requests that name none.</summary>
    public int? Steps { get; set; }

    /// <summary>Classifier-free guidance scale of requests that name none; 1 = no guidance.</summary>
    public double? Guidance { get; set; }

    /// <summary>Frames of requests that name none.</summary>
    public int? Frames { get; set; }

    /// <summary>Width of requests that name none, in pixels.</summary>
    public int? Width { get; set; }

    /// <summary>Height of requests that name none, in pixels.</summary>
    public int? Height { get; set; }

    /// <summary>Frames per second of requests that name none.</summary>
    public double? FramesPerSecond { get; set; }

    /// <summary>Drops the text encoder from memory after a prompt is encoded, and loads it again for the next: for models whose encoder is larger
    /// than the rest.</summary>
    public bool ReleaseTextEncoder { get; set; }

    /// <summary>The folder that holds ffmpeg and ffprobe; null = wherever PATH finds them.</summary>
    public string? FFmpegFolder { get; set; }

    internal OpenSoraOptions Clone() => (OpenSoraOptions)MemberwiseClone();

    /// <summary>What is wrong with the options as such, one sentence each.</summary>
    internal IEnumerable<string> Problems()
    {
        if (Model is not null && string.IsNullOrWhiteSpace(Model))
        {
            yield return $"{SectionName}:Model is empty. Name a model or the path of a model folder, or leave it out for '{DefaultModel}'.";
        }

        if (Sampler is { } sampler && !Enum.IsDefined(sampler))
        {
            yield return $"{SectionName}:Sampler is '{Sampler}'; it must be one of {string.Join(", ", Enum.GetNames<SamplerKind>())}.";
        }

        if (Precision is not (null or ScalarType.Float32 or ScalarType.BFloat16 or ScalarType.Float16))
        {
            yield return $"{SectionName}:Precision is {Precision}; it must be {ScalarType.Float32}, {ScalarType.BFloat16} or {ScalarType.Float16}.";
        }

        foreach (var problem in VideoRequest.Problems(Frames, Width, Height, Steps, Guidance, FramesPerSecond))
        {
            yield return $"{SectionName}:{problem}";
        }

        if (Width.HasValue != Height.HasValue)
        {
            yield return $"{SectionName}:Width and {SectionName}:Height go together: set both or neither.";
        }

        if (FFmpegFolder is not null && !Directory.Exists(FFmpegFolder))
        {
            yield return $"{SectionName}:FFmpegFolder is '{FFmpegFolder}', which is no folder here.";
        }
    }
}

/// <summary>Checks the options when the program starts, the choice of the backend included.</summary>
internal sealed class OpenSoraOptionsValidator(BackendSelector backends) : IValidateOptions<OpenSoraOptions>
{
    public ValidateOptionsResult Validate(string? name, OpenSoraOptions options)
    {
        var problems = options.Problems().ToList();
        try
        {
            backends.Select(options.Backend);
        }
        catch (BackendUnavailableException e)
        {
            problems.Add($"{OpenSoraOptions.SectionName}:Backend: {e.Message}");
        }
        return problems.Count == 0 ? ValidateOptionsResult.Success : ValidateOptionsResult.Fail(problems);
    }
}
