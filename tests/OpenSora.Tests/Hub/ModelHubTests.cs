using System.Diagnostics;
using System.Net;
using System.Text;
using OpenSora.ModelFolders;

namespace OpenSora.Tests.Hub;

public sealed class ModelHubTests : IAsyncLifetime
{
    private readonly TemporaryFolder _folder = new();
    private readonly FakeHub _server = new();
    private readonly byte[] _large = new byte[3_000_000];
    private readonly byte[] _config = "{\"a\": 1}"u8.ToArray();

    public ModelHubTests()
    {
        new Random(1).NextBytes(_large);
        _server.Files["config.json"] = _config;
        _server.Files["vae/model v2.safetensors"] = _large;
        _server.Files["vae/config.json"] = _config;
    }

    public ValueTask InitializeAsync() => ValueTask.CompletedTask;

    public async ValueTask DisposeAsync()
    {
        await _server.DisposeAsync();
        _folder.Dispose();
    }

    private string Cache => _folder["hub"];

    private string LargeBlob => Path.Combine(Cache, "models--org--name", "blobs", FakeHub.Sha256(_large));

    private ModelHubOptions Options(Action<ModelHubOptions>? set = null)
    {
        var options = new ModelHubOptions
        {
            Endpoint = _server.Address,
            CacheFolder = Cache,
            Token = "",
            Offline = false,
            Retries = 2,
            RetryDelay = TimeSpan.FromMilliseconds(1),
        };
        set?.Invoke(options);
        return options;
    }

    private async Task<string> Download(
        Action<ModelHubOptions>? set = null,
        string[]? include = null,
        IProgress<DownloadProgress>? progress = null,
        bool links = true,
        CancellationToken cancellation = default
    )
    {
        using var hub = new ModelHub(Options(set), null, links);
        return await hub.DownloadAsync("org/name", "main", include, progress, cancellation);
    }

    private async Task<ModelHubException> Fails(Action<ModelHubOptions>? set = null) =>
        await Should.ThrowAsync<ModelHubException>(() => Download(set));

    private void ShouldBeComplete(string snapshot)
    {
        foreach (var (path, content) in _server.Files)
        {
            File.ReadAllBytes(Path.Combine(snapshot, path)).AsSpan().SequenceEqual(content).ShouldBeTrue(path);
        }

        Directory
            .EnumerateFiles(Cache, "*", SearchOption.AllDirectories)
            .Where(path => Path.GetExtension(path) is ".tmp" or ".incomplete")
            .ShouldBeEmpty();
    }

    [Fact]
    public async Task Files_are_stored_as_the_Python_tools_store_them()
    {
        var snapshot = await Download();
        var repository = Path.Combine(Cache, "models--org--name");
        snapshot.ShouldBe(Path.Combine(repository, "snapshots", _server.Commit));
        ShouldBeComplete(snapshot);
        File.ReadAllText(Path.Combine(repository, "refs", "main")).ShouldBe(_server.Commit);
        Directory
            .GetFiles(Path.Combine(repository, "blobs"))
            .Select(Path.GetFileName)
            .Order()
            .ShouldBe(new[] { FakeHub.Sha256(_large), FakeHub.GitSha1(_config) }.Order());
        new FileInfo(Path.Combine(snapshot, "config.json")).LinkTarget.ShouldBe($"../../blobs/{FakeHub.GitSha1(_config)}");
        new FileInfo(Path.Combine(snapshot, "vae", "model v2.safetensors")).LinkTarget.ShouldBe($"../../../blobs/{FakeHub.Sha256(_large)}");
        _server.Asked("GET", "config.json").Count().ShouldBe(1); // two files of one content
    }

    [Fact]
    public async Task Files_in_the_cache_are_not_requested_again()
    {
        await Download();
        _server.Requests.Clear();
        await Download();
        _server.Requests.Count.ShouldBe(1); // the list

        (_server.Commit, _server.Files["config.json"]) = (new string('b', 40), "{\"a\": 2}"u8.ToArray());
        var next = await Download();
        ShouldBeComplete(next);
        _server.Asked("GET", "/store/").ShouldBeEmpty();
        File.ReadAllText(Path.Combine(Cache, "models--org--name", "snapshots", new string('a', 40), "config.json")).ShouldBe("{\"a\": 1}");
    }

    [Fact]
    public async Task Without_links_files_are_stored_in_the_snapshot()
    {
        var snapshot = await Download(links: false);
        ShouldBeComplete(snapshot);
        Directory.EnumerateFiles(snapshot, "*", SearchOption.AllDirectories).ShouldAllBe(path => new FileInfo(path).LinkTarget == null);
        _server.Requests.Clear();
        await Download(links: false);
        _server.Requests.Count.ShouldBe(1);
    }

    [Fact]
    public async Task A_broken_connection_is_resumed_where_it_ended()
    {
        var cuts = 0;
        // More often than it may fail without progress.
        _server.Misbehave = (request, answer) => request.IsFor("/store/") && cuts++ < 4 ? answer with { CutAfter = 600_000 } : null;
        ShouldBeComplete(await Download());
        _server
            .Asked("GET", "/store/")
            .Select(request => request.Headers.GetValueOrDefault("Range"))
            .ShouldBe([null, "bytes=600000-", "bytes=1200000-", "bytes=1800000-", "bytes=2400000-"]);
    }

    [Fact]
    public async Task A_later_call_resumes_where_an_earlier_one_failed()
    {
        _server.Misbehave = (request, answer) =>
            request.IsFor("/store/")
                ? request.Headers.ContainsKey("Range")
                    ? new FakeHub.Answer(503, [])
                    : answer with
                    {
                        CutAfter = 1_000_000,
                    }
                : null;
        var error = await Fails();
        error.StatusCode.ShouldBe(HttpStatusCode.ServiceUnavailable);
        error.Message.ShouldContain("3 attempts");
        error.Message.ShouldContain("503");
        new FileInfo(LargeBlob + ".incomplete").Length.ShouldBe(1_000_000);
        File.Exists(LargeBlob).ShouldBeFalse();
        File.Exists(Path.Combine(Cache, "models--org--name", "refs", "main")).ShouldBeFalse();

        _server.Misbehave = null;
        _server.Requests.Clear();
        ShouldBeComplete(await Download());
        _server.Asked("GET", "/store/").Single().Headers["Range"].ShouldBe("bytes=1000000-");
    }

    [Fact]
    public async Task A_canceled_download_resumes_later()
    {
        using var cancellation = new CancellationTokenSource();
        var progress = new Steps(step =>
        {
            if (step.File is "vae/model v2.safetensors" && step.BytesDone > 1_500_000)
            {
                cancellation.Cancel();
            }
        });
        await Should.ThrowAsync<OperationCanceledException>(() => Download(progress: progress, cancellation: cancellation.Token));
        File.Exists(LargeBlob + ".incomplete").ShouldBeTrue();
        _server.Requests.Clear();
        ShouldBeComplete(await Download());
        _server.Asked("GET", "/store/").Single().Headers["Range"].ShouldStartWith("bytes=");
    }

    [Fact]
    public async Task A_server_without_ranges_starts_again()
    {
        var answers = 0;
        _server.Misbehave = (request, answer) =>
            !request.IsFor("/store/") ? null
            : answers++ == 0 ? answer with { CutAfter = 500_000 }
            : new FakeHub.Answer(200, _large);
        ShouldBeComplete(await Download());
    }

    [Fact]
    public async Task A_range_that_was_not_requested_is_not_used()
    {
        var answers = 0;
        _server.Misbehave = (request, answer) =>
            !request.IsFor("/store/") ? null
            : answers++ == 0 ? answer with { CutAfter = 500_000 }
            : answer.Status == 206
                ? new FakeHub.Answer(206, _large[100..]) { Headers = { ["Content-Range"] = $"bytes 100-{_large.Length - 1}/{_large.Length}" } }
            : null;
        ShouldBeComplete(await Download());
    }

    [Fact]
    public async Task A_silent_server_is_a_failure()
    {
        var stalls = 0;
        _server.Misbehave = (request, answer) =>
            request.IsFor("/store/") && stalls++ == 0 ? answer with { CutAfter = 500_000, StallFor = TimeSpan.FromMinutes(1) } : null;
        ShouldBeComplete(await Download(options => options.StallTimeout = TimeSpan.FromSeconds(1)));
        _server.Misbehave = (_, answer) => answer with { StallFor = TimeSpan.FromMinutes(1), CutAfter = 0 };
        (await Fails(options => (options.StallTimeout, options.Retries) = (TimeSpan.FromMilliseconds(100), 1))).Message.ShouldContain(
            "no data arrived for 0.1 s"
        );
    }

    [Theory]
    [InlineData("shorter", "ended after 1000 of 3000000 bytes")]
    [InlineData("longer", "could not be reached or did not finish")]
    [InlineData("more", "more than the 3000000 bytes")]
    [InlineData("size", "ended after 3000000 of 3000001 bytes")]
    public async Task A_wrong_length_is_detected(string lie, string reason)
    {
        _server.Misbehave = (request, answer) =>
            lie switch
            {
                "shorter" when request.IsFor("/store/") => new FakeHub.Answer(200, _large[..1000]),
                "longer" when request.IsFor("/store/") => new FakeHub.Answer(200, _large) { Length = _large.Length + 10 },
                "more" when request.IsFor("/store/") => new FakeHub.Answer(200, [.. _large, 1]),
                "size" when answer.Headers.ContainsKey("X-Linked-Size") => answer with
                {
                    Headers = new(answer.Headers) { ["X-Linked-Size"] = "3000001" },
                },
                "size" when answer.Status == 416 => new FakeHub.Answer(200, _large),
                _ => null,
            };
        if (lie is "longer")
        {
            ShouldBeComplete(await Download()); // all bytes came
            return;
        }

        (await Fails()).Message.ShouldContain(reason);
        File.Exists(LargeBlob).ShouldBeFalse();
        Directory.Exists(Path.Combine(Cache, "models--org--name", "snapshots", _server.Commit, "vae")).ShouldBeFalse();
    }

    [Theory]
    [InlineData("config.json")]
    [InlineData("/store/")]
    public async Task Invalid_content_never_gets_its_name(string part)
    {
        _server.Misbehave = (request, answer) =>
            request.Is("GET") && request.Path.Contains(part) ? answer with { Body = [.. answer.Body[..^1], (byte)(answer.Body[^1] ^ 1)] } : null;
        var error = await Fails();
        error.Message.ShouldContain("arrived damaged");
        error.Message.ShouldContain("try again");
        var hash = part is "config.json" ? FakeHub.GitSha1(_config) : FakeHub.Sha256(_large);
        Directory
            .EnumerateFiles(Cache, "*", SearchOption.AllDirectories)
            .Select(Path.GetFileName)
            .ShouldNotContain(name => name!.StartsWith(hash, StringComparison.Ordinal) && !name.EndsWith(".lock", StringComparison.Ordinal));
        _server.Misbehave = null;
        ShouldBeComplete(await Download());
    }

    [Fact]
    public async Task A_damaged_partial_file_is_discarded_once()
    {
        Directory.CreateDirectory(Path.GetDirectoryName(LargeBlob)!);
        File.WriteAllBytes(LargeBlob + ".incomplete", new byte[1000]);
        ShouldBeComplete(await Download());
        _server.Asked("GET", "/store/").Select(request => request.Headers.GetValueOrDefault("Range")).ShouldBe(["bytes=1000-", null]);
    }

    [Fact]
    public async Task A_partial_file_that_is_too_long_is_discarded()
    {
        Directory.CreateDirectory(Path.GetDirectoryName(LargeBlob)!);
        File.WriteAllBytes(LargeBlob + ".incomplete", new byte[4_000_000]);
        ShouldBeComplete(await Download());
    }

    [Fact]
    public async Task The_token_is_sent_to_the_hub_only()
    {
        await using var store = new FakeHub();
        store.Files["x"] = _large;
        _server.Store = store;
        ShouldBeComplete(await Download(options => options.Token = "hf_secret"));
        _server.Requests.ShouldAllBe(request => request.Headers["Authorization"] == "Bearer hf_secret");
        store.Requests.ShouldNotBeEmpty();
        store.Requests.ShouldAllBe(request => !request.Headers.ContainsKey("Authorization"));
    }

    [Fact]
    public async Task A_redirect_within_the_hub_keeps_the_token_and_endless_redirects_end()
    {
        _server.Misbehave = (request, answer) =>
            request.IsFor("/old/name/")
                ? new FakeHub.Answer(307, []) { Headers = { ["Location"] = request.Path.Replace("/old/name/", "/org/name/") } }
            : request.IsFor("/api/models/old/name/")
                ? new FakeHub.Answer(307, []) { Headers = { ["Location"] = request.Path.Replace("/old/name/", "/org/name/") } }
            : null;
        using var hub = new ModelHub(Options(options => options.Token = "hf_secret"));
        File.ReadAllBytes(Path.Combine(await hub.DownloadAsync("old/name"), "config.json")).ShouldBe(_config);
        _server.Requests.ShouldAllBe(request => request.Headers["Authorization"] == "Bearer hf_secret");

        _server.Misbehave = (_, _) => new FakeHub.Answer(302, []) { Headers = { ["Location"] = "/again" } };
        (await Fails()).Message.ShouldContain("redirects more than 10 times");
        _server.Misbehave = (_, _) => new FakeHub.Answer(302, []) { Headers = { ["Location"] = "file:///etc/passwd" } };
        (await Fails()).Message.ShouldContain("less safe");
    }

    [Theory]
    [InlineData(401, "Check the name, or set HF_TOKEN")]
    [InlineData(403, "terms may have to be accepted")]
    [InlineData(404, "Check the names")]
    [InlineData(418, "answers 418")]
    public async Task A_refusal_is_not_repeated(int status, string reason)
    {
        _server.Misbehave = (_, _) => new FakeHub.Answer(status, []) { Headers = { ["X-Error-Message"] = "Because." } };
        var error = await Fails();
        error.StatusCode.ShouldBe((HttpStatusCode)status);
        error.Message.ShouldContain(reason);
        error.Message.ShouldContain("It says: Because.");
        error.Message.ShouldContain("'org/name' at revision 'main'");
        _server.Requests.Count.ShouldBe(1);
        (await Fails(options => options.Token = "hf_secret")).Message.ShouldNotContain("hf_secret");
    }

    [Theory]
    [InlineData(429)]
    [InlineData(500)]
    [InlineData(503)]
    public async Task A_request_to_a_busy_hub_is_repeated(int status)
    {
        var failures = 2;
        _server.Misbehave = (_, _) => failures-- > 0 ? new FakeHub.Answer(status, []) { Headers = { ["Retry-After"] = "0" } } : null;
        ShouldBeComplete(await Download());
        failures = 100;
        var error = await Fails();
        (error.StatusCode, error.Message.Contains($"{status}")).ShouldBe(((HttpStatusCode)status, true));
        error.Message.ShouldContain("Offline");
    }

    [Fact]
    public async Task A_missing_hub_is_named()
    {
        (await Fails(options => options.Endpoint = "http://127.0.0.1:1")).Message.ShouldContain("127.0.0.1 could not be reached");
        foreach (var bad in new[] { "hub", "ftp://hub.example.org", "https://me:secret@hub.example.org", "https://hub.example.org/?a=b" })
        {
            var error = await Fails(options => options.Endpoint = bad);
            error.Message.ShouldContain("address of the hub is not valid");
            error.Message.ShouldNotContain("secret");
        }
    }

    [Fact]
    public async Task Environment_variables_supply_what_the_options_leave_out()
    {
        string[] names = ["HF_ENDPOINT", "HF_HUB_CACHE", "HF_HOME", "HF_TOKEN", "HF_HUB_OFFLINE", "XDG_CACHE_HOME"];
        var before = names.Select(Environment.GetEnvironmentVariable).ToList();
        try
        {
            foreach (var name in names)
            {
                Environment.SetEnvironmentVariable(name, null);
            }

            using (var hub = new ModelHub(new ModelHubOptions { CacheFolder = Cache }))
            {
                (await Should.ThrowAsync<ModelHubException>(() => hub.DownloadAsync("org/name"))).Message.ShouldContain("HF_ENDPOINT");
            }

            Environment.SetEnvironmentVariable("XDG_CACHE_HOME", _folder["xdg"]);
            new ModelHubOptions().ResolvedCacheFolder.ShouldBe(Path.Combine(_folder["xdg"], "huggingface", "hub"));
            Environment.SetEnvironmentVariable("HF_HOME", _folder["home"]);
            new ModelHubOptions().ResolvedCacheFolder.ShouldBe(Path.Combine(_folder["home"], "hub"));
            Environment.SetEnvironmentVariable("HF_HOME", "~/models");
            new ModelHubOptions().ResolvedCacheFolder.ShouldBe(
                Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), "models", "hub")
            );
            Environment.SetEnvironmentVariable("HF_HUB_CACHE", Cache);
            Environment.SetEnvironmentVariable("HF_ENDPOINT", _server.Address + "/");
            Environment.SetEnvironmentVariable("HF_TOKEN", " hf_secret\n");
            using (var hub = new ModelHub())
            {
                ShouldBeComplete(await hub.DownloadAsync("org/name"));
            }

            _server.Requests.ShouldAllBe(request => request.Headers["Authorization"] == "Bearer hf_secret");

            Environment.SetEnvironmentVariable("HF_HUB_OFFLINE", "true");
            _server.Requests.Clear();
            using (var hub = new ModelHub())
            {
                ShouldBeComplete(await hub.DownloadAsync("org/name"));
            }

            _server.Requests.ShouldBeEmpty();
        }
        finally
        {
            foreach (var (name, value) in names.Zip(before))
            {
                Environment.SetEnvironmentVariable(name, value);
            }
        }
    }

    [Fact]
    public async Task Offline_mode_uses_the_cache_only()
    {
        using var hub = new ModelHub(Options(options => (options.Offline, options.Endpoint) = (true, null)));
        (await Should.ThrowAsync<ModelHubException>(() => hub.DownloadAsync("org/name"))).Message.ShouldContain("is not in the cache");
        hub.Find("org/name").ShouldBeNull();

        var snapshot = await Download(include: ["config.json"]);
        _server.Requests.Clear();
        (await hub.DownloadAsync("org/name")).ShouldBe(snapshot);
        (await hub.DownloadAsync("org/name", _server.Commit)).ShouldBe(snapshot);
        (await hub.DownloadAsync("org/name", "main", ["*.json"])).ShouldBe(snapshot);
        (await Should.ThrowAsync<ModelHubException>(() => hub.DownloadAsync("org/name", "main", ["vae/"]))).Message.ShouldContain("with vae/");
        hub.Find("org/name", "other").ShouldBeNull();
        hub.Find("org/other").ShouldBeNull();
        File.Delete(Path.Combine(Cache, "models--org--name", "blobs", FakeHub.GitSha1(_config)));
        hub.Find("org/name").ShouldBeNull(); // a link that leads nowhere
        _server.Requests.ShouldBeEmpty();
        ShouldBeComplete(await Download());
    }

    [Theory]
    [InlineData("vae/", 2)]
    [InlineData("*.json", 2)]
    [InlineData("config.json", 1)]
    [InlineData("vae/model ?2.*", 1)]
    [InlineData("*", 3)]
    public async Task Only_matching_files_are_downloaded(string pattern, int count)
    {
        var snapshot = await Download(include: [pattern]);
        Directory.EnumerateFiles(snapshot, "*", SearchOption.AllDirectories).Count().ShouldBe(count);
    }

    [Fact]
    public async Task A_pattern_without_matches_is_reported()
    {
        var error = await Should.ThrowAsync<ModelHubException>(() => Download(include: ["*.bin", "unet/"]));
        error.Message.ShouldContain("has no files that match *.bin, unet/. It has 3: config.json, vae/model v2.safetensors, vae/config.json");
    }

    [Theory]
    [InlineData("../../evil")]
    [InlineData("/etc/passwd")]
    [InlineData("a//b")]
    [InlineData("a\\..\\b")]
    [InlineData("C:\\b")]
    [InlineData("a/./b")]
    [InlineData("a\nb")]
    [InlineData("")]
    public async Task Names_that_lead_out_of_the_folder_are_rejected(string name)
    {
        _server.Files[name] = _config;
        (await Fails()).Message.ShouldContain("nothing was downloaded");
        Directory.Exists(Cache).ShouldBeFalse();
    }

    [Fact]
    public async Task Nonsense_is_rejected()
    {
        FakeHub.Answer? List(FakeHub.Request request, string json) =>
            request.IsFor("/api/") ? new FakeHub.Answer(200, Encoding.UTF8.GetBytes(json)) : null;
        _server.Misbehave = (request, _) => List(request, "<html>");
        (await Fails()).Message.ShouldContain("Is the endpoint a hub?");
        _server.Misbehave = (request, _) => List(request, "{\"sha\": 3}");
        (await Fails()).Message.ShouldContain("cannot be read");
        _server.Misbehave = (request, _) => List(request, new string(' ', 65 << 20));
        (await Fails()).Message.ShouldContain("longer than 64 MB");
        _server.Misbehave = (request, _) => List(request, "{\"sha\": \"../../x\", \"siblings\": []}");
        (await Fails()).Message.ShouldContain("expected 40 hexadecimal digits");
        _server.Misbehave = (request, answer) => request.Is("HEAD") ? answer with { Headers = new() { ["ETag"] = "\"../../../x\"" } } : null;
        (await Fails()).Message.ShouldContain("says no checksum of 'config.json'");
        Directory.Exists(Cache).ShouldBeFalse();
    }

    [Fact]
    public async Task Bad_names_options_and_handlers_are_rejected_before_anything_is_sent()
    {
        using var hub = new ModelHub(Options());
        foreach (var name in new[] { "", "a/b/c", "../x", "a b", "/x", "x/", "a--b/c", "a\\b" })
        {
            await Should.ThrowAsync<ArgumentException>(() => hub.DownloadAsync(name));
        }

        foreach (var revision in new[] { "", "..", "a/../b", "/main", "a b", "a\\b" })
        {
            await Should.ThrowAsync<ArgumentException>(() => hub.DownloadAsync("org/name", revision));
        }

        Should.Throw<ArgumentException>(() => new ModelHub(Options(options => options.Retries = -1))).Message.ShouldContain("Retries is -1");
        using var following = new HttpClientHandler();
        Should.Throw<ArgumentException>(() => new ModelHub(Options(), following)).Message.ShouldContain("AllowAutoRedirect");
        _server.Requests.ShouldBeEmpty();

        using var handler = new SocketsHttpHandler { AllowAutoRedirect = false };
        using var mine = new ModelHub(Options(), handler);
        ShouldBeComplete(await mine.DownloadAsync("org/name", "refs/pr/1"));
        File.ReadAllText(Path.Combine(Cache, "models--org--name", "refs", "refs", "pr", "1")).ShouldBe(_server.Commit);
    }

    [Fact]
    public async Task Concurrent_calls_download_once()
    {
        var snapshots = await Task.WhenAll(Enumerable.Range(0, 4).Select(i => Task.Run(() => Download(links: i % 2 == 0))));
        snapshots.Distinct().Count().ShouldBe(1);
        ShouldBeComplete(snapshots[0]);
        _server.Asked("GET", "/store/").Count().ShouldBe(1);
    }

    [Fact]
    public async Task A_download_by_another_process_is_awaited()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Another process is played by flock, which takes locks as the Python tools do.");
        var @lock = Path.Combine(Cache, ".locks", "models--org--name", FakeHub.Sha256(_large) + ".lock");
        Directory.CreateDirectory(Path.GetDirectoryName(@lock)!);
        Directory.CreateDirectory(Path.GetDirectoryName(LargeBlob)!);
        File.WriteAllBytes(_folder["elsewhere"], _large);
        using var other = Process.Start(
            new ProcessStartInfo("flock", [@lock, "sh", "-c", "echo locked; read go; mv \"$0\" \"$1\"", _folder["elsewhere"], LargeBlob])
            {
                RedirectStandardInput = true,
                RedirectStandardOutput = true,
                UseShellExecute = false,
            }
        )!;
        (await other.StandardOutput.ReadLineAsync()).ShouldBe("locked");

        var reached = new TaskCompletionSource();
        var download = Download(
            progress: new Steps(step =>
            {
                if (step.File is "vae/model v2.safetensors")
                {
                    reached.TrySetResult();
                }
            })
        );
        await Task.WhenAny(reached.Task, download);
        await other.StandardInput.WriteLineAsync("go");
        ShouldBeComplete(await download);
        _server.Asked("GET", "/store/").ShouldBeEmpty();
        await other.WaitForExitAsync();
    }

    [Fact]
    public async Task Progress_grows_to_the_total()
    {
        var steps = new List<DownloadProgress>();
        await Download(progress: new Steps(steps.Add));
        steps.Count.ShouldBeGreaterThan(10);
        steps.Zip(steps.Skip(1)).ShouldAllBe(pair => pair.Second.BytesDone >= pair.First.BytesDone && pair.Second.FilesDone >= pair.First.FilesDone);
        steps.ShouldAllBe(step => step.Bytes == _large.Length + 2 * _config.Length && step.Files == 3);
        (steps[^1].FilesDone, steps[^1].BytesDone).ShouldBe((3, _large.Length + 2 * _config.Length));
    }

    [Theory]
    [InlineData("https://hub.example.org", true)]
    [InlineData("http://hub.example.org", false)]
    [InlineData("http://localhost:1", true)]
    public async Task The_token_does_not_go_over_the_network_unencrypted(string endpoint, bool isShown)
    {
        using var handler = new Refusing();
        using var hub = new ModelHub(Options(options => (options.Endpoint, options.Token) = (endpoint, "hf_secret")), handler);
        (await Should.ThrowAsync<ModelHubException>(() => hub.DownloadAsync("org/name"))).StatusCode.ShouldBe(HttpStatusCode.NotFound);
        handler.Shown.ShouldBe([isShown ? "Bearer hf_secret" : null]);
    }

    /// <summary>A server without files that records the tokens it receives.</summary>
    private sealed class Refusing : HttpMessageHandler
    {
        public List<string?> Shown { get; } = [];

        protected override Task<HttpResponseMessage> SendAsync(HttpRequestMessage request, CancellationToken cancellationToken)
        {
            Shown.Add(request.Headers.Authorization?.ToString());
            return Task.FromResult(new HttpResponseMessage(HttpStatusCode.NotFound));
        }
    }

    private sealed class Steps(Action<DownloadProgress> take) : IProgress<DownloadProgress>
    {
        public void Report(DownloadProgress value) => take(value);
    }
}
