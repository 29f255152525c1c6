using System.Diagnostics;
using OpenSora.Preparation.Media;

namespace OpenSora.Preparation.Tests.Media;

public sealed class SourceFolderTests
{
    [Fact]
    public async Task EveryVideoIsListedOnceAndEverythingElseIsReported()
    {
        using var folder = new TemporaryFolder();
        string[] names =
        [
            "b.mp4",
            "a.MKV",
            "new\nline 'quoted\".mov",
            "sub/c.webm",
            ".hidden.mp4",
            "._b.mp4",
            "photo.jpg",
            "notes.md",
            "b.srt",
            "x.txt",
        ];
        Directory.CreateDirectory(folder["sub"]);
        foreach (var name in names)
        {
            await File.WriteAllTextAsync(folder[name], name, TestContext.Current.CancellationToken);
        }

        var listed = SourceFolder.List(folder.Path + "/");
        listed.Files.ShouldBe(new[] { "a.MKV", "b.mp4", "new\nline 'quoted\".mov", "sub/c.webm" }.Select(name => folder[name]));
        listed
            .PassedOver.Select(entry => $"{Path.GetRelativePath(folder.Path, entry.Path)} {entry.Reason}")
            .ShouldBe([
                "._b.mp4 holds file attributes of macOS",
                ".hidden.mp4 is hidden",
                "notes.md is not a video according to its extension",
                "photo.jpg is an image, not a video",
                "x.txt is not a video according to its extension",
            ]);
        Should.Throw<DirectoryNotFoundException>(() => SourceFolder.List(folder["missing"])).Message.ShouldContain("missing");
    }

    [Fact]
    public void LinksPipesAndUnreadableFoldersAreReportedWithCountableReasons()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "Links and pipes are made with Unix commands.");
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["a.mp4"], "a");
        Directory.CreateDirectory(folder["locked"]);
        File.CreateSymbolicLink(folder["0-link.mp4"], "a.mp4");
        File.CreateSymbolicLink(folder["nothing.mp4"], "missing.mp4");
        Run("ln", folder["a.mp4"], folder["z-hard.mp4"]);
        Run("mkfifo", folder["pipe.mp4"]);

        var listed = SourceFolder.List(
            folder.Path,
            new(folder.Path)
            {
                IncludeImages = false,
                Entries = path =>
                    path.EndsWith("locked", StringComparison.Ordinal)
                        ? throw new UnauthorizedAccessException("Access is denied.")
                        : new DirectoryInfo(path).EnumerateFileSystemInfos(),
            }
        );
        listed.Files.ShouldBe([folder["a.mp4"]]);
        listed
            .PassedOver.Select(entry => $"{Path.GetFileName(entry.Path)}: {entry.Reason}; {entry.Message}")
            .ShouldBe([
                "0-link.mp4: is another name of a listed file; is the same file as 'a.mp4'",
                "locked: cannot be read; cannot be read: Access is denied.",
                "nothing.mp4: is a link that leads to nothing; is a link that leads to nothing",
                "pipe.mp4: is a pipe, not a file; is a pipe, not a file",
                "z-hard.mp4: is another name of a listed file; is the same file as 'a.mp4'",
            ]);
    }

    private static void Run(string program, params string[] arguments)
    {
        using var process = Process.Start(program, arguments);
        process.WaitForExit();
        process.ExitCode.ShouldBe(0);
    }
}
