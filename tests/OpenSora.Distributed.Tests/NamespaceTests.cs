using System.Globalization;

namespace OpenSora.Distributed.Tests;

/// <summary>Tests with two hosts: network namespaces of this machine with their own addresses, between which all bytes go over a virtual
/// cable.</summary>
public class NamespaceTests
{
    [Fact]
    public async Task Operations_between_two_hosts_give_the_exact_results()
    {
        var run = (await RunAsync(2, "operations")).Succeeded();
        run.Output.ShouldContain("[0] 20 cases, rank 0 of 2");
        run.Output.ShouldContain("[1] 20 cases, rank 1 of 2");
    }

    [Fact]
    public async Task The_bytes_between_two_hosts_are_those_of_the_operations()
    {
        var none = (await RunAsync(2, "transfers")).Succeeded();
        var run = (await RunAsync(2, "transfers", "5")).Succeeded();
        run.Output.ShouldContain("[0] on host0");
        run.Output.ShouldContain("[1] on host1");

        // Each of two processes sends all values once in an all-reduce. TCP and IP add about 4 percent.
        const double Planned = 5 * 4_000_000;
        foreach (var host in (int[])[0, 1])
        {
            var sent = Sent(run, host) - Sent(none, host);
            (sent / Planned).ShouldBeInRange(1, 1.15, $"host {host} sent {sent} bytes");
        }
    }

    [Fact]
    public async Task Training_on_two_hosts_gives_the_same_weights_as_on_one()
    {
        using var folder = new TemporaryFolder();
        (await RunAsync(2, "train", Directory.CreateDirectory(folder["two"]).FullName, "Gradients")).Succeeded();
        (await Launch.RunAsync(2, ["train", Directory.CreateDirectory(folder["one"]).FullName, "Gradients"])).Succeeded();
        var (two, one) = (await File.ReadAllBytesAsync(folder["two/weights"]), await File.ReadAllBytesAsync(folder["one/weights"]));
        two.AsSpan().SequenceEqual(one).ShouldBeTrue();
    }

    [Fact]
    public async Task Two_hosts_compute_one_sample() =>
        (await RunAsync(2, "sequence")).Succeeded().Output[..2].Order(StringComparer.Ordinal).ShouldBe(["[0] 5 frames, True", "[1] 5 frames, True"]);

    private static long Sent(Launch run, int host)
    {
        var start = $"bytes from host {host}: ";
        var line = run.Output.Single(line => line.StartsWith(start, StringComparison.Ordinal));
        return long.Parse(line[start.Length..], CultureInfo.InvariantCulture);
    }

    private static async Task<Launch> RunAsync(int processes, params string[] scenario)
    {
        var script = Path.Combine(AppContext.BaseDirectory, "namespaces.sh");
        var run = await Launch.StartAsync("bash", [script, $"{processes}", "dotnet", Launch.Program, .. scenario]);
        Assert.SkipWhen(run.ExitCode == 77, string.Join(' ', run.Output));
        return run;
    }
}
