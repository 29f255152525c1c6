using System.Text.RegularExpressions;

namespace OpenSora.Tests.Runtime;

/// <summary>The version of libtorch is the same everywhere.</summary>
public class LibTorchPackageTests
{
    [Theory]
    [InlineData("src/OpenSora/Runtime/LibTorchPackage.cs", @"Version = ""([^""]*)""")]
    [InlineData("templates/OpenSora.App/OpenSora.App.csproj", @"Include=""libtorch-cpu-[^""]*""\s*Version=""([^""]*)""")]
    [InlineData("samples/FileBased/video.cs", "libtorch-cpu-linux-x64@(.*)")]
    [InlineData("tests/Packages/App.csproj.txt", @"LibTorch\)"" Version=""([^""]*)""")]
    public void Files_outside_the_solution_name_the_version_that_programs_reference(string file, string reference)
    {
        var version = Versions("Directory.Packages.props", @"Include=""libtorch-cpu-[^""]*"" Version=""([^""]*)""").ShouldHaveSingleItem();

        Versions(file, reference).ShouldBe([version]);
    }

    private static IEnumerable<string> Versions(string file, string pattern) =>
        Regex
            .Matches(File.ReadAllText(TestFiles.Data("..", "..", file)), pattern, RegexOptions.None, TimeSpan.FromSeconds(10))
            .Select(match => match.Groups[1].Value)
            .Distinct(StringComparer.Ordinal);
}
