using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using OpenSora.Generation;
using OpenSora.ModelFolders;
using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Benchmarks;

/// <summary>Measures peak memory and time of generation with each residency policy, in a process of its own for each row. The networks have random
/// weights and the sizes of Open-Sora 1.0: T5-v1.1-XXL, STDiT-XL/2 and the autoencoder of Stable Diffusion. Linux only.</summary>
/// <remarks>One denoising step is measured: memory does not depend on the number of steps.</remarks>
internal static class ResidencyBenchmark
{
    /// <summary>The first argument of a process that measures a row.</summary>
    public const string Child = "residency-row";

    private const string Text = "text";
    private const int Tokens = 120;

    private static readonly StdiTConfig Transformer = StdiTConfig.Preset("STDiT-XL/2") with { InputSize = [16, 64, 64] };

    // The rows: what is measured, the policy, the height and width, and the data type of matrix multiplications.
    private static readonly (string Name, Residency Residency, int Side, string Type)[] Rows =
    [
        (Text, Residency.Stream, 0, "float32"),
        ("video", Residency.Keep, 128, "float32"),
        ("video", Residency.Release, 128, "float32"),
        ("video", Residency.Stream, 128, "float32"),
        ("video", Residency.Stream, 512, "float32"),
        ("video", Residency.Stream, 512, "bfloat16"),
    ];

    /// <summary>Runs the benchmark and prints a table.</summary>
    /// <param name="selected">Text that selects the rows to measure, such as <c>video Stream 512</c>; null for all rows.</param>
    public static void Run(string? selected)
    {
        var folder = Directory.CreateTempSubdirectory("opensora-residency-");
        try
        {
            Console.WriteLine(
                "| part | policy | size | type | seconds | peak MB | of which at the end of each stage |\n|---|---|---|---|---|---|---|"
            );
            foreach (var row in Rows)
            {
                string[] words = [row.Name, $"{row.Residency}", $"{row.Side}", row.Type];
                if (selected is null || string.Join(' ', words).Contains(selected, StringComparison.Ordinal))
                {
                    MakeModel(folder.FullName, row.Name is Text);
                    using var process = Process.Start(
                        new ProcessStartInfo(Environment.ProcessPath!, [Environment.GetCommandLineArgs()[0], Child, folder.FullName, .. words])
                        {
                            RedirectStandardOutput = true,
                            UseShellExecute = false,
                        }
                    )!;
                    Console.Write(process.StandardOutput.ReadToEnd());
                    process.WaitForExit();
                    if (process.ExitCode != 0)
                    {
                        Console.WriteLine($"| {string.Join(" | ", words)} | failed with exit code {process.ExitCode} | | |");
                    }
                }
            }
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    /// <summary>Measures one row and prints it.</summary>
    public static int Measure(string folder, string name, string policy, string size, string type)
    {
        var (residency, side) = (Enum.Parse<Residency>(policy), int.Parse(size, CultureInfo.InvariantCulture));
        var builder = VideoGenerator
            .Create()
            .UseModel(folder)
            .UseBackend("cpu")
            .Configure(o =>
            {
                (o.TransformerResidency, o.AutoencoderResidency) = (residency, residency);
                (o.TextEncoderResidency, o.Precision) = (name is Text ? residency : Residency.Keep, Enum.Parse<ScalarType>(type, ignoreCase: true));
            });
        if (name is not Text)
        {
            builder.UseTextEncoder(_ => new NoTextEncoder());
        }

        using var generator = builder.Build();
        generator.LoadAsync().GetAwaiter().GetResult();
        List<string> stages = [$"loading {Peak()}"];
        var watch = Stopwatch.StartNew();
        if (name is Text)
        {
            var prompt = string.Join(' ', Enumerable.Repeat("a drone view of waves crashing against the rugged cliffs", 20));
            using var states = generator.EncodePromptAsync(prompt).GetAwaiter().GetResult();
            Check(states.States.isfinite().all().item<bool>());
            Check(states.Mask.all().item<bool>());
        }
        else
        {
            using var seed = new Generator(3);
            using var states = new TextStates(randn([1, Tokens, Transformer.CaptionChannels], generator: seed), ones(1, Tokens, ScalarType.Bool));
            var request = new VideoRequest
            {
                Prompt = "waves",
                PromptStates = states,
                Steps = 1,
                Frames = 16,
                Height = side,
                Width = side,
                GuidanceScale = 7,
                Seed = 1,
            };
            generator.GenerateAsync(request, new Stages(stages)).GetAwaiter().GetResult();
        }

        Console.WriteLine(
            string.Create(
                CultureInfo.InvariantCulture,
                $"| {name} | {policy} | {(name is Text ? $"{Tokens} tokens" : $"16x{side}x{side}")} | {type} | {watch.Elapsed.TotalSeconds:F0} | "
                    + $"{Peak()} | {string.Join(", ", stages)} |"
            )
        );
        return 0;

        static void Check(bool holds)
        {
            if (!holds)
            {
                throw new InvalidOperationException("The encoder returned values that are not finite, or fewer tokens than expected.");
            }
        }
    }

    private static string Peak() => (ResidentMemory.Peak() / 1e6).ToString("F0", CultureInfo.InvariantCulture);

    private static void MakeModel(string folder, bool withText)
    {
        var t5 = withText
            ? new T5Config()
            : new T5Config // not used
            {
                VocabSize = 8,
                NumLayers = 1,
                NumHeads = 1,
                DFf = 64,
            };
        var vae = new AutoencoderKLConfig { MicroBatchSize = 1 };
        Make("stdit.safetensors", ScalarType.Float32, () => new StdiT(Transformer, initialize: false));
        Make("vae.safetensors", ScalarType.Float32, () => new AutoencoderKL(vae, initialize: false));
        var textWeights = withText ? "t5.safetensors" : "small.safetensors";
        Make(textWeights, ScalarType.BFloat16, () => new T5TextEncoder(t5, initialize: false));

        File.Copy(
            Path.Combine(ModelFolder.Open(OpenSoraOptions.DefaultModel).Path, "spiece.model"),
            Path.Combine(folder, "spiece.model"),
            overwrite: true
        );
        ModelFolder.Save(
            folder,
            new ModelDescription
            {
                Name = "random",
                License = "none",
                Denoiser = new ModelPart
                {
                    Architecture = "stdit",
                    Config = ModelFolder.WriteConfig(Transformer),
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
                    Weights = textWeights,
                    Tokenizer = "spiece.model",
                    MaxTokens = Tokens,
                },
                Sampling = new SamplingDefaults { Steps = 1, GuidanceScale = 7 },
                Video = new VideoDefaults
                {
                    Frames = 16,
                    Width = 512,
                    Height = 512,
                    Fps = 8,
                    FramesRange = new(1, 16),
                    WidthRange = new(16, 512, 16),
                    HeightRange = new(16, 512, 16),
                },
            }
        );

        void Make(string name, ScalarType type, Func<nn.Module> create)
        {
            var path = Path.Combine(folder, name);
            if (!File.Exists(path))
            {
                using var network = create();
                RandomWeights.Write(path, network, type);
            }
        }
    }

    /// <summary>Notes the peak memory at the end of each stage.</summary>
    private sealed class Stages(List<string> found) : IProgress<GenerationProgress>
    {
        public void Report(GenerationProgress value)
        {
            if (value.Step == value.Steps)
            {
                found.Add($"{value.Stage} {Peak()}");
            }
        }
    }

    /// <summary>Stands for a text encoder that is not used, because the requests have encoded prompts.</summary>
    private sealed class NoTextEncoder : ITextEncoder
    {
        public int Width => Transformer.CaptionChannels;

        public int MaxTokens => Tokens;

        public TextStates Encode(IReadOnlyList<string> prompts) => throw new NotSupportedException();

        public void Dispose() { }
    }
}

/// <summary>Writes random weights of networks that are larger than the memory. The same random numbers repeat.</summary>
internal static class RandomWeights
{
    private const int Numbers = 1 << 22;

    /// <summary>Writes a safetensors file with normally distributed matrices; vectors named <c>weight</c> are 1, other vectors 0.</summary>
    public static void Write(string path, nn.Module network, ScalarType type)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var size = type == ScalarType.BFloat16 ? 2 : 4;
        var tensors = network.state_dict();
        var (header, end) = (new Dictionary<string, object>(StringComparer.Ordinal), 0L);
        foreach (var (name, tensor) in tensors)
        {
            var from = end;
            end += tensor.numel() * size;
            header[name] = new
            {
                dtype = size == 2 ? "BF16" : "F32",
                shape = tensor.shape,
                data_offsets = new[] { from, end },
            };
        }

        var json = JsonSerializer.SerializeToUtf8Bytes(header);
        Array.Resize(ref json, (json.Length + 7) / 8 * 8);
        json.AsSpan().Replace((byte)0, (byte)' ');
        using var file = File.Create(path);
        file.Write(BitConverter.GetBytes((long)json.Length));
        file.Write(json);
        using var generator = new Generator(1);
        var random = (randn(Numbers, generator: generator) * 0.02).to_type(type).bytes.ToArray();
        var (one, zero) = (ones(1 << 16).to_type(type).bytes.ToArray(), new byte[size << 16]);
        foreach (var (name, tensor) in tensors)
        {
            var values =
                tensor.dim() > 1 ? random
                : name.EndsWith("weight", StringComparison.Ordinal) ? one
                : zero;
            for (var left = tensor.numel() * size; left > 0; left -= values.Length)
            {
                file.Write(values.AsSpan(0, (int)Math.Min(left, values.Length)));
            }
        }
    }
}
