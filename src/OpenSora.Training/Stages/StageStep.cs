using OpenSora.Runtime;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Data;
using OpenSora.Training.Distributed;
using OpenSora.Training.Objectives;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Training.Stages;

/// <summary>The steps of one stage: losses of micro batches, clipped gradients, the optimizer and the moving averages.</summary>
/// <param name="stage">The stage.</param>
/// <param name="objective">The trainer's objective, which a stage can replace.</param>
/// <param name="trained">The parameters that the stage trains.</param>
/// <param name="optimizer">The optimizer of these parameters.</param>
/// <param name="batches">The batches of the stage.</param>
/// <param name="workers">The threads that share a batch; null for one.</param>
/// <param name="spikes">The guard against spikes; null for none.</param>
/// <param name="average">The moving averages; null for none.</param>
/// <param name="memory">What the stage offloads; null for nothing.</param>
/// <param name="checkpoints">The folder of checkpoints, for error messages; null if none are written.</param>
/// <param name="owned">The parameters, or parts of them, that this process updates.</param>
/// <param name="reduction">The gradients of all processes; null for one process.</param>
internal sealed class StageStep(
    TrainingStage stage,
    ITrainingObjective objective,
    List<(string Name, Parameter Parameter)> trained,
    AdamWOptimizers optimizer,
    StageBatches batches,
    StageWorkers? workers,
    SpikeWatch? spikes,
    MovingAverage? average,
    StageMemory? memory,
    string? checkpoints,
    OwnedParameters owned,
    GradientReduction? reduction
)
{
    private readonly TrainingGroup? _group = owned.Group;
    private readonly string[] _names = [.. trained.Select(pair => pair.Name)];

    // The processes that have the other parts of the gradients.
    private readonly TrainingGroup? _parts = reduction?.EveryBatch is true ? owned.Group : null;

    /// <summary>Performs one optimizer step, or skips it if the loss or the gradients spike.</summary>
    /// <param name="step">The number of the step, from 0.</param>
    /// <param name="rate">The learning rate.</param>
    /// <param name="cancellationToken">Stops waiting for the first batch. A step that has begun is completed.</param>
    /// <exception cref="OperationCanceledException">The step did not begin.</exception>
    /// <exception cref="TrainingDivergedException">The loss or a gradient is not finite, or there were too many spikes in a row.</exception>
    public async Task<TrainingProgress> RunAsync(long step, double rate, CancellationToken cancellationToken)
    {
        Begin(step);
        var sum = new StepLoss(new(StringComparer.Ordinal));
        for (var micro = 0; micro < stage.Accumulation; micro++)
        {
            var number = step * stage.Accumulation + micro;
            var token = micro == 0 ? cancellationToken : CancellationToken.None;
            using var batch = await TrainingThread.CallOutside(() => batches.NextAsync(token)).ConfigureAwait(true);
            sum = AddGradients(batch, number, sum, isLast: micro == stage.Accumulation - 1);
        }

        return Finish(step, rate, sum);
    }

    // Prepares the modules and the global generator, which dropout and other modules use.
    private void Begin(long step)
    {
        using var scope = NewDisposeScope();
        foreach (var module in objective.Modules.Values)
        {
            module.train();
            module.zero_grad();
        }
        manual_seed(
            (long)((_group is { Part: > 0 and var part } ? Randomness.Mix(stage.Seed, step, -1, part) : Randomness.Mix(stage.Seed, step, -1)) >> 1)
        );
        reduction?.Begin();
    }

    private StepLoss AddGradients(TrainingBatch batch, long number, StepLoss sum, bool isLast)
    {
        using var scope = NewDisposeScope();
        memory?.BeginBatch(blocksOnly: (stage.Objective ?? objective) is DiffusionTraining);
        using var moved = batch.MoveTo(trained[0].Parameter.device);
        using var divided = _group?.DivideTokens(objective.Modules.Values);
        // The weight of the batch in the loss of the step; with several processes, of the samples of this one.
        var weight = _group is null ? 1.0 / stage.Accumulation : moved.Video.shape[0] / ((double)moved.WholeSize * stage.Accumulation);
        var (loss, parts) = (0.0, (IReadOnlyDictionary<string, double>)new Dictionary<string, double>(StringComparer.Ordinal));
        void Pass() =>
            (loss, parts) = stage.Workers == 1 ? OneLoss(moved, number, FirstWorker, weight, Backward) : SharedLoss(moved, number, weight, workers!);
        if (reduction is not null && (isLast || reduction.EveryBatch))
        {
            reduction.Run(objective.Modules.Values, overlaps: stage.Workers == 1, Pass);
        }
        else
        {
            Pass();
        }

        foreach (var (name, part) in parts)
        {
            sum.Parts[name] = sum.Parts.GetValueOrDefault(name) + (_group is null ? part / stage.Accumulation : part * weight);
        }

        return sum with
        {
            Total = sum.Total + (_group is null ? loss / stage.Accumulation : loss * weight),
            Samples = sum.Samples + moved.Video.shape[0],
        };
    }

    private void Backward(Tensor loss)
    {
        reduction?.BeforeBackward();
        loss.backward();
    }

    // Workers are counted over all processes. An objective that draws random values for the whole batch is the first everywhere.
    private int FirstWorker =>
        _group is null || (stage.Workers == 1 && (stage.Objective ?? objective).DrawsForWholeBatch) ? 0 : _group.Part * stage.Workers;

    // Adds up the losses of all processes.
    private StepLoss OfAllProcesses(StepLoss own)
    {
        string[] names = [.. own.Parts.Keys.Order(StringComparer.Ordinal)];
        var each = _group!.Options.SequenceProcesses; // processes that compute the same loss
        var sums = Array.ConvertAll(reduction!.Complete([own.Total, own.Samples, .. names.Select(name => own.Parts[name])]), sum => sum / each);
        return new StepLoss(
            names.Index().ToDictionary(name => name.Item, name => sums[2 + name.Index], StringComparer.Ordinal),
            sums[0],
            (long)sums[1]
        );
    }

    private TrainingProgress Finish(long step, double rate, StepLoss sum)
    {
        using var scope = NewDisposeScope();
        sum = reduction is null ? sum : OfAllProcesses(sum);
        var total = sum.Total;
        var gradients = reduction?.EveryBatch is true ? owned.All.Select(one => one.Values) : trained.Select(pair => pair.Parameter);
        var norm = GradientNorms.Clip(gradients, stage.ClipGradientNorm ?? double.PositiveInfinity, _parts);
        if (!double.IsFinite(total) || !double.IsFinite(norm))
        {
            throw Diverged(step, GradientNorms.NotFinite(_names, owned.All, total, norm, PartsOfOthers));
        }

        var spike = spikes?.Judge(total, norm, () => GradientNorms.Largest(_names, owned.All, PartsOfOthers));
        if (spikes is { MustStop: true })
        {
            throw Diverged(step, $"this is spike {spikes.InARow} in a row: {spike}");
        }

        if (spike is null || !stage.Spikes!.SkipSteps)
        {
            var decay = stage.EmaDecay ?? 0;
            decay = stage.EmaWarmUp ? Math.Min(decay, (1.0 + step) / (10 + step)) : decay;
            if (memory is { HasOptimizer: true })
            {
                memory.Update(optimizer, average, rate, decay);
            }
            else
            {
                optimizer.Step(rate);
                owned.Gather();
                average?.Update(decay);
            }
        }
        return new TrainingProgress
        {
            Stage = stage.Name,
            Step = step + 1,
            Steps = stage.Steps,
            Loss = total,
            Parts = sum.Parts,
            GradientNorm = norm,
            LearningRate = rate,
            Samples = sum.Samples,
            Spike = spike,
            SkippedSteps = spikes?.History.Skipped ?? 0,
        };
    }

    // The group if the parameters that this process updates are not all of them.
    private TrainingGroup? PartsOfOthers => owned.IsSharded ? owned.Group : null;

    // Computes the loss of a batch and calls backward with the loss scaled by its fraction of the total.
    private (double Loss, IReadOnlyDictionary<string, double> Parts) OneLoss(
        TrainingBatch batch,
        long number,
        int worker,
        double share,
        Action<Tensor> backward
    )
    {
        using var generator = new Generator((worker == 0 ? Randomness.Mix(stage.Seed, number) : Randomness.Mix(stage.Seed, number, worker)) >> 1);
        var loss = (stage.Objective ?? objective).Loss(batch, stage, generator);
        backward(loss.Total.Times(share));
        return (loss.Total.detach().cpu().item<float>(), loss.Parts.ToDictionary(part => part.Key, part => Mean(part.Value), StringComparer.Ordinal));

        static double Mean(Tensor values) => values.detach().mean().to_type(ScalarType.Float64).cpu().item<double>();
    }

    // Computes the loss with the batch divided among threads. The gradients are added in the order of the threads, so that the sum is the same in
    // every run.
    private (double Loss, IReadOnlyDictionary<string, double> Parts) SharedLoss(TrainingBatch batch, long number, double weight, StageWorkers threads)
    {
        var count = batch.Video.shape[0];
        var used = (int)Math.Min(stage.Workers, count);
        var parameters = trained.ConvertAll<Tensor>(pair => pair.Parameter);
        var gradients = new IList<Tensor?>[used];
        var results = new (double Loss, IReadOnlyDictionary<string, double> Parts, double Share)[used];
        void Work(int worker)
        {
            using var scope = NewDisposeScope();
            var (from, to) = (count * worker / used, count * (worker + 1) / used);
            var share = (double)(to - from) / count;
            var (loss, parts) = OneLoss(
                batch.Narrow(from, to - from),
                number,
                FirstWorker + worker,
                _group is null ? share / stage.Accumulation : share * weight,
                loss =>
                {
                    gradients[worker] = WorkerGradients.Of(loss, parameters);
                }
            );
            results[worker] = (loss, parts, share);
        }

        try
        {
            threads.Run(used, Work);
            using var scope = NewDisposeScope();
            using var noGradients = no_grad();
            for (var i = 0; i < trained.Count; i++)
            {
                // Not in place: one tensor may be the gradient of several parameters.
                var parts = gradients.Select(all => all[i]).Prepend(trained[i].Parameter.grad).OfType<Tensor>().ToArray();
                if (parts.Length > 0)
                {
                    trained[i].Parameter.grad = parts.Length == 1 ? parts[0].clone() : parts.Aggregate((sum, part) => sum.Plus(part));
                }
            }
        }
        finally
        {
            foreach (var gradient in gradients.Where(all => all is not null).SelectMany(all => all))
            {
                gradient?.Dispose();
            }
        }
        return (
            results.Sum(result => result.Loss * result.Share),
            results[0].Parts.Keys.ToDictionary(name => name, name => results.Sum(result => result.Parts[name] * result.Share), StringComparer.Ordinal)
        );
    }

    /// <summary>The loss of the batches of a step so far.</summary>
    private sealed record StepLoss(Dictionary<string, double> Parts, double Total = 0, long Samples = 0);

    private TrainingDivergedException Diverged(long step, string what)
    {
        var kept = checkpoints is null ? null : Checkpoint.Newest(checkpoints);
        return new TrainingDivergedException(
            $"Stage '{stage.Name}', step {step + 1}: {what}. The step was skipped. Lower the learning rate or check the data"
                + (kept is null ? "." : $"; the last checkpoint is '{kept}'.")
        );
    }
}
