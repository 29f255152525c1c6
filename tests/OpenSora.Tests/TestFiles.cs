namespace OpenSora.Tests;

/// <summary>The folder tests/Data, and folders for files that a test writes.</summary>
internal static class TestFiles
{
    public static string Data(params string[] parts) => Path.Combine([Root(), "tests", "Data", .. parts]);

    private static string Root()
    {
        for (var folder = AppContext.BaseDirectory; folder is not null; folder = Path.GetDirectoryName(folder))
        {
            if (File.Exists(Path.Combine(folder, "OpenSora.Lib.sln")))
                return folder;
        }

        throw new DirectoryNotFoundException("The tests run from a build in the repository, which holds their data.");
    }
}

/// <summary>A folder that goes with the test.</summary>
internal sealed class TemporaryFolder : IDisposable
{
    public string Path { get; } = Directory.CreateTempSubdirectory("opensora-").FullName;

    public string this[string name] => System.IO.Path.Combine(Path, name);

    public void Dispose() => Directory.Delete(Path, recursive: true);
}
