using System.Text.Json;
using OpenSora.Media;
using OpenSora.ModelFolders;

namespace OpenSora.Tests.Cli;

/// <summary><c>opensora train</c> and <c>plan</c>.</summary>
public sealed class TrainCommandTests : IAsyncLifetime
{
    private readonly TemporaryFolder _folder = new();

    public async ValueTask InitializeAsync()
    {
        Directory.CreateDirectory(_folder["clips"]);
        for (var i = 0; i < 2; i++)
        {
            var pixels = new byte[128 * 128 * 3];
            new Random(i).NextBytes(pixels);
            var file = Path.Combine(_folder["clips"], $"clip-{i}.png");
            await new VideoWriter().WriteAsync(new VideoFrames(pixels, 1, 128, 128, 8), file, VideoFormat.Image);
        }
    }

    public ValueTask DisposeAsync()
    {
        _folder.Dispose();
        return ValueTask.CompletedTask;
    }

    private async Task<string> ConfigurationAsync(int steps, string source = "stills", string extra = "")
    {
        var run = _folder["run"];
        var json = $$"""
            {
              // comments are allowed
              "OpenSora": { "Training": {
                "Stages": [ { "Name": "stills", "Source": "{{source}}", "Steps": {{steps}}, "BatchSize": 1, "EmaDecay": 0.9 {{extra}} } ],
                "Checkpoints": { "Folder": {{JsonSerializer.Serialize(run)}} } } },
              "Run": {
                "Model": {{JsonSerializer.Serialize(Stickers)}},
                "Denoiser": {
                  "input_size": [24, 16, 16], "model_max_length": 24, "pred_sigma": false, "in_channels": 8,
                  "hidden_size": 32, "depth": 1, "num_heads": 2, "caption_channels": 192 },
                "Output": {{JsonSerializer.Serialize(_folder["mine"])}},
                "Cache": {{JsonSerializer.Serialize(_folder["latents"])}},
                "Sources": { "stills": { "Path": {{JsonSerializer.Serialize(_folder["clips"])}}, "Frames": 1 } } },
            }
            """;
        var path = _folder["train.json"];
        await File.WriteAllTextAsync(path, json);
        return path;
    }

    [Fact]
    public async Task A_model_is_trained_and_can_generate()
    {
        var configuration = await ConfigurationAsync(3);
        var valid = await Opensora.RunAsync("train", configuration, "--validate");
        valid.ExitCode.ShouldBe(0, valid.Error);
        valid.Output.ShouldContain("The configuration is valid: 1 stages.");
        Directory.Exists(_folder["run"]).ShouldBeFalse();

        var result = await Opensora.RunAsync("train", configuration, "--json");
        result.ExitCode.ShouldBe(0, result.Error);
        result.Json.GetProperty("state").GetString().ShouldBe("complete");
        result.Json.GetProperty("stages")[0].GetProperty("loss").GetDouble().ShouldBeGreaterThan(0);
        ModelFolder.Open(_folder["mine"]).Description.Name.ShouldBe("mine");
        var generated = await Opensora.RunAsync("generate", "x", "--model", _folder["mine"], "--frames", "1", "--out", _folder["x.png"]);
        generated.ExitCode.ShouldBe(0, generated.Error);
    }

    [Fact]
    public async Task Two_processes_train_together_and_stop_together()
    {
        Assert.SkipUnless(File.Exists("/usr/bin/mpirun.mpich"), "mpirun.mpich is not installed ('./build.sh test' installs it).");
        var configuration = await ConfigurationAsync(100_000);
        var text = await File.ReadAllTextAsync(configuration);
        await File.WriteAllTextAsync(configuration, text.Replace("\"BatchSize\": 1", "\"BatchSize\": 2", StringComparison.Ordinal));
        using var process = Opensora.Start(_folder.Path, "train", configuration, "--processes", "2");
        var stopped = await Opensora.InterruptAfterAsync(process, "stills: 1/");
        stopped.ExitCode.ShouldBe(130, stopped.Error);
        stopped.Error.ShouldContain("The same command continues.");
        var reached = Directory.GetFiles(_folder["run"], "*.index.json").ShouldHaveSingleItem();
        var step = int.Parse(Path.GetFileName(reached).Split('-', '.')[2], System.Globalization.CultureInfo.InvariantCulture);

        text = text.Replace("\"BatchSize\": 1", "\"BatchSize\": 2", StringComparison.Ordinal)
            .Replace("100000", $"{step + 1}", StringComparison.Ordinal);
        await File.WriteAllTextAsync(configuration, text);
        var result = await Opensora.RunAsync("train", configuration, "--processes", "2", "--json");
        result.ExitCode.ShouldBe(0, result.Error);
        result.Json.GetProperty("state").GetString().ShouldBe("complete");
        ModelFolder.Open(_folder["mine"]).Description.Name.ShouldBe("mine");
    }

    [Fact]
    public async Task SIGINT_saves_a_checkpoint_and_the_same_command_continues()
    {
        var configuration = await ConfigurationAsync(100_000);
        using var process = Opensora.Start(_folder.Path, "train", configuration);
        var stopped = await Opensora.InterruptAfterAsync(process, "stills: 1/");
        stopped.ExitCode.ShouldBe(130, stopped.Error);
        stopped.Error.ShouldContain("The same command continues.");
        var checkpoint = Directory.GetFiles(_folder["run"], "*.safetensors").ShouldHaveSingleItem();
        var steps = int.Parse(Path.GetFileNameWithoutExtension(checkpoint).Split('-')[^1]);

        var result = await Opensora.RunAsync("train", await ConfigurationAsync(steps + 2));
        result.ExitCode.ShouldBe(0, result.Error);
        result.Error.ShouldContain($"stills: {steps + 1}/{steps + 2}");
        result.Error.ShouldNotContain($"stills: 1/{steps + 2}");
    }

    [Theory]
    [InlineData("others", "", "which is not registered")]
    [InlineData("stills", ", \"LearningRat\": 1", "is not an option")]
    [InlineData("stills", ", \"LearningRate\": -1", "it must be above 0")]
    public async Task Problems_of_the_configuration_are_listed(string source, string extra, string problem)
    {
        var result = await Opensora.RunAsync("train", await ConfigurationAsync(1, source, extra), "--validate");
        result.ExitCode.ShouldBe(1);
        result.Error.ShouldContain(problem);
        Directory.Exists(_folder["run"]).ShouldBeFalse();
    }

    [Fact]
    public async Task A_configuration_without_a_run_or_with_unknown_names_is_refused()
    {
        await File.WriteAllTextAsync(_folder["a.json"], "{}");
        (await Opensora.RunAsync("train", _folder["a.json"])).Error.ShouldContain("There is no section Run");
        await File.WriteAllTextAsync(_folder["a.json"], "{ \"Run\": { \"Modell\": \"x\" } }");
        (await Opensora.RunAsync("train", _folder["a.json"])).Error.ShouldContain("Modell");
        (await Opensora.RunAsync("plan", _folder["b.json"])).Error.ShouldContain(_folder["b.json"]);
    }

    [Fact]
    public async Task The_plan_estimates_hours_and_price()
    {
        var configuration = await ConfigurationAsync(1000);
        var text = await Opensora.RunAsync("plan", configuration, "--hardware", "a100", "--price", "2");
        text.ExitCode.ShouldBe(0, text.Error);
        text.Output.ShouldContain("1 x A100");
        text.Output.ShouldContain("| stills | 1x128x128 | 1,000 |");

        var one = (await Opensora.RunAsync("plan", configuration, "--price", "2", "--json")).Json;
        var four = (await Opensora.RunAsync("plan", configuration, "--price", "2", "--devices", "4", "--json")).Json;
        one.GetProperty("dollars").GetDouble().ShouldBe(2 * one.GetProperty("gpuHours").GetDouble(), 1e-9);
        four.GetProperty("gpuHours").GetDouble().ShouldBe(4 * one.GetProperty("gpuHours").GetDouble(), 1e-9);
        one.GetProperty("stages")[0].GetProperty("fits").GetBoolean().ShouldBeTrue();
    }

    [Fact]
    public async Task The_plan_of_one_minute_in_1080p_shows_what_fits()
    {
        var text = await Opensora.RunAsync("plan", "--preset", "one-minute-1080p");
        text.ExitCode.ShouldBe(0, text.Error);
        text.Output.ShouldContain("8 x H800");
        text.Output.ShouldContain("| + activations on the host |");

        var json = (await Opensora.RunAsync("plan", "--preset", "one-minute-1080p", "--hardware", "a100", "--json")).Json;
        json.GetProperty("hardware").GetString().ShouldBe("A100");
        var fits = json.GetProperty("stages").EnumerateArray().Select(stage => stage.GetProperty("fits").GetBoolean()).ToList();
        fits[0].ShouldBeFalse();
        fits[^1].ShouldBeTrue();
        (await Opensora.RunAsync("plan")).Error.ShouldContain("specify a training configuration or --preset");
    }

    private static string Stickers => Path.GetFullPath(Path.Combine(TestFiles.Data(), "..", "..", "models", "stickers"));
}
