using System.Net;
using System.Text.RegularExpressions;

namespace OpenSora.Studio.Tests;

/// <summary>Rules for the Dockerfile that can be checked without an engine.</summary>
public partial class DockerfileTests
{
    private static readonly string Root = FindRoot();

    [Fact]
    public void Base_images_have_a_version()
    {
        var images = Instructions("FROM").ToList();
        images.Count.ShouldBe(2);
        images.ShouldAllBe(image => VersionTag().IsMatch(image));
    }

    [Fact]
    public void The_program_does_not_run_as_root()
    {
        Instructions("USER").ShouldBe(["app"]);
        Instructions("ENTRYPOINT").ShouldBe(["""["dotnet", "Studio.dll"]"""]);
        var all = Instructions().ToList();
        all.FindIndex(each => each.StartsWith("USER", StringComparison.Ordinal))
            .ShouldBeGreaterThan(all.FindLastIndex(each => each.StartsWith("FROM", StringComparison.Ordinal)));
    }

    [Fact]
    public void Copied_files_exist_and_are_in_the_context()
    {
        var sources = Instructions("COPY")
            .Where(copy => !copy.StartsWith("--from", StringComparison.Ordinal))
            .SelectMany(copy => copy.Split(' ')[..^1]);
        var included = File.ReadAllLines(Path.Combine(Root, "samples", "Studio", "Dockerfile.dockerignore"))
            .Where(line => line.StartsWith('!'))
            .Select(line => line[1..])
            .ToList();
        sources = [.. sources.Select(source => source.TrimEnd('/'))];
        sources.ShouldNotBeEmpty();
        sources.ShouldAllBe(source => Path.Exists(Path.Combine(Root, source)));
        sources.Order().ShouldBe(included.Order());
    }

    [Fact]
    public void Environment_variables_are_settings()
    {
        var names = Instructions("ENV").Select(each => each.Split('=')[0]).ToList();
        names.ShouldBe(["Urls", "Studio__DataFolder"]);
        typeof(StudioOptions).GetProperty("DataFolder").ShouldNotBeNull();
        Instructions("VOLUME")
            .Single()
            .ShouldBe(Instructions("ENV").Single(each => each.StartsWith("Studio__DataFolder", StringComparison.Ordinal)).Split('=')[1]);
    }

    [Fact]
    public async Task The_health_check_asks_an_endpoint_on_the_exposed_port()
    {
        var address = new Uri(Address().Match(Instructions("HEALTHCHECK").Single()).Value);
        $"{address.Port}".ShouldBe(Instructions("EXPOSE").Single());
        Instructions("ENV").ShouldContain($"Urls=http://0.0.0.0:{address.Port}");
        await using var studio = await RunningStudio.StartAsync();
        await studio.Client.GetAsync("/api/model"); // waits until the model is loaded
        (await studio.Client.GetAsync(address.AbsolutePath)).StatusCode.ShouldBe(HttpStatusCode.OK);
    }

    [Fact]
    public void Package_lists_are_deleted_in_the_layer_that_made_them()
    {
        var install = Instructions("RUN").Single(run => run.Contains("apt-get", StringComparison.Ordinal));
        install.ShouldContain("--no-install-recommends ffmpeg");
        install.ShouldContain("rm -rf /var/lib/apt/lists/*");
    }

    private static IEnumerable<string> Instructions(string name) =>
        Instructions().Where(each => each.StartsWith(name + " ", StringComparison.Ordinal)).Select(each => each[(name.Length + 1)..].Trim());

    /// <summary>Returns the instructions, each on one line, without comments.</summary>
    private static IEnumerable<string> Instructions()
    {
        var lines = File.ReadAllLines(Path.Combine(Root, "samples", "Studio", "Dockerfile"));
        var text = string.Join('\n', lines.Where(line => !line.StartsWith('#')));
        return Continuation().Replace(text, " ").Split('\n', StringSplitOptions.RemoveEmptyEntries);
    }

    private static string FindRoot()
    {
        var folder = new DirectoryInfo(AppContext.BaseDirectory);
        while (!File.Exists(Path.Combine(folder.FullName, "OpenSora.Lib.sln")))
        {
            folder = folder.Parent ?? throw new InvalidOperationException("The tests are not in the repository.");
        }

        return folder.FullName;
    }

    // A tag such as 10.0-noble: a version of .NET and of the system.
    [GeneratedRegex(@"^mcr\.microsoft\.com/dotnet/\w+:\d+\.\d+-[a-z]+( AS \w+)?$", RegexOptions.ExplicitCapture, 1000)]
    private static partial Regex VersionTag();

    [GeneratedRegex(@"http://[^""\s]+", RegexOptions.None, 1000)]
    private static partial Regex Address();

    [GeneratedRegex(@"\\\n\s*", RegexOptions.None, 1000)]
    private static partial Regex Continuation();
}
