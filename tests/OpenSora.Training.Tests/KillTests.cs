using System.Diagnostics;

namespace OpenSora.Training.Tests;

public class KillTests
{
    [Fact]
    public async Task A_run_killed_20_times_gives_the_weights_of_one_that_was_never_killed()
    {
        const int Kills = 20;
        using var folder = new TemporaryFolder();
        await RunAsync(folder["whole"], killAfter: null);
        var expected = await File.ReadAllBytesAsync(Path.Combine(folder["whole"], "weights"));

        // A run ends now and then before it is killed; then its weights are compared and another one begins.
        var random = new Random(1);
        var (kills, runs) = (0, 0);
        for (var round = 0; kills < Kills || round > 0; round++)
        {
            var run = folder[$"run {runs}"];
            // Anywhere: amid loading, between steps and while a checkpoint is written.
            TimeSpan? after = kills < Kills ? TimeSpan.FromMilliseconds(random.Next(60)) : null;
            if (await RunAsync(run, after))
            {
                kills++;
                continue;
            }
            (await File.ReadAllBytesAsync(Path.Combine(run, "weights"))).AsSpan().SequenceEqual(expected).ShouldBeTrue($"{kills} kills, run {runs}");
            (runs, round) = (runs + 1, -1);
        }
        kills.ShouldBe(Kills);
        runs.ShouldBeGreaterThan(0);
    }

    /// <summary>Runs a process until it ends or is killed some time after its first step, and returns whether it was killed.</summary>
    private static async Task<bool> RunAsync(string folder, TimeSpan? killAfter)
    {
        using var process = Process.Start(
            new ProcessStartInfo("dotnet", [Path.Combine(AppContext.BaseDirectory, "OpenSora.Training.Killable.dll"), folder])
            {
                UseShellExecute = false,
                RedirectStandardOutput = true,
                RedirectStandardError = true,
            }
        )!;
        var errors = process.StandardError.ReadToEndAsync();
        try
        {
            var first = await process.StandardOutput.ReadLineAsync();
            if (first is not null && killAfter is { } delay)
            {
                await Task.Delay(delay);
                process.Kill(); // SIGKILL: nothing of the process runs after this
            }
            await process.StandardOutput.ReadToEndAsync();
            await process.WaitForExitAsync();
        }
        finally
        {
            if (!process.HasExited)
            {
                process.Kill();
            }
        }
        if (process.ExitCode == 128 + 9)
        {
            return true;
        }

        process.ExitCode.ShouldBe(0, await errors);
        return false;
    }
}
