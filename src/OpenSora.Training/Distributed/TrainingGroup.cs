using System.Runtime.ExceptionServices;
using System.Text;
using OpenSora.Distributed;
using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Distributed;

/// <summary>The processes that train together, and what they agree on.</summary>
internal sealed class TrainingGroup(ICollectives collectives, DistributedOptions options) : IDisposable
{
    // Processes with consecutive ranks, which compute the same samples.
    private readonly ICollectives? _sequence =
        options.SequenceProcesses == 1 ? null : collectives.Split(collectives.Rank / options.SequenceProcesses);

    private static readonly ScalarType[] Sent = [ScalarType.Float32, ScalarType.BFloat16, ScalarType.Float64, ScalarType.Int64];

    public ICollectives Collectives => collectives;

    public DistributedOptions Options => options;

    public int Rank => collectives.Rank;

    public int Size => collectives.Size;

    /// <summary>The number of the part of each batch that this process computes, alone or with others.</summary>
    public int Part => Rank / options.SequenceProcesses;

    /// <summary>The number of parts of each batch.</summary>
    public int Parts => Size / options.SequenceProcesses;

    /// <summary>Gets a value that indicates whether this process calls callbacks and writes what only one process writes.</summary>
    public bool IsFirst => Rank == 0;

    /// <summary>The device of small tensors, which is that of the group.</summary>
    public Device Device { get; set; } = CPU;

    /// <summary>Adds up numbers over all processes.</summary>
    public double[] Sum(params double[] values) => Reduce(values, ReduceOperation.Sum);

    /// <summary>Gets the maximum of numbers over all processes.</summary>
    public double[] Maximum(params double[] values) => Reduce(values, ReduceOperation.Maximum);

    /// <summary>Sends numbers of process 0 to all.</summary>
    public long[] FromFirst(params long[] values)
    {
        using var scope = NewDisposeScope();
        var sent = tensor(values).to(Device);
        collectives.Broadcast(sent).Wait();
        return [.. sent.cpu().data<long>()];
    }

    /// <summary>Sends a text of process 0 to all; null is a text too.</summary>
    public string? FromFirst(string? text)
    {
        var bytes = Array.ConvertAll(Encoding.UTF8.GetBytes(text ?? ""), value => (long)value);
        var length = FromFirst(text is null ? -1 : bytes.Length)[0];
        return length switch
        {
            < 0 => null,
            0 => "",
            _ => Encoding.UTF8.GetString(Array.ConvertAll(FromFirst(IsFirst ? bytes : new long[length]), value => (byte)value)),
        };
    }

    /// <summary>Runs work and fails in every process if it fails in one of them.</summary>
    /// <param name="work">The work.</param>
    /// <param name="onlyFirst">true to run it in process 0 only.</param>
    public void Together(Action work, bool onlyFirst = false)
    {
        Exception? failure = null;
        try
        {
            if (!onlyFirst || IsFirst)
            {
                work();
            }
        }
        catch (Exception exception) when (exception is not CollectiveException)
        {
            failure = exception;
        }

        Require(failure);
    }

    /// <summary>Throws in every process if one of them has failed.</summary>
    /// <exception cref="CollectiveException">Another process has failed.</exception>
    public void Require(Exception? failure) => Require(failure, Maximum(Failed(failure))[0]);

    /// <summary>The number of this process for <see cref="Require(Exception?, double)"/>; 0 if it has not failed.</summary>
    public double Failed(Exception? failure) => failure is null ? 0 : Size - Rank;

    /// <summary>Throws if a process has failed.</summary>
    /// <param name="failure">The failure of this process; null for none.</param>
    /// <param name="failed">The maximum of <see cref="Failed"/> over all processes.</param>
    public void Require(Exception? failure, double failed)
    {
        if (failure is not null)
        {
            ExceptionDispatchInfo.Throw(failure);
        }

        if (failed > 0)
        {
            throw new CollectiveException($"The run ended because process {Size - (int)failed} of {Size} failed. Its message says why.");
        }
    }

    /// <summary>Throws unless all processes pass the same text.</summary>
    /// <param name="text">What they must agree on.</param>
    /// <param name="what">Its name.</param>
    /// <exception cref="InvalidOperationException">The texts differ.</exception>
    public void RequireSame(string text, string what)
    {
        var first = FromFirst(text);
        var same = string.Equals(first, text, StringComparison.Ordinal);
        Exception? failure = same
            ? null
            : new InvalidOperationException(
                $"Process {Rank} has other {what} than process 0: {text}; process 0 has {first}. Start all processes alike."
            );
        Require(failure);
    }

    /// <summary>Replaces tensors of modules by those of process 0.</summary>
    public void SendFromFirst(IEnumerable<Tensor> tensors)
    {
        using var noGradients = no_grad();
        foreach (var tensor in tensors.Where(tensor => Sent.Contains(tensor.dtype) && tensor.numel() > 0))
        {
            using var scope = NewDisposeScope();
            var sent = tensor.detach().contiguous();
            collectives.Broadcast(sent).Wait();
            if (!tensor.is_contiguous())
            {
                tensor.copy_(sent);
            }
        }
    }

    /// <summary>Divides the tokens of transformers among the processes that compute the same samples, until the result is disposed of. Their
    /// gradients must be summed over these processes.</summary>
    /// <param name="modules">The modules that are trained.</param>
    /// <returns>null if each process computes its own samples.</returns>
    /// <exception cref="InvalidOperationException">There is no transformer that can be divided.</exception>
    public IDisposable? DivideTokens(IEnumerable<nn.Module> modules)
    {
        if (_sequence is null)
        {
            return null;
        }

        List<IVideoTransformer> transformers = [.. modules.OfType<IVideoTransformer>()];
        return transformers.Count > 0
            ? new Division(transformers.ConvertAll(transformer => transformer.UseSequenceParallel(_sequence)))
            : throw new InvalidOperationException(
                $"{nameof(DistributedOptions.SequenceProcesses)} is {options.SequenceProcesses}, but no transformer is trained whose tokens could be "
                    + "divided. Set it to 1."
            );
    }

    /// <inheritdoc/>
    public void Dispose() => _sequence?.Dispose();

    private sealed class Division(List<IVideoTransformer> transformers) : IDisposable
    {
        public void Dispose() => transformers.ForEach(transformer => transformer.UseSequenceParallel(null));
    }

    private double[] Reduce(double[] values, ReduceOperation operation)
    {
        using var scope = NewDisposeScope();
        var sent = tensor(values, ScalarType.Float64).to(Device);
        collectives.AllReduce(sent, operation).Wait();
        return [.. sent.cpu().data<double>()];
    }
}
