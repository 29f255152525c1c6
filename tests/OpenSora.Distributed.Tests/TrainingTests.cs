using System.Globalization;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Distributed.Tests;

/// <summary>Tests of training in processes.</summary>
public class TrainingTests
{
    [Theory]
    [InlineData("None")]
    [InlineData("OptimizerState")]
    [InlineData("Gradients")]
    public async Task Two_processes_train_like_one(string sharding)
    {
        using var folder = new TemporaryFolder();
        (await Launch.StartAsync(Launch.Launcher, ["--version"])).Succeeded(); // skips this test where MPI is not installed
        var one = (await Launch.StartAsync("dotnet", [Launch.Program, "train", folder["one"], sharding])).Succeeded();
        var two = (await Launch.RunAsync(2, ["train", folder["two"], sharding])).Succeeded();

        var (expected, actual) = (Losses(one), Losses(two));
        expected.Length.ShouldBe(40);
        actual.Length.ShouldBe(40);
        for (var i = 0; i < expected.Length; i++)
        {
            actual[i].ShouldBe(expected[i], 1e-4, $"step {i}");
        }

        using var wanted = WeightsFile.Open(folder["one/weights"]);
        using var found = WeightsFile.Open(folder["two/weights"]);
        foreach (var name in wanted.Tensors.Keys)
        {
            using var scope = NewDisposeScope();
            (wanted.Read(name) - found.Read(name)).abs().max().item<float>().ShouldBeLessThan(1e-3f, name);
        }
    }

    [Fact]
    public async Task Processes_killed_20_times_give_the_weights_of_those_that_were_never_killed()
    {
        const int Kills = 20;
        using var folder = new TemporaryFolder();
        (await Launch.RunAsync(2, ["train", folder["whole"], "Gradients"])).Succeeded();
        var expected = await File.ReadAllBytesAsync(folder["whole/weights"]);

        // A run ends now and then before a process is killed; then its weights are compared and another one begins.
        var random = new Random(1);
        var (kills, runs) = (0, 0);
        for (var round = 0; kills < Kills || round > 0; round++)
        {
            var run = folder[$"run {runs}"];
            // Anywhere: between steps, in operations and while a checkpoint is written.
            var (rank, delay) = (random.Next(2), random.Next(250));
            string[] killed = kills < Kills ? [Number(rank), Number(delay)] : [];
            var launch = await Launch.RunAsync(2, ["train", run, "Gradients", .. killed]);
            if (launch.ExitCode != 0)
            {
                launch.ExitCode.ShouldBe(9, $"{string.Join('\n', launch.Output)}\n{launch.Error}");
                launch.Output.ShouldNotContain(line => line.Contains("Exception", StringComparison.Ordinal));
                kills++;
                continue;
            }

            (await File.ReadAllBytesAsync(Path.Combine(run, "weights"))).AsSpan().SequenceEqual(expected).ShouldBeTrue($"{kills} kills, run {runs}");
            (runs, round) = (runs + 1, -1);
        }

        kills.ShouldBe(Kills);
        runs.ShouldBeGreaterThan(0);
    }

    [Fact]
    public async Task The_others_end_with_one_message_when_a_process_dies()
    {
        using var folder = new TemporaryFolder();
        // The shell hides the signal from the launcher, which would end the others at once.
        var command = $"dotnet '{Launch.Program}' train '{folder["run"]}' OptimizerState 1 50; exit $?";
        var run = await Launch.StartAsync(
            Launch.Launcher,
            ["-np", "2", .. Launch.KeepOthers, "sh", "-c", command],
            ("OPENSORA_TEST_TIMEOUT", "5"),
            ("OPENSORA_TEST_ABORT", "1")
        );
        run.ExitCode.ShouldNotBe(0);
        var message = Directory.GetFiles(folder["run"], "message *").ShouldHaveSingleItem();
        (await File.ReadAllTextAsync(message)).ShouldContain("did not complete within 5 s on rank 0 of 2");
        run.Output.ShouldNotContain(line => line.Contains("done", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("None")]
    [InlineData("OptimizerState")]
    [InlineData("Gradients")]
    public async Task The_memory_and_the_bytes_of_a_process_are_those_of_the_plan(string sharding)
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "The peak of the memory is read from /proc.");
        var run = (await Launch.RunAsync(2, ["memory", sharding])).Succeeded();
        run.Output.Length.ShouldBe(2);
        foreach (var numbers in run.Output.Select(line => line.Split(' ')[1..].Select(number => double.Parse(number, CultureInfo.InvariantCulture))))
        {
            var (measured, planned, bytes, plannedBytes) = (numbers.ElementAt(0), numbers.ElementAt(1), numbers.ElementAt(2), numbers.ElementAt(3));
            (measured / planned).ShouldBe(1, 0.15, $"{measured / 1e6:F0} MB, planned {planned / 1e6:F0} MB");
            bytes.ShouldBe(plannedBytes);
        }
    }

    private static double[] Losses(Launch run) =>
        [
            .. run
                .Output.Where(line =>
                    line.StartsWith("[0] images ", StringComparison.Ordinal) || line.StartsWith("[0] clips ", StringComparison.Ordinal)
                )
                .Select(line => double.Parse(line.Split(' ')[^1], CultureInfo.InvariantCulture)),
        ];

    private static string Number(int value) => value.ToString(CultureInfo.InvariantCulture);
}
