using System.Text.Json;
using System.Text.Json.Serialization;
using OpenSora.Media;
using OpenSora.Runtime;
using OpenSora.Training.Stages;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Distributed;

/// <summary>The index of the shards of a checkpoint, in the format of sharded weights, with the tensors of which several shards have parts.</summary>
internal sealed record ShardIndex(
    IReadOnlyDictionary<string, string> Metadata,
    [property: JsonPropertyName("weight_map")] IReadOnlyDictionary<string, string> WeightMap,
    [property: JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)] IReadOnlyDictionary<string, ShardSlice>? Slices
);

/// <summary>A tensor of which several shards have parts.</summary>
/// <param name="Shape">The shape of the tensor.</param>
/// <param name="Parts">The names of the parts, in the order of their values.</param>
internal sealed record ShardSlice(IReadOnlyList<long> Shape, IReadOnlyList<string> Parts);

/// <summary>Writes the checkpoint of several processes. Each process writes a shard; when all shards are complete, process 0 writes the index,
/// without which they are not a checkpoint.</summary>
/// <remarks>The processes divide the weights among themselves. Averages and optimizer state are written by the processes that have them; without
/// sharding, they are divided too.</remarks>
internal static class ShardedCheckpoint
{
    /// <summary>Writes a checkpoint and deletes old ones. All processes must call it.</summary>
    /// <returns>The path of the index.</returns>
    public static string Write(CheckpointOptions options, CheckpointState state, CheckpointContents contents)
    {
        var group = contents.Owned.Group!;
        var files = Enumerable.Range(0, group.Size).Select(rank => CheckpointName.ShardOf(state, rank, group.Size)).ToArray();
        var map = new Dictionary<string, string>(StringComparer.Ordinal);
        var slices = new Dictionary<string, ShardSlice>(StringComparer.Ordinal);
        var own = new Dictionary<string, Tensor>(StringComparer.Ordinal);

        var weights = contents.Weights.ToList();
        foreach (var (i, rank) in Divide([.. weights.Select(entry => entry.Tensor.numel())], group.Size).Index())
        {
            map[weights[i].Name] = files[rank];
            if (rank == group.Rank)
            {
                own[weights[i].Name] = weights[i].Tensor;
            }
        }

        string[] kinds = contents.Averages.Count > 0 ? ["adam.mean.", "adam.square.", "ema."] : ["adam.mean.", "adam.square."];
        foreach (var part in Parts(contents, group.Size).GroupBy(part => part.Index))
        {
            var (name, parameter) = contents.Trained[part.Key];
            var sorted = part.OrderBy(one => one.From).ToList();
            foreach (var kind in kinds.Where(kind => HasState(kind, contents, part.Key)))
            {
                string[] names = [.. sorted.Select(one => kind + OwnedParameter.KeyOf(name, one.From, sorted.Count == 1))];
                foreach (var (partName, one) in names.Zip(sorted))
                {
                    map[partName] = files[one.Rank];
                }

                if (sorted.Count > 1)
                {
                    slices[kind + name] = new ShardSlice(parameter.shape, names);
                }
            }
        }

        foreach (var (i, one) in contents.Owned.All.Index())
        {
            foreach (
                var kind in kinds.Where(kind => string.Equals(map.GetValueOrDefault(kind + one.Key), files[group.Rank], StringComparison.Ordinal))
            )
            {
                var adam = contents.Optimizer.State(i);
                var values =
                    kind is "ema." ? contents.Averages[one.Key]
                    : kind is "adam.mean." ? adam.Mean
                    : adam.Square!;
                own[kind + one.Key] = one.IsWhole ? values.view(contents.Trained[one.Index].Parameter.shape) : values;
            }
        }

        // A process does not know the counts of parameters that only others update.
        var counts = new double[contents.Trained.Count];
        foreach (var (i, one) in contents.Owned.All.Index())
        {
            counts[one.Index] = contents.Optimizer.State(i).Steps;
        }

        var steps = Array.ConvertAll(group.Maximum(counts), count => (long)count);
        group.Together(() => WriteShard(Path.Combine(options.Folder, files[group.Rank]), own));
        var path = Path.Combine(options.Folder, CheckpointName.IndexOf(state));
        group.Together(
            () =>
            {
                WriteIndex(path, new ShardIndex(Checkpoint.Metadata(state, contents, steps), map, slices.Count == 0 ? null : slices));
                Checkpoint.DeleteOld(options);
            },
            onlyFirst: true
        );
        return path;
    }

    /// <summary>Deletes shards of checkpoints that were not completed, or that were not deleted completely.</summary>
    public static void DeleteShardsWithoutIndex(string folder)
    {
        foreach (var path in Directory.EnumerateFiles(folder).ToList())
        {
            if (
                CheckpointName.IndexOfShard(Path.GetFileName(path)) is { } index
                && !File.Exists(Path.Combine(folder, index))
                && !File.Exists(Path.Combine(folder, index + ".damaged"))
                && FileKinds.Of(path) == FileKind.Regular
            )
            {
                File.Delete(path);
            }
        }
    }

    /// <summary>Deletes the shards of a checkpoint that has no index anymore.</summary>
    public static void DeleteShards(string folder, string index)
    {
        foreach (var path in Directory.EnumerateFiles(folder).ToList())
        {
            if (string.Equals(CheckpointName.IndexOfShard(Path.GetFileName(path)), index, StringComparison.Ordinal))
            {
                File.Delete(path);
            }
        }
    }

    private static void WriteShard(string path, Dictionary<string, Tensor> tensors)
    {
        if (tensors.Count > 0)
        {
            WeightsFile.Write(path, tensors);
        }
    }

    private static void WriteIndex(string path, ShardIndex index)
    {
        var temporary = OutputPath.TemporaryBeside(path);
        try
        {
            File.WriteAllBytes(temporary, JsonSerializer.SerializeToUtf8Bytes(index, TrainingJson.Default.ShardIndex));
            OutputPath.Replace(temporary, path);
        }
        finally
        {
            File.Delete(temporary); // does nothing after a successful rename
        }
    }

    // Muon keeps no squares. It does not divide matrices among processes.
    private static bool HasState(string kind, CheckpointContents contents, int index) =>
        kind is not "adam.square." || contents.Owned.IsSharded || contents.Optimizer.State(index).Square is not null;

    // The parts of parameters whose averages and optimizer state each process writes.
    private static IEnumerable<(int Index, long From, int Rank)> Parts(CheckpointContents contents, int processes) =>
        contents.Owned.IsSharded
            ? Enumerable
                .Range(0, processes)
                .SelectMany(rank => contents.Owned.Layout!.Slices(rank).Select(slice => (slice.Parameter, slice.From, rank)))
            : Divide([.. contents.Trained.Select(pair => pair.Parameter.numel())], processes).Select((rank, i) => (i, 0L, rank));

    // Assigns consecutive items to processes so that each has about the same sum of sizes.
    private static int[] Divide(long[] sizes, int processes)
    {
        var (all, before) = (Math.Max(1, sizes.Sum()), 0L);
        return Array.ConvertAll(sizes, size =>
        {
            var rank = (int)Math.Min(processes - 1, before * processes / all);
            before += size;
            return rank;
        });
    }
}
