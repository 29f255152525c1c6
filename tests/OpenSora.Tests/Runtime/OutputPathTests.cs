using System.Diagnostics;
using OpenSora.Runtime;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Runtime;

public sealed class OutputPathTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void A_link_is_followed_and_stays_a_link()
    {
        Directory.CreateDirectory(_folder["real"]);
        File.WriteAllText(_folder["real/weights"], "old");
        File.CreateSymbolicLink(_folder["middle"], "real/weights");
        File.CreateSymbolicLink(_folder["link"], _folder["middle"]);
        Write(_folder["link"]);

        new FileInfo(_folder["link"]).LinkTarget.ShouldBe(_folder["middle"]);
        new FileInfo(_folder["middle"]).LinkTarget.ShouldBe("real/weights");
        ShouldHoldWeights(_folder["real/weights"]);
        Directory.GetFileSystemEntries(_folder.Path, "*", SearchOption.AllDirectories).Length.ShouldBe(4);
    }

    [Fact]
    public void A_link_to_nothing_creates_its_target()
    {
        File.CreateSymbolicLink(_folder["link"], "later/weights");
        Write(_folder["link"]);
        new FileInfo(_folder["link"]).LinkTarget.ShouldBe("later/weights");
        ShouldHoldWeights(_folder["later/weights"]);
    }

    [Fact]
    public void A_relative_link_in_a_linked_folder_starts_at_the_real_folder()
    {
        Directory.CreateDirectory(_folder["a/b"]);
        Directory.CreateSymbolicLink(_folder["folder"], "a/b");
        File.CreateSymbolicLink(_folder["a/b/link"], "../weights");
        Write(_folder["folder/link"]);
        ShouldHoldWeights(_folder["a/weights"]);
        File.Exists(_folder["weights"]).ShouldBeFalse();
        OutputPath.FollowLinks(_folder["folder/new"]).ShouldBe(OutputPath.FollowLinks(_folder["a/b/new"]));
    }

    [Fact]
    public void Links_in_a_loop_are_refused()
    {
        File.CreateSymbolicLink(_folder["a"], "b");
        File.CreateSymbolicLink(_folder["b"], "a");
        Should.Throw<IOException>(() => Write(_folder["a"])).Message.ShouldContain("loop");
        new FileInfo(_folder["a"]).LinkTarget.ShouldBe("b");
    }

    [Theory]
    [InlineData("/dev/null")]
    [InlineData("link")]
    public void A_device_is_written_to_and_stays_a_device(string path)
    {
        Assert.SkipUnless(FileKinds.Of("/dev/null") == FileKind.Device, "This system has no /dev/null.");
        File.CreateSymbolicLink(_folder["link"], "/dev/null");
        Write(path.StartsWith('/') ? path : _folder[path]);
        FileKinds.Of("/dev/null").ShouldBe(FileKind.Device);
        Directory.GetFiles("/dev", "*.tmp").ShouldBeEmpty();
        new FileInfo(_folder["link"]).LinkTarget.ShouldBe("/dev/null");
    }

    [Fact]
    public void A_device_that_is_full_is_an_error()
    {
        Assert.SkipUnless(File.Exists("/dev/full"), "This system has no /dev/full.");
        Should.Throw<IOException>(() => Write("/dev/full"));
        FileKinds.Of("/dev/full").ShouldBe(FileKind.Device);
    }

    [Fact]
    public void A_named_pipe_and_a_folder_are_refused()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "Named pipes are not files on Windows.");
        using (var process = Process.Start("mkfifo", [_folder["pipe"]]))
        {
            process.WaitForExit();
        }

        Directory.CreateDirectory(_folder["folder"]);
        File.CreateSymbolicLink(_folder["link"], "pipe");
        Problem(_folder["pipe"]).ShouldContain("it is a pipe");
        Problem(_folder["link"]).ShouldContain("it is a pipe");
        Problem(_folder["folder"]).ShouldContain("it is a folder");
        Problem(_folder["folder/"]).ShouldContain("it is a folder");
        Problem(_folder["other/"]).ShouldContain("ends like that of a folder");
        FileKinds.Of(_folder["pipe"]).ShouldBe(FileKind.Pipe);
        Directory.GetFileSystemEntries(_folder.Path).Length.ShouldBe(3);

        // Reading from a pipe would block.
        Should.Throw<InvalidWeightsException>(() => WeightsFile.Open(_folder["link"])).Message.ShouldContain("it is a pipe");
        Should.Throw<InvalidWeightsException>(() => WeightsFile.Open("/dev/zero")).Message.ShouldContain("it is a device");

        string Problem(string path) => Should.Throw<IOException>(() => Write(path)).Message;
    }

    [Theory]
    [InlineData(UnixFileMode.UserRead | UnixFileMode.UserWrite)]
    [InlineData(UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.GroupRead | UnixFileMode.GroupWrite | UnixFileMode.OtherRead)]
    public void The_permissions_of_a_replaced_file_are_kept(UnixFileMode mode)
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "Windows keeps permissions by folder.");
#pragma warning disable CA1416 // skipped on Windows
        File.WriteAllText(_folder["weights"], "old");
        File.SetUnixFileMode(_folder["weights"], mode);
        File.CreateSymbolicLink(_folder["link"], "weights");
        Write(_folder["link"]);
        File.GetUnixFileMode(_folder["weights"]).ShouldBe(mode);
#pragma warning restore CA1416
        ShouldHoldWeights(_folder["weights"]);
    }

    [Fact]
    public void The_owner_of_a_replaced_file_is_kept_where_the_process_may_set_it()
    {
        Assert.SkipUnless(FileStatus.IsAvailable, "The system does not tell the owners of files.");
        Write(_folder["weights"]);
        var own = FileStatus.Of(_folder["weights"])!.Value;
        using (var process = Process.Start("chown", ["4321:8765", _folder["weights"]]))
        {
            process.WaitForExit();
        }

        var owner = FileStatus.Of(_folder["weights"])!.Value;
        Assert.SkipWhen(owner == own, "Only an administrator can change the owner of a file.");
        Write(_folder["weights"]);
        FileStatus.Of(_folder["weights"]).ShouldBe(owner);
        (owner.User, owner.Group).ShouldBe((4321u, 8765u));
        ShouldHoldWeights(_folder["weights"]);
    }

    [Fact]
    public void A_link_to_nothing_is_missing()
    {
        File.CreateSymbolicLink(_folder["nothing"], "elsewhere");
        File.CreateSymbolicLink(_folder["loop"], "loop");
        File.CreateSymbolicLink(_folder["next"], "nothing");
        File.WriteAllText(_folder["file"], "x");
        File.CreateSymbolicLink(_folder["link"], "file");
        Directory.CreateSymbolicLink(_folder["folder"], _folder.Path);
        string[] missing = ["nothing", "loop", "next", "none"];
        missing.Select(name => FileKinds.Of(_folder[name])).ShouldAllBe(kind => kind == FileKind.Missing);
        FileKinds.Of(_folder["link"]).ShouldBe(FileKind.Regular);
        FileKinds.Of(_folder["folder"]).ShouldBe(FileKind.Folder);
        Should.Throw<FileNotFoundException>(() => WeightsFile.Open(_folder["nothing"]));
    }

    [Fact]
    public void A_name_of_the_greatest_length_can_be_written()
    {
        var path = _folder[new string('ä', 120) + ".safetensors"];
        Write(path);
        Write(path);
        ShouldHoldWeights(path);
    }

    private static void Write(string path)
    {
        using var scope = NewDisposeScope();
        SafetensorsWriter.Write(path, [KeyValuePair.Create("x", ones(3))]);
    }

    private static void ShouldHoldWeights(string path)
    {
        new FileInfo(path).LinkTarget.ShouldBeNull();
        using var file = SafetensorsFile.Open(path);
        file.Tensors.Keys.ShouldBe(["x"]);
    }
}
