using OpenSora.Diffusion;
using OpenSora.ModelFolders;
using OpenSora.Models;

namespace OpenSora.Generation;

/// <summary>A request with all values resolved and validated against a model.</summary>
internal sealed record RequestPlan(
    string Prompt,
    ResolvedSettings Settings,
    int Steps,
    SamplerKind Sampler,
    long[] LatentShape,
    IReadOnlyList<GivenFrames> Given
)
{
    /// <summary>The video to begin with, of the size of the generated one; null for noise.</summary>
    public VideoEdit? Edit { get; init; }

    /// <summary>The windows of a long video; null to denoise it as a whole.</summary>
    public VideoWindows? Windows { get; init; }

    /// <summary>The encoded prompt and negative prompt that the request provides.</summary>
    public (TextStates? Prompt, TextStates? Negative) Encoded { get; init; }

    /// <summary>All prompts that are encoded.</summary>
    internal IEnumerable<string> Prompts => Encoded.Prompt is not null ? [] : Windows?.Prompts ?? [Prompt];

    private int SpatialFactor => (int)(Settings.Height / LatentShape[3]);

    /// <summary>Validates a request independently of a model.</summary>
    /// <param name="request">The request.</param>
    /// <exception cref="ArgumentException">The request is not valid for any model; the message lists all problems.</exception>
    internal static void CheckAnyModel(VideoRequest request)
    {
        List<string> problems = [.. request.Problems(), .. SegmentProblems(request)];
        if (problems.Count > 0)
        {
            throw new ArgumentException(string.Join(" ", problems), nameof(request));
        }
    }

    /// <summary>Resolves each value from the request, then the options, then the model's defaults, and validates the result.</summary>
    /// <param name="request">The request.</param>
    /// <param name="options">The application's options.</param>
    /// <param name="model">The loaded model.</param>
    /// <exception cref="ArgumentException">The model does not support a value; the message lists all problems.</exception>
    internal static RequestPlan For(VideoRequest request, OpenSoraOptions options, LoadedModel model)
    {
        var (video, sampling) = (model.Description.Video, model.Description.Sampling);
        var (vae, multiple) = (model.Vae, model.Transformer.LatentMultiple);
        var merged = request.Or(options).Or(Defaults(model.Description));
        if (request is { Frames: null, Edit.Video.Count: > 1 and var own })
        {
            merged.Frames = own;
        }

        var (settings, steps) = (ResolvedSettings.Of(merged), merged.Steps ?? sampling.Steps);
        var (frames, height, width) = (settings.Frames, settings.Height, settings.Width);

        var problems = new List<string>();
        Check("Width", width, video.WidthRange, vae.SpatialFactor * multiple[2]);
        Check("Height", height, video.HeightRange, vae.SpatialFactor * multiple[1]);
        var frameMultiple = vae.TemporalFactor * multiple[0];
        var windows = WindowsFor(request, settings, video, frameMultiple, vae.TemporalFactor, Check, problems);
        problems.AddRange(Problems(steps, options.Sampler, model.Description));
        var sampler = options.Sampler ?? sampling.Sampler;

        List<GivenFrames> given =
            windows is not null || video.FramesRange.Contains(frames) ? GivenFrames.Of(request, frames, sampler, model, problems) : [];
        if (request.Edit is { } edit)
        {
            problems.AddRange(edit.Problems(frames));
            if (request.References.Count > 0)
            {
                problems.Add("The request has both an existing video to edit and references; use one of them.");
            }
        }

        if (problems.Count > 0)
        {
            throw new ArgumentException(string.Join(" ", problems), nameof(request));
        }

        return new RequestPlan(
            request.Prompt,
            settings,
            steps,
            sampler,
            [1, vae.LatentChannels, frames / vae.TemporalFactor, height / vae.SpatialFactor, width / vae.SpatialFactor],
            given
        )
        {
            Edit = request.Edit?.Fit(settings),
            Windows = windows,
            Encoded = (request.PromptStates, request.NegativePromptStates),
        };

        void Check(string what, int value, AllowedRange range, int multiple)
        {
            if (!range.Contains(value))
            {
                problems.Add(Unsupported(what, value, range, model.Description));
            }
            else if (value % multiple != 0)
            {
                problems.Add($"{what} is {value}; it must be a multiple of {multiple}.");
            }
        }
    }

    private static IEnumerable<string> SegmentProblems(VideoRequest request)
    {
        var last = 0;
        foreach (var segment in request.Segments)
        {
            if (segment.Frame <= last)
            {
                yield return $"A segment begins at frame {segment.Frame}, but the one before it at {last}; segments must be in order, after frame 0.";
            }

            if (segment.Prompt is null)
            {
                yield return $"The prompt of the segment at frame {segment.Frame} is null. Use an empty string to generate it without a prompt.";
            }

            last = segment.Frame;
        }

        if (request.Segments.Count > 0 && request.PromptStates is not null)
        {
            yield return "The request has both an encoded prompt and segments; use one of them.";
        }
    }

    // Without windows, the model must support the number of frames; with windows, it must support that of a window.
    private static VideoWindows? WindowsFor(
        VideoRequest request,
        ResolvedSettings settings,
        VideoDefaults video,
        int multiple,
        int temporalFactor,
        Action<string, int, AllowedRange, int> check,
        List<string> problems
    )
    {
        var (frames, segments) = (settings.Frames, request.Segments);
        var window = settings.WindowFrames ?? (segments.Count > 0 ? Math.Min(video.Frames, frames) : frames);
        if (segments.Count > 0 && segments[^1].Frame >= frames)
        {
            problems.Add($"The last segment begins at frame {segments[^1].Frame}, but the video has {frames} frames.");
        }

        if (window >= frames)
        {
            var before = problems.Count;
            check("Frames", frames, video.FramesRange, multiple);
            if (problems.Count > before && frames > video.FramesRange.Max)
            {
                problems[^1] += $" To generate a longer video in overlapping windows, set WindowFrames to {video.Frames}.";
            }

            if (segments.Count == 0)
            {
                return null;
            }

            window = frames;
        }
        else
        {
            check("WindowFrames", window, video.FramesRange, multiple);
        }

        var overlap = window == frames ? 0 : settings.WindowOverlap ?? VideoWindows.DefaultOverlap(window, multiple);
        foreach (var (name, value) in new[] { ("Frames", frames), ("WindowOverlap", overlap) })
        {
            if (value % multiple != 0)
            {
                problems.Add($"{name} is {value}; it must be a multiple of {multiple}.");
            }
        }

        return problems.Count > 0 || overlap >= window ? null : VideoWindows.Place(frames, window, overlap, temporalFactor, request.Prompt, segments);
    }

    /// <summary>Validates an application's options against the description of a model, and returns one sentence for each problem.</summary>
    internal static IEnumerable<string> Problems(OpenSoraOptions options, ModelDescription model)
    {
        (string Name, int? Value, AllowedRange Range)[] sizes =
        [
            ("Width", options.Width, model.Video.WidthRange),
            ("Height", options.Height, model.Video.HeightRange),
            ("Frames", options.Frames, model.Video.FramesRange),
        ];
        return sizes
            .Where(size => size.Value is { } value && value >= 1 && !size.Range.Contains(value))
            .Select(size => Unsupported(size.Name, size.Value!.Value, size.Range, model))
            .Concat(Problems(options.Steps is <= GenerationSettings.MaxSteps ? options.Steps : null, options.Sampler, model));
    }

    private static IEnumerable<string> Problems(int? steps, SamplerKind? sampler, ModelDescription model)
    {
        if (steps > model.Diffusion.Steps)
        {
            yield return $"Steps is {steps}; {model.Name} supports at most {model.Diffusion.Steps}.";
        }

        var own = model.Sampling.Sampler;
        if (sampler is { } kind && Enum.IsDefined(kind) && (kind == SamplerKind.RectifiedFlow) != (own == SamplerKind.RectifiedFlow))
        {
            yield return $"Sampler is {kind}; {model.Name} was trained with a different diffusion process; use {own}.";
        }
    }

    private static string Unsupported(string what, int value, AllowedRange range, ModelDescription model) =>
        $"{what} is {value}; {model.Name} supports {range}.";

    /// <summary>Returns the settings of a request that sets none: the application's options, then the model's defaults.</summary>
    internal static GenerationSettings DefaultSettings(OpenSoraOptions options, ModelDescription model) =>
        new GenerationSettings().Or(options).Or(Defaults(model));

    // The settings that a model's description specifies.
    private static GenerationSettings Defaults(ModelDescription model) =>
        new()
        {
            Frames = model.Video.Frames,
            Width = model.Video.Width,
            Height = model.Video.Height,
            Steps = model.Sampling.Steps,
            GuidanceScale = model.Sampling.GuidanceScale,
            FramesPerSecond = model.Video.Fps,
        };

    /// <summary>Creates the sampler for the diffusion process that the model was trained with.</summary>
    /// <param name="model">The description of the model.</param>
    internal ISampler CreateSampler(ModelDescription model)
    {
        var process = model.Diffusion;
        return Sampler switch
        {
            SamplerKind.Iddpm => Respaced(),
            SamplerKind.Ddim => new Ddim(Respaced(), model.Sampling.Eta),
            SamplerKind.RectifiedFlow => new RectifiedFlow(
                Steps,
                process.Steps,
                process.WholeSteps,
                shiftBySize: process.ShiftBySize,
                spatialFactor: SpatialFactor
            ),
            _ => new DpmSolver(Steps, Schedule(), process.Prediction),
        };

        IddpmSchedule Schedule() => process.SquaredCosine ? IddpmSchedule.SquaredCosine(process.Steps) : IddpmSchedule.Linear(process.Steps);
        IddpmSchedule Tables() => process.SinglePrecision ? Schedule().Respace(Steps).InSinglePrecision() : Schedule().Respace(Steps);
        Iddpm Respaced() => new(Tables(), process.Prediction, process.Variance);
    }
}
