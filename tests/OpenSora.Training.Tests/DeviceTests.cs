using OpenSora.Training.Callbacks;
using OpenSora.Training.Data;
using OpenSora.Training.Objectives;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

/// <summary>Tests models on another device than the data.</summary>
public class DeviceTests
{
    [Fact]
    public void A_batch_moves_to_a_device_and_leaves_nothing_behind()
    {
        using var scope = NewDisposeScope();
        var meta = new Device(DeviceType.META);
        var batch = new TrainingBatch(zeros(2, 3), zeros([2, 4], ScalarType.Int64), null, zeros([2, 1], ScalarType.Bool, meta));
        using var moved = batch.MoveTo(meta);
        moved.Video.is_meta.ShouldBeTrue();
        moved.Text.ShouldNotBeNull().is_meta.ShouldBeTrue();
        moved.Text.dtype.ShouldBe(ScalarType.Int64);
        moved.Mask.ShouldBeNull();
        moved.NoisyFrames.ShouldBeSameAs(batch.NoisyFrames); // it was there
        (batch.Video.IsInvalid, batch.Text!.IsInvalid, batch.NoisyFrames!.IsInvalid).ShouldBe((true, true, false));
    }

    [Fact]
    public async Task A_model_on_a_GPU_is_trained_from_the_same_data()
    {
        Assert.SkipUnless(cuda.is_available(), "There is no CUDA device here.");
        var cpu = await LossesAsync(CPU);
        var gpu = await LossesAsync(CUDA);
        for (var i = 0; i < cpu.Count; i++)
        {
            gpu[i].ShouldBe(cpu[i], 1e-3 * cpu[i]);
        }

        static async Task<List<double>> LossesAsync(Device device)
        {
            List<double> losses = [];
            var (model, text) = Tiny.Models();
            using (model)
            using (text)
            {
                model.to(device);
                text.to(device);
                var objective = new DiffusionTraining(model, text);
                using var trainer = new StagedTrainer(objective)
                    .AddStage(Tiny.Stage())
                    .AddCallback(
                        new ValidationLoss(objective, new Numbers())
                        {
                            EverySteps = 3,
                            Bands = 2,
                            Samples = 4,
                            BatchSize = 2,
                        }
                    );
                await trainer.RunAsync(new ActionProgress(p => losses.Add(p.Loss)));
                model.parameters().First().device.type.ShouldBe(device.type);
            }
            return losses;
        }
    }
}
