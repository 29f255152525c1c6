using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.DependencyInjection.Extensions;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Microsoft.Extensions.Options;
using OpenSora.DependencyInjection;
using OpenSora.Distributed;
using OpenSora.Models.Layers;
using OpenSora.Training.Data;
using OpenSora.Training.Distributed;
using OpenSora.Training.Objectives;

namespace OpenSora.Training.Stages;

/// <summary>The configuration of a complete training run.</summary>
public class TrainingOptions
{
    /// <summary>The name of the configuration section that <see cref="TrainingConfiguration.AddOpenSoraTraining"/> reads.</summary>
    public const string SectionName = "OpenSora:Training";

    /// <summary>The stages in the order in which they run.</summary>
    public IList<TrainingStage> Stages { get; } = [];

    /// <summary>The checkpoint options. Checkpoints are written to their folder, and a run resumes from it. Without a folder, no checkpoints are
    /// written.</summary>
    public CheckpointOptions Checkpoints { get; set; } = new();

    /// <summary>The names of the properties of <see cref="TrainingStage"/> that may differ from the run that is resumed; see
    /// <see cref="StagedTrainer.Resume"/>.</summary>
    public IList<string> MayDiffer { get; } = [];

    /// <summary>True to continue from the checkpoint before the newest one if that one is damaged; false to fail.</summary>
    public bool UsePreviousIfDamaged { get; set; }

    /// <summary>The state that each of several processes holds only a part of
    /// (<see cref="StagedTrainer.UseCollectives(ICollectives, Sharding?, int?, int?)"/>).</summary>
    public Sharding Sharding { get; set; }

    /// <summary>The number of processes that compute a sample together
    /// (<see cref="StagedTrainer.UseCollectives(ICollectives, Sharding?, int?, int?)"/>).</summary>
    public int SequenceProcesses { get; set; } = 1;

    /// <summary>The size of a bucket of gradients in bytes
    /// (<see cref="StagedTrainer.UseCollectives(ICollectives, Sharding?, int?, int?)"/>).</summary>
    public int BucketBytes { get; set; } = DistributedOptions.DefaultBucketBytes;

    internal DistributedOptions Distributed =>
        new()
        {
            Sharding = Sharding,
            SequenceProcesses = SequenceProcesses,
            BucketBytes = BucketBytes,
        };

    /// <summary>The unknown keys and invalid values of the section, one sentence each.</summary>
    internal List<string> BindingProblems { get; } = [];

    /// <summary>Gets the errors in the options alone, one sentence each.</summary>
    internal IEnumerable<string> Problems()
    {
        foreach (var problem in BindingProblems)
        {
            yield return problem;
        }

        if (Stages.Count == 0)
        {
            yield return $"{SectionName} has no {nameof(Stages)}, and services.Configure<{nameof(TrainingOptions)}> adds none.";
        }

        foreach (var stage in Stages)
        {
            foreach (var problem in stage.Problems())
            {
                yield return problem;
            }

            if (!Enum.IsDefined(stage.Parameters))
            {
                yield return $"Stage '{stage.Name}' has Parameters {stage.Parameters}; "
                    + $"it must be one of {string.Join(", ", Enum.GetNames<TrainedParameters>())}.";
            }
        }
        if (Checkpoints.Folder.Length > 0)
        {
            foreach (var problem in Checkpoints.Problems())
            {
                yield return problem;
            }
        }
        foreach (var problem in new ResumeRules(MayDiffer).Problems())
        {
            yield return problem;
        }

        foreach (var problem in Distributed.Problems())
        {
            yield return problem;
        }

        foreach (var twice in Stages.GroupBy(stage => stage.Name, StringComparer.Ordinal).Where(group => group.Count() > 1))
        {
            yield return $"{twice.Count()} stages have the name '{twice.Key}'; each stage needs a unique name, because checkpoints refer to it.";
        }
    }
}

/// <summary>Validates the training options when the host starts and for every trainer, with the data and losses that are registered.</summary>
internal sealed class TrainingOptionsValidator(IServiceCollection services) : IValidateOptions<TrainingOptions>
{
    public ValidateOptionsResult Validate(string? name, TrainingOptions options) =>
        options.Problems().Concat(options.Stages.Index().SelectMany(stage => Unregistered(stage.Index, stage.Item))).ToList()
            is { Count: > 0 } problems
            ? ValidateOptionsResult.Fail(problems)
            : ValidateOptionsResult.Success;

    private IEnumerable<string> Unregistered(int index, TrainingStage stage)
    {
        if (stage.Data is null && Missing<ITrainingData>(stage.Source) is { } data)
        {
            yield return Message(nameof(TrainingStage.Source), stage.Source, data, nameof(ITrainingData));
        }

        if (stage.Objective is null && stage.Loss.Length > 0 && Missing<ITrainingObjective>(stage.Loss) is { } losses)
        {
            yield return Message(nameof(TrainingStage.Loss), stage.Loss, losses, nameof(ITrainingObjective));
        }

        string Message(string setting, string value, string[] registered, string type)
        {
            var known = registered.Length == 0 ? "None is registered" : $"Registered are {string.Join(", ", registered)}";
            return $"Stage '{stage.Name}' has {setting} '{value}' "
                + $"({TrainingOptions.SectionName}:{nameof(TrainingOptions.Stages)}:{index}:{setting}), which is not registered. "
                + $"{known}; register it with AddKeyedSingleton<{type}>(\"{value}\", ...) or correct the name.";
        }
    }

    // The names that are registered, if this one is not.
    private string[]? Missing<T>(string key)
    {
        var keys = services
            .Where(service => service.IsKeyedService && service.ServiceType == typeof(T))
            .Select(service => service.ServiceKey)
            .ToList();
        return keys.Contains(key) || keys.Contains(KeyedService.AnyKey)
            ? null
            : [.. keys.OfType<string>().Select(name => $"'{name}'").Distinct(StringComparer.Ordinal).Order(StringComparer.Ordinal)];
    }
}

/// <summary>Configures training from configuration sections and code.</summary>
public static class TrainingConfiguration
{
    /// <summary>Adds the stages and checkpoints that a configuration section describes. If the checkpoint folder contains checkpoints, the run
    /// resumes from the newest one.</summary>
    /// <param name="trainer">The trainer.</param>
    /// <param name="section">The section with the <see cref="TrainingOptions"/>. Unknown keys are errors.</param>
    /// <param name="data">Returns the data with the specified name.</param>
    /// <param name="losses">Returns the objective with the specified name; null if no stage names an objective.</param>
    /// <returns>The trainer.</returns>
    /// <exception cref="InvalidOperationException">The section has no stages, an unknown key or an invalid value. The message describes the first
    /// error.</exception>
    public static StagedTrainer Configure(
        this StagedTrainer trainer,
        IConfiguration section,
        Func<string, ITrainingData> data,
        Func<string, ITrainingObjective>? losses = null
    )
    {
        ArgumentNullException.ThrowIfNull(trainer);
        ArgumentNullException.ThrowIfNull(section);
        ArgumentNullException.ThrowIfNull(data);
        var options = new TrainingOptions();
        OptionsBinder.Bind(section, options, options.BindingProblems);
        if (options.Problems().FirstOrDefault() is { } problem)
        {
            throw new InvalidOperationException(problem);
        }

        return trainer.Configure(options, data, losses);
    }

    private static StagedTrainer Configure(
        this StagedTrainer trainer,
        TrainingOptions options,
        Func<string, ITrainingData> data,
        Func<string, ITrainingObjective>? losses
    )
    {
        foreach (var stage in options.Stages)
        {
            stage.Data ??= data(stage.Source);
            if (stage.Loss.Length > 0)
            {
                stage.Objective ??= losses?.Invoke(stage.Loss)
                    ?? throw new InvalidOperationException($"Stage '{stage.Name}' names the loss '{stage.Loss}', but no losses were provided.");
            }

            trainer.AddStage(stage);
        }
        trainer.SetDistributed(options.Distributed);
        return options.Checkpoints.Folder.Length == 0
            ? trainer
            : trainer.SaveTo(options.Checkpoints).Resume(options.Checkpoints.Folder, ifAny: true, options.MayDiffer, options.UsePreviousIfDamaged);
    }

    /// <summary>Registers a transient <see cref="StagedTrainer"/> for the registered <see cref="ITrainingObjective"/>. The stages come from the
    /// section <c>OpenSora:Training</c> of the registered configuration, if there is one. Calls of
    /// <c>services.Configure&lt;TrainingOptions&gt;(...)</c> after this method can change these stages or add others; they run once for each
    /// trainer, so create stages in them. Data and losses are resolved from keyed <see cref="ITrainingData"/> and <see cref="ITrainingObjective"/>
    /// services, with their names as keys. If <see cref="ICollectives"/> are registered, their processes train together.</summary>
    /// <remarks>The options are validated when the host starts, and for every trainer. Errors are reported as an
    /// <see cref="OptionsValidationException"/>.</remarks>
    /// <param name="services">The service collection.</param>
    /// <returns>The service collection.</returns>
    public static IServiceCollection AddOpenSoraTraining(this IServiceCollection services)
    {
        ArgumentNullException.ThrowIfNull(services);
        if (services.Any(service => service is { IsKeyedService: false, ImplementationInstance: TrainingOptionsValidator }))
        {
            return services; // the stages would be added twice
        }

        services.AddOptions<TrainingOptions>().ValidateOnStart();
        services.AddSingleton<IConfigureOptions<TrainingOptions>>(provider => new ConfigureOptions<TrainingOptions>(options =>
        {
            if (provider.GetService<IConfiguration>()?.GetSection(TrainingOptions.SectionName) is { } section)
            {
                OptionsBinder.Bind(section, options, options.BindingProblems);
            }
        }));
        services.AddSingleton<IValidateOptions<TrainingOptions>>(new TrainingOptionsValidator(services));
        services.TryAddTransient(provider =>
        {
            var trainer = new StagedTrainer(provider.GetRequiredService<ITrainingObjective>())
                .LogTo((ILogger?)provider.GetService<ILogger<StagedTrainer>>() ?? NullLogger.Instance)
                .Configure(
                    // Each trainer gets stages of its own, because it sets their data.
                    provider.GetRequiredService<IOptionsFactory<TrainingOptions>>().Create(Options.DefaultName),
                    name => provider.GetRequiredKeyedService<ITrainingData>(name),
                    name => provider.GetRequiredKeyedService<ITrainingObjective>(name)
                );
            return provider.GetService<ICollectives>() is { } collectives ? trainer.UseCollectives(collectives) : trainer;
        });
        return services;
    }
}
