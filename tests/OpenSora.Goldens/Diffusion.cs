using System.Globalization;
using System.Text.Json;
using OpenSora.Diffusion;
using OpenSora.Models.Layers;
using OpenSora.Weights;
using static TorchSharp.torch;

namespace OpenSora.Goldens;

/// <summary>Schedules, samplers and losses of diffusion, against a recorded linear model.</summary>
internal static class DiffusionGoldens
{
    /// <summary>Every case whose name starts with iddpm or dpm; the tensors it holds say which.</summary>
    public static IEnumerable<Comparison> Check(GoldenFile file) =>
        file switch
        {
            { Json.ValueKind: JsonValueKind.Object } => Tables(file),
            _ when file.Has("input.x_start") => Losses(file),
            _ when file.Has("output.log_alpha_array") => SolverSchedule(file),
            _ when file.Has("mid.t_continuous") => Solver(file),
            _ when file.Has("input.cfg_x") => GuidedSampling(file),
            _ when file.Has("mid.pred_xstart") => SamplingLoop(file),
            _ => TablesInSingle(file),
        };

    /// <summary>The process that the original's IDDPM class makes of these settings.</summary>
    internal static Iddpm Process(JsonElement config)
    {
        return new Iddpm(
            Schedule(config),
            Set("predict_xstart") ? Prediction.Sample : Prediction.Noise,
            Set("learn_sigma", otherwise: true) ? Variance.LearnedRange
                : Set("sigma_small") ? Variance.FixedSmall
                : Variance.FixedLarge,
            Set("use_kl") ? DiffusionLoss.RescaledKl
                : Set("rescale_learned_sigmas") ? DiffusionLoss.RescaledMse
                : DiffusionLoss.Mse,
            clipDenoised: Set("clip_denoised")
        );

        bool Set(string name, bool otherwise = false) => config.TryGetProperty(name, out var value) ? value.GetBoolean() : otherwise;
    }

    private static IddpmSchedule Schedule(JsonElement config)
    {
        var steps = config.TryGetProperty("diffusion_steps", out var all) ? all.GetInt32() : 1000;
        var full =
            config.TryGetProperty("noise_schedule", out var kind) && kind.ValueEquals("squaredcos_cap_v2")
                ? IddpmSchedule.SquaredCosine(steps)
                : IddpmSchedule.Linear(steps);
        return config.TryGetProperty("num_sampling_steps", out var kept)
            ? full.Respace(kept.GetInt32())
            : Respaced(full, config.GetProperty("timestep_respacing").GetString()!);
    }

    // The model of all these cases: noise linear in x, t and y, and a recorded block for the variance.
    private static Denoiser Model(GoldenFile file, Tensor? y = null) =>
        (x, t) =>
        {
            var batch = x.shape[0];
            var noise = 0.3 * x + 0.01 * PerSample(t) / 1000;
            if (y is not null)
            {
                noise = noise + 0.05 * PerSample(y);
            }

            if (file.Optional("input.var_block") is not { } variance)
            {
                return noise;
            }

            return cat([noise, variance.expand([batch, .. variance.shape.AsSpan(1)])], 1);

            static Tensor PerSample(Tensor v) => v.reshape(-1, 1, 1, 1, 1);
        };

    // The original's text form: counts for sections of equal size, or "ddim" and the number of steps of an integer stride.
    private static IddpmSchedule Respaced(IddpmSchedule full, string respacing)
    {
        if (respacing.Length == 0)
        {
            return full;
        }

        if (!respacing.StartsWith("ddim", StringComparison.Ordinal))
        {
            return full.Keep(full.Spread(Array.ConvertAll(respacing.Split(','), int.Parse)));
        }

        var count = int.Parse(respacing["ddim".Length..], CultureInfo.InvariantCulture);
        var stride = Enumerable.Range(1, full.Steps).First(stride => (full.Steps + stride - 1) / stride == count);
        return full.Keep([.. Enumerable.Range(0, count).Select(i => i * stride)]);
    }

    internal static Func<Tensor, Tensor> Recorded(GoldenFile file, string name = "input.step_noise")
    {
        var step = 0;
        return like => file[name][step++].narrow(0, 0, like.shape[0]);
    }

    private static double[] Embedding(IddpmSchedule schedule, string name) =>
        name switch
        {
            "timestep_map" => [.. schedule.TimestepMap.Select(step => (double)step)],
            "betas" => [.. schedule.Betas],
            "alphas_cumprod" => [.. schedule.AlphasCumprod],
            "alphas_cumprod_prev" => schedule.AlphasCumprodPrev,
            "sqrt_alphas_cumprod" => schedule.SqrtAlphasCumprod,
            "sqrt_one_minus_alphas_cumprod" => schedule.SqrtOneMinusAlphasCumprod,
            "log_one_minus_alphas_cumprod" => schedule.LogOneMinusAlphasCumprod,
            "sqrt_recip_alphas_cumprod" => schedule.SqrtRecipAlphasCumprod,
            "sqrt_recipm1_alphas_cumprod" => schedule.SqrtRecipM1AlphasCumprod,
            "posterior_variance" => schedule.PosteriorVariance,
            "posterior_log_variance_clipped" => schedule.PosteriorLogVarianceClipped,
            "posterior_mean_coef1" => schedule.PosteriorMeanCoef1,
            "posterior_mean_coef2" => schedule.PosteriorMeanCoef2,
            _ => throw new InvalidDataException($"There is no table '{name}'."),
        };

    // A table of the original that neither it nor the library uses.
    private const string Unused = "alphas_cumprod_next";

    private static IEnumerable<Comparison> Tables(GoldenFile file)
    {
        foreach (var process in file.Json.EnumerateObject())
        {
            var schedule = Schedule(process.Value.GetProperty("config"));
            foreach (var table in process.Value.EnumerateObject().Where(table => !table.NameEquals("config") && !table.NameEquals(Unused)))
            {
                var actual = Embedding(schedule, table.Name);
                var expected = table.Value.EnumerateArray().Select(value => value.GetDouble()).ToArray();
                var largest = expected.Max(Math.Abs);
                var error =
                    actual.Length == expected.Length
                        ? actual.Zip(expected, (a, e) => Math.Abs(a - e)).Max() / (largest == 0 ? 1 : largest)
                        : double.PositiveInfinity;
                yield return new Comparison($"{process.Name}.{table.Name}", error, 1e-12);
            }
        }
    }

    private static IEnumerable<Comparison> TablesInSingle(GoldenFile file)
    {
        foreach (
            var name in file.Names.Where(name =>
                name.StartsWith("output.", StringComparison.Ordinal) && !name.EndsWith(Unused, StringComparison.Ordinal)
            )
        )
        {
            var (process, table) = name.Split('.') is [_, var p, var t]
                ? (p, t)
                : throw new InvalidDataException($"'{name}' is not output.PROCESS.TABLE.");
            yield return file.Compare(name, tensor(Embedding(Schedule(file.Config.GetProperty(process)), table)), 1e-7);
        }
    }

    private static IEnumerable<Comparison> SamplingLoop(GoldenFile file)
    {
        var config = file.Config;
        var process = Process(config);
        var (model, steps) = (Model(file), process.Schedule.Steps);
        var (times, samples, predictions) = (new List<Tensor>(), new List<Tensor>(), new List<Tensor>());
        Tensor Watched(Tensor x, Tensor t)
        {
            var output = model(x, t);
            var clip = config.GetProperty("clip_denoised").GetBoolean();
            times.Add(t.clone().DetachFromDisposeScope());
            samples.Add(x.clone().DetachFromDisposeScope());
            predictions.Add(process.Denoise(output, x, [steps - times.Count], clip).X0.DetachFromDisposeScope());
            return output;
        }

        var sample = config.GetProperty("sampler").GetString() switch
        {
            "p_sample_loop" => Sampling.SampleWith(process, Watched, file["input.z"], Recorded(file)),
            "ddim_sample_loop" => Sampling.SampleWith(
                new Ddim(process, config.GetProperty("eta").GetDouble()),
                Watched,
                file["input.z"],
                Recorded(file)
            ),
            var other => throw new InvalidDataException($"There is no sampler '{other}'."),
        };
        samples.Add(sample);
        yield return file.Compare("mid.model_t", stack(times));
        yield return file.Compare("mid.samples", stack(samples[1..]), GoldenFile.RunLimit);
        yield return file.Compare("mid.pred_xstart", stack(predictions), GoldenFile.RunLimit);
        yield return file.Compare("output.sample", sample, GoldenFile.RunLimit);
        foreach (var seen in times.Concat(samples).Concat(predictions))
        {
            seen.Dispose();
        }
    }

    private static IEnumerable<Comparison> GuidedSampling(GoldenFile file)
    {
        var process = Process(file.Config);
        var y = cat([file["input.y_cond"], file["input.y_uncond"]]);
        var channels = file.GuidedChannels(process.GuidedChannels!.Value, (int)file["input.z"].shape[1]);
        var guided = Sampling.ClassifierFreeGuidance(Model(file, y), file.Config.GetProperty("cfg_scale").GetDouble(), channels);
        yield return file.Compare("output.samples", Sampling.SampleWith(process, guided, file["input.z"], Recorded(file)), GoldenFile.RunLimit);

        // One guided call. The original returns both halves: the guided channels twice, the others of either half.
        var half = file["input.cfg_x"].shape[0] / 2;
        var (x, t) = (file["input.cfg_x"].narrow(0, 0, half), file["input.cfg_t"].narrow(0, 0, half).to_type(ScalarType.Float32));
        var expected = guided(x, t);
        var unconditional = Model(file, file["input.y_uncond"])(x, t);
        var second = cat([expected.narrow(1, 0, channels), unconditional.narrow(1, channels, unconditional.shape[1] - channels)], 1);
        yield return file.Compare("output.forward_with_cfg", cat([expected, second]));
    }

    /// <summary>Sampling of Open-Sora 1.1: all latent channels are guided, some frames may be given, and tables are of single precision.</summary>
    public static IEnumerable<Comparison> CheckFrames(GoldenFile file)
    {
        var process = new Iddpm(Schedule(file.Config).InSinglePrecision());
        yield return file.Compare("output.betas", tensor(process.Schedule.Betas.ToArray()), 1e-7);
        yield return file.Compare("output.alphas_cumprod", tensor(process.Schedule.AlphasCumprod.ToArray()), 1e-7);

        var guided = Sampling.ClassifierFreeGuidance(
            Model(file, cat([file["input.y_cond"], file["input.y_uncond"]])),
            file.Config.GetProperty("cfg_scale").GetDouble(),
            file.GuidedChannels(null)
        );
        var (times, masks) = (new List<Tensor>(), new List<Tensor>());
        Tensor Watched(Tensor x, Tensor t, Tensor? noisyFrames)
        {
            times.Add(t.repeat(2).DetachFromDisposeScope()); // the original passes both halves under guidance
            if (noisyFrames is not null)
            {
                masks.Add(noisyFrames.repeat(2, 1).DetachFromDisposeScope());
            }

            return guided(x, t);
        }

        var (z, mask) = (file["input.z"], file.Optional("input.mask"));
        var sample = Sampling.Run(process, Watched, z, mask, Recorded(file, "input.randn"), process.Timesteps(z.shape));
        yield return file.Compare("mid.model_t", stack(times));
        if (masks.Count > 0)
        {
            yield return file.Compare("mid.x_mask", stack(masks));
        }

        yield return file.Compare("output.samples", sample, GoldenFile.RunLimit);
        foreach (var seen in times.Concat(masks))
        {
            seen.Dispose();
        }
    }

    private static IEnumerable<Comparison> Losses(GoldenFile file)
    {
        var process = Process(file.Config);
        var (x0, noise, t) = (file["input.x_start"], file["input.noise"], file["input.t"]);
        var steps = process.StepsOf(t, x0);
        var losses = process.TrainingLosses(Model(file), x0, t, noise);
        var x = process.AddNoise(x0, t, noise);
        var modelTimes = tensor(Array.ConvertAll(steps, step => (float)process.Schedule.TimestepMap[step]));
        var denoised = process.Denoise(Model(file)(x, modelTimes), x, steps, clip: false);
        // The prior's bound does not depend on the model, so the library does not compute it.
        foreach (var name in file.Names.Where(name => name.StartsWith("output.", StringComparison.Ordinal) && name is not "output.prior_bpd"))
        {
            yield return file.Compare(
                name,
                name["output.".Length..] switch
                {
                    "loss" => losses.Total,
                    "mse" => losses.Parts["mse"],
                    "vb" => losses.Parts["vb"],
                    "x_t" => x,
                    "posterior_mean" => process.PosteriorMean(x0, x, steps),
                    "p_mean" => denoised.Mean,
                    "p_log_variance" => denoised.LogVariance.expand(x.shape),
                    "p_variance" => denoised.LogVariance.exp().expand(x.shape),
                    "pred_xstart" => denoised.X0,
                    _ => throw new InvalidDataException($"{file.Name}: what is '{name}'?"),
                }
            );
        }
    }

    private static IEnumerable<Comparison> SolverSchedule(GoldenFile file)
    {
        var steps = file.Config.GetProperty("diffusion_steps").GetInt32();
        var solver = new DpmSolver(20, IddpmSchedule.Linear(steps));
        var knots = Enumerable.Range(1, steps).Select(i => (float)i / steps).ToArray();
        yield return file.Compare("output.t_array", tensor(knots).reshape(1, -1));
        yield return file.Compare("output.log_alpha_array", Map(tensor(knots), solver.LogAlpha).reshape(1, -1));
        yield return file.Compare("output.marginal_log_mean_coeff", Map(file["input.t"], solver.LogAlpha));
        yield return file.Compare("output.marginal_std", Map(file["input.t"], solver.Sigma));
        yield return file.Compare("output.marginal_lambda", Map(file["input.t"], solver.Lambda));

        static Tensor Map(Tensor t, Func<float, float> function) => tensor(Array.ConvertAll(t.data<float>().ToArray(), value => function(value)));
    }

    private static IEnumerable<Comparison> Solver(GoldenFile file)
    {
        var solver = new DpmSolver(file.Config.GetProperty("num_sampling_steps").GetInt32());
        yield return file.Compare("mid.t_continuous", tensor(Enumerable.Range(0, solver.Steps + 1).Select(solver.Time).ToArray()));
        var y = cat([file["input.y_cond"], file["input.y_uncond"]]);
        var guided = Sampling.ClassifierFreeGuidance(
            Model(file, y),
            file.Config.GetProperty("cfg_scale").GetDouble(),
            file.GuidedChannels(solver.GuidedChannels)
        );
        var (times, samples) = (new List<Tensor>(), new List<Tensor>());
        Tensor Watched(Tensor x, Tensor t)
        {
            times.Add(t.clone().DetachFromDisposeScope());
            samples.Add(x.clone().DetachFromDisposeScope());
            return guided(x, t);
        }

        samples.Add(solver.Sample(Watched, file["input.z"]));
        yield return file.Compare("mid.model_t", stack(times));
        yield return file.Compare("mid.intermediates", stack(samples), GoldenFile.RunLimit);
        yield return file.Compare("output.samples", samples[^1], GoldenFile.RunLimit);
        foreach (var seen in times.Concat(samples))
        {
            seen.Dispose();
        }
    }
}
