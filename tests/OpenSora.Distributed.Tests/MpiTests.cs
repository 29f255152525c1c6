namespace OpenSora.Distributed.Tests;

/// <summary>Tests of <see cref="OpenSora.Mpi.MpiCollectives"/> in processes.</summary>
public class MpiTests
{
    [Theory]
    [InlineData(2, "")]
    [InlineData(4, "")]
    [InlineData(3, "5000")]
    public async Task Operations_give_the_exact_results(int processes, string largestCount)
    {
        string[] scenario = largestCount.Length == 0 ? ["operations"] : ["operations", largestCount];
        var run = (await Launch.RunAsync(processes, scenario)).Succeeded();
        run.Output.Order(StringComparer.Ordinal)
            .ShouldBe(Enumerable.Range(0, processes).Select(rank => $"[{rank}] 20 cases, rank {rank} of {processes}"));
    }

    [Fact]
    public async Task A_program_without_a_launcher_is_a_group_of_one()
    {
        (await Launch.StartAsync(Launch.Launcher, ["--version"])).Succeeded(); // skips this test where MPI is not installed
        var run = await Launch.StartAsync("dotnet", [Launch.Program, "operations"]);
        run.Succeeded().Output.ShouldBe(["[0] 20 cases, rank 0 of 1"]);
    }

    [Fact]
    public async Task Many_operations_are_in_flight_in_groups_and_wrong_arguments_are_refused()
    {
        var run = (await Launch.RunAsync(3, ["in-flight"])).Succeeded();
        run.Output.Order(StringComparer.Ordinal).ShouldBe(["[0] done", "[1] done", "[2] done"]);
    }

    [Theory]
    [InlineData("die")]
    [InlineData("hang")]
    public async Task When_a_process_ends_or_hangs_the_others_fail_within_the_timeout(string failure)
    {
        var run = await Launch.RunAsync(2, ["failures", failure], timeout: 3, Launch.KeepOthers, ("OPENSORA_TEST_ABORT", "1"));
        run.ExitCode.ShouldNotBe(0);
        run.Time.ShouldBeLessThan(TimeSpan.FromSeconds(60));
        var messages = run.Exceptions("CollectiveException");
        if (failure is "die" && messages.Length == 0)
        {
            return; // Hydra sometimes ends the others nevertheless, before the timeout.
        }

        messages.ShouldHaveSingleItem(run.Error).ShouldContain("AllReduce (sum) of 100000 Float32 values did not complete within 3 s on rank 0 of 2");
        run.Output.ShouldContain(line =>
            line.StartsWith("[0] afterwards: Barrier cannot start, because the group failed before", StringComparison.Ordinal)
        );
    }

    [Fact]
    public async Task The_launcher_ends_the_others_when_a_process_dies()
    {
        var run = await Launch.RunAsync(2, ["failures", "die"]);
        run.ExitCode.ShouldNotBe(0);
        run.Time.ShouldBeLessThan(TimeSpan.FromSeconds(60));
        run.Exceptions("CollectiveException").ShouldBeEmpty();
    }

    [Theory]
    [InlineData("other", "Broadcast of 100000 Float32 values from rank 0")]
    [InlineData("size", "AllReduce (sum) of 10 Float32 values")]
    public async Task Different_calls_are_an_error_that_names_them(string failure, string call)
    {
        var run = await Launch.RunAsync(2, ["failures", failure], timeout: 60, Launch.KeepOthers);
        run.ExitCode.ShouldNotBe(0);
        run.Time.ShouldBeLessThan(TimeSpan.FromSeconds(50));
        var message = $"AllReduce (sum) of 100000 Float32 values on rank 0, but {call} on rank 1";
        run.Exceptions("CollectiveException").ShouldContain(line => line.Contains(message, StringComparison.Ordinal), run.Error);
    }
}
