using System.Text.Json;
using OpenSora.Training.Callbacks;
using OpenSora.Weights;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Training.Stages;

/// <summary>Where a run was when its checkpoint was written.</summary>
/// <remarks>No generator states are among it: all that is random in a step is drawn from the stage's seed and the step's number. Nor is the place in
/// the
/// data or in the learning rate's schedule: both follow from the step.</remarks>
internal sealed record CheckpointState
{
    public int Version { get; init; } = 1;

    /// <summary>Index of the stage.</summary>
    public int Stage { get; init; }

    public string StageName { get; init; } = "";

    /// <summary>Optimizer steps done in the stage; batches done are this times the accumulation.</summary>
    public long Step { get; init; }

    /// <summary>Optimizer steps done in the stages before it.</summary>
    public long StepsBefore { get; init; }

    /// <summary>Time spent in the stage.</summary>
    public double Seconds { get; init; }

    public string Settings { get; init; } = "";

    public string Objective { get; init; } = "";

    public string Data { get; init; } = "";

    /// <summary>What the spike guard compares with, where there is one.</summary>
    public SpikeHistory? Spikes { get; init; }
}

/// <summary>A checkpoint: one safetensors file with weights, moving averages and optimizer state; where the run was is in its header.</summary>
/// <remarks>Names: <c>weights.PART.NAME</c>, <c>ema.PART.NAME</c>, <c>adam.mean.PART.NAME</c>, <c>adam.square.PART.NAME</c>.</remarks>
internal static class Checkpoint
{
    private const string StateKey = "opensora.training",
        StepKey = "opensora.adam.step",
        FewerStepsKey = "opensora.adam.steps",
        Pattern = "checkpoint-*.safetensors";
    private static readonly JsonSerializerOptions Json = new(JsonSerializerDefaults.Web);

    /// <summary>Makes sure that a folder's checkpoints are those of the run that will write there, and removes what a kill left of one that was being
    /// written.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="continued">The checkpoint that the run goes on from; null: it begins.</param>
    /// <exception cref="InvalidOperationException">There are later checkpoints than that, or others. They would be taken for this run's, and its own
    /// deleted for them.</exception>
    public static void Prepare(string folder, string? continued)
    {
        if (
            All(folder).LastOrDefault() is { } newest
            && (continued is null || !string.Equals(Path.GetFullPath(continued), Path.GetFullPath(newest), StringComparison.Ordinal))
        )
        {
            throw new InvalidOperationException(
                $"'{folder}' has checkpoints of a run that this one does not go on with, the newest '{Path.GetFileName(newest)}'. "
                    + "Save to another folder, go on from the newest with Resume, or move them away."
            );
        }
        if (Directory.Exists(folder))
        {
            foreach (var half in Directory.EnumerateFiles(folder, Pattern + ".*.tmp"))
            {
                File.Delete(half);
            }
        }
    }

    /// <summary>Writes a checkpoint, then deletes all but the newest. Returns its path.</summary>
    public static string Write(
        CheckpointOptions options,
        CheckpointState state,
        IReadOnlyDictionary<string, nn.Module> modules,
        IReadOnlyDictionary<string, Tensor> ema,
        IReadOnlyList<(string Name, Parameter Parameter)> trained,
        AdamWOptimizers optimizer
    )
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var tensors = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        foreach (var (part, module) in modules)
        {
            foreach (var (name, tensor) in module.state_dict())
            {
                tensors[$"weights.{part}.{name}"] = tensor;
            }
        }
        foreach (var (name, tensor) in ema)
        {
            tensors[$"ema.{name}"] = tensor;
        }

        for (var i = 0; i < trained.Count; i++)
        {
            var adam = optimizer.State(i);
            tensors[$"adam.mean.{trained[i].Name}"] = adam.exp_avg!;
            tensors[$"adam.square.{trained[i].Name}"] = adam.exp_avg_sq!;
        }

        var path = Path.Combine(options.Folder, FormattableString.Invariant($"checkpoint-{state.Stage + 1:D2}-{state.Step:D8}.safetensors"));
        // The optimizer counts a parameter's steps, and a step in which it has no gradient is none of its own.
        var steps = trained.Select((pair, i) => (pair.Name, optimizer.State(i).step)).ToArray();
        var most = steps.Max(pair => pair.step);
        SafetensorsWriter.Write(
            path,
            tensors,
            new Dictionary<string, string>(StringComparer.Ordinal)
            {
                [StateKey] = JsonSerializer.Serialize(state, Json),
                [StepKey] = FormattableString.Invariant($"{most}"),
                [FewerStepsKey] = JsonSerializer.Serialize(
                    steps.Where(pair => pair.step < most).ToDictionary(pair => pair.Name, pair => pair.step, StringComparer.Ordinal),
                    Json
                ),
            }
        );
        foreach (var old in All(options.Folder).SkipLast(Math.Max(1, options.KeepLast)))
        {
            File.Delete(old);
        }

        return path;
    }

    /// <summary>The newest checkpoint of a folder, or the file itself; null if there is none.</summary>
    public static string? Newest(string path) => File.Exists(path) ? path : All(path).LastOrDefault();

    private static IEnumerable<string> All(string folder) =>
        Directory.Exists(folder) ? Directory.EnumerateFiles(folder, Pattern).Order(StringComparer.Ordinal) : [];

    public static CheckpointState State(SafetensorsFile file) =>
        file.Metadata.TryGetValue(StateKey, out var json)
            ? JsonSerializer.Deserialize<CheckpointState>(json, Json)!
            : throw new InvalidWeightsException(file.Path, "it is no training checkpoint. Weights alone are taken by InitialiseFrom, not by Resume.");

    /// <summary>Fills the modules; with averages, the parameters that have one are filled from it.</summary>
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
                $"it is no training checkpoint, but several modules are trained: {string.Join(", ", modules.Keys)}. Load their weights into the modules before training."
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

    /// <summary>Fills the moving averages and the optimizer's state.</summary>
    public static void ReadProgress(
        SafetensorsFile file,
        IReadOnlyDictionary<string, Tensor> ema,
        IReadOnlyList<(string Name, Parameter Parameter)> trained,
        AdamWOptimizers optimizer
    )
    {
        using var noGradients = no_grad();
        foreach (var (name, tensor) in ema)
        {
            Fill(tensor, $"ema.{name}");
        }

        if (file.Tensors.Keys.Count(name => name.StartsWith("adam.mean.", StringComparison.Ordinal)) is var held && held > trained.Count)
        {
            throw new InvalidWeightsException(
                file.Path,
                $"it was written by a run that trained {held} parameters, this stage trains {trained.Count} of them. Train the same, or start anew with InitialiseFrom."
            );
        }

        var step = long.Parse(file.Metadata[StepKey], System.Globalization.CultureInfo.InvariantCulture);
        var fewer = file.Metadata.TryGetValue(FewerStepsKey, out var json) ? JsonSerializer.Deserialize<Dictionary<string, long>>(json, Json)! : [];
        for (var i = 0; i < trained.Count; i++)
        {
            var adam = optimizer.State(i);
            adam.step = fewer.GetValueOrDefault(trained[i].Name, step);
            Fill(adam.exp_avg!, $"adam.mean.{trained[i].Name}");
            Fill(adam.exp_avg_sq!, $"adam.square.{trained[i].Name}");
        }

        void Fill(Tensor target, string name)
        {
            using var scope = NewDisposeScope();
            if (!file.Tensors.ContainsKey(name))
            {
                throw new InvalidWeightsException(
                    file.Path,
                    $"it lacks '{name}'. The stage trains other parameters than the run that wrote it; start it anew with InitialiseFrom."
                );
            }

            target.copy_(file.Read(name));
        }
    }
}
