using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.DependencyInjection.Extensions;
using Microsoft.Extensions.Options;
using OpenSora.Models.Layers;
using OpenSora.Training.Data;
using OpenSora.Training.Objectives;

namespace OpenSora.Training.Stages;

/// <summary>Which parameters a stage trains.</summary>
public enum TrainedParameters
{
    /// <summary>All.</summary>
    All,

    /// <summary>All but the temporal attention: training on images.</summary>
    NotTemporal,

    /// <summary>The temporal attention alone.</summary>
    Temporal,

    /// <summary>What reads the text: cross attention, the caption's projection, and a text encoder that is trained too.</summary>
    Text,
}

/// <summary>A stage as configuration spells it: the settings of <see cref="TrainingStage"/>, with names for what code would pass as
/// objects.</summary>
public class TrainingStageOptions : TrainingStage
{
    /// <summary>The name under which the caller knows the stage's data.</summary>
    public string Source { get; set; } = "";

    /// <summary>The name under which the caller knows the stage's objective; empty: the trainer's own.</summary>
    public string Loss { get; set; } = "";

    /// <summary>What is trained.</summary>
    public TrainedParameters Parameters { get; set; }
}

/// <summary>A whole training run as configuration spells it.</summary>
public class TrainingOptions
{
    /// <summary>The configuration section that <see cref="TrainingConfiguration.AddOpenSoraTraining"/> reads.</summary>
    public const string SectionName = "OpenSora:Training";

    /// <summary>The stages, in their order.</summary>
    public IList<TrainingStageOptions> Stages { get; } = [];

    /// <summary>Where checkpoints are written, and looked for when a run starts; without a folder there are none.</summary>
    public CheckpointOptions Checkpoints { get; set; } = new();

    /// <summary>What is wrong with the options as such, one sentence each.</summary>
    internal IEnumerable<string> Problems()
    {
        if (Stages.Count == 0)
        {
            yield return $"{SectionName} lists no {nameof(Stages)}.";
        }

        foreach (var stage in Stages)
        {
            foreach (var problem in stage.Problems())
            {
                yield return problem;
            }

            if (!Enum.IsDefined(stage.Parameters))
            {
                yield return $"Stage '{stage.Name}' trains {stage.Parameters}; it must be one of {string.Join(", ", Enum.GetNames<TrainedParameters>())}.";
            }
        }
        if (Checkpoints.Folder.Length > 0)
        {
            foreach (var problem in Checkpoints.Problems())
            {
                yield return problem;
            }
        }
        foreach (var twice in Stages.GroupBy(stage => stage.Name, StringComparer.Ordinal).Where(group => group.Count() > 1))
        {
            yield return $"{twice.Count()} stages have the name '{twice.Key}'; checkpoints tell stages by their names.";
        }
    }
}

/// <summary>Checks the stages when the program starts.</summary>
internal sealed class TrainingOptionsValidator : IValidateOptions<TrainingOptions>
{
    public ValidateOptionsResult Validate(string? name, TrainingOptions options) =>
        options.Problems().ToList() is { Count: > 0 } problems ? ValidateOptionsResult.Fail(problems) : ValidateOptionsResult.Success;
}

/// <summary>Training composed by configuration.</summary>
public static class TrainingConfiguration
{
    /// <summary>Adds the stages and checkpoints that a configuration describes; the run goes on where an earlier one with these checkpoints
    /// was.</summary>
    /// <param name="trainer">The trainer.</param>
    /// <param name="section">Holds <see cref="TrainingOptions"/>. A misspelt key is an error.</param>
    /// <param name="data">The data of a name.</param>
    /// <param name="losses">The objective of a name; null: stages name none.</param>
    /// <returns>The trainer.</returns>
    /// <exception cref="InvalidOperationException">The section has no stages, a key that does not exist or a value that does not fit; the message
    /// names the first mistake.</exception>
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
        Bind(section, options);
        if (options.Problems().FirstOrDefault() is { } problem)
        {
            throw new InvalidOperationException(problem);
        }

        foreach (var stage in options.Stages)
        {
            stage.Data ??= data(stage.Source);
            if (stage.Loss.Length > 0)
            {
                stage.Objective ??= losses?.Invoke(stage.Loss)
                    ?? throw new InvalidOperationException($"Stage '{stage.Name}' names the loss '{stage.Loss}', but no losses were given.");
            }

            stage.Trains ??= Chosen(stage.Parameters);
            trainer.AddStage(stage);
        }
        return options.Checkpoints.Folder.Length == 0 ? trainer : trainer.SaveTo(options.Checkpoints).Resume(options.Checkpoints.Folder, ifAny: true);
    }

    /// <summary>Registers a <see cref="StagedTrainer"/>, made anew each time, of the registered <see cref="ITrainingObjective"/>. Its stages come
    /// from the section <c>OpenSora:Training</c>
    /// of the registered configuration, their data and losses from <see cref="ITrainingData"/> and <see cref="ITrainingObjective"/> services with the
    /// names as keys.</summary>
    /// <remarks>The section is checked when a host starts, as <see cref="OptionsValidationException"/> tells.</remarks>
    /// <param name="services">The services.</param>
    /// <returns>The services.</returns>
    public static IServiceCollection AddOpenSoraTraining(this IServiceCollection services)
    {
        ArgumentNullException.ThrowIfNull(services);
        services.AddOptions<TrainingOptions>().ValidateOnStart();
        services.AddSingleton<IConfigureOptions<TrainingOptions>>(provider => new ConfigureOptions<TrainingOptions>(options =>
            Bind(provider.GetRequiredService<IConfiguration>().GetSection(TrainingOptions.SectionName), options)
        ));
        services.TryAddEnumerable(ServiceDescriptor.Singleton<IValidateOptions<TrainingOptions>, TrainingOptionsValidator>());
        services.TryAddTransient(provider =>
            new StagedTrainer(provider.GetRequiredService<ITrainingObjective>()).Configure(
                provider.GetRequiredService<IConfiguration>().GetSection(TrainingOptions.SectionName),
                name => provider.GetRequiredKeyedService<ITrainingData>(name),
                name => provider.GetRequiredKeyedService<ITrainingObjective>(name)
            )
        );
        return services;
    }

    // A misspelt key is an error, not a silently kept default.
    private static void Bind(IConfiguration section, TrainingOptions options) =>
        section.Bind(options, binder => binder.ErrorOnUnknownConfiguration = true);

    private static Func<string, bool>? Chosen(TrainedParameters parameters)
    {
        bool Is(string name, string part) => name.Contains(part, StringComparison.Ordinal);
        return parameters switch
        {
            TrainedParameters.All => null,
            TrainedParameters.NotTemporal => name => !TrainingStage.IsTemporal(name),
            TrainedParameters.Temporal => TrainingStage.IsTemporal,
            TrainedParameters.Text => name =>
                Is(name, ".cross_attn.") || Is(name, ".y_embedder.") || name.StartsWith("text.", StringComparison.Ordinal),
            _ => throw new InvalidOperationException(
                $"There are no parameters called {parameters}; use one of {string.Join(", ", Enum.GetNames<TrainedParameters>())}."
            ),
        };
    }
}
