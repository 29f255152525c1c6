using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.Models;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Data;
using OpenSora.Training.Objectives;

namespace OpenSora.Training.Stages;

/// <content>The callbacks of the library.</content>
public sealed partial class StagedTrainer
{
    /// <summary>Prints a line at intervals with steps, losses, speed and time left, and other events as they happen. Only whole lines are printed, so
    /// that the output suits terminals and log files.</summary>
    /// <param name="output">The output; null for the console.</param>
    /// <param name="every">The time between lines; null for 15 seconds. The first and the last step of a stage always print a line.</param>
    /// <param name="time">The clock; null for the system clock.</param>
    public StagedTrainer AddConsoleProgress(TextWriter? output = null, TimeSpan? every = null, TimeProvider? time = null) =>
        AddCallback(new ConsoleProgress(output, every, time));

    /// <summary>Writes the loss of every step to <c>losses.csv</c> and draws <c>losses.svg</c>, with a curve for each stage, at intervals and at the
    /// end of a stage. <see cref="LossChart"/> draws the curves of several runs.</summary>
    /// <remarks>A resumed run continues the same files; lines after the checkpoint are dropped.</remarks>
    /// <param name="folder">The folder of the files.</param>
    /// <param name="every">The time between drawings; null for one minute.</param>
    /// <param name="logarithmic">true for a logarithmic axis of the losses.</param>
    public StagedTrainer AddLossCurves(string folder, TimeSpan? every = null, bool logarithmic = true) =>
        AddOwn(new LossCurves(folder) { Every = every ?? TimeSpan.FromMinutes(1), LogY = logarithmic });

    /// <summary>Writes event files for TensorBoard: <c>tensorboard --logdir FOLDER</c>.</summary>
    /// <remarks>Scalars of steps are under <c>train/</c>, those of observations under their names; videos are shown as animated images. Steps are
    /// counted over all stages. A resumed run writes another file into the same folder, and TensorBoard drops what the first one wrote after the
    /// checkpoint.</remarks>
    /// <param name="folder">The folder of this run; runs in folders under a common folder are shown in one plot.</param>
    /// <param name="everySteps">The number of steps between scalars; the last step of a stage is always written.</param>
    public StagedTrainer AddTensorBoard(string folder, int everySteps = 10) => AddOwn(new TensorBoard(folder, everySteps));

    /// <summary>Measures the loss on held-out data by band of timesteps, that is, for little, medium and much noise: before the first step, at
    /// intervals, and at the end of a stage. Samples, noise and timesteps are the same every time, so that only the model makes a
    /// difference.</summary>
    /// <remarks>Every measurement is reported to all callbacks (<see cref="ITrainingCallback.ObservedAsync"/>) as <c>validation</c>, with the scalar
    /// <c>loss</c> and one scalar for each band. It costs one forward pass per sample and band.</remarks>
    /// <param name="data">Held-out data.</param>
    /// <param name="everySteps">The number of steps between measurements.</param>
    /// <param name="every">The time between measurements. If neither this nor <paramref name="everySteps"/> is specified, the loss is measured every
    /// 1000 steps.</param>
    /// <param name="bands">The number of equal bands of timesteps.</param>
    /// <param name="samples">The number of samples, each of which is used once in every band.</param>
    /// <param name="batchSize">The number of samples in a batch, if the data do not choose it themselves.</param>
    /// <param name="seed">The seed of samples and noise.</param>
    /// <param name="averages">true to measure the moving averages, if there are any; false to measure the last weights.</param>
    public StagedTrainer AddValidationLoss(
        ITrainingData data,
        int? everySteps = null,
        TimeSpan? every = null,
        int bands = 10,
        int samples = 32,
        int batchSize = 8,
        int seed = 7,
        bool averages = true
    )
    {
        var validation = Validation(data, bands, samples, batchSize, seed);
        (validation.EverySteps, validation.Every, validation.Averages) = (everySteps ?? (every is null ? 1000 : null), every, averages);
        return AddCallback(validation);
    }

    /// <summary>Measures the loss on held-out data independently of a run (see <see cref="AddValidationLoss"/>). The modules are used as they are;
    /// they should be in evaluation mode.</summary>
    /// <param name="data">Held-out data.</param>
    /// <param name="bands">The number of equal bands of timesteps.</param>
    /// <param name="samples">The number of samples, each of which is used once in every band.</param>
    /// <param name="batchSize">The number of samples in a batch, if the data do not choose it themselves.</param>
    /// <param name="seed">The seed of samples and noise.</param>
    /// <param name="cancellationToken">Checked between batches.</param>
    /// <returns>The scalar <c>loss</c> and one scalar for each band.</returns>
    /// <exception cref="InvalidOperationException">The number of bands, samples, or samples in a batch is below 1.</exception>
    public Task<TrainingObservation> MeasureLossAsync(
        ITrainingData data,
        int bands = 10,
        int samples = 32,
        int batchSize = 8,
        int seed = 7,
        CancellationToken cancellationToken = default
    ) => Validation(data, bands, samples, batchSize, seed).MeasureAsync(cancellationToken);

    /// <summary>Generates previews of prompts at intervals and at the end of a stage, with the moving averages if the stage keeps any, without
    /// affecting training. The sampler is that of the process that the model is trained with
    /// (<see cref="ITrainingProcess.CreateSampler"/>).</summary>
    /// <remarks>They are written as <c>STAGE-STEP.png</c>, an image with a row for each video, and <c>STAGE-STEP.mp4</c>, and reported to all
    /// callbacks (<see cref="ITrainingCallback.ObservedAsync"/>).</remarks>
    /// <param name="folder">The folder of the files.</param>
    /// <param name="model">The transformer that is trained.</param>
    /// <param name="text">The text encoder; if it is trained too, the one whose network is trained.</param>
    /// <param name="vae">The decoder of latents; null for a model that denoises pixels.</param>
    /// <param name="prompts">The prompts. Every prompt has its own noise, which does not depend on other prompts.</param>
    /// <param name="settings">The settings; null for the defaults: the size that the model is configured for, the number of steps of the sampler, a
    /// guidance scale of 4, 8 frames per second and the seed 1. <see cref="StdiT2"/> and <see cref="StdiT3"/> have no configured size, so frames,
    /// height and width are required.</param>
    /// <param name="everySteps">The number of steps between previews.</param>
    /// <param name="every">The time between previews. If neither this nor <paramref name="everySteps"/> is specified, previews are generated every 10
    /// minutes.</param>
    /// <param name="columns">The number of videos in a row.</param>
    /// <param name="batchSize">The number of prompts in a batch.</param>
    /// <exception cref="ArgumentException">There are no prompts, or neither the model nor the settings specify a size.</exception>
    public StagedTrainer AddPreviews(
        string folder,
        IVideoTransformer model,
        ITextEncoder text,
        IVideoAutoencoder? vae,
        IReadOnlyList<string> prompts,
        GenerationSettings? settings = null,
        int? everySteps = null,
        TimeSpan? every = null,
        int columns = 4,
        int batchSize = 4
    )
    {
        var sampler = (_objective as DiffusionTraining)?.CreateSampler(settings?.Steps) ?? new DpmSolver(settings?.Steps ?? 20);
        var renderer = new PromptRenderer(new VideoPipeline(model, text, vae, sampler), prompts, settings ?? new(), batchSize);
        return AddPreviews(folder, renderer.Render, everySteps, every, columns);
    }

    /// <summary>Generates previews of prompts with a pipeline, which can have any sampler, at intervals and at the end of a stage.</summary>
    /// <param name="folder">The folder of the files.</param>
    /// <param name="pipeline">A pipeline with the transformer that is trained.</param>
    /// <param name="prompts">The prompts. Every prompt has its own noise, which does not depend on other prompts.</param>
    /// <param name="settings">The settings; null for the defaults: the size that the model is configured for, a guidance scale of 4, 8 frames per
    /// second and the seed 1. The sampler determines the number of steps, so <see cref="GenerationSettings.Steps"/> must be null.</param>
    /// <param name="everySteps">The number of steps between previews.</param>
    /// <param name="every">The time between previews. If neither this nor <paramref name="everySteps"/> is specified, previews are generated every 10
    /// minutes.</param>
    /// <param name="columns">The number of videos in a row.</param>
    /// <param name="batchSize">The number of prompts in a batch.</param>
    /// <exception cref="ArgumentException">There are no prompts, neither the model nor the settings specify a size, or the settings have a number of
    /// steps.</exception>
    public StagedTrainer AddPreviews(
        string folder,
        VideoPipeline pipeline,
        IReadOnlyList<string> prompts,
        GenerationSettings? settings = null,
        int? everySteps = null,
        TimeSpan? every = null,
        int columns = 4,
        int batchSize = 4
    )
    {
        if (settings?.Steps is { } steps)
        {
            throw new ArgumentException(
                $"Steps is {steps}; the sampler of a pipeline determines the number of steps. Create the sampler with it instead.",
                nameof(settings)
            );
        }

        return AddPreviews(folder, new PromptRenderer(pipeline, prompts, settings ?? new(), batchSize).Render, everySteps, every, columns);
    }

    /// <summary>Renders previews of any kind at intervals and at the end of a stage, such as the reconstructions of an autoencoder.</summary>
    /// <param name="folder">The folder of the files.</param>
    /// <param name="render">A function that creates videos or images of one size; called in evaluation mode, without gradients.</param>
    /// <param name="everySteps">The number of steps between previews.</param>
    /// <param name="every">The time between previews. If neither this nor <paramref name="everySteps"/> is specified, previews are rendered every 10
    /// minutes.</param>
    /// <param name="columns">The number of videos, or of images, in a row.</param>
    public StagedTrainer AddPreviews(
        string folder,
        Func<CancellationToken, IReadOnlyList<VideoFrames>> render,
        int? everySteps = null,
        TimeSpan? every = null,
        int columns = 4
    ) =>
        AddCallback(
            new PreviewVideos(folder, render)
            {
                EverySteps = everySteps,
                Every = every ?? (everySteps is null ? TimeSpan.FromMinutes(10) : null),
                Columns = columns,
            }
        );

    private ValidationLoss Validation(ITrainingData data, int bands, int samples, int batchSize, int seed) =>
        new(_objective, data)
        {
            Bands = bands,
            Samples = samples,
            BatchSize = batchSize,
            Seed = seed,
        };

    // Adds a callback that is disposed with the trainer.
    private StagedTrainer AddOwn<T>(T callback)
        where T : ITrainingCallback, IDisposable
    {
        _ownCallbacks.Add(callback);
        return AddCallback(callback);
    }
}
