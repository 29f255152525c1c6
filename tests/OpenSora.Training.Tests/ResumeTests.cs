using System.Reflection;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Stages;
using OpenSora.Weights;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

/// <summary>Settings that must be the same in a resumed run, and checkpoints of other versions.</summary>
public class ResumeTests
{
    private const string StateKey = "opensora.training";

    [Fact]
    public void Every_setting_of_a_stage_must_stay_the_same_or_may_differ()
    {
        // A new setting must stay the same unless it is marked with MayDiffer: decide, and add it to one of the lists.
        Names(property => property.IsDefined(typeof(MayDifferAttribute)))
            .ShouldBe(["GradientCheckpointing", "Loss", "Name", "Offload", "Prefetch", "Source", "StartFromEma", "Steps", "TimeLimit"]);
        Names(property => property.IsDefined(typeof(JsonIgnoreAttribute))).ShouldBe(["Data", "Objective", "Trains"]);
        StageSettings
            .Of(new TrainingStage())
            .EnumerateObject()
            .Select(property => property.Name)
            .ShouldBe(
                [
                    "batchSize",
                    "accumulation",
                    "workers",
                    "checkpointSlices",
                    "learningRate",
                    "finalLearningRate",
                    "warmUpSteps",
                    "beta1",
                    "beta2",
                    "weightDecay",
                    "muonScale",
                    "clipGradientNorm",
                    "emaDecay",
                    "emaWarmUp",
                    "captionDropout",
                    "parameters",
                    "spikes",
                    "seed",
                ],
                ignoreOrder: true
            );
        StageSettings
            .Of(new TrainingStage { Spikes = new SpikeGuard() })
            .GetProperty("spikes")
            .GetRawText()
            .ShouldBe("""{"factor":5,"window":100,"skipSteps":true}""");

        static IEnumerable<string> Names(Func<PropertyInfo, bool> chosen) =>
            typeof(TrainingStage).GetProperties().Where(chosen).Select(property => property.Name).Order(StringComparer.Ordinal);
    }

    [Fact]
    public void Differences_are_listed_by_name()
    {
        var then = new TrainingStage { Seed = 1 };
        var now = new TrainingStage
        {
            Seed = 2,
            FinalLearningRate = 1e-6,
            Steps = 99,
            Spikes = new SpikeGuard { Factor = 2.5 },
        };
        StageSettings
            .Differences(StageSettings.Of(then), now)
            .ShouldBe(
                [("FinalLearningRate", "null", "1E-06"), ("Spikes", "null", """{"factor":2.5,"window":100,"skipSteps":true}"""), ("Seed", "1", "2")],
                ignoreOrder: true
            );
        StageSettings.Differences(StageSettings.Of(then), then).ShouldBeEmpty();

        // An older version of the library did not have the setting, which had no effect then, as its default value has none now.
        using var older = JsonDocument.Parse("""{ "seed": 1, "batchSize": 8 }""");
        StageSettings.Differences(older.RootElement, then).ShouldBeEmpty();
    }

    [Fact]
    public async Task Checkpoints_of_version_1_are_resumed_and_compared()
    {
        using var folder = new TemporaryFolder();
        const string Settings = "batch 3 x 2, lr 0.001 to 0 Cosine after 2, betas 0.9 0.999, decay 0, clip 1, ema 0.9 False, dropout , seed 42";
        await SaveAsync(folder.Path, state =>
        {
            state["version"] = 1;
            state["settings"] = Settings;
        });

        List<long> steps = [];
        await ResumeAsync(folder.Path, Tiny.Stage(steps: 4), new ActionProgress(progress => steps.Add(progress.Step)));
        steps.ShouldBe([3, 4]);
        var other = Tiny.Stage(steps: 4);
        other.Seed = 7;
        (await Should.ThrowAsync<InvalidOperationException>(() => ResumeAsync(folder.Path, other))).Message.ShouldContain(
            $"The text of the settings was \"{Settings}\" and is now \"{Settings.Replace("42", "7", StringComparison.Ordinal)}\""
        );
    }

    [Theory]
    [InlineData("Cosine", 0.0, true)]
    [InlineData("Cosine", null, false)]
    [InlineData("Constant", null, true)]
    [InlineData("Constant", 0.0, false)]
    public async Task Earlier_checkpoints_have_the_shape_of_the_learning_rate(string shape, double? final, bool fits)
    {
        using var folder = new TemporaryFolder();
        await SaveAsync(folder.Path, state => (state["settings"]!["shape"], state["settings"]!["finalLearningRate"]) = (shape, 0));
        var stage = Tiny.Stage(steps: 4);
        stage.FinalLearningRate = final;
        if (fits)
        {
            List<long> steps = [];
            await ResumeAsync(folder.Path, stage, new ActionProgress(progress => steps.Add(progress.Step)));
            steps.ShouldBe([3, 4]);
        }
        else
        {
            (await Should.ThrowAsync<InvalidOperationException>(() => ResumeAsync(folder.Path, stage))).Message.ShouldContain(
                "FinalLearningRate was"
            );
        }
    }

    [Fact]
    public async Task Checkpoints_of_newer_versions_are_refused()
    {
        using var folder = new TemporaryFolder();
        await SaveAsync(folder.Path, state => state["version"] = 3);
        (await Should.ThrowAsync<InvalidWeightsException>(() => ResumeAsync(folder.Path, Tiny.Stage(steps: 4)))).Message.ShouldContain(
            "a training checkpoint of version 3"
        );
    }

    // Writes a checkpoint after two steps, with another state.
    private static async Task SaveAsync(string folder, Action<JsonNode> change)
    {
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        using (var trainer = new StagedTrainer(model, text).AddStage(Tiny.Stage(steps: 2)).SaveTo(new CheckpointOptions { Folder = folder }))
        {
            await trainer.RunAsync();
        }

        var path = Directory.GetFiles(folder).ShouldHaveSingleItem();
        using var scope = NewDisposeScope();
        using var file = SafetensorsFile.Open(path);
        var state = JsonNode.Parse(file.Metadata[StateKey])!;
        change(state);
        SafetensorsWriter.Write(
            path,
            file.Tensors.Keys.Select(name => KeyValuePair.Create(name, file.Read(name).clone())).ToList(),
            new Dictionary<string, string>(file.Metadata, StringComparer.Ordinal) { [StateKey] = state.ToJsonString() }
        );
    }

    private static async Task ResumeAsync(string folder, TrainingStage stage, IProgress<TrainingProgress>? progress = null)
    {
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        using (var trainer = new StagedTrainer(model, text).AddStage(stage).Resume(folder))
        {
            await trainer.RunAsync(progress);
        }
    }
}
