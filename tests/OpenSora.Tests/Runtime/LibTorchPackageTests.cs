using System.Text.RegularExpressions;
using OpenSora.Runtime;

namespace OpenSora.Tests.Runtime;

/// <summary>The version of libtorch is the same everywhere.</summary>
public class LibTorchPackageTests
{
    [Theory]
    [InlineData("Directory.Packages.props", @"Include=""libtorch-cpu-[^""]*"" Version=""([^""]*)""")]
    [InlineData("templates/OpenSora.App/OpenSora.App.csproj", @"Include=""libtorch-cpu-[^""]*""\s*Version=""([^""]*)""")]
    [InlineData("samples/FileBased/video.cs", "libtorch-cpu-linux-x64@(.*)")]
    [InlineData("tests/Packages/App.csproj.txt", @"LibTorch\)"" Version=""([^""]*)""")]
    public void Files_outside_the_library_name_the_same_version(string file, string reference)
    {
        var text = File.ReadAllText(TestFiles.Data("..", "..", file));

        Regex.Matches(text, reference).Select(match => match.Groups[1].Value).Distinct().ShouldBe([LibTorchPackage.Version]);
    }
}
