using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using OpenSora.Diffusion;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Text;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Models;

/// <summary>The sizes of a <see cref="Waves"/>.</summary>
public sealed record WavesConfig
{
    public int Width { get; init; } = 8;

    public bool Loud { get; init; } = true;
}

/// <summary>Generated code for the configuration, which a program without reflection-based JSON needs.</summary>
[JsonSerializable(typeof(WavesConfig))]
internal sealed partial class WavesJson : JsonSerializerContext;

/// <summary>An architecture of another assembly, made with public API only.</summary>
public sealed class Waves : nn.Module, IVideoTransformer
{
    private readonly TorchSharp.Modules.Linear crests;
    private readonly TorchSharp.Modules.Linear troughs;

    public Waves(WavesConfig config)
        : base(nameof(Waves))
    {
        crests = nn.Linear(config.Width, config.Width);
        troughs = nn.Linear(config.Width, 1, hasBias: false);
        RegisterComponents();
    }

    public static Architecture<IVideoTransformer> Architecture { get; } =
        Architecture<IVideoTransformer>.Of(
            "waves",
            config => new Waves(config),
            new WavesConfig(),
            recognize: shapes => shapes.TryGetValue("crests.weight", out var shape) ? new WavesConfig { Width = (int)shape[0] } : null,
            json: WavesJson.Default.WavesConfig
        ) with
        {
            HubNames = ["Waves"],
        };

    public int LatentChannels => 4;

    public IReadOnlyList<int> LatentMultiple => [1, 1, 1];

    public int TextWidth => 1;

    public int TextTokens => 1;

    public bool SupportsNoisyFrames => false;

    public double CaptionDropout => 0;

    public string ParameterGroup(string parameter) => parameter.StartsWith("crests", StringComparison.Ordinal) ? "up" : "down";

    public Tensor NullCaption(long batch = 1) => zeros(batch, 1, 1);

    public Tensor Denoise(Tensor x, Tensor t, DenoiserConditions conditions) => x.clone();
}

/// <summary>What the registry does for an architecture that it does not know itself.</summary>
public sealed class CustomArchitectureTests : IDisposable
{
    private const string WithoutReflection = "OPENSORA_TESTS_WITHOUT_REFLECTION";

    private static readonly Architectures Known = Architectures.BuiltIn.Add(Waves.Architecture);

    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("")]
    [InlineData("module.")]
    [InlineData("weights.model.")]
    public void A_custom_architecture_is_recognized_from_its_checkpoint(string prefix)
    {
        using var scope = NewDisposeScope();
        using var model = new Waves(new WavesConfig { Width = 6 });
        WeightsFile.Write(
            _folder["waves"],
            model.state_dict().Select(pair => KeyValuePair.Create(prefix + pair.Key, pair.Value)),
            prefix is "weights.model." ? new Dictionary<string, string> { ["opensora.training"] = "{}" } : null
        );
        using var file = WeightsFile.Open(_folder["waves"]);
        var match = Known.Recognize(file).ShouldHaveSingleItem();
        (match.Architecture, match.Title, match.Problems).ShouldBe(("waves", "waves", 0));
        match.Config.ShouldBe(new WavesConfig { Width = 6 });
        Architectures.BuiltIn.Recognize(file).ShouldBeEmpty();
    }

    [Fact]
    public void A_custom_architecture_is_counted_by_its_own_parts()
    {
        var counts = Waves.Architecture.CountParameters(new WavesConfig { Width = 6 });
        counts.ShouldBe(new Dictionary<string, long> { ["up"] = 42, ["down"] = 6 });
        Should
            .Throw<ArgumentException>(() => Waves.Architecture.CountParameters(new StdiTConfig()))
            .Message.ShouldContain("waves requires a WavesConfig");
    }

    [Fact]
    public void A_custom_architecture_loads_from_the_folder_of_a_hub()
    {
        using var scope = NewDisposeScope();
        using var model = new Waves(new WavesConfig { Width = 6 });
        File.WriteAllText(_folder["config.json"], """{"_class_name": "Waves", "width": 6, "other": null}""");
        model.SaveWeights(_folder["model.safetensors"]);
        using var loaded = ModelHub.LoadTransformer(_folder.Path, architectures: Known).ShouldBeOfType<Waves>();
        loaded.state_dict()["crests.weight"].eq(model.state_dict()["crests.weight"]).all().item<bool>().ShouldBeTrue();
        Should
            .Throw<InvalidModelException>(() => ModelHub.LoadTransformer(_folder.Path))
            .Message.ShouldContain("expected a transformer: STDiT2, STDiT3");
    }

    [Fact]
    public void Weights_are_needed_by_modules_and_by_nothing_else()
    {
        Should.Throw<ArgumentException>(() => Waves.Architecture.Load(new WavesConfig(), null)).Message.ShouldContain("waves has weights");
        var labels = Architectures.BuiltIn.TextEncoders.Single(known => known.Name is "class_labels");
        var config = new ClassLabels { Count = 3 };
        using var scope = NewDisposeScope();
        labels.Load(config, null).Encode(["2"]).States.item<float>().ShouldBe(2);
        Should
            .Throw<InvalidOperationException>(() => labels.Load(config, _folder["weights"]))
            .Message.ShouldContain("not a TorchSharp module and has no weights");
    }

    [Fact]
    public void A_custom_text_encoder_is_an_architecture()
    {
        var echo = Architecture<ITextEncoder>.Of<ClassLabels>(
            "echo",
            _ => null,
            (_, _, settings) => new ClassLabelEncoder(settings.MaxTokens, settings.Device)
        );
        var known = Architectures.BuiltIn.Add(echo);
        known.TextEncoders.Select(one => one.Name).ShouldBe(["t5", "clip", "class_labels", "echo"]);
        Should.Throw<ArgumentException>(() => known.Add(echo)).Message.ShouldContain("already is an architecture 'echo'");
        using var encoder = echo.Load(new ClassLabels { Count = 1 }, null, settings: new TextEncoderSettings { MaxTokens = 9 });
        using var scope = NewDisposeScope();
        encoder.Encode([""]).States.item<float>().ShouldBe(9);
    }

    [Fact]
    public void Settings_that_a_file_omits_have_the_defaults_of_the_architecture()
    {
        static object Read(Architecture<IVideoTransformer> architecture, string json) =>
            architecture.ReadConfig(JsonDocument.Parse(json).RootElement);
        static Architecture<IVideoTransformer> Named(string name) =>
            Architectures.BuiltIn.Transformers.Single(known => known.Name.Equals(name, StringComparison.Ordinal));

        Read(Waves.Architecture, """{"width": 5}""").ShouldBe(new WavesConfig { Width = 5 });
        Read(Waves.Architecture, "{}").ShouldBe(new WavesConfig());
        Read(Named("stdit"), """{"depth": 3}""").ShouldBe(new StdiTConfig { Depth = 3 }, Comparer);
        Read(Named("pixart"), """{"depth": 3}""").ShouldBe(StdiTConfig.PixArt with { Depth = 3 }, Comparer);
        Read(Named("latte"), """{"depth": 3, "condition": "label_2"}""")
            .ShouldBe(DiTConfig.Latte with { Depth = 3, Condition = "label_2" }, Comparer);
        Read(Named("dit"), """{"attention_order": "serial"}""").ShouldBe(new DiTConfig { AttentionOrder = AttentionOrder.Serial }, Comparer);
        Should.Throw<JsonException>(() => Read(Named("stdit"), """{"deep": 3}""")).Message.ShouldContain("'deep'");
        Should.Throw<JsonException>(() => Read(Named("stdit"), """{"patch_size": null}""")).Message.ShouldContain("null");
        Should.Throw<JsonException>(() => Read(Named("stdit"), "[]"));
        foreach (var architecture in Architectures.BuiltIn.Transformers)
        {
            Read(architecture, architecture.WriteConfig(Read(architecture, """{"depth": 7}""")).GetRawText())
                .ShouldBe(Read(architecture, """{"depth": 7}"""), Comparer);
        }
    }

    [Theory]
    [InlineData("dit")]
    [InlineData("latte")]
    public void The_former_name_of_the_learned_variance_is_read(string name)
    {
        var architecture = Architectures.BuiltIn.Transformers.Single(known => known.Name.Equals(name, StringComparison.Ordinal));
        ((DiTConfig)architecture.ReadConfig(JsonDocument.Parse("""{"learn_sigma": false}""").RootElement)).PredSigma.ShouldBeFalse();
        ((DiTConfig)architecture.ReadConfig(JsonDocument.Parse("""{"learn_sigma": true}""").RootElement)).PredSigma.ShouldBeTrue();
    }

    [Fact]
    public void A_description_omits_values_and_gets_their_defaults()
    {
        foreach (var file in new[] { "transformer", "vae", "text" })
        {
            File.WriteAllText(_folder[file], "");
        }

        const string json = """
            {
              "format": "opensora-model", "version": 1, "name": "small", // a comment
              "denoiser": {"architecture": "waves", "weights": "transformer", "config": {"width": 5 /* narrow */, } },
              "vae": {"architecture": "autoencoder_kl", "weights": "vae"},
              "text_encoder": {"architecture": "t5", "weights": "text", "clean_captions": false},
              "diffusion": {"prediction": "sample"}, "video": {"frames": 8}, "license": "MIT"
            }
            """;
        File.WriteAllText(_folder["model.json"], json);
        var folder = ModelFolder.Open(_folder.Path);
        var read = folder.Description;
        (read.TextEncoder.MaxTokens, read.TextEncoder.CleanCaptions, read.TextEncoder.Tokenizer).ShouldBe((120, false, null));
        (read.Diffusion.Steps, read.Diffusion.Prediction, read.Sampling).ShouldBe((1000, Prediction.Sample, new SamplingDefaults()));
        (read.Video.Frames, read.Video.Width, read.Video.FramesRange).ShouldBe((8, 256, new VideoDefaults().FramesRange));
        folder.ReadConfig<AutoencoderKLConfig>(read.Vae).MicroBatchSize.ShouldBe(4);
        Waves.Architecture.ReadConfig(read.Denoiser.Config).ShouldBe(new WavesConfig { Width = 5 });
        ModelFolder.Save(_folder.Path, read with { Vae = read.Vae with { Config = ModelFolder.WriteConfig(new AutoencoderKLConfig()) } });
        ModelFolder.Open(_folder.Path).ReadConfig<AutoencoderKLConfig>(read.Vae).LayersPerBlock.ShouldBe(2);
        foreach (var name in new[] { "name", "denoiser", "vae", "text_encoder", "video", "license" })
        {
            var node = JsonNode
                .Parse(json, documentOptions: new() { CommentHandling = JsonCommentHandling.Skip, AllowTrailingCommas = true })!
                .AsObject();
            node.Remove(name);
            File.WriteAllText(_folder["model.json"], node.ToJsonString());
            Should.Throw<InvalidModelException>(() => ModelFolder.Open(_folder.Path)).Message.ShouldContain($"'{name}'");
        }
    }

    [Fact]
    public void A_vocabulary_and_an_index_of_shards_are_read()
    {
        Tokenizers.Clip(TestFiles.Data("clip")).Encode("a cat", 12).Count.ShouldBeGreaterThan(2);
        using var scope = NewDisposeScope();
        WeightsFile.Write(_folder["one.safetensors"], [KeyValuePair.Create("x", ones(2))]);
        File.WriteAllText(_folder["all.index.json"], """{"weight_map": {"x": "one.safetensors"} }""");
        using var file = WeightsFile.Open(_folder["all.index.json"]);
        file.Read("x").sum().item<float>().ShouldBe(2);
    }

    [Fact]
    public void A_configuration_without_generated_code_needs_reflection()
    {
        JsonSerializer.IsReflectionEnabledByDefault.ShouldBe(Environment.GetEnvironmentVariable(WithoutReflection) is null);
        if (JsonSerializer.IsReflectionEnabledByDefault)
        {
            ModelFolder.WriteConfig(new Plain(3)).GetRawText().ShouldBe("""{"some_size":3}""");
        }
        else
        {
            Should.Throw<NotSupportedException>(() => ModelFolder.WriteConfig(new Plain(3))).Message.ShouldContain("Pass the JsonTypeInfo");
        }
    }

    [Fact]
    public async Task All_of_this_works_without_reflection_as_in_a_file_based_app()
    {
        if (!JsonSerializer.IsReflectionEnabledByDefault)
        {
            return; // this is the inner run
        }

        var program = typeof(CustomArchitectureTests).Assembly.Location;
        var runtime = JsonNode.Parse(await File.ReadAllTextAsync(Path.ChangeExtension(program, ".runtimeconfig.json")))!;
        var options = runtime["runtimeOptions"]!;
        options["configProperties"] ??= new JsonObject();
        options["configProperties"]!["System.Text.Json.JsonSerializer.IsReflectionEnabledByDefault"] = false;
        await File.WriteAllTextAsync(_folder["without.runtimeconfig.json"], runtime.ToJsonString());
        using var process = Process.Start(
            new ProcessStartInfo(
                Environment.ProcessPath is { } path && Path.GetFileNameWithoutExtension(path) is "dotnet" ? path : "dotnet",
                [
                    "exec",
                    "--runtimeconfig",
                    _folder["without.runtimeconfig.json"],
                    "--depsfile",
                    Path.ChangeExtension(program, ".deps.json"),
                    program,
                    "-noColor",
                    "-class",
                    typeof(CustomArchitectureTests).FullName!,
                ]
            )
            {
                RedirectStandardOutput = true,
                UseShellExecute = false,
                Environment = { [WithoutReflection] = "1" },
            }
        )!;
        var output = await process.StandardOutput.ReadToEndAsync();
        await process.WaitForExitAsync();
        process.ExitCode.ShouldBe(0, output);
        output.ShouldContain("Failed: 0");
    }

    private static readonly IEqualityComparer<object> Comparer = EqualityComparer<object>.Create(
        (a, b) =>
            a!.GetType() == b!.GetType()
            && ModelFolder.WriteConfig(a).GetRawText().Equals(ModelFolder.WriteConfig(b).GetRawText(), StringComparison.Ordinal)
    );

    private sealed record Plain(int SomeSize);
}
