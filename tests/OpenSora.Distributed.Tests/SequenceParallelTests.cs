namespace OpenSora.Distributed.Tests;

/// <summary>Tests of transformers that several processes compute together.</summary>
public class SequenceParallelTests
{
    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public async Task Outputs_gradients_and_videos_are_those_of_one_process(int processes)
    {
        var run = (await Launch.RunAsync(processes, ["sequence"])).Succeeded();
        run.Output.Order(StringComparer.Ordinal).ShouldBe(Enumerable.Range(0, processes).Select(rank => $"[{rank}] 5 frames, True"));
    }
}
