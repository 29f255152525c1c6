using OpenSora.Diffusion;
using OpenSora.Models;
using OpenSora.Weights;
using static TorchSharp.torch;

namespace OpenSora.Goldens;

/// <summary>A tiny STDiT with a sampler and guidance by the learned null caption.</summary>
internal static class EndToEndGoldens
{
    public static IEnumerable<Comparison> Check(GoldenFile file)
    {
        var config = file.Config;
        using var noGradients = no_grad();
        using var model = file.Load(new StdiT(file.ConfigAs<StdiTConfig>("model"), initialize: false));
        model.eval();

        // The null caption is cut by the prompt's own mask, whose rows the model repeats.
        var y = file["input.y"];
        var states = cat([y, model.NullCaption(y.shape[0]).unsqueeze(1)]);
        Denoiser Guided(int? channels) =>
            Sampling.ClassifierFreeGuidance(
                (x, t) => model.forward(x, t, states, file.Optional("input.mask")),
                config.GetProperty("cfg_scale").GetDouble(),
                channels
            );

        var samples = config.GetProperty("sampler").GetString() switch
        {
            "iddpm" => Ancestral(DiffusionGoldens.Process(config)),
            "dpm" => Solve(new DpmSolver(config.GetProperty("num_sampling_steps").GetInt32())),
            var other => throw new InvalidDataException($"There is no sampler '{other}'."),
        };
        yield return file.Compare("output.samples", samples, GoldenFile.RunLimit);

        Tensor Ancestral(Iddpm process) =>
            Sampling.SampleWith(process, Guided(file.GuidedChannels(process.GuidedChannels)), file["input.z"], DiffusionGoldens.Recorded(file));

        Tensor Solve(DpmSolver solver) => solver.Sample(Guided(file.GuidedChannels(solver.GuidedChannels)), file["input.z"]);
    }

    /// <summary>A tiny STDiT3 sampled as a rectified flow.</summary>
    public static IEnumerable<Comparison> CheckFlow(GoldenFile file)
    {
        var config = file.Config;
        using var noGradients = no_grad();
        using var model = file.Load(new StdiT3(file.ConfigAs<StdiT3Config>("model"), initialize: false));
        model.eval();

        var conditions = MultiResolutionGoldens.Conditions(file);
        var both = conditions with
        {
            Text = cat([conditions.Text, model.NullCaption(conditions.Text.shape[0])]),
            TextMask = file.Optional("input.text_mask"),
        };
        Tensor Guided(Tensor x, Tensor t, Tensor? noisyFrames) =>
            Sampling.ClassifierFreeGuidance(
                (all, times) => model.Denoise(all, times, both with { NoisyFrames = noisyFrames?.repeat(2, 1) }),
                config.GetProperty("cfg_scale").GetDouble(),
                file.GuidedChannels(null)
            )(x, t);
        var flow = RectifiedFlowGoldens.Process(config);
        var times = flow.SamplingTimes(RectifiedFlowGoldens.Ratio(config, conditions.Height, conditions.Width, conditions.Frames));
        yield return file.Compare(
            "output.samples",
            Sampling.Run(flow, Guided, file["input.z"], file.Optional("input.mask"), DiffusionGoldens.Recorded(file), times),
            GoldenFile.RunLimit
        );
    }
}
