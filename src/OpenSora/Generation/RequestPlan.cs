using OpenSora.Diffusion;
using OpenSora.ModelFolders;

namespace OpenSora.Generation;

/// <summary>A request with all values resolved and validated against a model.</summary>
internal sealed record RequestPlan(
    string Prompt,
    string? NegativePrompt,
    int Frames,
    int Width,
    int Height,
    int Steps,
    double Guidance,
    long Seed,
    double FramesPerSecond,
    SamplerKind Sampler,
    long[] LatentShape,
    IReadOnlyList<GivenFrames> Given
)
{
    /// <summary>Gets the settings for the pipeline.</summary>
    internal PipelineSettings Settings =>
        new()
        {
            Frames = Frames,
            Height = Height,
            Width = Width,
            Guidance = Guidance,
            NegativePrompt = NegativePrompt,
            FramesPerSecond = FramesPerSecond,
        };

    private int SpatialFactor => (int)(Height / LatentShape[3]);

    /// <summary>Validates a request independently of a model.</summary>
    /// <param name="request">The request.</param>
    /// <exception cref="ArgumentException">The request is not valid for any model; the message lists all problems.</exception>
    internal static void CheckAnyModel(VideoRequest request)
    {
        List<string> problems =
        [
            .. VideoRequest.Problems(request.Frames, request.Width, request.Height, request.Steps, request.Guidance, request.FramesPerSecond),
        ];
        if (request.Width.HasValue != request.Height.HasValue)
        {
            problems.Add("Width and Height must be set together.");
        }

        if (
            request.References is null
            || request.MaskStrategies is null
            || request.References.Contains(null)
            || request.MaskStrategies.Contains(null)
        )
        {
            problems.Add("References and MaskStrategies must not be null or contain null; use empty lists for none.");
        }

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
        var width = request.Width ?? options.Width ?? video.Width;
        var height = request.Height ?? options.Height ?? video.Height;
        var frames = request.Frames ?? options.Frames ?? video.Frames;

        var problems = new List<string>();
        Check("Width", width, video.WidthRange, vae.SpatialFactor * multiple[2]);
        Check("Height", height, video.HeightRange, vae.SpatialFactor * multiple[1]);
        Check("Frames", frames, video.FramesRange, vae.TemporalFactor * multiple[0]);
        var steps = request.Steps ?? options.Steps ?? sampling.Steps;
        if (steps > model.Description.Diffusion.Steps)
        {
            problems.Add($"Steps is {steps}; {model.Description.Name} supports at most {model.Description.Diffusion.Steps}.");
        }

        var sampler = options.Sampler ?? sampling.Sampler;
        if ((sampler == SamplerKind.RectifiedFlow) != (sampling.Sampler == SamplerKind.RectifiedFlow))
        {
            problems.Add(
                $"The sampler is {sampler}; {model.Description.Name} was trained with a different diffusion process; use {sampling.Sampler}."
            );
        }

        List<GivenFrames> given = video.FramesRange.Contains(frames) ? GivenFrames.Of(request, frames, sampler, model, problems) : [];
        if (problems.Count > 0)
        {
            throw new ArgumentException(string.Join(" ", problems), nameof(request));
        }

        return new RequestPlan(
            request.Prompt,
            request.NegativePrompt,
            frames,
            width,
            height,
            steps,
            request.Guidance ?? options.Guidance ?? sampling.GuidanceScale,
            request.Seed ?? Random.Shared.NextInt64(uint.MaxValue),
            request.FramesPerSecond ?? options.FramesPerSecond ?? video.Fps,
            sampler,
            [1, vae.LatentChannels, frames / vae.TemporalFactor, height / vae.SpatialFactor, width / vae.SpatialFactor],
            given
        );

        void Check(string what, int value, AllowedRange range, int multiple)
        {
            if (!range.Contains(value))
            {
                problems.Add($"{what} is {value}; {model.Description.Name} supports {range}.");
            }
            else if (value % multiple != 0)
            {
                problems.Add($"{what} is {value}; it must be a multiple of {multiple}.");
            }
        }
    }

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
                new RectifiedFlowOptions
                {
                    Steps = process.Steps,
                    SamplingSteps = Steps,
                    WholeSteps = process.WholeSteps,
                    ShiftBySize = process.ShiftBySize,
                    SpatialFactor = SpatialFactor,
                }
            ),
            _ => new DpmSolver(Steps, Schedule(), process.Prediction),
        };

        IddpmSchedule Schedule() =>
            process.Schedule == NoiseSchedule.Linear ? IddpmSchedule.Linear(process.Steps) : IddpmSchedule.SquaredCosine(process.Steps);
        IddpmSchedule Tables() => process.SinglePrecision ? Schedule().Respace(Steps).InSinglePrecision() : Schedule().Respace(Steps);
        Iddpm Respaced() => new(Tables(), new IddpmOptions { Prediction = process.Prediction, Variance = process.Variance });
    }
}
