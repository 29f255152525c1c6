using System.CommandLine;
using System.Globalization;
using OpenSora.Diffusion;
using OpenSora.Distributed;
using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Mpi;
using OpenSora.Training.Data;
using OpenSora.Training.Objectives;
using OpenSora.Training.Stages;
using static TorchSharp.torch;

namespace OpenSora.Cli;

/// <summary>The command <c>opensora train</c>.</summary>
internal static class TrainCommand
{
    public static readonly Argument<string> Configuration = new("config")
    {
        Description = "The training configuration: a JSON file with the sections OpenSora:Training (stages, checkpoints) and Run (model, sources).",
    };

    private static readonly Option<bool> s_validate = new("--validate") { Description = "Check the configuration, and train nothing." };

    private static readonly Option<int?> s_processes = new("--processes")
    {
        Description = "Train with this number of processes on this machine, which share each batch. Needs mpirun of MPICH.",
        Validators =
        {
            result =>
            {
                if (result.GetValueOrDefault<int?>() is < 1)
                {
                    result.AddError("--processes must be at least 1.");
                }
            },
        },
    };

    internal static Command Create()
    {
        var command = new Command("train", "Trains a model in stages. A run that was stopped continues.")
        {
            Configuration,
            s_validate,
            s_processes,
            CommandLine.Json,
        };
        command.SetAction(Terminal.Action(RunAsync, "Stopped. The same command continues."));
        return command;
    }

    private static async Task<int> RunAsync(ParseResult arguments, Terminal terminal, CancellationToken cancellationToken)
    {
        var file = await TrainingFile.ReadAsync(arguments.GetValue(Configuration)!, cancellationToken).ConfigureAwait(false);
        var origin = ModelFolder.Open(file.Run.Model);
        var architecture = ArchitectureOf(origin);
        var config = file.Run.Denoiser is { } own ? architecture.ReadConfig(own) : architecture.ReadConfig(ConfigOf(origin.Description.Denoiser));
        if (arguments.GetValue(s_validate))
        {
            Report(terminal, file, "valid", null, []);
            return CommandLine.Success;
        }

        var launched = LaunchEnvironment.Read();
        if (arguments.GetValue(s_processes) is > 1 and var processes)
        {
            return launched.Size == 1
                ? await LocalProcesses.RunAsync(processes, Command(arguments), terminal, cancellationToken).ConfigureAwait(false)
                : throw new InvalidOperationException(
                    $"This is process {launched.Rank} of {launched.Size} that {launched.Launcher} started. Leave out --processes, or the launcher."
                );
        }

        terminal.Rank = launched.Rank;
        using var group = launched.Size > 1 ? MpiCollectives.Create() : null;
        try
        {
            return await TrainAsync(file, origin, architecture, config, group, terminal, cancellationToken).ConfigureAwait(false);
        }
        catch (Exception e) when (group is not null && e is not OperationCanceledException)
        {
            // The others wait for this process, so all end.
            terminal.Fail(Terminal.Explanation(e) ?? e.ToString());
            group.Abort(CommandLine.Failure);
            throw;
        }
    }

    // The arguments of each of several processes.
    private static IEnumerable<string> Command(ParseResult arguments) =>
        ["train", arguments.GetValue(Configuration)!, .. arguments.GetValue(CommandLine.Json) ? ["--json"] : Array.Empty<string>()];

    private static async Task<int> TrainAsync(
        TrainingFile file,
        ModelFolder origin,
        Architecture<IVideoTransformer> architecture,
        object config,
        MpiCollectives? group,
        Terminal terminal,
        CancellationToken cancellationToken
    )
    {
        var isFirst = group is null or { Rank: 0 };
        var losses = new Dictionary<string, TrainingProgress>(StringComparer.Ordinal);
        await terminal
            .WithProgressAsync(async stages =>
            {
                using var networks = Networks.Load(origin, file.Run, architecture, config);
                using var data = new TrainingSources(origin, networks, file.Run.Cache, isFirst);
                foreach (var (name, source) in file.Run.Sources)
                {
                    await data.AddAsync(name, source, file.Run.Sources.Values, stages, cancellationToken).ConfigureAwait(false);
                }

                using var trainer = new StagedTrainer(
                    new DiffusionTraining(networks.Transformer, process: ProcessOf(origin.Description, networks.Vae))
                    {
                        FramesPerSecond = origin.Description.Video.Fps,
                        SpatialFactor = networks.Vae.SpatialFactor,
                        TemporalFactor = networks.Vae.TemporalFactor,
                    }
                );
                trainer.Configure(file.Section, name => data[name]);
                if (group is not null)
                {
                    trainer.UseCollectives(group);
                }

                await trainer.RunAsync(new Reporter(stages, losses), cancellationToken).ConfigureAwait(false);
                if (file.Run.Output.Length > 0)
                {
                    if (file.Training.Stages[^1].EmaDecay is not null)
                    {
                        trainer.UseAverages();
                    }

                    if (isFirst)
                    {
                        Save(origin, file.Run.Output, networks.Transformer, architecture.WriteConfig(config));
                    }
                }

                return true;
            })
            .ConfigureAwait(false);
        Report(terminal, file, "complete", file.Run.Output, losses.Values);
        return CommandLine.Success;
    }

    /// <summary>Finds the architecture of the transformer of a model.</summary>
    internal static Architecture<IVideoTransformer> ArchitectureOf(ModelFolder model) =>
        Architectures.BuiltIn.Transformers.First(known =>
            known.Name.Equals(model.Description.Denoiser.Architecture, StringComparison.OrdinalIgnoreCase)
        );

    /// <summary>Gets the settings of a part; an empty object if it has none.</summary>
    internal static System.Text.Json.JsonElement ConfigOf(ModelPart part)
    {
        if (part.Config.ValueKind != System.Text.Json.JsonValueKind.Undefined)
        {
            return part.Config;
        }

        using var empty = System.Text.Json.JsonDocument.Parse("{}");
        return empty.RootElement.Clone();
    }

    // The process must be the one that the model was trained with.
    private static ITrainingProcess ProcessOf(ModelDescription model, IVideoAutoencoder vae)
    {
        var diffusion = model.Diffusion;
        return model.Sampling.Sampler == SamplerKind.RectifiedFlow
            ? new RectifiedFlow(
                steps: diffusion.Steps,
                wholeSteps: diffusion.WholeSteps,
                shiftBySize: diffusion.ShiftBySize,
                spatialFactor: vae.SpatialFactor
            )
            : new Iddpm(
                diffusion.SquaredCosine ? IddpmSchedule.SquaredCosine(diffusion.Steps) : IddpmSchedule.Linear(diffusion.Steps),
                diffusion.Prediction,
                diffusion.Variance
            );
    }

    private static void Save(ModelFolder origin, string output, IVideoTransformer transformer, System.Text.Json.JsonElement config)
    {
        var denoiser = origin.Description.Denoiser.Weights!;
        var name = $"{Path.GetFileNameWithoutExtension(Path.GetFileName(denoiser))}.safetensors";
        Directory.CreateDirectory(output);
        foreach (var file in Directory.EnumerateFiles(origin.Path, "*", SearchOption.AllDirectories))
        {
            var relative = Path.GetRelativePath(origin.Path, file);
            if (relative is ModelFolder.FileName or ModelDownload.RecordName || relative.Equals(denoiser, StringComparison.Ordinal))
            {
                continue;
            }

            Directory.CreateDirectory(Path.GetDirectoryName(Path.Combine(output, relative))!);
            File.Copy(file, Path.Combine(output, relative), overwrite: true);
        }

        ((TorchSharp.torch.nn.Module)transformer).SaveWeights(Path.Combine(output, name), ScalarType.Float16);
        var description = origin.Description;
        ModelFolder.Save(
            output,
            description with
            {
                Name = Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(output))),
                Denoiser = description.Denoiser with { Weights = name, Config = config },
            }
        );
    }

    private static void Report(Terminal terminal, TrainingFile file, string state, string? output, IReadOnlyCollection<TrainingProgress> losses)
    {
        if (terminal.IsJson)
        {
            terminal.WriteJson(
                new
                {
                    State = state,
                    Output = output,
                    Checkpoints = file.Training.Checkpoints.Folder,
                    Stages = file.Training.Stages.Select(stage => new
                    {
                        stage.Name,
                        stage.Source,
                        stage.Steps,
                        losses.FirstOrDefault(loss => loss.Stage.Equals(stage.Name, StringComparison.Ordinal))?.Loss,
                    }),
                }
            );
            return;
        }

        foreach (var loss in losses)
        {
            terminal.Output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{loss.Stage}: {loss.Step} steps, loss {loss.Loss:G4}"));
        }

        terminal.Output.WriteLine(
            state is "valid" ? $"The configuration is valid: {file.Training.Stages.Count} stages."
            : output is { Length: > 0 } ? $"Complete. Model: {output}"
            : $"Complete. Checkpoints: {file.Training.Checkpoints.Folder}"
        );
    }

    private sealed class Reporter(Stages stages, Dictionary<string, TrainingProgress> last) : IProgress<TrainingProgress>
    {
        public void Report(TrainingProgress value)
        {
            last[value.Stage] = value;
            stages.Report(
                value.Stage,
                value.Fraction,
                1,
                string.Create(
                    CultureInfo.InvariantCulture,
                    $"{value.Step}/{value.Steps}, loss {value.Loss:G4}, {value.SamplesPerSecond:F1} samples/s, {value.TimeLeft:h\\:mm\\:ss} left"
                )
            );
        }
    }
}

/// <summary>The networks of a training run.</summary>
internal sealed record Networks(IVideoTransformer Transformer, IVideoAutoencoder Vae, ITextEncoder Text) : IDisposable
{
    /// <summary>Loads the networks of a model. The transformer is new if the run has a configuration for it.</summary>
    public static Networks Load(ModelFolder model, TrainingRunOptions run, Architecture<IVideoTransformer> architecture, object config)
    {
        var description = model.Description;
        var precision = Enum.Parse<ScalarType>(run.Precision, ignoreCase: true);
        ScalarType? compute = precision == ScalarType.Float32 ? null : precision;
        var transformer = run.Denoiser is null ? architecture.Load(config, model.DenoiserWeights, precision: compute) : Create(config, compute);
        ((TorchSharp.torch.nn.Module)transformer).train();
        var (vae, text) = (description.Vae, description.TextEncoder);
        return new Networks(
            transformer,
            Load(Architectures.BuiltIn.Autoencoders, vae, model.VaeWeights, compute),
            Load(
                Architectures.BuiltIn.TextEncoders,
                text,
                text.Weights is null ? null : model.TextEncoderWeights,
                compute,
                new TextEncoderSettings
                {
                    Tokenizer = text.Tokenizer is null ? null : model.Tokenizer,
                    MaxTokens = text.MaxTokens,
                    CleanCaptions = text.CleanCaptions,
                }
            )
        );
    }

    public void Dispose()
    {
        Transformer.Dispose();
        Vae.Dispose();
        Text.Dispose();
    }

    private static TNetwork Load<TNetwork>(
        IReadOnlyList<Architecture<TNetwork>> architectures,
        ModelPart part,
        string? weights,
        ScalarType? precision,
        TextEncoderSettings? settings = null
    )
        where TNetwork : class
    {
        var architecture = architectures.First(known => known.Name.Equals(part.Architecture, StringComparison.OrdinalIgnoreCase));
        return architecture.Load(architecture.ReadConfig(TrainCommand.ConfigOf(part)), weights, precision: precision, settings: settings);
    }

    private static IVideoTransformer Create(object config, ScalarType? precision)
    {
        IVideoTransformer transformer = config switch
        {
            StdiTConfig stdit => new StdiT(stdit),
            StdiT2Config stdit2 => new StdiT2(stdit2),
            StdiT3Config stdit3 => new StdiT3(stdit3),
            DiTConfig dit => new DiT(dit),
            _ => throw new ArgumentException($"A new transformer cannot be created from {config.GetType().Name}.", nameof(config)),
        };
        ((TorchSharp.torch.nn.Module)transformer).UseComputeType(precision);
        return transformer;
    }
}
