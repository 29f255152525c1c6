using OpenSora.Distributed;

namespace OpenSora.Tests.Distributed;

/// <summary>Tests of what launchers say about a process.</summary>
public class LaunchEnvironmentTests
{
    [Fact]
    public void A_process_that_was_started_alone_is_the_only_one() =>
        Read()
            .ShouldBe(
                new LaunchEnvironment
                {
                    Launcher = "none",
                    Rank = 0,
                    Size = 1,
                    MasterAddress = "127.0.0.1",
                    MasterPort = 29500,
                }
            );

    [Fact]
    public void Variables_of_torchrun() =>
        Read("RANK=5 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=4 MASTER_ADDR=node0 MASTER_PORT=1234")
            .ShouldBe(
                new LaunchEnvironment
                {
                    Launcher = "torchrun",
                    Rank = 5,
                    Size = 8,
                    LocalRank = 1,
                    LocalSize = 4,
                    MasterAddress = "node0",
                    MasterPort = 1234,
                }
            );

    [Theory]
    [InlineData("mpi", "PMI_RANK=2 PMI_SIZE=4 MPI_LOCALRANKID=0 MPI_LOCALNRANKS=2")]
    [InlineData(
        "mpi",
        "OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=0 OMPI_COMM_WORLD_LOCAL_SIZE=2 SLURM_PROCID=0 SLURM_NTASKS=1"
    )]
    [InlineData("slurm", "SLURM_PROCID=2 SLURM_NTASKS=4 SLURM_LOCALID=0 SLURM_TASKS_PER_NODE=2(x2)")]
    public void Variables_of_other_launchers(string launcher, string variables) =>
        Read(variables)
            .ShouldBe(
                new LaunchEnvironment
                {
                    Launcher = launcher,
                    Rank = 2,
                    Size = 4,
                    LocalRank = 0,
                    LocalSize = 2,
                }
            );

    [Theory]
    [InlineData("4(x2),3", 0, 4)]
    [InlineData("4(x2),3", 1, 4)]
    [InlineData("4(x2),3", 2, 3)]
    [InlineData("2,1", 1, 1)]
    public void Slurm_counts_the_tasks_of_each_machine(string tasks, int machine, int expected) =>
        Read($"SLURM_PROCID=8 SLURM_NTASKS=11 SLURM_LOCALID=0 SLURM_NODEID={machine} SLURM_TASKS_PER_NODE={tasks}").LocalSize.ShouldBe(expected);

    [Theory]
    [InlineData("node[03-05,9],other", "node03")]
    [InlineData("gnode[10,20]", "gnode10")]
    [InlineData("a,b[1-2]", "a")]
    [InlineData("rack[1-2]-gpu,x", "rack1-gpu")]
    [InlineData("alone", "alone")]
    public void Slurm_lists_the_machines(string list, string first) =>
        Read($"SLURM_PROCID=1 SLURM_NTASKS=2 SLURM_LOCALID=0 SLURM_JOB_NODELIST={list}").MasterAddress.ShouldBe(first);

    [Fact]
    public void A_step_of_Slurm_can_have_fewer_tasks_than_its_job_and_PMI_variables() =>
        Read(
                "PMI_RANK=3 PMI_SIZE=4 SLURM_PROCID=3 SLURM_NTASKS=16 SLURM_STEP_NUM_TASKS=4 SLURM_LOCALID=1 SLURM_NODEID=1 "
                    + "SLURM_TASKS_PER_NODE=8(x2) SLURM_STEP_TASKS_PER_NODE=2(x2) SLURM_STEP_NODELIST=n[1-2]"
            )
            .ShouldBe(
                new LaunchEnvironment
                {
                    Launcher = "mpi",
                    Rank = 3,
                    Size = 4,
                    LocalRank = 1,
                    LocalSize = 2,
                    MasterAddress = "n1",
                }
            );

    [Fact]
    public void Kubernetes_numbers_its_pods()
    {
        Read("JOB_COMPLETION_INDEX=1 WORLD_SIZE=3 MASTER_ADDR=train-0.train")
            .ShouldBe(
                new LaunchEnvironment
                {
                    Launcher = "kubernetes",
                    Rank = 1,
                    Size = 3,
                    MasterAddress = "train-0.train",
                }
            );
        Should.Throw<InvalidOperationException>(() => Read("JOB_COMPLETION_INDEX=1 WORLD_SIZE=3")).Message.ShouldContain("MASTER_ADDR");
    }

    [Theory]
    [InlineData("RANK=1", "WORLD_SIZE")]
    [InlineData("RANK=2 WORLD_SIZE=2", "process 2 of 2")]
    [InlineData("RANK=-1 WORLD_SIZE=2", "RANK is '-1'")]
    [InlineData("PMI_RANK=0 PMI_SIZE=many", "PMI_SIZE is 'many'")]
    [InlineData("RANK=1 WORLD_SIZE=4 LOCAL_RANK=3 LOCAL_WORLD_SIZE=2 MASTER_ADDR=a", "3 of 2 on this machine")]
    [InlineData("RANK=1 WORLD_SIZE=4 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2", "MASTER_ADDR")]
    public void Contradictions_are_errors(string variables, string message) =>
        Should.Throw<InvalidOperationException>(() => Read(variables)).Message.ShouldContain(message);

    private static LaunchEnvironment Read(string variables = "")
    {
        var all = variables
            .Split(' ', StringSplitOptions.RemoveEmptyEntries)
            .Select(each => each.Split('='))
            .ToDictionary(each => each[0], each => each[1]);
        return LaunchEnvironment.Read(name => all.GetValueOrDefault(name));
    }
}
