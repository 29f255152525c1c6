using Microsoft.Extensions.Options;
using OpenSora.Generation;
using OpenSora.ModelFolders;
using OpenSora.Studio.Jobs;

namespace OpenSora.Studio.Api;

/// <summary>The settings that the model supports, and the validation of jobs against them.</summary>
internal sealed class ModelInfo(IVideoGenerator generator, IOptions<OpenSoraOptions> defaults, IOptions<StudioOptions> studio)
{
    private const long MaxSeed = (1L << 53) - 1; // the largest integer that is exact in JavaScript

    public async Task<ModelView> GetAsync(CancellationToken cancellationToken)
    {
        var model = await generator.DescribeAsync(cancellationToken);
        var (video, options) = (model.Video, defaults.Value);
        return new(
            model.Name,
            model.Description,
            Range(video.FramesRange, options.Frames ?? video.Frames),
            Range(video.WidthRange, options.Width ?? video.Width),
            Range(video.HeightRange, options.Height ?? video.Height),
            new(1, Math.Min(1000, model.Diffusion.Steps), 1, options.Steps ?? model.Sampling.Steps),
            options.GuidanceScale ?? model.Sampling.GuidanceScale,
            options.FramesPerSecond ?? video.Fps,
            StudioOptions.MaxPromptLength,
            studio.Value.MaxJobsPerUser,
            studio.Value.Examples
        );

        static SettingRange Range(AllowedRange range, int value) => new(range.Min, range.Max, range.Step, value);
    }

    /// <summary>Validates the settings of a job.</summary>
    /// <returns>The problems by the name of the setting in JSON; empty if there are none.</returns>
    public static Dictionary<string, string[]> Problems(JobSettings settings, ModelView model)
    {
        Dictionary<string, string[]> problems = [];
        if (string.IsNullOrWhiteSpace(settings.Prompt))
        {
            Add("prompt", "The prompt is empty. Describe the video in a few words.");
        }

        CheckLength("prompt", settings.Prompt);
        CheckLength("negativePrompt", settings.NegativePrompt);
        Check("frames", settings.Frames, model.Frames);
        Check("width", settings.Width, model.Width);
        Check("height", settings.Height, model.Height);
        Check("steps", settings.Steps, model.Steps);
        if (settings.Width.HasValue != settings.Height.HasValue)
        {
            Add(settings.Width.HasValue ? "height" : "width", "Width and height must be set together.");
        }

        if (settings.GuidanceScale is not (null or (>= 0 and <= 100)))
        {
            Add("guidanceScale", $"The guidance scale is {settings.GuidanceScale}; it must be from 0 to 100. 1 means none.");
        }

        if (settings.FramesPerSecond is not (null or (>= 1 and <= 120)))
        {
            Add("framesPerSecond", $"The frame rate is {settings.FramesPerSecond}; it must be from 1 to 120 frames per second.");
        }

        if (settings.Seed is not (null or (>= 0 and <= MaxSeed)))
        {
            Add("seed", $"The seed is {settings.Seed}; it must be from 0 to {MaxSeed}.");
        }

        return problems;

        void Add(string name, string problem) => problems[name] = [problem];

        void Check(string name, int? value, SettingRange range)
        {
            if (value is { } number && !range.Contains(number))
            {
                Add(name, $"{char.ToUpperInvariant(name[0])}{name[1..]} is {number}; {model.Name} supports {range}.");
            }
        }

        void CheckLength(string name, string? text)
        {
            if (text?.Length > model.MaxPromptLength)
            {
                Add(name, $"The text has {text.Length} characters; at most {model.MaxPromptLength} are allowed.");
            }
        }
    }
}
