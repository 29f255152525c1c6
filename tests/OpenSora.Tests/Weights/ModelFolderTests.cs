using System.Text.Json.Nodes;
using OpenSora.Diffusion;
using OpenSora.ModelFolders;
using OpenSora.Models;

namespace OpenSora.Tests.Weights;

public sealed class ModelFolderTests : IDisposable
{
    private const string Complete = """
        {
          // Comments may stand here.
          "format": "opensora-model",
          "version": 1,
          "name": "tiny",
          "description": "Small moving things.",
          "denoiser": { "architecture": "stdit", "weights": "denoiser.safetensors",
            "config": { "hidden_size": 48, "depth": 2, "num_heads": 4, "input_size": [4, 8, 8] } },
          "vae": { "architecture": "autoencoder_kl", "weights": "vae.safetensors",
            "config": { "scaling_factor": 0.5, "block_out_channels": [16, 32], "norm_num_groups": 4 } },
          "text_encoder": { "architecture": "t5", "weights": "text.safetensors", "config": { "d_model": 32 },
            "tokenizer": "spiece.model", "max_tokens": 20, "clean_captions": false },
          "diffusion": { "steps": 1000, "schedule": "squared_cosine", "prediction": "sample", "variance": "fixed_small" },
          "sampling": { "sampler": "dpm_solver", "steps": 20, "guidance_scale": 4.5, "guided_channels": 4 },
          "video": {
            "frames": 16, "width": 64, "height": 64, "fps": 8,
            "frames_range": { "min": 1, "max": 16 }, "width_range": { "min": 64, "max": 128, "step": 16 }, "height_range": { "min": 64, "max": 64 }
          },
          "license": "MIT", "license_file": "LICENSE.txt",
          "attribution": [{ "name": "Pictures", "license": "MIT", "by": "An Artist" }],
          "training": { "steps": 1000, "anything": ["goes"] },
        }
        """;

    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void A_description_is_read()
    {
        var model = ModelFolder.Open(Make());
        model.DenoiserWeights.ShouldBe(Path.Combine(model.Path, "denoiser.safetensors"));
        model.Tokenizer.ShouldBe(Path.Combine(model.Path, "spiece.model"));
        var description = model.Description;
        description.Name.ShouldBe("tiny");
        description.TextEncoder.MaxTokens.ShouldBe(20);
        description.TextEncoder.CleanCaptions.ShouldBeFalse();
        description.Diffusion.ShouldBe(
            new DiffusionProcess
            {
                SquaredCosine = true,
                Prediction = Prediction.Sample,
                Variance = Variance.FixedSmall,
            }
        );
        description.Sampling.ShouldBe(
            new SamplingDefaults
            {
                Sampler = SamplerKind.DpmSolver,
                Steps = 20,
                GuidanceScale = 4.5,
                GuidedChannels = 4,
            }
        );
        description.Video.WidthRange.ShouldBe(new AllowedRange(64, 128, 16));
        (description.License, description.LicenseFile).ShouldBe(("MIT", "LICENSE.txt"));
        description.Attribution.ShouldBe([new Attribution("Pictures", "MIT", "An Artist")]);
        model.ReadConfig<StdiTConfig>(description.Denoiser).HiddenSize.ShouldBe(48);
        model.ReadConfig<StdiTConfig>(description.Denoiser).InputSize.ShouldBe([4, 8, 8]);
        model.ReadConfig<AutoencoderKLConfig>(description.Vae).ScalingFactor.ShouldBe(0.5);
        model.ReadConfig<T5Config>(description.TextEncoder).DModel.ShouldBe(32);
    }

    [Fact]
    public void The_former_spelling_of_license_is_read()
    {
        var former = Complete
            .Replace("\"license\": \"MIT\", \"license_file\": \"LICENSE.txt\"", "\"licence\": { \"name\": \"MIT\", \"file\": \"LICENSE.txt\" }")
            .Replace("\"license\"", "\"licence\"");
        former.ShouldNotContain("license\"");
        var path = Make(former);
        var description = ModelFolder.Open(path).Description;
        (description.License, description.LicenseFile).ShouldBe(("MIT", "LICENSE.txt"));
        description.Attribution.ShouldBe([new Attribution("Pictures", "MIT", "An Artist")]);
        ModelFolder.Save(path, description);
        File.ReadAllText(Path.Combine(path, ModelFolder.FileName)).ShouldNotContain("licence");
        Should.Throw<InvalidModelException>(() => ModelFolder.Open(Make(former.Replace("\"file\"", "\"text\"")))).Message.ShouldContain("licence");
    }

    [Fact]
    public void Settings_of_text_encoders_are_rejected_for_other_parts()
    {
        foreach (var setting in new[] { "\"tokenizer\": \"spiece.model\"", "\"max_tokens\": 20", "\"clean_captions\": true" })
        {
            var json = Complete.Replace("\"architecture\": \"stdit\",", $"\"architecture\": \"stdit\", {setting},");
            Should.Throw<InvalidModelException>(() => ModelFolder.Open(Make(json))).Message.ShouldContain("settings of text_encoder only");
        }
    }

    [Fact]
    public void The_message_for_the_missing_bundled_model_names_its_package()
    {
        foreach (var folders in new string[][] { [], [_folder.Path] })
        {
            Should
                .Throw<InvalidModelException>(() => ModelFolder.Find("stickers", folders))
                .Message.ShouldContain("The package OpenSora.Lib.Stickers contains the model 'stickers'");
            Should.Throw<InvalidModelException>(() => ModelFolder.Find("others", folders)).Message.ShouldNotContain("OpenSora.Lib.Stickers");
        }
    }

    [Theory]
    [InlineData("utf-8")] // with a byte order mark
    [InlineData("utf-16")]
    public void A_description_with_a_byte_order_mark_is_read(string encoding)
    {
        var path = Make();
        File.WriteAllText(Path.Combine(path, ModelFolder.FileName), Complete, System.Text.Encoding.GetEncoding(encoding));
        ModelFolder.Open(path).Description.Name.ShouldBe("tiny");
    }

    [Fact]
    public void The_documented_folder_of_open_sora_is_the_published_model()
    {
        var root = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(root, "OpenSora.Lib.sln")))
        {
            root = Path.GetDirectoryName(root)!;
        }

        var text = File.ReadAllText(Path.Combine(root, "docs", "how-to", "use-published-weights.md")).ReplaceLineEndings("\n");
        var from = text.IndexOf("```json\n", StringComparison.Ordinal) + 8;
        foreach (
            var file in new[]
            {
                "OpenSora-v1-HQ-16x256x256.pth",
                "sd-vae-ft-mse/diffusion_pytorch_model.safetensors",
                "t5-v1_1-xxl/pytorch_model.bin.index.json",
                "t5-v1_1-xxl/spiece.model",
            }
        )
        {
            Directory.CreateDirectory(Path.GetDirectoryName(_folder[file])!);
            File.WriteAllText(_folder[file], "");
        }
        File.WriteAllText(_folder[ModelFolder.FileName], text[from..text.IndexOf("```", from, StringComparison.Ordinal)]);
        var model = ModelFolder.Open(_folder.Path);
        string Written<T>(T config)
            where T : class => ModelFolder.WriteConfig(config).GetRawText();
        Written(model.ReadConfig<StdiTConfig>(model.Description.Denoiser))
            .ShouldBe(Written(StdiTConfig.Preset("STDiT-XL/2") with { SpaceScale = 0.5 }));
        Written(model.ReadConfig<AutoencoderKLConfig>(model.Description.Vae)).ShouldBe(Written(new AutoencoderKLConfig()));
        (
            model.Description.TextEncoder.MaxTokens,
            model.Description.Sampling.Steps,
            model.Description.Sampling.GuidanceScale,
            model.Description.Video.Frames
        ).ShouldBe((120, 100, 7.0, 16));
    }

    [Theory]
    [InlineData(SamplerKind.RectifiedFlow, "rectified_flow")]
    [InlineData(SamplerKind.Ddim, "gaussian")]
    public void The_kind_of_the_process_follows_from_the_sampler(SamplerKind sampler, string kind)
    {
        var path = Make();
        var description = ModelFolder.Open(path).Description;
        ModelFolder.Save(path, description with { Sampling = description.Sampling with { Sampler = sampler } });
        using var json = System.Text.Json.JsonDocument.Parse(File.ReadAllBytes(Path.Combine(path, ModelFolder.FileName)));
        json.RootElement.GetProperty("diffusion").GetProperty("kind").GetString().ShouldBe(kind);
        ModelFolder.Open(path).Description.Sampling.Sampler.ShouldBe(sampler);
    }

    [Fact]
    public void Saved_values_are_read()
    {
        var first = ModelFolder.Open(Make());
        var config = new StdiTConfig
        {
            HiddenSize = 96,
            Depth = 3,
            NumHeads = 4,
        };
        var description = first.Description with
        {
            Name = "other",
            Denoiser = first.Description.Denoiser with { Config = ModelFolder.WriteConfig(config) },
        };
        ModelFolder.Save(first.Path, description);
        var second = ModelFolder.Open(first.Path);
        second.Description.Name.ShouldBe("other");
        second.Description.Video.ShouldBe(first.Description.Video);
        second.Description.Training!.Value.GetProperty("steps").GetInt32().ShouldBe(1000);
        ModelFolder
            .WriteConfig(second.ReadConfig<StdiTConfig>(second.Description.Denoiser))
            .GetRawText()
            .ShouldBe(ModelFolder.WriteConfig(config).GetRawText());

        Should.Throw<InvalidModelException>(() => ModelFolder.Save(_folder["empty"], description)).Message.ShouldContain("does not exist");
        Directory.Exists(_folder["empty"]).ShouldBeFalse();
    }

    [Theory]
    [InlineData("format", "\"another\"", "other software")]
    [InlineData("version", "2", "update the library")]
    [InlineData("version", "\"1\"", "does not specify a valid version")]
    [InlineData("name", null, "name")]
    [InlineData("name", "null", "name")]
    [InlineData("denoiser", null, "denoiser")]
    [InlineData("denoizer", "{}", "denoizer")]
    [InlineData("denoiser.weights", "\"absent.safetensors\"", "absent.safetensors' that it names does not exist")]
    [InlineData("denoiser.weights", "\"../outside\"", "outside the folder")]
    [InlineData("denoiser.weights", "\"/etc/passwd\"", "outside the folder")]
    [InlineData("text_encoder.tokenizer", "\"\"", "outside the folder")]
    [InlineData("text_encoder.tokenizer", "\"a\\u0000b\"", "a null character")]
    [InlineData("diffusion", "{\"steps\": 20}", "diffusion.steps is 20, but must be at least 21")]
    [InlineData("text_encoder.max_tokens", "0", "max_tokens is 0")]
    [InlineData("video.frames", "17", "frames is 17, but video.frames_range allows 1 to 16")]
    [InlineData("video.width", "72", "64 to 128 in steps of 16")]
    [InlineData("video.height", "72", "64 only")]
    [InlineData("video.fps", "0", "fps is 0")]
    [InlineData("video.width_range.step", "0", "width_range must have")]
    [InlineData("sampling.steps", "1001", "diffusion.steps (1000)")]
    [InlineData("sampling.sampler", "\"euler\"", "sampler")]
    [InlineData("sampling.sampler", "1", "sampler")]
    [InlineData("sampling.sampler", "\"rectified_flow\"", "are incompatible")]
    [InlineData("diffusion.kind", "\"rectified_flow\"", "are incompatible")]
    [InlineData("sampling.guidance_scale", "-1", "guidance_scale is -1")]
    [InlineData("sampling.guided_channels", "0", "guided_channels is 0")]
    public void Errors_say_what_is_wrong(string place, string? value, string problem)
    {
        var folder = Make();
        var path = place.Split('.');
        var root = JsonNode.Parse(
            Complete,
            documentOptions: new() { CommentHandling = System.Text.Json.JsonCommentHandling.Skip, AllowTrailingCommas = true }
        )!;
        var parent = path[..^1].Aggregate(root, (node, name) => node[name]!).AsObject();
        parent.Remove(path[^1]);
        if (value is not null)
        {
            parent[path[^1]] = JsonNode.Parse(value);
        }

        File.WriteAllText(Path.Combine(folder, ModelFolder.FileName), root.ToJsonString());

        var exception = Should.Throw<InvalidModelException>(() => ModelFolder.Open(folder));
        exception.Message.ShouldContain(problem);
        exception.Message.ShouldContain(folder);
    }

    [Fact]
    public void A_config_with_unknown_settings_is_rejected_when_read()
    {
        var folder = Make(Complete.Replace("\"d_model\"", "\"model_d\"", StringComparison.Ordinal));
        var model = ModelFolder.Open(folder);
        Should.Throw<InvalidModelException>(() => model.ReadConfig<T5Config>(model.Description.TextEncoder)).Message.ShouldContain("model_d");
    }

    [Fact]
    public void Folders_of_other_kinds_are_named()
    {
        Problem(Other("t5", ("config.json", "{\"architectures\": [\"T5EncoderModel\"]}"), ("model.safetensors", "")))
            .ShouldContain("contains a text encoder");
        Problem(Other("spiece", ("spiece.model", ""))).ShouldContain("contains a text encoder");
        Problem(Other("vae", ("config.json", "{\"_class_name\": \"AutoencoderKL\"}"))).ShouldContain("contains an autoencoder");
        Problem(Other("pipeline", ("model_index.json", "{}"))).ShouldContain("diffusers pipeline");
        Problem(Other("weights", ("a.safetensors", ""))).ShouldContain("weights without a description");
        Problem(Other("empty")).ShouldContain("contains no model");
        Problem(Path.Combine(Other("file", ("a.safetensors", "")), "a.safetensors")).ShouldContain("it is a file");
        Problem(Other("json", (ModelFolder.FileName, "{"))).ShouldContain("not valid");
        Problem(Other("list", (ModelFolder.FileName, "[]"))).ShouldContain("other software");
        Problem(_folder["absent"]).ShouldContain("no folder and no built-in model");

        static string Problem(string path) => Should.Throw<InvalidModelException>(() => ModelFolder.Open(path)).Message;
    }

    [Fact]
    public void A_model_is_found_by_its_folder_its_file_and_its_name()
    {
        var folder = Make();
        ModelFolder.Open(Path.Combine(folder, ModelFolder.FileName)).Path.ShouldBe(folder);
        var old = Environment.GetEnvironmentVariable(ModelFolder.Variable);
        try
        {
            Environment.SetEnvironmentVariable(ModelFolder.Variable, $"{_folder["nowhere"]}{Path.PathSeparator}{_folder.Path}");
            ModelFolder.Open("tiny-model").Path.ShouldBe(folder);
            Should.Throw<InvalidModelException>(() => ModelFolder.Open("tiny-modal")).Message.ShouldContain("tiny-model");
        }
        finally
        {
            Environment.SetEnvironmentVariable(ModelFolder.Variable, old);
        }
    }

    private string Make(string json = Complete) =>
        Other(
            "tiny-model",
            (ModelFolder.FileName, json),
            ("denoiser.safetensors", ""),
            ("vae.safetensors", ""),
            ("text.safetensors", ""),
            ("spiece.model", ""),
            ("LICENSE.txt", "")
        );

    private string Other(string name, params (string Name, string Text)[] files)
    {
        var folder = Directory.CreateDirectory(_folder[name]).FullName;
        foreach (var (file, text) in files)
        {
            File.WriteAllText(Path.Combine(folder, file), text);
        }

        return folder;
    }
}
