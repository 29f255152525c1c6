using OpenSora.Cli;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Tests.Hub;
using OpenSora.Tests.Weights;

namespace OpenSora.Tests.Cli;

/// <summary><c>opensora models</c>, with a hub on this machine.</summary>
public sealed class ModelsCommandTests : IAsyncLifetime
{
    private const string Name = "open-sora-1.0";
    private readonly TemporaryFolder _folder = new();
    private readonly FakeHub _hub = new();

    public ModelsCommandTests()
    {
        var random = new Random(1);
        byte[] Bytes(int count)
        {
            var bytes = new byte[count];
            random.NextBytes(bytes);
            return bytes;
        }

        _hub.Others["hpcai-tech/Open-Sora"] = new() { ["OpenSora-v1-HQ-16x256x256.pth"] = Bytes(300_000), ["README.md"] = Bytes(10) };
        _hub.Others["stabilityai/sd-vae-ft-ema"] = new() { ["config.json"] = Bytes(20), ["diffusion_pytorch_model.safetensors"] = Bytes(5000) };
        _hub.Others["DeepFloyd/t5-v1_1-xxl"] = new()
        {
            ["config.json"] = Bytes(20),
            ["spiece.model"] = Bytes(2000),
            ["pytorch_model.bin.index.json"] = Bytes(100),
            ["pytorch_model-00001-of-00002.bin"] = Bytes(3000),
            ["pytorch_model-00002-of-00002.bin"] = Bytes(3000),
        };
    }

    public ValueTask InitializeAsync() => ValueTask.CompletedTask;

    public async ValueTask DisposeAsync()
    {
        await _hub.DisposeAsync();
        _folder.Dispose();
    }

    private string Model => _folder["model"];

    private Task<Opensora> DownloadAsync(params string[] more) =>
        Opensora.RunAsync(["models", "download", Name, "--endpoint", _hub.Address, "--cache", _folder["cache"], "--out", Model, .. more]);

    [Fact]
    public async Task The_list_says_what_cannot_be_run()
    {
        var result = await Opensora.RunAsync("models", "list", "--json");
        var published = result.Json.GetProperty("published").EnumerateArray().ToDictionary(entry => entry.GetProperty("name").GetString()!);
        published[Name].GetProperty("kind").GetString().ShouldBe("model");
        published["open-sora-1.2"].GetProperty("problem").GetString()!.ShouldContain("is not implemented");
        result.Json.GetProperty("local").EnumerateArray().Select(model => model.GetProperty("name").GetString()).ShouldContain("stickers");
        (await Opensora.RunAsync("models", "list")).Output.ShouldContain("not supported");

        var refused = await Opensora.RunAsync("models", "download", "open-sora-1.2", "--yes");
        refused.ExitCode.ShouldBe(1);
        refused.Error.ShouldContain("open-sora-1.2-transformer");
        (await Opensora.RunAsync("models", "download", "nothing", "--yes")).Error.ShouldContain("'opensora models list' lists them.");
    }

    [Fact]
    public async Task A_dry_run_shows_files_sizes_and_licenses_and_downloads_nothing()
    {
        var result = await DownloadAsync("--dry-run");
        result.ExitCode.ShouldBe(0, result.Error);
        result.Output.ShouldContain("OpenSora-v1-HQ-16x256x256.pth  300.0 kB");
        result.Output.ShouldContain("stabilityai/sd-vae-ft-ema at aaaaaaaaaa, license MIT");
        result.Output.ShouldContain("To download: 313.1 kB of 313.1 kB.");
        result.Output.ShouldNotContain("README.md");
        Directory.EnumerateFiles(_folder.Path, "*", SearchOption.AllDirectories).ShouldBeEmpty();

        var json = (await DownloadAsync("--dry-run", "--json")).Json;
        json.GetProperty("missing").GetInt64().ShouldBe(313_140);
        json.GetProperty("files").GetArrayLength().ShouldBe(8);
    }

    [Fact]
    public async Task Nothing_is_downloaded_without_consent()
    {
        var result = await DownloadAsync();
        result.ExitCode.ShouldBe(1);
        result.Error.ShouldContain("--yes");
        Directory.Exists(Model).ShouldBeFalse();
    }

    [Fact]
    public async Task A_model_folder_is_made_and_a_stopped_download_continues()
    {
        var shard = _hub.Others["DeepFloyd/t5-v1_1-xxl"]["pytorch_model-00002-of-00002.bin"];
        _hub.Misbehave = (request, answer) =>
            request.Is("GET") && request.Path.EndsWith(FakeHub.Sha256(shard), StringComparison.Ordinal)
                ? new FakeHub.Answer(404, []) { Headers = { ["X-Error-Message"] = "gone" } }
                : null;
        var failed = await DownloadAsync("--yes");
        failed.ExitCode.ShouldBe(1);
        failed.Error.ShouldContain("gone");

        _hub.Misbehave = null;
        _hub.Requests.Clear();
        var result = await DownloadAsync("--yes", "--json");
        result.ExitCode.ShouldBe(0, result.Error);
        result.Error.ShouldContain("(in the cache)");
        _hub.Asked("GET", "/store/").Select(request => request.Path).ShouldBe([$"/store/{FakeHub.Sha256(shard)}"]);
        result.Json.GetProperty("isComplete").GetBoolean().ShouldBeTrue();
        ModelFolder.Open(Model).Description.Name.ShouldBe(Name);
        new FileInfo(Path.Combine(Model, "OpenSora-v1-HQ-16x256x256.pth")).LinkTarget.ShouldNotBeNull();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Verify_compares_hashes_and_tensors(bool copy)
    {
        (await DownloadAsync(copy ? ["--yes", "--copy"] : ["--yes"])).ExitCode.ShouldBe(0);
        var shard = Path.Combine(Model, "t5-v1_1-xxl", "pytorch_model-00001-of-00002.bin");
        new FileInfo(shard).LinkTarget.ShouldBe(copy ? null : new FileInfo(shard).ResolveLinkTarget(false)!.FullName);
        var result = await Opensora.RunAsync("models", "verify", Model, "--json");
        result.ExitCode.ShouldBe(1); // the weights are random bytes
        var checks = result.Json.GetProperty("checks").EnumerateArray().ToList();
        checks.Where(check => check.GetProperty("check").GetString() is "hash").Count().ShouldBe(8);
        checks
            .Where(check => check.GetProperty("check").GetString() is "hash")
            .ShouldAllBe(check => check.GetProperty("problem").GetString() == null);
        checks
            .Where(check => check.GetProperty("check").GetString() is "tensors")
            .ShouldAllBe(check => check.GetProperty("problem").GetString() != null);

        var bytes = await File.ReadAllBytesAsync(shard);
        bytes[1000] ^= 1;
        await File.WriteAllBytesAsync(shard, bytes);
        (await Opensora.RunAsync("models", "verify", Model)).Output.ShouldContain(
            "pytorch_model-00001-of-00002.bin: the contents do not have the hash"
        );
        File.Delete(shard);
        (await Opensora.RunAsync("models", "verify", Model)).ExitCode.ShouldBe(1);
    }

    [Fact]
    public async Task The_tensors_of_the_bundled_model_fit()
    {
        var result = await Opensora.RunAsync("models", "verify", "stickers");
        result.ExitCode.ShouldBe(0, result.Error);
        result.Output.ShouldContain("denoiser.safetensors: every tensor fits");
        result.Output.ShouldContain("The hashes are unknown");
    }

    [Theory]
    [InlineData("open-sora-1.0", "opensora_v1.0_stdit_xl2_16x256x256")]
    [InlineData("open-sora-1.0-512", "opensora_v1.0_stdit_xl2_16x512x512")]
    [InlineData("open-sora-1.1", "opensora_v1.1_stdit2_xl2")]
    [InlineData("pixart-alpha-512", "orig_pixart_xl2_512")]
    [InlineData("pixart-alpha-1024", "orig_pixart_xl2_1024ms")]
    [InlineData("latte-ucf101", "orig_latte_xl2_ucf101")]
    public void Descriptions_fit_the_published_tensors(string name, string manifest)
    {
        var part = Catalog.Find(name).Description!().Denoiser;
        var architecture = Architectures.BuiltIn.Transformers.First(known => known.Name.Equals(part.Architecture, StringComparison.Ordinal));
        var config = architecture.ReadConfig(TrainCommand.ConfigOf(part));
        using var file = new InspectTests.Published(manifest, "");
        var report = architecture.Compare(config, file);
        report.IsComplete.ShouldBeTrue($"{report}");
        report.Loaded.Count.ShouldBeGreaterThan(100);
    }

    [Fact]
    public void Entries_are_consistent()
    {
        Catalog.Entries.Select(entry => entry.Name).ShouldBeUnique();
        foreach (var entry in Catalog.Entries)
        {
            (entry.Problem is null).ShouldBe(entry.Sources.Count > 0, entry.Name);
            if (entry.Description?.Invoke() is { } description)
            {
                description.Name.ShouldBe(entry.Name);
            }
        }
    }
}
