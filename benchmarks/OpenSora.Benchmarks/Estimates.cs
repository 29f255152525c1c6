using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.ModelFolders;
using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Benchmarks;

/// <summary>Compares the estimated memory and time of requests with measurements, each in a process of its own. Linux only.</summary>
internal static class Estimates
{
    private static readonly AutoencoderKLConfig Small = new() { BlockOutChannels = [64, 128, 256, 256], NormNumGroups = 16 };

    private static readonly StdiTConfig Shallow = Tokens(
        new StdiTConfig
        {
            HiddenSize = 384,
            Depth = 4,
            NumHeads = 6,
        }
    );

    private static readonly Case[] Cases =
    [
        new("bundled model", null, null, new(128, 128, 8), new(128, 128, 24)),
        new("bundled model", null, null, new(128, 128, 8), new(128, 128, 24), ScalarType.BFloat16),
        new("STDiT", Shallow, Small, new(192, 192, 4), new(256, 256, 8)),
        new("STDiT", Shallow, Small, new(192, 192, 4), new(256, 256, 8), ScalarType.BFloat16),
        new(
            "STDiT, 24 blocks",
            Tokens(
                new StdiTConfig
                {
                    HiddenSize = 576,
                    Depth = 24,
                    NumHeads = 8,
                    TemporalNorm = true,
                }
            ),
            Small with
            {
                BlockOutChannels = [32, 64, 64, 64],
            },
            new(192, 128, 8),
            new(256, 256, 8)
        ),
        new(
            "STDiT2",
            Tokens(
                new StdiT2Config
                {
                    HiddenSize = 384,
                    Depth = 3,
                    NumHeads = 6,
                }
            ),
            Small,
            new(256, 128, 4),
            new(256, 256, 8)
        ),
        new(
            "STDiT3",
            Tokens(
                new StdiT3Config
                {
                    HiddenSize = 384,
                    Depth = 2,
                    NumHeads = 6,
                }
            ),
            Small,
            new(256, 128, 4),
            new(256, 256, 8)
        ),
        new(
            "Latte",
            new DiTConfig
            {
                HiddenSize = 384,
                Depth = 6,
                NumHeads = 6,
                AttentionOrder = AttentionOrder.Interleaved,
                Condition = "label_10",
            },
            Small,
            new(192, 192, 4),
            new(256, 256, 8)
        ),
        new(
            "STDiT, Stable Diffusion's autoencoder in tiles",
            Tokens(
                new StdiTConfig
                {
                    HiddenSize = 192,
                    Depth = 2,
                    NumHeads = 3,
                }
            ),
            new AutoencoderKLConfig(),
            new(256, 256, 1),
            new(512, 512, 1)
        )
        {
            DecodeMemory = 600_000_000,
        },
    ];

    private static TConfig Tokens<TConfig>(TConfig config)
        where TConfig : TransformerConfig => (TConfig)((TransformerConfig)config with { CaptionChannels = 192, ModelMaxLength = 24 });

    /// <summary>Prints a table with a row for each case.</summary>
    public static void Run()
    {
        Console.WriteLine(
            "| model | type | video | denoising: estimated MB | measured | decoding: estimated MB | measured | peak: estimate / measured | "
                + "time: estimated s | measured | estimate / measured |\n|---|---|---|---|---|---|---|---|---|---|---|"
        );
        var chosen = Environment.GetEnvironmentVariable("OPENSORA_BENCH_ROWS");
        for (var i = 0; i < Cases.Length; i++)
        {
            if (chosen is not null && !Cases[i].Name.Contains(chosen, StringComparison.OrdinalIgnoreCase))
            {
                continue;
            }

            using var process = Process.Start(
                new ProcessStartInfo(Environment.ProcessPath!, [typeof(Estimates).Assembly.Location, "estimate", $"{i}"]) { UseShellExecute = false }
            )!;
            process.WaitForExit();
        }
    }

    /// <summary>Measures one case in this process.</summary>
    /// <param name="number">The number of the case.</param>
    /// <returns>The exit code of the process.</returns>
    public static int Measure(int number)
    {
        var one = Cases[number];
        var folder = Directory.CreateTempSubdirectory("opensora-estimates").FullName;
        try
        {
            using (var warm = VideoGenerator.Create().UseModel("stickers").UseBackend("cpu").Build())
            {
                Wait(warm.Request("a cat").Frames(1).Steps(1).GenerateAsync()); // maps what the libraries need for themselves
            }

            if (one.Transformer is not null)
            {
                one.Save(folder);
            }

            var before = ResidentMemory.Start();
            using var generator = VideoGenerator
                .Create()
                .UseModel(one.Transformer is null ? "stickers" : folder)
                .UseBackend("cpu")
                .Configure(options => (options.Precision, options.DecodeMemory) = (one.Type, one.DecodeMemory))
                .Build();
            var (small, large) = (one.Small.Request(one.Prompt), one.Large.Request(one.Prompt));
            var memory = Wait(generator.EstimateMemoryAsync(large));
            Wait(generator.GenerateAsync(small)); // the first request is slower
            Wait(generator.GenerateAsync(small)); // calibrates
            var stages = new Stages();
            var seconds = Wait(generator.EstimateTimeAsync(large))!.Value.TotalSeconds;
            var elapsed = Wait(generator.GenerateAsync(large, stages)).Elapsed.TotalSeconds;
            var (denoising, decoding) = (stages.Denoising - before, ResidentMemory.Peak() - before);
            var (type, size) = (one.Type is null ? "float32" : "bfloat16", one.Large);
            Console.WriteLine(
                string.Create(
                    CultureInfo.InvariantCulture,
                    $"| {one.Name} | {type} | {size.Frames}x{size.Height}x{size.Width} | {(memory.Weights + memory.Denoising) / 1e6:F0} | "
                )
                    + string.Create(
                        CultureInfo.InvariantCulture,
                        $"{denoising / 1e6:F0} | {(memory.Weights + memory.Decoding + memory.Frames) / 1e6:F0} | {decoding / 1e6:F0} | "
                    )
                    + string.Create(
                        CultureInfo.InvariantCulture,
                        $"{memory.Peak / Math.Max(denoising, decoding):F2} | {seconds:F1} | {elapsed:F1} | {seconds / elapsed:F2} |"
                    )
            );
            return 0;
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static T Wait<T>(Task<T> task) => task.GetAwaiter().GetResult();

    private readonly record struct Size(int Width, int Height, int Frames)
    {
        public VideoRequest Request(string prompt) =>
            new()
            {
                Prompt = prompt,
                Width = Width,
                Height = Height,
                Frames = Frames,
                Steps = 4,
                Seed = 1,
            };
    }

    private sealed record Case(
        string Name,
        TransformerConfig? Transformer,
        AutoencoderKLConfig? Decoder,
        Size Small,
        Size Large,
        ScalarType? Type = null
    )
    {
        public long? DecodeMemory { get; init; }

        /// <summary>Gets the prompt: the number of a class for a model without text.</summary>
        public string Prompt => Transformer is DiTConfig ? "3" : "a cat";

        /// <summary>Writes a model folder with random weights, and the text encoder of the bundled model.</summary>
        public void Save(string folder)
        {
            using var scope = NewDisposeScope();
            var bundled = ModelFolder.Open("stickers");
            foreach (var file in new[] { "spiece.model", "text_encoder.safetensors" })
            {
                File.Copy(Path.Combine(bundled.Path, file), Path.Combine(folder, file));
            }

            var (architecture, transformer) = Transformer switch
            {
                StdiTConfig config => ("stdit", (nn.Module)new StdiT(config)),
                StdiT2Config config => ("stdit2", new StdiT2(config)),
                StdiT3Config config => ("stdit3", new StdiT3(config)),
                var config => ("dit", new DiT((DiTConfig)config!)),
            };
            Save(transformer, Path.Combine(folder, "denoiser.safetensors"));
            Save(new AutoencoderKL(Decoder!), Path.Combine(folder, "vae.safetensors"));
            ModelFolder.Save(
                folder,
                bundled.Description with
                {
                    Name = Name,
                    Vocabulary = null,
                    LicenseFile = null,
                    TextEncoder =
                        Transformer is DiTConfig
                            ? new ModelPart { Architecture = "class_labels", Config = JsonSerializer.SerializeToElement(new { count = 10 }) }
                            : bundled.Description.TextEncoder,
                    Denoiser = new ModelPart
                    {
                        Architecture = architecture,
                        Config = ModelFolder.WriteConfig(Transformer!),
                        Weights = "denoiser.safetensors",
                    },
                    Vae = new ModelPart
                    {
                        Architecture = "autoencoder_kl",
                        Config = ModelFolder.WriteConfig(Decoder!),
                        Weights = "vae.safetensors",
                    },
                    Video = new VideoDefaults
                    {
                        Frames = Large.Frames,
                        Width = Large.Width,
                        Height = Large.Height,
                        FramesRange = new(1, 1000),
                        WidthRange = new(16, 4096, 16),
                        HeightRange = new(16, 4096, 16),
                    },
                }
            );
        }

        private static void Save(nn.Module module, string path)
        {
            using (no_grad())
            {
                foreach (var parameter in module.parameters())
                {
                    parameter.normal_(0, 0.02);
                }
            }

            module.SaveWeights(path);
            module.Dispose();
        }
    }

    // The peak of denoising, and then that of decoding.
    private sealed class Stages : IProgress<GenerationProgress>
    {
        public double Denoising { get; private set; }

        public void Report(GenerationProgress value)
        {
            if (value is { Stage: GenerationStage.Denoising, Step: 0 })
            {
                ResidentMemory.Reset();
            }
            else if (value is { Stage: GenerationStage.Decoding, Step: 0 })
            {
                Denoising = ResidentMemory.Peak();
                ResidentMemory.Reset();
            }
        }
    }
}
