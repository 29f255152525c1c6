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
        var command = new Command("plan", "Estimates operations, memory, hours and price of a training run.")
        {
            TrainCommand.Configuration,
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
        var path = arguments.GetValue(TrainCommand.Configuration)!;
        var file = await TrainingFile.ReadAsync(path, cancellationToken).ConfigureAwait(false);
        var plan = CreatePlan(arguments, file);
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
        var hardware = s_presets[arguments.GetValue(s_hardware)!];
        if (arguments.GetValue(s_speed) is { } speed)
        {
            hardware = hardware with { Name = "device", Float32 = speed * 1e12, BFloat16 = speed * 1e12, Utilization = 1 };
        }

        return new TrainingPlan
        {
            Model = config,
            Autoencoder = description.Vae.Architecture is "autoencoder_kl" ? model.ReadConfig<AutoencoderKLConfig>(description.Vae) : new(),
            TextEncoder = description.TextEncoder.Architecture is "t5" ? model.ReadConfig<T5Config>(description.TextEncoder) : new(),
            Hardware = hardware with
            {
                PricePerHour = arguments.GetValue(s_price) ?? hardware.PricePerHour,
                Memory = arguments.GetValue(s_memory) * 1e9 ?? hardware.Memory,
            },
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
                        CachedLatents = true, // as 'opensora train' does
                        CachedText = true,
                    }),
            ],
        };
    }
}
