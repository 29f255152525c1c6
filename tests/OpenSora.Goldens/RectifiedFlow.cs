using System.Text.Json;
using OpenSora.Diffusion;
using OpenSora.Weights;
using static TorchSharp.torch;

namespace OpenSora.Goldens;

/// <summary>Rectified flow as Open-Sora 1.2 has it: losses, times and sampling, against a recorded linear model.</summary>
internal static class RectifiedFlowGoldens
{
    public static IEnumerable<Comparison> Check(GoldenFile file) =>
        file switch
        {
            _ when file.Has("input.x_start") => Losses(file),
            _ when file.Has("input.z") => SamplingLoop(file),
            _ => Times(file),
        };

    internal static RectifiedFlow Process(JsonElement config, Tensor? weights = null)
    {
        return new RectifiedFlow(
            config.TryGetProperty("num_sampling_steps", out var steps) ? steps.GetInt32() : 30,
            config.TryGetProperty("num_timesteps", out var all) ? all.GetInt32() : 1000,
            wholeSteps: Set(config, "use_discrete_timesteps"),
            shiftBySize: Set(config, "use_timestep_transform"),
            lossWeights: weights is null ? null : [.. weights.to_type(ScalarType.Float64).data<double>()]
        );
    }

    private static bool Set(JsonElement config, string name) => config.TryGetProperty(name, out var value) && value.GetBoolean();

    // Of pixel frames the autoencoder of these cases makes 5 latent frames for every 17.
    internal static double Ratio(JsonElement config, double height, double width, long frames) =>
        !Set(config, "use_timestep_transform") ? 1 : RectifiedFlow.SizeRatio(frames == 1 ? 1 : frames / 17 * 5, height, width);

    // The model of all these cases: a velocity linear in x, t and y.
    private static Denoiser Model(Tensor y) => (x, t) => -0.3 * x + 0.2 * y.reshape(-1, 1, 1, 1, 1) + 0.1 * t.reshape(-1, 1, 1, 1, 1) / 1000;

    private static IEnumerable<Comparison> Losses(GoldenFile file)
    {
        var process = Process(file.Config, file.Optional("input.weights"));
        var (x0, noise, t) = (file["input.x_start"], file["input.noise"], file["input.t"]);
        Tensor? seen = null;
        var losses = process.TrainingLosses(
            (x, time) => Model(file["input.y"])(seen = x.clone().DetachFromDisposeScope(), time),
            x0,
            t,
            noise,
            noisyFrames: file.Optional("input.mask")
        );
        yield return file.Compare("mid.x_t", seen!);
        yield return file.Compare("output.add_noise", process.AddNoise(x0, t, noise));
        yield return file.Compare("output.loss", losses.Total);
        seen!.Dispose();
    }

    private static IEnumerable<Comparison> Times(GoldenFile file)
    {
        foreach (var (i, config) in file.Config.GetProperty("cases").EnumerateArray().Index())
        {
            var ratio = Ratio(
                config,
                config.GetProperty("height").GetDouble(),
                config.GetProperty("width").GetDouble(),
                config.GetProperty("num_frames").GetInt64()
            );
            yield return file.Compare($"output.timesteps_{i}", tensor(Process(config).SamplingTimes(ratio)));
        }
    }

    private static IEnumerable<Comparison> SamplingLoop(GoldenFile file)
    {
        var (config, process) = (file.Config, Process(file.Config));
        var ratio = Ratio(
            config,
            file["input.height"][0].item<float>(),
            file["input.width"][0].item<float>(),
            file["input.num_frames"][0].item<long>()
        );
        var guided = Sampling.ClassifierFreeGuidance(
            Model(cat([file["input.y_cond"], file["input.y_uncond"]])),
            config.GetProperty("cfg_scale").GetDouble(),
            file.GuidedChannels(process.GuidedChannels)
        );
        var (samples, times, masks) = (new List<Tensor>(), new List<Tensor>(), new List<Tensor>());
        Tensor Watched(Tensor x, Tensor t, Tensor? noisyFrames)
        {
            samples.Add(x.clone().DetachFromDisposeScope());
            times.Add(t.clone().DetachFromDisposeScope());
            if (noisyFrames is not null)
            {
                masks.Add(noisyFrames.repeat(2, 1).DetachFromDisposeScope()); // the original passes it for both halves under guidance
            }

            return guided(x, t);
        }

        var sample = Sampling.Run(
            process,
            Watched,
            file["input.z"],
            file.Optional("input.mask"),
            DiffusionGoldens.Recorded(file),
            process.SamplingTimes(ratio)
        );
        yield return file.Compare("mid.model_x", stack(samples), GoldenFile.RunLimit);
        yield return file.Compare("mid.model_t", stack(times));
        if (masks.Count > 0)
        {
            yield return file.Compare("mid.x_mask", stack(masks));
        }

        yield return file.Compare("output.samples", sample, GoldenFile.RunLimit);
        foreach (var seen in samples.Concat(times).Concat(masks))
        {
            seen.Dispose();
        }
    }
}
