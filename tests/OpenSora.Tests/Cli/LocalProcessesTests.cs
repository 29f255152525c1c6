using System.Globalization;
using OpenSora.Cli;

namespace OpenSora.Tests.Cli;

/// <summary>Tests of the command that starts several processes. tests/OpenSora.Distributed.Tests runs it.</summary>
public class LocalProcessesTests
{
    [Theory]
    [InlineData("mpirun.mpich mpirun setsid", "8", "setsid --wait /bin/mpirun.mpich", "2")]
    [InlineData("mpiexec", "3", "/bin/mpiexec", "1")]
    public void The_launcher_of_MPICH_is_preferred_and_the_processes_share_the_cores(
        string installed,
        string threads,
        string expected,
        string expectedThreads
    )
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "Windows has another launcher.");
        var start = LocalProcesses.Create(
            4,
            ["train", "my file.json"],
            name => string.Equals(name, "OMP_NUM_THREADS", StringComparison.Ordinal) ? threads : null,
            name => installed.Split(' ').Contains(name, StringComparer.Ordinal) ? $"/bin/{name}" : null
        );
        var command = $"{start.FileName} {string.Join(' ', start.ArgumentList)}".Replace("/bin/setsid", "setsid", StringComparison.Ordinal);
        command.ShouldStartWith($"{expected} -np 4 ");
        start.ArgumentList.TakeLast(2).ShouldBe(["train", "my file.json"]);
        start.ArgumentList[^3].ShouldEndWith("OpenSora.Cli.dll");
        start.Environment["OMP_NUM_THREADS"].ShouldBe(expectedThreads);
    }

    [Fact]
    public void Without_a_number_of_threads_the_cores_are_divided() =>
        LocalProcesses
            .Create(2, [], _ => null, name => name)
            .Environment["OMP_NUM_THREADS"]
            .ShouldBe(Math.Max(1, Environment.ProcessorCount / 2).ToString(CultureInfo.InvariantCulture));

    [Fact]
    public void Without_a_launcher_the_message_says_what_to_install() =>
        Should
            .Throw<FileNotFoundException>(() => LocalProcesses.Create(2, [], _ => null, _ => null))
            .Message.ShouldContain("none of mpirun.mpich, mpiexec.hydra, mpirun, mpiexec is on the PATH. Install MPICH");

    [Fact]
    public async Task The_number_of_processes_must_be_positive()
    {
        var result = await Opensora.RunAsync("train", "x.json", "--processes", "0");
        result.ExitCode.ShouldBe(2);
        result.Error.ShouldContain("--processes must be at least 1.");
    }
}
