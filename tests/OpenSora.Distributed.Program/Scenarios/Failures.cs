using System.Diagnostics;
using OpenSora.Mpi;
using static TorchSharp.torch;

namespace OpenSora.Distributed.Program.Scenarios;

/// <summary>All-reduces without end. The argument is what the last process does after some of them: it writes its number and waits to be killed,
/// hangs,
/// or calls another operation.</summary>
internal sealed class Failures : IScenario
{
    public string Name => "failures";

    public void Run(MpiCollectives group, string[] arguments, ScenarioOutput output)
    {
        using var values = ones(100_000);
        for (var i = 0; ; i++)
        {
            if (i == 20 && group.Rank == group.Size - 1)
            {
                output.WriteLine($"process {Environment.ProcessId}");
                switch (arguments[0])
                {
                    case "die":
                        using (var self = Process.GetCurrentProcess())
                        {
                            self.Kill(); // SIGKILL
                        }

                        break;
                    case "hang":
                        Thread.Sleep(Timeout.Infinite);
                        break;
                    case "other":
                        group.Broadcast(values).Wait();
                        break;
                    case "size":
                        group.AllReduce(values.narrow(0, 0, 10)).Wait();
                        break;
                    default:
                        throw new ScenarioException($"Unknown failure {arguments[0]}");
                }
            }

            try
            {
                group.AllReduce(values.fill_(1)).Wait();
            }
            catch (CollectiveException)
            {
                // The group is unusable, and says so.
                try
                {
                    group.Barrier();
                }
                catch (CollectiveException e)
                {
                    output.WriteLine($"afterwards: {e.Message}");
                }

                throw;
            }
        }
    }
}
