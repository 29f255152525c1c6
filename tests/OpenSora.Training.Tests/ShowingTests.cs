using System.Diagnostics.Metrics;
using System.Text;
using OpenSora.Diffusion;
using OpenSora.Media;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Data;
using OpenSora.Training.Objectives;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

/// <summary>The console, TensorBoard and metrics.</summary>
public class ShowingTests
{
    [Fact]
    public async Task The_console_prints_a_line_at_intervals()
    {
        using var output = new StringWriter();
        var clock = new Clock();
        await TrainAsync(
            trainer => trainer.AddCallback(new Does(_ => clock.Now += TimeSpan.FromSeconds(6))).AddCallback(new ConsoleProgress(output, time: clock)),
            steps: 12
        );
        var lines = output.ToString().Split(Environment.NewLine, StringSplitOptions.RemoveEmptyEntries);
        lines[0].ShouldBe("10:00:00  line: 12 steps of 4 samples");
        lines[1]
            .ShouldMatch(
                @"^10:00:06  line   1/12   8 %  loss 0\.\d{4} \(mean 0\.\d{4}\)  size 2\.0000 \(mean 2\.0000\)  norm \d\.\d{4}  "
                    + @"lr 1\.0e-02  \d+\.\d samples/s  \d+:\d\d:\d\d left$"
            );
        lines[2].ShouldMatch(@"^10:00:24  line   4/12  33 %  .* left$");
        lines[3].ShouldMatch("^10:00:42  line   7/12");
        lines[4].ShouldMatch("^10:01:00  line  10/12");
        lines[5].ShouldMatch(@"^10:01:12  line  12/12 100 %  .* samples/s  done$");
        lines.Length.ShouldBe(6);
    }

    [Fact]
    public async Task The_console_shows_the_fraction_of_what_ends_the_stage()
    {
        using var output = new StringWriter();
        var console = new ConsoleProgress(output, every: TimeSpan.Zero, time: new Clock());
        var limited = new TrainingStage { Name = "line", TimeLimit = TimeSpan.FromHours(2) };
        ITrainingCallback callback = console;
        foreach (var (step, minutes, loss) in new (long, double, double)[] { (250, 30, 1), (251, 90, 3), (90_000, 91, 2) })
        {
            await callback.StepDoneAsync(
                Run(limited),
                new TrainingProgress
                {
                    Stage = "line",
                    Step = step,
                    Steps = 100_000,
                    Loss = loss,
                    Elapsed = TimeSpan.FromMinutes(minutes),
                    Fraction = Math.Max(step / 1e5, minutes / 120),
                    TimeLeft = TimeSpan.FromMinutes(1),
                }
            );
        }

        var lines = output.ToString().Split(Environment.NewLine, StringSplitOptions.RemoveEmptyEntries);
        lines[0].ShouldStartWith("10:00:00  line      250 steps   25 % of 2:00:00  loss 1.0000 (mean 1.0000)  norm");
        lines[1].ShouldStartWith("10:00:00  line      251 steps   75 % of 2:00:00  loss 3.0000 (mean 2.0050)  norm");
        lines[2].ShouldStartWith("10:00:00  line   90,000/100,000  90 %  loss 2.0000");

        static TrainingRun Run(TrainingStage stage) =>
            new(stage, new Dictionary<string, nn.Module>(StringComparer.Ordinal), average: null, before: 0, callbacks: [], CancellationToken.None);
    }

    [Fact]
    public async Task Progress_has_the_fraction_of_the_steps_or_of_the_time()
    {
        List<TrainingProgress> done = [];
        await TrainAsync(_ => { }, new ActionProgress(done.Add), steps: 4);
        done.Select(progress => progress.Fraction).ShouldBe([0.25, 0.5, 0.75, 1]);
        done[^1].Elapsed.ShouldBeGreaterThan(done[0].Elapsed);
        List<TrainingProgress> timed = [];
        await TrainAsync(_ => { }, new ActionProgress(timed.Add), steps: 1_000_000, timeLimit: TimeSpan.FromMilliseconds(300));
        timed[^1].Fraction.ShouldBe(1);
        timed[timed.Count / 2].Fraction.ShouldBe(timed[timed.Count / 2].Elapsed / TimeSpan.FromMilliseconds(300), 1e-9);
    }

    [Fact]
    public async Task Long_work_is_announced()
    {
        using var folder = new TemporaryFolder();
        using var output = new StringWriter();
        var frames = new VideoFrames(new byte[3 * 4 * 4], 1, 4, 4, 8);
        await TrainAsync(
            trainer =>
                trainer
                    .AddPreviews(
                        folder.Path,
                        _ =>
                        {
                            output.ToString().ShouldEndWith("preview  started" + Environment.NewLine); // before the work
                            return [frames];
                        },
                        everySteps: 100
                    )
                    .AddCallback(new ConsoleProgress(output, time: new Clock())),
            steps: 2
        );
        output.ToString().Split(Environment.NewLine, StringSplitOptions.RemoveEmptyEntries)[^1].ShouldBe("10:00:00  preview  line");
    }

    [Fact]
    public async Task The_console_reports_other_events_immediately()
    {
        using var folder = new TemporaryFolder();
        using var output = new StringWriter();
        await TrainAsync(
            trainer =>
                trainer
                    .SaveTo(new CheckpointOptions { Folder = folder.Path })
                    .AddCallback(new ConsoleProgress(output, time: new Clock()))
                    .AddCallback(
                        new Does(async run =>
                        {
                            if (run.Step == 3)
                            {
                                await run.ReportAsync(
                                    new TrainingObservation("validation")
                                    {
                                        Scalars = new Dictionary<string, double> { ["loss"] = 0.5, ["best"] = 1e-4 },
                                    }
                                );
                            }
                        })
                    ),
            steps: 8,
            spike: 6
        );
        var lines = output.ToString().Split(Environment.NewLine, StringSplitOptions.RemoveEmptyEntries);
        lines[2].ShouldBe("10:00:00  validation  loss 0.5000  best 1.000e-04");
        lines[3].ShouldMatch("^10:00:00  line  step 7 skipped: the loss of .* times the median of 4 steps, .*'line.weight'");
        lines[4].ShouldMatch(@"line  8/8 100 %.*loss 0\.\d{4} \(mean 0\.\d{4}\)  .*  1 skipped  done");
        lines[5].ShouldBe("10:00:00  written: checkpoint-01-00000008.safetensors");
        lines.Length.ShouldBe(6);
    }

    [Fact]
    public async Task TensorBoard_receives_events_from_before_its_start()
    {
        using var folder = new TemporaryFolder();
        var early = new Starts(run =>
            run.ReportAsync(new TrainingObservation("validation") { Scalars = new Dictionary<string, double> { ["loss"] = 2 } })
        );
        using (var board = new TensorBoard(folder["board"]))
        {
            await TrainAsync(trainer => trainer.AddCallback(early).AddCallback(board), steps: 2);
        }

        EventFileReader
            .ReadFolder(folder["board"])
            .SelectMany(e => e.Values.Select(value => (e.Step, value.Tag, value.Scalar)))
            .ShouldContain((0, "validation/loss", 2f));
    }

    [Fact]
    public async Task A_run_that_resumes_in_the_same_program_writes_no_step_twice()
    {
        using var folder = new TemporaryFolder();
        using var board = new TensorBoard(folder["board"], everySteps: 1);
        using var curves = new LossCurves(folder["curves"]);
        manual_seed(1);
        using var line = nn.Linear(3, 2);
        var broken = true;
        using var trainer = new StagedTrainer(new Line(line))
            .AddStage(
                new TrainingStage
                {
                    Name = "line",
                    Data = new Points(),
                    Steps = 9,
                    BatchSize = 4,
                    LearningRate = 1e-2,
                    EmaDecay = null,
                }
            )
            .SaveTo(
                new CheckpointOptions
                {
                    Folder = folder["run"],
                    EverySteps = 4,
                    Every = null,
                }
            )
            .AddCallback(board)
            .AddCallback(curves);
        var progress = new ActionProgress(p =>
        {
            if (broken && p.Step == 7)
            {
                throw new IOException("the disk was away");
            }
        });
        await Should.ThrowAsync<IOException>(() => trainer.RunAsync(progress));
        broken = false;
        await trainer.Resume(folder["run"]).RunAsync(progress);
        LossChart
            .ReadLosses(folder["curves"] + "/losses.csv")
            .ShouldHaveSingleItem()
            .Points.Select(point => point.Step)
            .ShouldBe([1, 2, 3, 4, 5, 6, 7, 8, 9]);
        board.Dispose();
        // What TensorBoard drops from there on.
        EventFileReader.ReadFolder(folder["board"]).Where(e => e.SessionStatus is not null).Select(e => e.Step).ShouldBe([1, 5]);
    }

    [Fact]
    public async Task The_trainer_closes_the_files_of_its_callbacks()
    {
        using var folder = new TemporaryFolder();
        using var line = nn.Linear(3, 2);
        using (
            var trainer = new StagedTrainer(new Line(line))
                .AddStage(
                    new TrainingStage
                    {
                        Name = "line",
                        Data = new Points(),
                        Steps = 2,
                        Prefetch = 1,
                    }
                )
                .AddLossCurves(folder["curves"])
                .AddTensorBoard(folder["board"], everySteps: 1)
        )
        {
            await trainer.RunAsync();
        }

        // Fails on Windows, and on Linux with FileShare.None, while the writer has the file.
        var path = folder["curves/losses.csv"];
        await using (new FileStream(path, FileMode.Open, FileAccess.ReadWrite, FileShare.None)) { }
        LossChart.ReadLosses(path).ShouldHaveSingleItem().Points.Count.ShouldBe(2);
        EventFileReader
            .ReadFolder(folder["board"])
            .Count(e => e.Values.Any(value => value.Tag.Equals("train/loss", StringComparison.Ordinal)))
            .ShouldBe(2);
    }

    private sealed class Starts(Func<TrainingRun, ValueTask> what) : ITrainingCallback
    {
        public ValueTask StageStartedAsync(TrainingRun run) => what(run);
    }

    [Fact]
    public async Task TensorBoard_files_contain_scalars_and_animations()
    {
        using var folder = new TemporaryFolder();
        List<TrainingProgress> reported = [];
        using (var board = new TensorBoard(folder["board"], everySteps: 2))
        {
            var (still, moving) = (new VideoFrames(new byte[5 * 4 * 3], 1, 4, 5, 8), new VideoFrames(new byte[2 * 6 * 7 * 3], 2, 6, 7, 8));
            await TrainAsync(
                trainer =>
                    trainer
                        .AddCallback(board)
                        .AddCallback(
                            new Does(async run =>
                            {
                                if (run.Step == 3)
                                {
                                    await run.ReportAsync(
                                        new TrainingObservation("preview")
                                        {
                                            Scalars = new Dictionary<string, double> { ["half"] = 0.5 },
                                            Videos = new Dictionary<string, VideoFrames> { ["still"] = still, ["goat"] = moving },
                                        }
                                    );
                                }
                            })
                        ),
                new ActionProgress(reported.Add),
                steps: 5
            );
        }

        var events = EventFileReader.ReadFolder(folder["board"]);
        events[0].Version.ShouldBe("brain.Event:2");
        (events[1].SessionStatus, events[1].Step).ShouldBe((1L, 1L));
        events.ShouldAllBe(one => Math.Abs(one.WallTime - DateTimeOffset.UtcNow.ToUnixTimeSeconds()) < 600);
        events[2].Step.ShouldBe(2);
        events[2]
            .Values.Select(value => value.Tag)
            .ShouldBe(["train/size", "train/loss", "train/gradient_norm", "train/learning_rate", "train/samples_per_second", "train/skipped_steps"]);
        events[2].Values[1].Scalar.ShouldBe((float)reported[1].Loss);
        events[3].Values.ShouldBe([new("preview/half", 0.5f, null)]);
        var (height, width, png) = events[4].Values.Single().Image.ShouldNotBeNull();
        (height, width).ShouldBe((4L, 5L));
        png[..4].ShouldBe([0x89, (byte)'P', (byte)'N', (byte)'G']);
        Encoding.ASCII.GetString(events[5].Values.Single().Image!.Value.Data[..6]).ShouldBe("GIF89a");
        events.Skip(6).Select(one => one.Step).ShouldBe([4L, 5L]);
        EventFileReader.Crc32C("123456789"u8).ShouldBe(0xe3069283u); // the check value of CRC-32C
    }

    [Fact]
    public async Task TensorBoard_files_are_readable_at_any_time_and_mark_where_a_run_was_resumed()
    {
        using var folder = new TemporaryFolder();
        var checkpoints = new CheckpointOptions { Folder = folder["saved"], EverySteps = 3 };
        using (var board = new TensorBoard(folder["board"], everySteps: 1))
        {
            await Should.ThrowAsync<IOException>(() =>
                TrainAsync(
                    trainer => trainer.SaveTo(checkpoints).AddCallback(board),
                    new ActionProgress(progress =>
                    {
                        EventFileReader
                            .ReadFolder(folder["board"])
                            .Where(one => one.SessionStatus != 1)
                            .Max(one => one.Step)
                            .ShouldBe(progress.Step - 1); // while the file is open
                        if (progress.Step == 5)
                        {
                            throw new IOException("the power went out");
                        }
                    }),
                    steps: 6
                )
            );
        }
        var path = Directory.GetFiles(folder["board"]).Single();
        var bytes = await File.ReadAllBytesAsync(path);
        for (var length = bytes.Length; length > 0; length -= 7)
        {
            EventFileReader.Read(bytes[..length]).Count.ShouldBeLessThanOrEqualTo(6);
        }

        await File.WriteAllBytesAsync(path, bytes[..^5]);

        using (var board = new TensorBoard(folder["board"], everySteps: 1))
        {
            await TrainAsync(trainer => trainer.Resume(folder["saved"]).AddCallback(board), steps: 6);
        }

        var events = EventFileReader.ReadFolder(folder["board"]);
        events.Select(one => one.Step).ShouldBe([0, 1, 1, 2, 3, 0, 4, 4, 5, 6]); // from 4 on the first file counts no more
        events[6].SessionStatus.ShouldBe(1);
    }

    [Fact]
    public async Task Metrics_report_steps_samples_losses_and_durations()
    {
        Dictionary<string, List<double>> reported = [];
        using var listener = new MeterListener
        {
            InstrumentPublished = (instrument, self) =>
            {
                if (string.Equals(instrument.Meter.Name, "OpenSora.Training", StringComparison.Ordinal))
                {
                    self.EnableMeasurementEvents(instrument);
                }
            },
        };
        void Add(Instrument instrument, double value, ReadOnlySpan<KeyValuePair<string, object?>> tags)
        {
            tags.ToArray().ShouldBe([new("stage", "line")]);
            if (!reported.TryGetValue(instrument.Name, out var values))
            {
                reported[instrument.Name] = values = [];
            }

            values.Add(value);
        }
        listener.SetMeasurementEventCallback<long>((instrument, value, tags, _) => Add(instrument, value, tags));
        listener.SetMeasurementEventCallback<double>((instrument, value, tags, _) => Add(instrument, value, tags));
        listener.Start();
        List<TrainingProgress> progress = [];
        await TrainAsync(_ => { }, new ActionProgress(progress.Add), steps: 8, spike: 6);

        reported["opensora.training.steps"].Sum().ShouldBe(8);
        reported["opensora.training.samples"].Sum().ShouldBe(32);
        reported["opensora.training.skipped_steps"].ShouldBe([0, 0, 0, 0, 0, 0, 1, 0]);
        reported["opensora.training.loss"].ShouldBe(progress.Select(one => one.Loss));
        reported["opensora.training.gradient_norm"].ShouldBe(progress.Select(one => one.GradientNorm));
        reported["opensora.training.step.duration"].ShouldBe(progress.Select(one => one.StepTime.TotalSeconds));
        reported["opensora.training.step.duration"].ShouldAllBe(seconds => seconds > 0);
    }

    private static async Task TrainAsync(
        Action<StagedTrainer> prepare,
        IProgress<TrainingProgress>? progress = null,
        int steps = 12,
        int? spike = null,
        TimeSpan? timeLimit = null
    )
    {
        manual_seed(1);
        using var line = nn.Linear(3, 2);
        using var trainer = new StagedTrainer(new Sized(new Line(line))).AddStage(
            new TrainingStage
            {
                Name = "line",
                Data = new Points { Spikes = spike is { } batch ? [batch] : [] },
                Steps = steps,
                TimeLimit = timeLimit,
                BatchSize = 4,
                LearningRate = 0.01,
                EmaDecay = 0.9,
                Spikes = spike is null ? null : new SpikeGuard { Window = 4 },
            }
        );
        prepare(trainer);
        await trainer.RunAsync(progress);
    }

    /// <summary>A loss with a part.</summary>
    private sealed class Sized(ITrainingObjective inner) : ITrainingObjective
    {
        public IReadOnlyDictionary<string, nn.Module> Modules => inner.Modules;

        public TrainingLoss Loss(TrainingBatch batch, TrainingStage stage, Generator generator) =>
            inner.Loss(batch, stage, generator) with
            {
                Parts = new Dictionary<string, Tensor>(StringComparer.Ordinal) { ["size"] = tensor(2f) },
            };
    }

    private sealed class Clock : TimeProvider
    {
        public TimeSpan Now { get; set; } = TimeSpan.FromHours(10);

        public override TimeZoneInfo LocalTimeZone => TimeZoneInfo.Utc;

        public override long TimestampFrequency => TimeSpan.TicksPerSecond;

        public override long GetTimestamp() => Now.Ticks;

        public override DateTimeOffset GetUtcNow() => new DateTimeOffset(2026, 1, 1, 0, 0, 0, TimeSpan.Zero) + Now;
    }
}
