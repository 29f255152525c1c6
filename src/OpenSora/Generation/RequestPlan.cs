using OpenSora.Diffusion;
using OpenSora.ModelFolders;

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
    private int SpatialFactor => (int)(Settings.Height / LatentShape[3]);

    /// <summary>Validates a request independently of a model.</summary>
    /// <param name="request">The request.</param>
    /// <exception cref="ArgumentException">The request is not valid for any model; the message lists all problems.</exception>
    internal static void CheckAnyModel(VideoRequest request)
    {
        var problems = request.Problems().ToList();
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
        var (settings, steps) = (ResolvedSettings.Of(merged), merged.Steps ?? sampling.Steps);
        var (frames, height, width) = (settings.Frames, settings.Height, settings.Width);

        var problems = new List<string>();
        Check("Width", width, video.WidthRange, vae.SpatialFactor * multiple[2]);
        Check("Height", height, video.HeightRange, vae.SpatialFactor * multiple[1]);
        Check("Frames", frames, video.FramesRange, vae.TemporalFactor * multiple[0]);
        problems.AddRange(Problems(steps, options.Sampler, model.Description));
        var sampler = options.Sampler ?? sampling.Sampler;

        List<GivenFrames> given = video.FramesRange.Contains(frames) ? GivenFrames.Of(request, frames, sampler, model, problems) : [];
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
        );

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
