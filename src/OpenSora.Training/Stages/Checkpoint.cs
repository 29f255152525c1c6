using System.Text.Json;
using OpenSora.Models;
using OpenSora.Runtime;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Distributed;
using OpenSora.Weights;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Training.Stages;

/// <summary>The progress of a run at the time its checkpoint was written.</summary>
/// <remarks>Random generator states are not stored, because all randomness of a step is derived from the stage's seed and the step number. The
/// positions in the data and in the learning rate schedule are not stored either, because both follow from the step.</remarks>
internal sealed record CheckpointState
{
    /// <summary>The version of the format that this library writes.</summary>
    public const int CurrentVersion = 2;

    public int Version { get; init; } = CurrentVersion;

    /// <summary>The zero-based index of the stage.</summary>
    public int Stage { get; init; }

    public string StageName { get; init; } = "";

    /// <summary>The number of optimizer steps completed in the stage. The number of batches is this value multiplied by the gradient
    /// accumulation.</summary>
    public long Step { get; init; }

    /// <summary>The number of optimizer steps completed in the previous stages.</summary>
    public long StepsBefore { get; init; }

    /// <summary>The number of batches that the data are ahead of the steps; 0 unless the run resumed with another batch size.</summary>
    public long BatchOffset { get; init; }

    /// <summary>The time spent in the stage, in seconds.</summary>
    public double Seconds { get; init; }

    /// <summary>The <see cref="StageSettings"/>; a text in version 1.</summary>
    public JsonElement Settings { get; init; }

    public string Objective { get; init; } = "";

    public string Data { get; init; } = "";

    /// <summary>The history that the spike guard compares steps with; null if the stage has no guard.</summary>
    public SpikeHistory? Spikes { get; init; }
}

/// <summary>What a checkpoint contains in addition to the <see cref="CheckpointState"/>.</summary>
/// <param name="Modules">The modules with the weights.</param>
/// <param name="Averages">The moving averages by <see cref="OwnedParameter.Key"/>.</param>
/// <param name="Trained">All parameters that are trained.</param>
/// <param name="Owned">The parameters that this process updates.</param>
/// <param name="Optimizer">The optimizer of these parameters.</param>
internal sealed record CheckpointContents(
    IReadOnlyDictionary<string, nn.Module> Modules,
    IReadOnlyDictionary<string, Tensor> Averages,
    IReadOnlyList<(string Name, Parameter Parameter)> Trained,
    OwnedParameters Owned,
    AdamWOptimizers Optimizer
)
{
    /// <summary>Gets the weights by their names in a checkpoint.</summary>
    public IEnumerable<(string Name, Tensor Tensor)> Weights =>
        Modules.SelectMany(part => part.Value.state_dict().Select(entry => ($"weights.{part.Key}.{entry.Key}", entry.Value)));
}

/// <summary>Reads and writes checkpoints. A checkpoint is a safetensors file with weights, moving averages and optimizer state. Its header contains
/// the progress of the run. Several processes write a <see cref="ShardedCheckpoint"/>.</summary>
/// <remarks>Tensor names: <c>weights.PART.NAME</c>, <c>ema.PART.NAME</c>, <c>adam.mean.PART.NAME</c>, <c>adam.square.PART.NAME</c>. Muon keeps no
/// squares.</remarks>
internal static class Checkpoint
{
    private const string StateKey = "opensora.training",
        StepKey = "opensora.adam.step",
        FewerStepsKey = "opensora.adam.steps";

    /// <summary>Verifies that the checkpoints in a folder belong to the run that will write there, and deletes partial files left by interrupted
    /// writes.</summary>
    /// <param name="folder">The checkpoint folder.</param>
    /// <param name="continued">The checkpoint from which the run resumes; null for a new run. Newer checkpoints that are damaged are
    /// renamed.</param>
    /// <exception cref="InvalidOperationException">The folder contains newer checkpoints or checkpoints of another run. They would be mistaken for
    /// checkpoints of this run, and checkpoints of this run would be deleted in their place.</exception>
    public static void Prepare(string folder, ResumePoint? continued)
    {
        var damaged = continued?.Damaged.Select(file => Path.GetFullPath(file.Path)).ToHashSet(StringComparer.Ordinal) ?? [];
        if (
            All(folder).LastOrDefault(path => !damaged.Contains(Path.GetFullPath(path))) is { } newest
            && (continued is null || !string.Equals(Path.GetFullPath(continued.File.Path), Path.GetFullPath(newest), StringComparison.Ordinal))
        )
        {
            throw new InvalidOperationException(
                $"'{folder}' contains checkpoints of a run that this run does not continue; the newest is '{Path.GetFileName(newest)}'. "
                    + "Save to another folder, continue from the newest checkpoint with Resume, or move the checkpoints away."
            );
        }

        if (Directory.Exists(folder))
        {
            foreach (var file in Directory.EnumerateFiles(folder).ToList())
            {
                if (CheckpointName.IsPartial(Path.GetFileName(file)))
                {
                    File.Delete(file);
                }
                else if (damaged.Contains(Path.GetFullPath(file)))
                {
                    File.Move(file, file + ".damaged", overwrite: true);
                }
            }

            ShardedCheckpoint.DeleteShardsWithoutIndex(folder);
        }
    }

    /// <summary>Writes a checkpoint, deletes the oldest checkpoints beyond the number to keep, and returns the path of the new checkpoint.</summary>
    public static string Write(CheckpointOptions options, CheckpointState state, CheckpointContents contents)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        if (contents.Owned.Group is not null)
        {
            return ShardedCheckpoint.Write(options, state, contents);
        }

        var tensors = contents.Weights.ToDictionary(entry => entry.Name, entry => entry.Tensor, StringComparer.Ordinal);
        foreach (var (name, tensor) in contents.Averages)
        {
            tensors[$"ema.{name}"] = tensor;
        }

        foreach (var (i, (name, _)) in contents.Trained.Index())
        {
            var adam = contents.Optimizer.State(i);
            tensors[$"adam.mean.{name}"] = adam.Mean;
            if (adam.Square is { } square)
            {
                tensors[$"adam.square.{name}"] = square;
            }
        }

        var path = Path.Combine(options.Folder, CheckpointName.Of(state));
        long[] steps = [.. contents.Trained.Select((_, i) => contents.Optimizer.State(i).Steps)];
        WeightsFile.Write(path, tensors, Metadata(state, contents, steps));
        DeleteOld(options);
        return path;
    }

    /// <summary>Creates the metadata of a checkpoint.</summary>
    /// <param name="state">The progress of the run.</param>
    /// <param name="contents">The contents.</param>
    /// <param name="steps">The number of updates of each trained parameter. The optimizer counts them separately and leaves out steps in which the
    /// parameter has no gradient.</param>
    public static Dictionary<string, string> Metadata(CheckpointState state, CheckpointContents contents, long[] steps) =>
        new(StringComparer.Ordinal)
        {
            [StateKey] = JsonSerializer.Serialize(state, TrainingJson.Default.CheckpointState),
            [StepKey] = FormattableString.Invariant($"{steps.Max()}"),
            [FewerStepsKey] = JsonSerializer.Serialize(
                contents
                    .Trained.Zip(steps, (pair, count) => (pair.Name, Count: count))
                    .Where(pair => pair.Count < steps.Max())
                    .ToDictionary(pair => pair.Name, pair => pair.Count, StringComparer.Ordinal),
                TrainingJson.Default.DictionaryStringInt64
            ),
        };

    /// <summary>Deletes the oldest checkpoints beyond the number to keep.</summary>
    public static void DeleteOld(CheckpointOptions options)
    {
        foreach (var old in All(options.Folder).SkipLast(Math.Max(1, options.KeepLast)).ToList())
        {
            File.Delete(old);
            if (CheckpointName.IsIndex(Path.GetFileName(old)))
            {
                ShardedCheckpoint.DeleteShards(options.Folder, Path.GetFileName(old));
            }
        }
    }

    /// <summary>Gets the newest checkpoint in a folder, or the path itself if it is a file; null if there is none.</summary>
    public static string? Newest(string path) => File.Exists(path) ? path : All(path).LastOrDefault();

    /// <summary>Gets the checkpoints in a folder from the oldest to the newest.</summary>
    public static IEnumerable<string> All(string folder) =>
        Directory.Exists(folder)
            ? Directory
                .EnumerateFiles(folder)
                .Select(path => (Path: path, Name: CheckpointName.Parse(Path.GetFileName(path))))
                .Where(file => file.Name is not null && FileKinds.Of(file.Path) == FileKind.Regular)
                .OrderBy(file => file.Name)
                .Select(file => file.Path)
            : [];

    /// <summary>Reads the progress of the run that wrote a checkpoint.</summary>
    /// <exception cref="InvalidWeightsException">The file is not a checkpoint or damaged, or a newer version of this library wrote it; then the inner
    /// exception is a <see cref="NotSupportedException"/>.</exception>
    public static CheckpointState State(WeightsFile file)
    {
        if (!file.Metadata.TryGetValue(StateKey, out var json))
        {
            throw new InvalidWeightsException(file.Path, "it is not a training checkpoint. Use InitializeFrom, not Resume, to load only weights.");
        }

        CheckpointState state;
        try
        {
            state = JsonSerializer.Deserialize(json, TrainingJson.Default.CheckpointState) ?? throw new JsonException("It is empty.");
            if (state.Version <= CheckpointState.CurrentVersion)
            {
                StepsOf(file);
            }
        }
        catch (Exception e) when (e is JsonException or FormatException or KeyNotFoundException)
        {
            throw new InvalidWeightsException(file.Path, $"its record of the training progress is damaged: {e.Message}", e);
        }

        return state.Version <= CheckpointState.CurrentVersion
            ? state
            : throw new InvalidWeightsException(
                file.Path,
                $"it is a training checkpoint of version {state.Version}, but this library reads versions up to {CheckpointState.CurrentVersion}. "
                    + "Update OpenSora.Lib.Training, or load only the weights with InitializeFrom.",
                new NotSupportedException()
            );
    }

    // The number of steps of the optimizer, and the parameters that had fewer.
    private static (long Most, Dictionary<string, long> Fewer) StepsOf(WeightsFile file) =>
        (
            long.Parse(file.Metadata[StepKey], System.Globalization.CultureInfo.InvariantCulture),
            file.Metadata.TryGetValue(FewerStepsKey, out var json)
                ? JsonSerializer.Deserialize(json, TrainingJson.Default.DictionaryStringInt64)!
                : []
        );

    /// <summary>Loads weights into the modules. If <paramref name="averages"/> is true, parameters that have a moving average are loaded from
    /// it.</summary>
    public static IReadOnlyDictionary<string, LoadReport> ReadWeights(
        WeightsFile file,
        IReadOnlyDictionary<string, nn.Module> modules,
        bool averages,
        LoadOptions? options
    )
    {
        var reports = new Dictionary<string, LoadReport>(StringComparer.Ordinal);
        var isCheckpoint = file.Metadata.ContainsKey(StateKey);
        if (!isCheckpoint && modules.Count > 1)
        {
            throw new InvalidWeightsException(
                file.Path,
                $"it is not a training checkpoint, but several modules are trained: {string.Join(", ", modules.Keys)}. "
                    + "Load their weights into the modules before training."
            );
        }

        foreach (var (part, module) in modules)
        {
            var weights = $"weights.{part}.";
            var ema = $"ema.{part}.";
            string? Own(string name) =>
                !isCheckpoint ? name
                : averages && name.StartsWith(ema, StringComparison.Ordinal) ? name[ema.Length..]
                : name.StartsWith(weights, StringComparison.Ordinal) && !(averages && file.Tensors.ContainsKey(ema + name[weights.Length..]))
                    ? name[weights.Length..]
                : null;
            reports[part] = module.LoadWeights(
                file,
                new LoadOptions
                {
                    Strict = options?.Strict ?? true,
                    AllowReshape = options?.AllowReshape ?? false,
                    KeepInitial = options?.KeepInitial,
                    Copy = options?.Copy ?? false,
                    KeyMap = name =>
                        Own(name) is { } own
                            ? options?.KeyMap is { } map
                                ? map(own)
                                : own
                            : null,
                }
            );
        }
        return reports;
    }

    /// <summary>Loads the moving averages and the optimizer state of the parameters that this process updates. Averages that the run did not keep
    /// before stay as they are.</summary>
    public static void ReadProgress(
        WeightsFile file,
        IReadOnlyDictionary<string, Tensor> averages,
        IReadOnlyList<(string Name, Parameter Parameter)> trained,
        IReadOnlyList<OwnedParameter> owned,
        AdamWOptimizers optimizer
    )
    {
        using var noGradients = no_grad();
        if (file.Tensors.Keys.Count(name => name.StartsWith("adam.mean.", StringComparison.Ordinal)) is var held && held > trained.Count)
        {
            throw new InvalidWeightsException(
                file.Path,
                $"it was written by a run that trained {held} parameters, but this stage trains {trained.Count}. "
                    + "Train the same parameters, or start a new run with InitializeFrom."
            );
        }

        var hasAverages = averages.Count > 0 && file.Tensors.Keys.Any(name => name.StartsWith("ema.", StringComparison.Ordinal));
        var (step, fewer) = StepsOf(file);
        foreach (var (i, one) in owned.Index())
        {
            var adam = optimizer.State(i);
            adam.Steps = fewer.GetValueOrDefault(one.Name, step);
            Fill(one, adam.Mean, $"adam.mean.{one.Name}");
            if (adam.Square is { } square)
            {
                Fill(one, square, $"adam.square.{one.Name}");
            }

            if (hasAverages)
            {
                Fill(one, averages[one.Key], $"ema.{one.Name}");
            }
        }

        void Fill(OwnedParameter one, Tensor target, string name)
        {
            using var scope = NewDisposeScope();
            if (!file.Tensors.ContainsKey(name))
            {
                throw new InvalidWeightsException(
                    file.Path,
                    $"it has no tensor '{name}'. The stage trains different parameters than the run that wrote the file. "
                        + "Start a new run with InitializeFrom."
                );
            }

            target.copy_(one.PartOf(file.Read(name)));
        }
    }
}
