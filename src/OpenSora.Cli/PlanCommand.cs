using System.CommandLine;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Training.Planning;

namespace OpenSora.Cli;

/// <summary>The command <c>opensora plan</c>.</summary>
internal static class PlanCommand
{
    private static readonly Dictionary<string, Hardware> s_presets = new(StringComparer.Ordinal)
    {
        ["h800"] = Hardware.H800,
        ["h100"] = Hardware.H100,
        ["a100"] = Hardware.A100,
    };

    private static readonly Dictionary<string, TrainingPlan> s_plans = new(StringComparer.Ordinal)
    {
        ["open-sora-1.0"] = TrainingPlan.OpenSora10,
        ["one-minute-1080p"] = TrainingPlan.OneMinute1080p,
    };

    private static readonly Argument<string?> s_configuration = new("config")
    {
        Arity = ArgumentArity.ZeroOrOne,
        Description = "The training configuration: a JSON file as for 'opensora train'. Required without --preset.",
    };

    private static readonly Option<string?> s_preset = new("--preset")
    {
        Description =
            "A plan of this library instead of a training configuration: the published training of Open-Sora 1.0, or clips of one minute in "
            + "1080p on 8 devices, with each combination of what the devices divide, recompute and keep in host memory.",
    };

    private static readonly Option<string> s_hardware = new("--hardware") { DefaultValueFactory = _ => "h100", Description = "The device." };
    private static readonly Option<int> s_devices = new("--devices") { DefaultValueFactory = _ => 1, Description = "The number of devices." };
    private static readonly Option<double?> s_price = new("--price")
    {
        HelpName = "USD",
        Description = "The price of a device per hour in US dollars.",
    };

    private static readonly Option<double?> s_memory = new("--memory")
    {
        HelpName = "GB",
        Description = "The memory of a device in gigabytes, such as 24.",
    };

    private static readonly Option<double?> s_speed = new("--teraflops")
    {
        HelpName = "TFLOP/S",
        Description = "The speed that linear layers reach on the device, in 10^12 operations per second, for another device than the presets.",
    };

    internal static Command Create()
    {
        s_hardware.AcceptOnlyFromAmong([.. s_presets.Keys]);
        s_preset.AcceptOnlyFromAmong([.. s_plans.Keys]);
        var command = new Command("plan", "Estimates operations, memory, hours and price of a training run.")
        {
            s_configuration,
            s_preset,
            s_hardware,
            s_devices,
            s_price,
            s_memory,
            s_speed,
            CommandLine.Json,
        };
        command.SetAction(Terminal.Action(RunAsync));
        return command;
    }

    private static async Task<int> RunAsync(ParseResult arguments, Terminal terminal, CancellationToken cancellationToken)
    {
        TrainingPlan plan;
        if (arguments.GetValue(s_preset) is { } preset)
        {
            plan = s_plans[preset];
            plan = plan with
            {
                Hardware = Device(arguments, arguments.GetResult(s_hardware) is { Implicit: false } ? null : plan.Hardware),
                Devices = arguments.GetResult(s_devices) is { Implicit: false } ? arguments.GetValue(s_devices) : plan.Devices,
            };
        }
        else
        {
            var path = arguments.GetValue(s_configuration)
                ?? throw new InvalidOperationException("There is nothing to plan: specify a training configuration or --preset.");
            plan = CreatePlan(arguments, await TrainingFile.ReadAsync(path, cancellationToken).ConfigureAwait(false));
        }

        var estimates = plan.Estimate();
        if (terminal.IsJson)
        {
            terminal.WriteJson(
                new
                {
                    Hardware = plan.Hardware.Name,
                    plan.Devices,
                    Stages = estimates.Select(estimate => new
                    {
                        estimate.Stage.Name,
                        estimate.Stage.Frames,
                        estimate.Stage.Width,
                        estimate.Stage.Height,
                        estimate.Samples,
                        estimate.Flops,
                        PeakMemoryBytes = estimate.PeakMemory,
                        HostMemoryBytes = estimate.HostMemory,
                        StepSeconds = estimate.StepTime.TotalSeconds,
                        estimate.BoundBy,
                        estimate.Fits,
                        estimate.GpuHours,
                        Hours = estimate.WallTime.TotalHours,
                        estimate.Dollars,
                    }),
                    GpuHours = estimates.Sum(estimate => estimate.GpuHours),
                    Hours = estimates.Sum(estimate => estimate.WallTime.TotalHours),
                    Dollars = estimates.Sum(estimate => estimate.Dollars),
                }
            );
        }
        else
        {
            await terminal.Output.WriteAsync($"{plan}").ConfigureAwait(false);
        }

        return CommandLine.Success;
    }

    // The chosen device, or another one, with the options that change it.
    private static Hardware Device(ParseResult arguments, Hardware? other)
    {
        var hardware = other ?? s_presets[arguments.GetValue(s_hardware)!];
        if (arguments.GetValue(s_speed) is { } speed)
        {
            hardware = hardware with { Name = "device", Float32 = speed * 1e12, BFloat16 = speed * 1e12, Utilization = 1 };
        }

        return hardware with
        {
            PricePerHour = arguments.GetValue(s_price) ?? hardware.PricePerHour,
            Memory = arguments.GetValue(s_memory) * 1e9 ?? hardware.Memory,
        };
    }

    private static TrainingPlan CreatePlan(ParseResult arguments, TrainingFile file)
    {
        var model = ModelFolder.Open(file.Run.Model);
        var (description, video) = (model.Description, model.Description.Video);
        var architecture = TrainCommand.ArchitectureOf(model);
        var config =
            architecture.ReadConfig(file.Run.Denoiser ?? TrainCommand.ConfigOf(description.Denoiser)) as StdiTConfig
            ?? throw new InvalidOperationException(
                $"The cost of {description.Denoiser.Architecture} cannot be estimated; 'opensora plan' supports the architectures stdit and pixart."
            );
        return new TrainingPlan
        {
            Model = config,
            Autoencoder = description.Vae.Architecture is "autoencoder_kl" ? model.ReadConfig<AutoencoderKLConfig>(description.Vae) : new(),
            TextEncoder = description.TextEncoder.Architecture is "t5" ? model.ReadConfig<T5Config>(description.TextEncoder) : new(),
            Hardware = Device(arguments, null),
            Devices = arguments.GetValue(s_devices),
            BFloat16 = file.Run.Precision.Equals("BFloat16", StringComparison.OrdinalIgnoreCase),
            Average = file.Training.Stages.Any(stage => stage.EmaDecay is not null),
            Stages =
            [
                .. file
                    .Training.Stages.Select(stage => (stage, source: file.Run.Sources[stage.Source]))
                    .Select(each => new PlannedStage
                    {
                        Name = each.stage.Name,
                        Steps = each.stage.Steps,
                        BatchSize = each.stage.BatchSize,
                        Accumulation = each.stage.Accumulation,
                        Frames = each.source.Frames ?? video.Frames,
                        Width = each.source.Width ?? video.Width,
                        Height = each.source.Height ?? video.Height,
                        GradientCheckpointing = each.stage.GradientCheckpointing,
                        CheckpointSlices = each.stage.CheckpointSlices,
                        Offload = each.stage.Offload,
                        CachedLatents = true, // as 'opensora train' does
                        CachedText = true,
                    }),
            ],
        };
    }
}
