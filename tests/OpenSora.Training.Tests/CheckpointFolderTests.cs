using Microsoft.Extensions.Logging;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Data;
using OpenSora.Training.Stages;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

/// <summary>Folders of checkpoints with other and damaged files, and runs that resume with other settings.</summary>
public class CheckpointFolderTests
{
    private static string Name(int step) => $"checkpoint-01-{step:D8}.safetensors";

    [Theory]
    [InlineData("checkpoint-01-00000004.safetensors", 1L, 4L)]
    [InlineData("checkpoint-12-00000000.safetensors", 12L, 0L)]
    [InlineData("checkpoint-100-123456789.safetensors", 100L, 123456789L)]
    [InlineData("checkpoint-best.safetensors", null, null)]
    [InlineData("checkpoint-01-00000004-backup.safetensors", null, null)]
    [InlineData("checkpoint-1-00000004.safetensors", null, null)]
    [InlineData("checkpoint-001-00000004.safetensors", null, null)]
    [InlineData("checkpoint-01-000000004.safetensors", null, null)]
    [InlineData("checkpoint-00-00000004.safetensors", null, null)]
    [InlineData("checkpoint-01-0000004.safetensors", null, null)]
    [InlineData("checkpoint-01-٠٠٠٠٠٠٠٤.safetensors", null, null)]
    [InlineData("checkpoint-01-00000004.safetensors\n", null, null)]
    [InlineData("Checkpoint-01-00000004.safetensors", null, null)]
    [InlineData("checkpoint-01-00000004.safetensors.damaged", null, null)]
    [InlineData("checkpoint-01-99999999999999999999.safetensors", null, null)]
    public void Names_have_one_form(string name, long? stage, long? step) =>
        CheckpointName.Parse(name).ShouldBe(stage is null ? null : (stage.Value, step!.Value));

    [Fact]
    public async Task Files_with_other_names_are_neither_resumed_from_nor_deleted()
    {
        using var folder = new TemporaryFolder();
        await RunAsync(folder, steps: 4);
        string[] others =
        [
            "checkpoint-best.safetensors",
            "checkpoint-01-00000001-backup.safetensors",
            "checkpoint-zz.safetensors.0123.tmp",
            "checkpoint-01-00000002.safetensors.part.tmp",
            "checkpoint-01-00000001.safetensors.bak",
        ];
        foreach (var other in others)
        {
            File.Copy(folder[Name(4)], folder[other]);
        }

        Directory.CreateDirectory(folder[Name(99)]);
        await File.WriteAllTextAsync(folder[Name(3) + ".0123456789abcdef.tmp"], "half");
        var steps = await RunAsync(folder, steps: 8, resume: true);
        steps.ShouldBe([5, 6, 7, 8]);
        Directory
            .GetFiles(folder.Path)
            .Select(Path.GetFileName)
            .Order(StringComparer.Ordinal)
            .ShouldBe(others.Concat([Name(7), Name(8)]).Order(StringComparer.Ordinal));
    }

    [Fact]
    public async Task Only_other_files_are_no_checkpoint()
    {
        using var folder = new TemporaryFolder();
        await RunAsync(folder, steps: 1);
        File.Move(folder[Name(1)], folder["checkpoint-best.safetensors"]);
        (await Should.ThrowAsync<FileNotFoundException>(() => RunAsync(folder, steps: 2, resume: true))).Message.ShouldContain("checkpoint-best");
        (await RunAsync(folder, steps: 2, resume: true, from: folder["checkpoint-best.safetensors"])).ShouldBe([2]);
    }

    [Fact]
    public async Task Checkpoints_are_ordered_by_number()
    {
        using var folder = new TemporaryFolder();
        foreach (
            var name in new[] { "checkpoint-99-00000001.safetensors", "checkpoint-100-00000001.safetensors", "checkpoint-99-100000000.safetensors" }
        )
        {
            await File.WriteAllTextAsync(folder[name], "x");
        }

        Checkpoint
            .All(folder.Path)
            .Select(Path.GetFileName)
            .ShouldBe(["checkpoint-99-00000001.safetensors", "checkpoint-99-100000000.safetensors", "checkpoint-100-00000001.safetensors"]);
    }

    public static TheoryData<string> Damages => ["empty", "cut", "noise", "other weights", "copy", "state"];

    [Theory]
    [MemberData(nameof(Damages))]
    public async Task A_damaged_newest_checkpoint_is_named_and_passed_over_on_request(string damage)
    {
        using var folder = new TemporaryFolder();
        await RunAsync(folder, steps: 4);
        var newest = damage is "copy" ? folder[Name(9)] : folder[Name(4)];
        var bytes = await File.ReadAllBytesAsync(folder[Name(4)]);
        switch (damage)
        {
            case "copy":
                File.Copy(folder[Name(4)], newest);
                break;
            case "other weights":
            case "state":
                using (var scope = NewDisposeScope())
                {
                    var metadata = new Dictionary<string, string>(StringComparer.Ordinal) { ["opensora.training"] = "{ \"step\": 4" };
                    SafetensorsWriter.Write(newest, [KeyValuePair.Create("x", zeros(2))], damage is "state" ? metadata : null);
                }
                break;
            default:
                await File.WriteAllBytesAsync(
                    newest,
                    damage switch
                    {
                        "empty" => [],
                        "cut" => bytes[..^1],
                        _ => [.. Enumerable.Range(0, 5000).Select(i => (byte)(i * 37))],
                    }
                );
                break;
        }

        var previous = damage is "copy" ? 4 : 3;
        var error = (await Should.ThrowAsync<InvalidWeightsException>(() => RunAsync(folder, steps: 6, resume: true))).Message;
        error.ShouldContain(Path.GetFileName(newest));
        error.ShouldContain($"'{Name(previous)}', after step {previous} of stage 'line'");
        error.ShouldContain("UsePreviousIfDamaged");
        (await Should.ThrowAsync<InvalidWeightsException>(() => RunAsync(folder, steps: 6, initialize: true))).Message.ShouldContain(Name(previous));

        var (log, seen) = (new Recorder(), new List<string>());
        var steps = await RunAsync(folder, steps: 6, resume: true, usePrevious: true, log: log, seen: seen);
        steps.ShouldBe(Enumerable.Range(previous + 1, 6 - previous).Select(step => (long)step));
        log.Lines.ShouldContain(line => line.StartsWith("Warning", StringComparison.Ordinal) && line.Contains(newest, StringComparison.Ordinal));
        seen.ShouldContain(text => text.Contains($"'{Path.GetFileName(newest)}' is damaged", StringComparison.Ordinal));
        Directory
            .GetFiles(folder.Path)
            .Select(Path.GetFileName)
            .ShouldBe([Path.GetFileName(newest) + ".damaged", Name(5), Name(6)], ignoreOrder: true);
        (await RunAsync(folder, steps: 7, resume: true)).ShouldBe([7]);
    }

    [Fact]
    public async Task If_all_checkpoints_are_damaged_the_error_says_so()
    {
        using var folder = new TemporaryFolder();
        await RunAsync(folder, steps: 4);
        foreach (var path in Directory.GetFiles(folder.Path))
        {
            await File.WriteAllTextAsync(path, "damaged");
        }

        (await Should.ThrowAsync<InvalidWeightsException>(() => RunAsync(folder, steps: 6, resume: true, usePrevious: true))).Message.ShouldContain(
            "The 1 checkpoints before it are damaged too"
        );
        File.Delete(folder[Name(3)]);
        (await Should.ThrowAsync<InvalidWeightsException>(() => RunAsync(folder, 6, resume: true, usePrevious: true))).Message.ShouldContain(Name(4));
    }

    [Fact]
    public async Task A_run_resumes_with_settings_that_may_differ()
    {
        using var folder = new TemporaryFolder();
        await RunAsync(folder, steps: 4);
        void Change(TrainingStage stage) => (stage.LearningRate, stage.FinalLearningRate, stage.WeightDecay) = (1e-3, 1e-4, 0.1);
        string[] options = ["learningrate", nameof(TrainingStage.FinalLearningRate)];
        var error = (await Should.ThrowAsync<InvalidOperationException>(() => RunAsync(folder, 6, true, options, change: Change))).Message;
        error.ShouldContain("WeightDecay was 0 and is now 0.1");
        error.ShouldNotContain("LearningRate was");
        error.ShouldContain("name them in the argument mayDiffer of Resume");

        options = [.. options, nameof(TrainingStage.WeightDecay)];
        var (log, seen) = (new Recorder(), new List<string>());
        (await RunAsync(folder, 6, true, options, change: Change, log: log, seen: seen)).ShouldBe([5, 6]);
        log.Lines.ShouldContain(line => line.Contains("LearningRate was 0.01 and is now 0.001", StringComparison.Ordinal));
        log.Lines.ShouldContain(line => line.Contains("FinalLearningRate was null and is now 0.0001", StringComparison.Ordinal));
        seen.ShouldHaveSingleItem().ShouldContain("LearningRate was 0.01 and is now 0.001; ");
        (await RunAsync(folder, 7, true, change: Change)).ShouldBe([7]); // the changed settings are those of the run now
    }

    [Fact]
    public async Task An_allowed_setting_that_does_not_differ_changes_nothing()
    {
        using var folder = new TemporaryFolder();
        var whole = await WeightsAsync(folder, "whole", [8], null);
        var parts = await WeightsAsync(folder, "parts", [4, 8], ["LearningRate", "BatchSize", "Data", "Objective"]);
        Tiny.ShouldBeSame(parts, whole);

        // Another rate from the same state: one step of AdamW with the kept moments moves every weight in proportion to the rate.
        var four = await WeightsAsync(folder, "a", [4], null);
        string[] options = ["LearningRate"];
        var five = await WeightsAsync(folder, "b", [4, 5], options);
        var half = await WeightsAsync(folder, "c", [4, 5], options, stage => stage.LearningRate /= 2);
        foreach (var (name, values) in four)
        {
            for (var i = 0; i < values.Length; i++)
            {
                ((half[name][i] - values[i]) * 2).ShouldBe(five[name][i] - values[i], 1e-5);
            }
        }
    }

    [Theory]
    [InlineData(6, 1, new long[] { 2, 3, 4, 5 })] // 4 steps of 3 samples are 2 batches of 6
    [InlineData(5, 1, new long[] { 3, 4, 5, 6 })] // 12 samples are 2.4 batches of 5
    [InlineData(3, 2, new long[] { 4, 5, 6, 7, 8, 9, 10, 11 })]
    [InlineData(1, 1, new long[] { 12, 13, 14, 15 })]
    public async Task The_position_in_the_data_is_kept_with_another_batch_size(int batchSize, int accumulation, long[] expected)
    {
        using var folder = new TemporaryFolder();
        await RunAsync(folder, 4, change: stage => stage.BatchSize = 3);
        string[] options = [nameof(TrainingStage.BatchSize), nameof(TrainingStage.Accumulation)];
        var data = new Recorded();
        void Change(TrainingStage stage) => (stage.BatchSize, stage.Accumulation, stage.Data) = (batchSize, accumulation, data);
        await RunAsync(folder, 6, true, options, change: Change);
        await RunAsync(folder, 8, true, change: Change); // and once more, without a change
        data.Asked.ShouldBe(expected);
    }

    [Fact]
    public async Task Averages_and_data_may_differ()
    {
        using var folder = new TemporaryFolder();
        await RunAsync(folder, 2, change: stage => stage.EmaDecay = null);
        string[] options = ["EmaDecay", "Data"];
        var seen = new List<string>();
        void Change(TrainingStage stage) => (stage.EmaDecay, stage.Data) = (0.5, new Recorded("other points"));
        (await RunAsync(folder, 4, true, options, change: Change, seen: seen)).ShouldBe([3, 4]);
        seen.ShouldHaveSingleItem().ShouldContain("Data was points and is now other points");
        (await RunAsync(folder, 5, true, options, change: stage => stage.EmaDecay = null)).ShouldBe([5]);
    }

    [Fact]
    public void Settings_that_cannot_differ_are_refused()
    {
        using var line = nn.Linear(3, 2);
        using var trainer = new StagedTrainer(new Line(line));
        Refused("LearningRat").ShouldContain("one of BatchSize, Accumulation");
        Refused("Parameters").ShouldContain("InitializeFrom");

        string Refused(string name) => Should.Throw<ArgumentException>(() => trainer.Resume("x", mayDiffer: [name])).Message;
    }

    [Fact]
    public async Task A_finished_run_says_that_there_is_nothing_to_do()
    {
        using var folder = new TemporaryFolder();
        await RunAsync(folder, 2);
        using var output = new StringWriter();
        var log = new Recorder();
        (await RunAsync(folder, 2, true, log: log, console: output)).ShouldBeEmpty();
        output.ToString().ShouldContain("resume  stage 'line' is complete after 2 steps. The run is complete, and nothing is trained");
        log.Lines.ShouldContain(line => line.Contains("stage 'line' is complete after 2 steps", StringComparison.Ordinal));
    }

    // Trains a line with a checkpoint after each step, and returns the steps.
    private static async Task<List<long>> RunAsync(
        TemporaryFolder folder,
        int steps,
        bool resume = false,
        string[]? mayDiffer = null,
        bool usePrevious = false,
        string? from = null,
        bool initialize = false,
        Action<TrainingStage>? change = null,
        Recorder? log = null,
        List<string>? seen = null,
        TextWriter? console = null
    )
    {
        manual_seed(1);
        using var line = nn.Linear(3, 2);
        var stage = new TrainingStage
        {
            Name = "line",
            Data = new Points(),
            Steps = steps,
            LearningRate = 1e-2,
            EmaDecay = 0.9,
        };
        change?.Invoke(stage);
        using var trainer = new StagedTrainer(new Line(line)).AddStage(stage).AddCallback(new Sees(seen ?? []));
        if (initialize)
        {
            trainer.InitializeFrom(folder.Path);
        }

        if (from is null)
        {
            trainer.SaveTo(
                new CheckpointOptions
                {
                    Folder = folder.Path,
                    EverySteps = 1,
                    KeepLast = 2,
                }
            );
        }

        if (resume)
        {
            trainer.Resume(from ?? folder.Path, mayDiffer: mayDiffer, usePreviousIfDamaged: usePrevious);
        }

        if (log is not null)
        {
            trainer.LogTo(log);
        }

        if (console is not null)
        {
            trainer.AddConsoleProgress(console);
        }

        List<long> done = [];
        await trainer.RunAsync(new ActionProgress(progress => done.Add(progress.Step)));
        return done;
    }

    // Trains in one or more runs, of which the last has other settings.
    private static async Task<Dictionary<string, float[]>> WeightsAsync(
        TemporaryFolder folder,
        string name,
        int[] steps,
        string[]? mayDiffer,
        Action<TrainingStage>? change = null
    )
    {
        manual_seed(1);
        using var line = nn.Linear(3, 2);
        foreach (var (i, count) in steps.Index())
        {
            var stage = new TrainingStage
            {
                Name = "line",
                Data = new Points(),
                Steps = count,
                LearningRate = 1e-2,
            };
            if (i == steps.Length - 1)
            {
                change?.Invoke(stage);
            }

            using var trainer = new StagedTrainer(new Line(line)).AddStage(stage).SaveTo(new CheckpointOptions { Folder = folder[name] });
            await trainer.Resume(folder[name], ifAny: true, mayDiffer).RunAsync();
        }

        return Tiny.Weights(("line", line));
    }

    private sealed class Recorded(string name = "points") : ITrainingData
    {
        private readonly Points _points = new();

        public long Count => _points.Count;

        public string Fingerprint => name;

        public List<long> Asked { get; } = [];

        public ValueTask<TrainingBatch> GetBatchAsync(long number, int size, int seed, CancellationToken cancellationToken = default)
        {
            Asked.Add(number);
            return _points.GetBatchAsync(number, size, seed, cancellationToken);
        }
    }

    private sealed class Sees(List<string> seen) : ITrainingCallback
    {
        public ValueTask ObservedAsync(TrainingRun run, TrainingObservation observation)
        {
            seen.Add($"{observation.Name}: {observation.Text}");
            return default;
        }
    }

    private sealed class Recorder : ILogger
    {
        public List<string> Lines { get; } = [];

        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => true;

        public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter) =>
            Lines.Add($"{logLevel}: {formatter(state, exception)}");
    }
}
