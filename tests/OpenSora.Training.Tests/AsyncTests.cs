using OpenSora.Training.Data;
using OpenSora.Training.Stages;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

/// <summary>Data that take their time.</summary>
public class AsyncTests
{
    [Theory]
    [InlineData(0)]
    [InlineData(2)]
    public async Task Slow_data_train_the_same(int prefetch)
    {
        var expected = await TrainAsync(Tiny.Stage());
        var before = TensorCount.Settled;
        var stage = Tiny.Stage(data: new Slow(new Numbers()));
        stage.Prefetch = prefetch;
        Tiny.ShouldBeSame(await TrainAsync(stage), expected);
        TensorCount.ShouldBe(before, settled: true);
    }

    [Fact]
    public async Task Data_that_block_on_their_tasks_do_not_stop_a_run() =>
        await TrainAsync(Tiny.Stage(data: new Slow(new Numbers()) { Blocks = true })).WaitAsync(TimeSpan.FromMinutes(2));

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    public async Task Waiting_for_a_batch_is_cancelled_and_loses_no_step(int prefetch)
    {
        using var folder = new TemporaryFolder();
        var expected = await TrainAsync(Tiny.Stage());
        using var stop = new CancellationTokenSource();
        var stage = Tiny.Stage(data: new Slow(new Numbers()) { StopsAt = 6 }); // the first batch of the fourth step
        stage.Prefetch = prefetch;
        var cancel = new ActionProgress(progress =>
        {
            if (progress.Step == 3)
            {
                stop.CancelAfter(100);
            }
        });
        await Should.ThrowAsync<OperationCanceledException>(() =>
            TrainAsync(stage, trainer => trainer.SaveTo(new CheckpointOptions { Folder = folder.Path }), cancel, stop.Token)
        );
        Directory.GetFiles(folder.Path).ShouldHaveSingleItem().ShouldEndWith("checkpoint-01-00000003.safetensors");
        Tiny.ShouldBeSame(await TrainAsync(Tiny.Stage(), trainer => trainer.Resume(folder.Path)), expected);
    }

    private static async Task<Dictionary<string, float[]>> TrainAsync(
        TrainingStage stage,
        Action<StagedTrainer>? prepare = null,
        IProgress<TrainingProgress>? progress = null,
        CancellationToken stop = default
    )
    {
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        using (var trainer = new StagedTrainer(model, text).AddStage(stage))
        {
            prepare?.Invoke(trainer);
            await trainer.RunAsync(progress, stop);
            return Tiny.Weights(("model", model), ("text", text));
        }
    }

    /// <summary>The batches of other data, a little later and on other threads.</summary>
    private sealed class Slow(ITrainingData data) : ITrainingData
    {
        public bool Blocks { get; init; }

        /// <summary>The batch that never comes.</summary>
        public long StopsAt { get; init; } = -1;

        public long Count => data.Count;

        public string Fingerprint => data.Fingerprint;

        public ValueTask<TrainingBatch> GetBatchAsync(long number, int size, int seed, CancellationToken cancellationToken = default)
        {
            var later = LaterAsync(number, size, seed, cancellationToken);
#pragma warning disable xUnit1031, MA0042, MA0045 // the point of the test
            return Blocks ? ValueTask.FromResult(later.GetAwaiter().GetResult()) : new(later);
#pragma warning restore xUnit1031, MA0042, MA0045
        }

        private async Task<TrainingBatch> LaterAsync(long number, int size, int seed, CancellationToken cancellationToken)
        {
            await Task.Delay(number == StopsAt ? TimeSpan.FromMinutes(5) : TimeSpan.FromMilliseconds(5), cancellationToken);
            return await data.GetBatchAsync(number, size, seed, cancellationToken);
        }
    }
}
