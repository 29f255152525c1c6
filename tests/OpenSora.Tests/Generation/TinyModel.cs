using System.Text.Json;
using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Generation;

/// <summary>A model folder with small random networks. <see cref="Generator"/> replaces autoencoder and text encoder by simpler ones.</summary>
internal sealed class TinyModel : IDisposable
{
    public const string Name = "tiny";
    private readonly TemporaryFolder _folder = new();

    public TinyModel(
        Func<ModelDescription, ModelDescription>? change = null,
        double spread = 0.1,
        string architecture = "stdit",
        params (string Name, string Text)[] files
    )
    {
        foreach (var (name, text) in files)
        {
            File.WriteAllText(this[name], text);
        }

        var config = new StdiTConfig
        {
            InputSize = [4, 8, 8],
            InChannels = 4,
            HiddenSize = 32,
            Depth = 2,
            NumHeads = 2,
            CaptionChannels = HashTextEncoder.States,
            ModelMaxLength = HashTextEncoder.Tokens + 2,
        };
        var vae = new AutoencoderKLConfig
        {
            BlockOutChannels = [8, 8, 8],
            LayersPerBlock = 1,
            NormNumGroups = 4,
        };
        var t5 = new T5Config
        {
            DModel = HashTextEncoder.States,
            DKv = 4,
            DFf = 16,
            NumLayers = 1,
            NumHeads = 2,
        };
        var stdit2 = new StdiT2Config
        {
            InputSqSize = 32,
            HiddenSize = 48,
            Depth = 2,
            NumHeads = 4,
            CaptionChannels = HashTextEncoder.States,
            ModelMaxLength = HashTextEncoder.Tokens,
        };
        var stdit3 = new StdiT3Config
        {
            InputSqSize = 32,
            HiddenSize = 32,
            Depth = 2,
            NumHeads = 4,
            CaptionChannels = HashTextEncoder.States,
            ModelMaxLength = HashTextEncoder.Tokens,
        };
        (nn.Module Module, JsonElement Config) denoiser = architecture switch
        {
            "stdit2" => (new StdiT2(stdit2), ModelFolder.WriteConfig(stdit2)),
            "stdit3" => (new StdiT3(stdit3), ModelFolder.WriteConfig(stdit3)),
            _ => (new StdiT(config), ModelFolder.WriteConfig(config)),
        };
        SaveRandom(denoiser.Module, "stdit.safetensors", spread);
        SaveRandom(new AutoencoderKL(vae), "vae.safetensors");
        SaveRandom(new T5TextEncoder(t5), "t5.safetensors");
        File.Copy(TestFiles.Data("sentencepiece", "t5.model"), this["spiece.model"]);
        var description = new ModelDescription
        {
            Name = Name,
            Denoiser = new ModelPart
            {
                Architecture = architecture,
                Config = denoiser.Config,
                Weights = "stdit.safetensors",
            },
            Vae = new ModelPart
            {
                Architecture = "autoencoder_kl",
                Config = ModelFolder.WriteConfig(vae),
                Weights = "vae.safetensors",
            },
            TextEncoder = new ModelPart
            {
                Architecture = "t5",
                Config = ModelFolder.WriteConfig(t5),
                Weights = "t5.safetensors",
                Tokenizer = "spiece.model",
                MaxTokens = HashTextEncoder.Tokens,
            },
            Sampling = new SamplingDefaults { Steps = 4, GuidanceScale = 3 },
            Video = new VideoDefaults
            {
                Frames = 4,
                Width = 32,
                Height = 32,
                Fps = 6,
                FramesRange = new(1, 8),
                WidthRange = new(8, 64, 4),
                HeightRange = new(8, 64, 4),
            },
            License = "MIT",
        };
        ModelFolder.Save(Path, change?.Invoke(description) ?? description);
    }

    private void SaveRandom(nn.Module module, string file, double spread = 0.3)
    {
        using var seed = new Generator(7);
        using var noGradients = no_grad();
        foreach (var parameter in module.parameters())
        {
            parameter.normal_(0, spread, seed);
        }

        module.SaveWeights(this[file]);
        module.Dispose();
    }

    public string Path => _folder.Path;

    public string this[string file] => _folder[file];

    public VideoGeneratorBuilder Builder() =>
        VideoGenerator.Create().UseModel(Path).UseBackend("cpu").UseVae<TinyVae>().UseTextEncoder<HashTextEncoder>();

    public VideoGenerator Whole() => VideoGenerator.Create().UseModel(Path).UseBackend("cpu").Build();

    public VideoGenerator Generator() => Builder().Build();

    public void Dispose() => _folder.Dispose();
}

/// <summary>A text encoder that returns noise seeded by each word.</summary>
internal sealed class HashTextEncoder : ITextEncoder
{
    public const int States = 12;
    public const int Tokens = 6;

    public static int Alive { get; private set; }

    public HashTextEncoder() => Alive++;

    public int Width => States;

    public int MaxTokens => Tokens;

    public TextStates Encode(IReadOnlyList<string> prompts)
    {
        using var scope = NewDisposeScope();
        var (states, mask) = (zeros(prompts.Count, Tokens, States), zeros(prompts.Count, Tokens, ScalarType.Bool));
        for (var i = 0; i < prompts.Count; i++)
        {
            string[] words = [.. prompts[i].Split(' ', StringSplitOptions.RemoveEmptyEntries).Take(Tokens - 1), "</s>"];
            for (var j = 0; j < words.Length; j++)
            {
                using var generator = new Generator(words[j].Aggregate(17UL, (hash, letter) => hash * 31 + letter));
                states[i, j] = randn(States, generator: generator);
                mask[i, j] = true;
            }
        }
        return new TextStates(states.MoveToOuterDisposeScope(), mask.MoveToOuterDisposeScope());
    }

    public void Dispose() => Alive--;
}

/// <summary>An autoencoder with the means of 4x4 pixels as latents.</summary>
internal sealed class TinyVae : IVideoAutoencoder
{
    private readonly Tensor _colors = Matrix(3, 4, 0.5f, 0.1f, 0, 0.2f, 0, 0.5f, 0.2f, 0, 0.1f, 0, 0.5f, 0.2f);

    // The colors' pseudo-inverse: what is encoded decodes to itself.
    private readonly Tensor _inverse = Matrix(
        4,
        3,
        [
            1.7410650f,
            -0.2655375f,
            -0.1004737f,
            0.2248696f,
            1.9305296f,
            -0.7109708f,
            -0.5621741f,
            0.1736759f,
            1.7774269f,
            0.5349026f,
            -0.3014210f,
            0.6066695f,
        ]
    );

    public int LatentChannels => 4;

    public int SpatialFactor => 4;

    public int TemporalFactor => 1;

    public Tensor Encode(Tensor video, Generator? generator = null)
    {
        using var scope = NewDisposeScope();
        var (b, f, h, w) = (video.shape[0], video.shape[2], video.shape[3] / SpatialFactor, video.shape[4] / SpatialFactor);
        var pixels = video.view(b, 3, f, h, SpatialFactor, w, SpatialFactor).mean([4, 6]);
        var small = einsum("co,bofhw->bcfhw", _inverse, pixels);
        return (small.sign() * ((small.abs() * 8).exp() - 1)).MoveToOuterDisposeScope();
    }

    public Tensor Decode(Tensor latents)
    {
        using var scope = NewDisposeScope();
        var small = latents.sign() * latents.abs().log1p() / 8; // an untrained model gives large latents
        var pixels = einsum("oc,bcfhw->bofhw", _colors, small);
        return pixels.repeat_interleave(SpatialFactor, 3).repeat_interleave(SpatialFactor, 4).MoveToOuterDisposeScope();
    }

    public void Dispose()
    {
        _colors.Dispose();
        _inverse.Dispose();
    }

    private static Tensor Matrix(int rows, int columns, params float[] values)
    {
        using var vector = tensor(values);
        return vector.reshape(rows, columns).DetachFromDisposeScope();
    }
}

/// <summary>Receives progress on the thread that reports it.</summary>
internal sealed class Listener(Action<GenerationProgress> hear) : IProgress<GenerationProgress>
{
    public void Report(GenerationProgress value) => hear(value);
}
