namespace OpenSora.Tests;

/// <summary>Files of tests/Data.</summary>
public static class TestData
{
    private static readonly string Root = Find();

    public static string Path(params string[] parts) => System.IO.Path.Combine([Root, .. parts]);

    private static string Find()
    {
        for (var folder = new DirectoryInfo(AppContext.BaseDirectory); folder is not null; folder = folder.Parent)
        {
            var data = System.IO.Path.Combine(folder.FullName, "tests", "Data");
            if (Directory.Exists(data))
                return data;
        }

        throw new DirectoryNotFoundException($"There is no folder tests/Data above {AppContext.BaseDirectory}: run the tests from a checkout.");
    }
}
