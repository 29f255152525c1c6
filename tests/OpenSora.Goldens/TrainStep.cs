using OpenSora.Diffusion;
using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Training.Data;
using OpenSora.Training.Objectives;
using OpenSora.Training.Stages;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Goldens;

/// <summary>Two optimizer steps of Open-Sora 1.0: losses, gradients, clipping, AdamW, the moving average, dropped captions.</summary>
internal static class TrainStepGoldens
{
    public static IEnumerable<Comparison> Check(GoldenFile file)
    {
        var config = file.ConfigAs<StdiTConfig>("model");
        var model = file.Load(new StdiT(config, initialize: false));
        var recorded = new Recorded(file, model);
        var stage = new TrainingStage
        {
            Name = "recorded",
            Data = recorded,
            Steps = 2,
            BatchSize = (int)file["input.x_start"].shape[0],
            LearningRate = file.Config.GetProperty("lr").GetDouble(),
            ClipGradientNorm = file.Config.GetProperty("clip_grad_norm").GetDouble(),
            EmaDecay = file.Config.GetProperty("ema_decay").GetDouble(),
        };

        // The gradients of the first step, before they are cut.
        model.train();
        using (var batch = recorded.GetBatch())
        using (var generator = new Generator())
        {
            recorded.Loss(batch, stage, generator).Total.backward();
        }

        var comparisons = model
            .named_parameters()
            .Where(pair => file.Has($"output.grad.{pair.name}"))
            .Select(pair => file.Compare($"output.grad.{pair.name}", pair.parameter.grad ?? zeros(1)))
            .ToList();
        model.zero_grad();

        recorded.Restart();
        using var trainer = new StagedTrainer(recorded).AddStage(stage);
        var norms = new List<double>();
        trainer.RunAsync(new Norms(norms)).GetAwaiter().GetResult();
        for (var step = 0; step < 2; step++)
        {
            comparisons.Add(file.Compare($"output.step{step}.mse", recorded.Losses[step].Parts["mse"]));
            comparisons.Add(file.Compare($"output.step{step}.vb", recorded.Losses[step].Parts["vb"]));
            comparisons.Add(file.Compare($"output.step{step}.loss", recorded.Losses[step].Total));
            comparisons.Add(file.Compare($"output.step{step}.loss_mean", recorded.Losses[step].Total.detach().mean().view(1)));
            comparisons.Add(file.Compare($"output.step{step}.grad_norm", tensor(new[] { (float)norms[step] })));
        }
        comparisons.AddRange(Parameters("after"));
        trainer.UseAverages();
        comparisons.AddRange(Parameters("ema"));
        return comparisons;

        IEnumerable<Comparison> Parameters(string what) =>
            model
                .named_parameters()
                .Where(pair => file.Has($"output.{what}.{pair.name}"))
                .Select(pair =>
                    file.Compare(
                        $"output.{what}.{pair.name}",
                        Determined(pair.parameter, $"output.{what}.{pair.name}", file[$"output.grad.{pair.name}"])
                    )
                )
                .ToList();

        // Keys' biases change nothing: their gradient is zero but for rounding, and AdamW makes steps of any size below its rate of such noise.
        Tensor Determined(Tensor actual, string name, Tensor gradient)
        {
            var expected = file[name];
            var noise = (gradient.abs() < gradient.abs().max() * 1e-5).logical_and((actual.detach() - expected).abs() < 2 * stage.LearningRate);
            return where(noise, expected, actual.detach());
        }
    }

    private sealed class Norms(List<double> norms) : IProgress<TrainingProgress>
    {
        public void Report(TrainingProgress value) => norms.Add(value.GradientNorm);
    }

    /// <summary>The recorded batch, noise, time steps and dropped captions of each step.</summary>
    private sealed class Recorded(GoldenFile file, StdiT model) : ITrainingObjective, ITrainingData
    {
        private readonly DiffusionTraining _objective = new(model);
        private int _step;

        public List<TrainingLoss> Losses { get; } = [];

        public IReadOnlyDictionary<string, nn.Module> Modules => _objective.Modules;

        public long Count => 1;

        public string Fingerprint => file.Name;

        public void Restart()
        {
            _step = 0;
            Losses.Clear();
        }

        public ValueTask<TrainingBatch> GetBatchAsync(long number, int size, int seed, CancellationToken cancellationToken = default) =>
            ValueTask.FromResult(GetBatch());

        public TrainingBatch GetBatch() => new(file["input.x_start"].alias(), file["input.y"].alias(), file["input.mask"].alias());

        public TrainingLoss Loss(TrainingBatch batch, TrainingStage stage, Generator generator)
        {
            var losses = _objective.SampleLoss(batch, batch.Video, file["input.t"][_step], file["input.noise"][_step], file["input.drop_ids"][_step]);
            Losses.Add(
                new TrainingLoss(Copy(losses.Total))
                {
                    Parts = losses.Parts.ToDictionary(part => part.Key, part => Copy(part.Value), StringComparer.Ordinal),
                }
            );
            _step++;
            return losses with { Total = losses.Total.mean() };

            static Tensor Copy(Tensor values) => values.detach().clone().DetachFromDisposeScope();
        }
    }
}
