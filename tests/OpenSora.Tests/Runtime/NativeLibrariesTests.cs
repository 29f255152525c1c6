using System.Diagnostics;
using OpenSora.Runtime;

namespace OpenSora.Tests.Runtime;

/// <summary>Loading of TorchSharp's native library: the patch, the place of the copy, and the errors.</summary>
public sealed class NativeLibrariesTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    private static string Original => Path.Combine(AppContext.BaseDirectory, "libLibTorchSharp.so");

    [Fact]
    public void Only_the_flag_of_the_unused_version_is_changed()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "ELF libraries are Linux's.");
        var original = File.ReadAllBytes(Original);
        var patched = ElfVersionNeeds.Weaken(original).ShouldNotBeNull();
        patched.Length.ShouldBe(original.Length);
        var changed = Enumerable.Range(0, original.Length).Where(i => original[i] != patched[i]).ToList();
        changed.Count.ShouldBe(1);
        (patched[changed[0]] ^ original[changed[0]]).ShouldBe(2);
        ElfVersionNeeds.Weaken(patched).ShouldBeNull();
    }

    [Fact]
    public void Damaged_and_other_files_are_left_alone()
    {
        ElfVersionNeeds.Weaken([]).ShouldBeNull();
        ElfVersionNeeds.Weaken("MZ not an ELF file"u8).ShouldBeNull();
        ElfVersionNeeds.Weaken([0x7f, (byte)'E', (byte)'L', (byte)'F', 2, 1]).ShouldBeNull();
        Assert.SkipUnless(OperatingSystem.IsLinux(), "ELF libraries are Linux's.");
        var bytes = File.ReadAllBytes(Original);
        foreach (var length in new[] { 64, 5000, bytes.Length / 2, bytes.Length - 200 })
        {
            ElfVersionNeeds.Weaken(bytes.AsSpan(0, length)).ShouldBeNull();
        }
    }

    [Fact]
    public void A_cached_copy_is_verified_and_replaced_if_it_differs()
    {
        var folder = _folder["cache"];
        var path = PatchedLibraryCache.Write(folder, "a.so", [1, 2, 3]);
        File.ReadAllBytes(path).ShouldBe([1, 2, 3]);
        var written = File.GetLastWriteTimeUtc(path);
        PatchedLibraryCache.Write(folder, "a.so", [1, 2, 3]).ShouldBe(path);
        File.GetLastWriteTimeUtc(path).ShouldBe(written);
        File.WriteAllBytes(path, [1, 9, 3]);
        PatchedLibraryCache.Write(folder, "a.so", [1, 2, 3]);
        File.ReadAllBytes(path).ShouldBe([1, 2, 3]);
        File.WriteAllBytes(path, []);
        PatchedLibraryCache.Write(folder, "a.so", [1, 2, 3]);
        File.ReadAllBytes(path).ShouldBe([1, 2, 3]);
        Directory.GetFiles(folder).ShouldBe([path]);
    }

    [Fact]
    public void Concurrent_writers_leave_one_complete_file()
    {
        var contents = new byte[1 << 20];
        new Random(1).NextBytes(contents);
        Parallel.For(0, 16, new ParallelOptions { MaxDegreeOfParallelism = 8 }, _ => PatchedLibraryCache.Write(_folder["cache"], "a.so", contents));
        Directory.GetFiles(_folder["cache"]).ShouldBe([Path.Combine(_folder["cache"], "a.so")]);
        File.ReadAllBytes(Path.Combine(_folder["cache"], "a.so")).ShouldBe(contents);
    }

    [Fact]
    public void Missing_libraries_are_named_with_the_package_to_reference()
    {
        Should.Throw<DllNotFoundException>(() => NativeLibraries.Load([_folder.Path])).Message.ShouldContain("no native library for this platform");
        Assert.SkipUnless(OperatingSystem.IsLinux(), "File names are Linux's.");
        File.WriteAllText(_folder["libLibTorchSharp.so"], "");
        Should.Throw<DllNotFoundException>(() => NativeLibraries.Load([_folder.Path])).Message.ShouldContain("Reference the package TorchSharp-cpu");
    }

    // A program of its own each time: a process loads a library once.
    [Theory]
    [InlineData("usable")]
    [InlineData("a file")]
    [InlineData("not set")]
    public void TorchSharp_loads_whatever_the_cache_folder_is(string cache)
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "The cache folder is Linux's.");
        var path = _folder["xdg"];
        if (cache is "a file")
        {
            File.WriteAllText(path, "");
        }

        using var first = Start();
        using var second = Start(); // at the same time
        foreach (var process in new[] { first, second })
        {
            var output = process.StandardOutput.ReadToEnd();
            process.WaitForExit();
            output.ShouldContain("stdit", Case.Insensitive, process.StandardError.ReadToEnd());
            process.ExitCode.ShouldBe(0);
        }
        // Where the system's libstdc++ is new enough, the original loads and nothing is cached.
        var copies = Directory.Exists(path) ? Directory.GetFiles(path, "*", SearchOption.AllDirectories) : [];
        copies.Length.ShouldBeLessThanOrEqualTo(1);
        copies.ShouldAllBe(copy => copy.EndsWith(".so", StringComparison.Ordinal));

        Process Start()
        {
            var start = new ProcessStartInfo(
                "dotnet",
                [Path.Combine(AppContext.BaseDirectory, "OpenSora.Cli.dll"), "inspect", TestFiles.Data("checkpoints", "pixart.pth")]
            )
            {
                RedirectStandardOutput = true,
                RedirectStandardError = true,
                UseShellExecute = false,
            };
            start.Environment["XDG_CACHE_HOME"] = cache is "not set" ? null : path;
            if (cache is "not set")
            {
                start.Environment["HOME"] = path;
            }

            return Process.Start(start)!;
        }
    }
}
