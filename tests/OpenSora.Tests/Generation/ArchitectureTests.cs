using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Generation;

/// <summary>Tests model folders with other transformers than STDiT.</summary>
[Collection(nameof(LiveTensorCount))]
public class ArchitectureTests
{
    private static readonly DiTConfig Classes = new()
    {
        InputSize = [4, 8, 8],
        HiddenSize = 32,
        Depth = 2,
        NumHeads = 2,
        Condition = "label_3",
    };
    private static readonly ClassLabelEncoder Birds = new(["crane", "drake", "swan"]);

    // Puts another denoiser, and classes for its text encoder, into a model folder.
    private static TinyModel Folder(string architecture, Func<nn.Module> make, object config, ClassLabelEncoder? labels = null)
    {
        var model = new TinyModel();
        using (no_grad())
        using (var seed = new Generator(7))
        using (var denoiser = make())
        {
            foreach (var parameter in denoiser.parameters())
            {
                parameter.normal_(0, 0.1, seed);
            }

            denoiser.SaveWeights(model["denoiser.safetensors"]);
        }
        var description = ModelFolder.Open(model.Path).Description;
        ModelFolder.Save(
            model.Path,
            description with
            {
                Denoiser = new ModelPart
                {
                    Architecture = architecture,
                    Config = ModelFolder.WriteConfig(config),
                    Weights = "denoiser.safetensors",
                },
                TextEncoder = labels is null
                    ? description.TextEncoder
                    : new ModelPart { Architecture = "class_labels", Config = labels.WriteConfig() },
            }
        );
        return model;
    }

    private static VideoGenerator Generator(TinyModel model) =>
        VideoGenerator.Create().UseModel(model.Path).UseBackend("cpu").UseVae<TinyVae>().Build();

    [Theory]
    [InlineData("dit")]
    [InlineData("latte")]
    public async Task A_class_becomes_a_video(string architecture)
    {
        using var model = architecture is "dit"
            ? Folder("dit", () => new DiT(Classes), Classes, Birds)
            : Folder("latte", () => new DiT(Latte), Latte, Birds);
        var before = TensorCount.Now;
        using (var generator = Generator(model))
        {
            async Task<byte[]> Pixels(string prompt, string? negative = null) =>
                (
                    await generator.GenerateAsync(
                        new VideoRequest
                        {
                            Prompt = prompt,
                            NegativePrompt = negative,
                            Seed = 1,
                        }
                    )
                ).Frames.Pixels.ToArray();
            var swan = await Pixels("swan");
            swan.Distinct().Count().ShouldBeGreaterThan(20);
            (await Pixels("class 2")).ShouldBe(swan);
            (await Pixels("crane")).ShouldNotBe(swan);
            (await Pixels("swan", negative: "crane")).ShouldNotBe(swan);
            (await Pixels("")).ShouldNotBe(swan);
            (await Should.ThrowAsync<ArgumentException>(() => Pixels("a goat"))).Message.ShouldContain("There is no class 'a goat'");
            (await Pixels("class 2")).ShouldBe(swan);
        }
        GC.Collect(); // the simple autoencoder leaves one to the finalizer
        GC.WaitForPendingFinalizers();
        TensorCount.ShouldBe(before);
    }

    private static DiTConfig Latte =>
        new()
        {
            InputSize = Classes.InputSize,
            HiddenSize = 32,
            Depth = 2,
            NumHeads = 2,
            Condition = Classes.Condition,
        };

    [Fact]
    public async Task A_prompt_becomes_an_image_by_PixArt()
    {
        var config = StdiTConfig.PixArt with
        {
            InputSize = [1, 8, 8],
            HiddenSize = 24,
            Depth = 2,
            NumHeads = 2,
            CaptionChannels = HashTextEncoder.States,
            ModelMaxLength = HashTextEncoder.Tokens,
            SizeConditioning = true,
        };
        using var model = Folder("pixart", () => new StdiT(config), config);
        using var generator = model.Generator();
        var image = await generator.Request("a goat").Frames(1).Seed(1).GenerateAsync();
        (image.Frames.Count, image.Frames.Width).ShouldBe((1, 32));
        (await generator.Request("a boat").Frames(1).Seed(1).GenerateAsync()).Frames.Pixels.ToArray().ShouldNotBe(image.Frames.Pixels.ToArray());
    }

    [Fact]
    public async Task Classes_that_do_not_fit_the_model_are_rejected()
    {
        using var model = Folder("dit", () => new DiT(Classes), Classes);
        using var generator = Generator(model);
        (await Should.ThrowAsync<InvalidOperationException>(() => generator.Request("a goat").GenerateAsync())).Message.ShouldContain(
            "accepts up to 1 of width 1"
        );
    }
}
