using System.Text;
using OpenSora.Mpi;

namespace OpenSora.Distributed.Program;

/// <summary>A test that runs in several processes: one class in one file of the folder Scenarios, which is found by its interface.</summary>
internal interface IScenario
{
    /// <summary>Gets the first argument of the program.</summary>
    string Name { get; }

    /// <summary>Runs in one process. An exception is a failure.</summary>
    /// <param name="group">The group of all processes.</param>
    /// <param name="arguments">The arguments after the name.</param>
    /// <param name="output">Receives lines, which the test reads.</param>
    void Run(MpiCollectives group, string[] arguments, ScenarioOutput output);
}

/// <summary>A check of a scenario failed.</summary>
internal sealed class ScenarioException(string message) : Exception(message)
{
    /// <summary>Throws the exception if a condition is false.</summary>
    public static void Require(bool condition, string message)
    {
        if (!condition)
        {
            throw new ScenarioException(message);
        }
    }
}

/// <summary>Lines on standard output that begin with the rank of the process, such as <c>[1] loss 0.5</c>.</summary>
internal sealed class ScenarioOutput(int rank) : IDisposable
{
    // A folder for the same lines, because Hydra can drop output after the death of a process.
    private static readonly string? Folder = Environment.GetEnvironmentVariable("OPENSORA_TEST_OUTPUT");

    private readonly Stream _stream = Console.OpenStandardOutput();

    /// <summary>Writes a line at once, so that it does not mix with those of other processes.</summary>
    public void WriteLine(string line)
    {
        if (Folder is { Length: > 0 })
        {
            File.AppendAllText(Path.Combine(Folder, $"rank-{rank}.txt"), $"[{rank}] {line}\n");
        }

        _stream.Write(Encoding.UTF8.GetBytes($"[{rank}] {line}\n"));
        _stream.Flush();
    }

    public void Dispose() => _stream.Dispose();
}
