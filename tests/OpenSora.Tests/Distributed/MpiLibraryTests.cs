using System.Runtime.InteropServices;
using OpenSora.Mpi;

namespace OpenSora.Tests.Distributed;

/// <summary>Tests of the choice of an MPI library. tests/OpenSora.Distributed.Tests has those of its use.</summary>
public class MpiLibraryTests
{
    [Theory]
    [InlineData("LINUX", "libmpi.so.12 libmpich.so.12", "libmpi.so.12")]
    [InlineData("LINUX", "libmpich.so.12 libmpi.so.40", "libmpich.so.12")]
    [InlineData("WINDOWS", "msmpi.dll", "msmpi.dll")]
    [InlineData("OSX", "/opt/homebrew/lib/libmpi.12.dylib", "/opt/homebrew/lib/libmpi.12.dylib")]
    public void The_library_is_one_with_the_binary_interface_of_MPICH(string platform, string installed, string expected)
    {
        var names = installed.Split(' ');
        MpiNative.Find(_ => null, name => Array.IndexOf(names, name) + 1, OSPlatform.Create(platform)).ShouldBe(Array.IndexOf(names, expected) + 1);
    }

    [Theory]
    [InlineData("", "", "MPI is not installed: libmpi.so.12 was not found")]
    [InlineData("libmpi.so.40", "", "Only Open MPI is installed, which has another binary interface")]
    [InlineData("libmpich.so.12", "OMPI_COMM_WORLD_SIZE=2", "was started by Open MPI")]
    [InlineData("libmpich.so.12", "OPENSORA_MPI=/nowhere/libmpi.so", "The library /nowhere/libmpi.so of the variable OPENSORA_MPI cannot be loaded")]
    public void Without_one_the_message_says_what_to_install(string installed, string variable, string message)
    {
        var parts = variable.Split('=');
        Should
            .Throw<DllNotFoundException>(() =>
                MpiNative.Find(
                    name => string.Equals(name, parts[0], StringComparison.Ordinal) ? parts[1] : null,
                    name => string.Equals(name, installed, StringComparison.Ordinal) ? 1 : 0,
                    OSPlatform.Linux
                )
            )
            .Message.ShouldContain(message);
    }
}
