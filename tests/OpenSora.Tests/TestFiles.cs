namespace OpenSora.Tests;

/// <summary>The folder tests/Data.</summary>
internal static class TestFiles
{
    public static string Data(params string[] parts) => Path.Combine([Root(), "tests", "Data", .. parts]);

    private static string Root()
    {
        for (var folder = AppContext.BaseDirectory; folder is not null; folder = Path.GetDirectoryName(folder))
        {
            if (File.Exists(Path.Combine(folder, "OpenSora.Lib.sln")))
            {
                return folder;
            }
        }

        throw new DirectoryNotFoundException("The tests run from a build in the repository, which holds their data.");
    }
}
