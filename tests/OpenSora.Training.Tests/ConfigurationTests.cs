using System.Text;
using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Options;
using OpenSora.Diffusion;
using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Training.Data;
using OpenSora.Training.Objectives;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

public class ConfigurationTests
{
    private const string Json = """
        {
          "OpenSora": {
            "Training": {
              "Stages": [
                { "Name": "images", "Source": "images", "Steps": 2, "BatchSize": 3, "LearningRate": 1e-3,
                  "Parameters": "NotTemporal", "GradientCheckpointing": true, "FinalLearningRate": 0.000001 },
                { "Name": "clips", "Source": "clips", "Steps": 3, "BatchSize": 2, "Parameters": "Temporal",
                  "Loss": "flow", "EmaDecay": 0.5, "TimeLimit": "01:00:00", "Spikes": { "Factor": 50 } }
              ],
              "Checkpoints": { "Folder": "FOLDER", "EverySteps": 2 }
            }
          }
        }
        """;

    private static IConfigurationRoot Read(string json) =>
        new ConfigurationBuilder().AddJsonStream(new MemoryStream(Encoding.UTF8.GetBytes(json))).Build();

    [Fact]
    public async Task A_run_is_composed_from_configuration()
    {
        using var folder = new TemporaryFolder();
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        using (
            var services = new ServiceCollection()
                .AddSingleton<IConfiguration>(Read(Json.Replace("FOLDER", folder.Path, StringComparison.Ordinal)))
                .AddSingleton<ITrainingObjective>(new DiffusionTraining(model, text))
                .AddKeyedSingleton<ITrainingObjective>("flow", new DiffusionTraining(model, text, new RectifiedFlow()))
                .AddKeyedSingleton<ITrainingData>("images", new Numbers(1))
                .AddKeyedSingleton<ITrainingData>("clips", new Numbers(2))
                .AddOpenSoraTraining()
                .BuildServiceProvider()
        )
        {
            var reported = new List<TrainingProgress>();
            Dictionary<string, float[]> Weights(bool ofTime) =>
                Tiny.Weights(("model", model))
                    .Where(pair => pair.Key.Contains(".attn_temp.", StringComparison.Ordinal) == ofTime)
                    .ToDictionary(StringComparer.Ordinal);
            var (time, rest) = (Weights(true), Weights(false));
            using (var trainer = services.GetRequiredService<StagedTrainer>())
            {
                trainer.Stages.Select(stage => stage.Name).ShouldBe(["images", "clips"]);
                (
                    trainer.Stages[0].GradientCheckpointing,
                    trainer.Stages[0].FinalLearningRate,
                    trainer.Stages[1].EmaDecay,
                    trainer.Stages[1].TimeLimit,
                    trainer.Stages[1].Spikes?.Factor
                ).ShouldBe((true, 1e-6, 0.5, TimeSpan.FromHours(1), 50));
                await trainer.RunAsync(
                    new ActionProgress(p =>
                    {
                        reported.Add(p);
                        if (p is not { Stage: "images", Step: 2 })
                        {
                            return;
                        }

                        Tiny.ShouldBeSame(Weights(true), time);
                        Tiny.AreSame(Weights(false), rest).ShouldBeFalse();
                    })
                );
            }
            reported.Select(p => (p.Stage, p.Step)).ShouldBe([("images", 1), ("images", 2), ("clips", 1), ("clips", 2), ("clips", 3)]);
            reported.Select(p => p.Parts.ContainsKey("vb")).ShouldBe([true, true, false, false, false]);
            Tiny.AreSame(Weights(true), time).ShouldBeFalse();

            // Asked for again, it finds the run's end.
            reported.Clear();
            using (var again = services.GetRequiredService<StagedTrainer>())
            {
                await again.RunAsync(new ActionProgress(reported.Add));
            }

            reported.ShouldBeEmpty();
        }
    }

    [Fact]
    public void Options_in_code_change_those_of_the_section_and_each_trainer_has_its_own()
    {
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        {
            var (images, more) = (new Numbers(1), new Numbers(3));
            using var services = new ServiceCollection()
                .AddSingleton<IConfiguration>(Read(Json.Replace("\"FOLDER\"", "\"\"", StringComparison.Ordinal)))
                .AddSingleton<ITrainingObjective>(new DiffusionTraining(model, text))
                .AddKeyedSingleton<ITrainingObjective>("flow", new DiffusionTraining(model, text, new RectifiedFlow()))
                .AddKeyedSingleton<ITrainingData>("images", images)
                .AddKeyedSingleton<ITrainingData>("clips", new Numbers(2))
                .AddOpenSoraTraining()
                .Configure<TrainingOptions>(options =>
                {
                    options.Stages[0].Steps = 7;
                    options.Stages.Add(
                        new TrainingStage
                        {
                            Name = "more",
                            Data = more,
                            Steps = 1,
                            BatchSize = 1,
                        }
                    );
                })
                .BuildServiceProvider();
            using var one = services.GetRequiredService<StagedTrainer>();
            using var other = services.GetRequiredService<StagedTrainer>();
            one.Stages.Select(stage => (stage.Name, stage.Steps)).ShouldBe([("images", 7), ("clips", 3), ("more", 1)]);
            one.Stages[0].Data.ShouldBeSameAs(images);
            one.Stages[2].Data.ShouldBeSameAs(more);
            other.Stages[0].ShouldNotBeSameAs(one.Stages[0]);
        }
    }

    [Fact]
    public void Code_alone_configures_a_trainer_and_is_checked()
    {
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        {
            StagedTrainer Trainer(int steps)
            {
                using var services = new ServiceCollection()
                    .AddSingleton<ITrainingObjective>(new DiffusionTraining(model, text))
                    .AddOpenSoraTraining()
                    .Configure<TrainingOptions>(options =>
                        options.Stages.Add(
                            new TrainingStage
                            {
                                Name = "images",
                                Data = new Numbers(1),
                                Steps = steps,
                                BatchSize = 1,
                            }
                        )
                    )
                    .BuildServiceProvider();
                return services.GetRequiredService<StagedTrainer>();
            }

            using (var trainer = Trainer(steps: 2))
            {
                trainer.Stages.ShouldHaveSingleItem().Steps.ShouldBe(2);
            }

            Should.Throw<OptionsValidationException>(() => Trainer(steps: 0)).Message.ShouldContain("has 0 Steps");
        }
    }

    [Fact]
    public void Mistakes_are_reported()
    {
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        {
            Exception Broken(string old, string replacement) =>
                Should.Throw<Exception>(() =>
                {
                    using var trainer = new StagedTrainer(model, text).Configure(
                        Read(Json.Replace(old, replacement, StringComparison.Ordinal)).GetSection("OpenSora:Training"),
                        _ => new Numbers()
                    );
                });
            Broken("\"Steps\"", "\"Stepps\"").ToString().ShouldContain("Stepps");
            Broken("\"NotTemporal\"", "\"Nothing\"").ToString().ShouldContain("Nothing");
            Broken("FOLDER", "").Message.ShouldContain("'flow'");
            Should
                .Throw<InvalidOperationException>(() =>
                    new StagedTrainer(model, text).Configure(Read("{}").GetSection("OpenSora:Training"), _ => new Numbers())
                )
                .Message.ShouldContain("OpenSora:Training");
        }
    }

    [Fact]
    public void Options_are_checked_when_a_host_starts()
    {
        OptionsValidationException Started(params (string Old, string New)[] changes)
        {
            var json = changes.Aggregate(Json.Replace("FOLDER", "", StringComparison.Ordinal), (text, change) =>
                text.Replace(change.Old, change.New, StringComparison.Ordinal)
            );
            using var services = Registered(json);
            return Should.Throw<OptionsValidationException>(() => services.GetRequiredService<IStartupValidator>().Validate());
        }

        Should.NotThrow(() =>
        {
            using var services = Registered(Json);
            services.GetRequiredService<IStartupValidator>().Validate();
        });
        var failures = Started(
            ("\"BatchSize\": 3", "\"BatchSize\": 0"),
            ("\"EmaDecay\": 0.5", "\"EmaDecay\": 1"),
            ("\"clips\", \"Source\"", "\"images\", \"Source\"")
        )
            .Failures.ToArray();
        failures.Length.ShouldBe(3);
        failures[0].ShouldBe("Stage 'images' has BatchSize 0; it must be above 0.");
        failures[1].ShouldContain("EmaDecay 1");
        failures[2].ShouldContain("2 stages have the name 'images'");
    }

    [Fact]
    public void Sources_and_losses_that_are_not_registered_are_reported_when_a_host_starts()
    {
        var failures = Failures(
            Registered(
                Json.Replace("\"Source\": \"clips\"", "\"Source\": \"clipz\"", StringComparison.Ordinal)
                    .Replace("\"Source\": \"images\", ", "", StringComparison.Ordinal)
                    .Replace("\"flow\"", "\"flaw\"", StringComparison.Ordinal)
            )
        );
        failures.Length.ShouldBe(3);
        failures[0].ShouldContain("Stage 'images' has Source ''");
        failures[1].ShouldContain("'clipz' (OpenSora:Training:Stages:1:Source), which is not registered. Registered are 'clips', 'images'");
        failures[2].ShouldContain("'flaw' (OpenSora:Training:Stages:1:Loss), which is not registered. Registered are 'flow'");

        // A registration for any name serves every name, and one that is made later counts.
        var later = new ServiceCollection().AddSingleton<IConfiguration>(Read(Json)).AddOpenSoraTraining().AddOpenSoraTraining();
        var none = Failures(later.BuildServiceProvider());
        none.Length.ShouldBe(3);
        none[0].ShouldContain("None is registered");
        later.AddKeyedSingleton<ITrainingData>(KeyedService.AnyKey, new Numbers());
        later.AddKeyedSingleton<ITrainingObjective>("flow", (_, _) => throw new NotSupportedException());
        using var services = later.BuildServiceProvider();
        services.GetRequiredService<IStartupValidator>().Validate();
    }

    [Fact]
    public void All_problems_of_a_section_are_reported_at_once()
    {
        var json = Json.Replace("\"NotTemporal\"", "\"NotTemporary\", \"Data\": \"x\"", StringComparison.Ordinal)
            .Replace("\"BatchSize\": 2", "\"BatchSise\": 2, \"Prefetch\": \"many\"", StringComparison.Ordinal)
            .Replace("01:00:00", "an hour", StringComparison.Ordinal)
            .Replace("\"Factor\": 50", "\"Factor\": \"x\"", StringComparison.Ordinal)
            .Replace("\"EverySteps\": 2", "\"EverySteps\": \"\", \"KeepLast\": { \"a\": 1 }", StringComparison.Ordinal)
            .Replace("\"EmaDecay\": 0.5", "\"EmaDecay\": 2", StringComparison.Ordinal);
        var failures = Failures(Registered(json));
        foreach (
            var expected in new[]
            {
                "OpenSora:Training:Stages:0:Parameters is 'NotTemporary'; it must be one of All, NotTemporal, Temporal, Text.",
                "OpenSora:Training:Stages:0:Data is not an option. The options are Accumulation, BatchSize,",
                "OpenSora:Training:Stages:1:BatchSise is not an option.",
                "OpenSora:Training:Stages:1:Prefetch is 'many'; it must be a whole number.",
                "OpenSora:Training:Stages:1:TimeLimit is 'an hour'; it must be a time such as 01:30:00.",
                "OpenSora:Training:Stages:1:Spikes:Factor is 'x'; it must be a number.",
                "OpenSora:Training:Checkpoints:KeepLast is a section; it must be a single value.",
                "Stage 'clips' has EmaDecay 2;",
            }
        )
        {
            failures.ShouldContain(failure => failure.StartsWith(expected, StringComparison.Ordinal), expected);
        }

        failures.Length.ShouldBe(8, string.Join("\n", failures));
    }

    [Fact]
    public void Resume_options_are_read_and_checked()
    {
        const string Resume = "\"MayDiffer\": [ \"BatchSize\", \"XX\" ], \"UsePreviousIfDamaged\": true, \"Checkpoints\"";
        var json = Json.Replace("\"Checkpoints\"", Resume, StringComparison.Ordinal);
        Failures(Registered(json))
            .ShouldHaveSingleItem()
            .ShouldContain("'XX', listed in MayDiffer, is not a setting that may differ; expected one of BatchSize, ");
        using var services = Registered(json.Replace("XX", "LearningRate", StringComparison.Ordinal));
        var options = services.GetRequiredService<IOptions<TrainingOptions>>().Value;
        options.MayDiffer.ShouldBe(["BatchSize", "LearningRate"]);
        options.UsePreviousIfDamaged.ShouldBeTrue();
    }

    private static ServiceProvider Registered(string json) =>
        new ServiceCollection()
            .AddSingleton<IConfiguration>(Read(json))
            .AddKeyedSingleton<ITrainingObjective>("flow", (_, _) => throw new NotSupportedException())
            .AddKeyedSingleton<ITrainingData>("images", new Numbers())
            .AddOpenSoraTraining()
            .AddKeyedSingleton<ITrainingData>("clips", new Numbers())
            .BuildServiceProvider();

    private static string[] Failures(ServiceProvider services)
    {
        using (services)
        {
            return [.. Should.Throw<OptionsValidationException>(() => services.GetRequiredService<IStartupValidator>().Validate()).Failures];
        }
    }
}
