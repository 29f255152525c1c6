using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Models;

/// <summary>Small models of every architecture and attention order, with parameters that hide nothing.</summary>
internal static class TransformerFamily
{
    private static readonly StdiTConfig StdiT = new()
    {
        InputSize = [3, 4, 6],
        HiddenSize = 24,
        Depth = 2,
        NumHeads = 4,
        CaptionChannels = 12,
        ModelMaxLength = 5,
        ClassDropoutProb = 0,
    };
    private static readonly DiTConfig DiT = new()
    {
        InputSize = [3, 4, 6],
        HiddenSize = 24,
        Depth = 2,
        NumHeads = 4,
        CaptionChannels = 12,
        ClassDropoutProb = 0,
    };

    /// <summary>The models that <see cref="Make"/> knows.</summary>
    public static TheoryData<string> Names =>
        [
            "DiT text",
            "DiT label",
            "DiT serial",
            "DiT parallel",
            "Latte",
            "STDiT serial",
            "STDiT parallel",
            "STDiT interleaved",
            "STDiT full",
            "PixArt",
            "PixArtMS",
        ];

    public static IVideoTransformer Make(string name)
    {
        var model = Randomised<nn.Module>(
            name switch
            {
                "DiT text" => new DiT(DiT),
                "DiT label" => new DiT(DiT with { Condition = "label_7" }),
                "DiT serial" => new DiT(DiT with { AttentionOrder = AttentionOrder.Serial }),
                "DiT parallel" => new DiT(DiT with { AttentionOrder = AttentionOrder.Parallel }),
                "Latte" => new DiT(
                    DiTConfig.Latte with
                    {
                        InputSize = DiT.InputSize,
                        HiddenSize = 24,
                        Depth = 2,
                        NumHeads = 4,
                        CaptionChannels = 12,
                        ClassDropoutProb = 0,
                    }
                ),
                "STDiT serial" => new StdiT(StdiT),
                "STDiT parallel" => new StdiT(StdiT with { AttentionOrder = AttentionOrder.Parallel }),
                "STDiT interleaved" => new StdiT(StdiT with { AttentionOrder = AttentionOrder.Interleaved }),
                "STDiT full" => new StdiT(StdiT with { AttentionOrder = AttentionOrder.Full }),
                _ => new StdiT(
                    StdiTConfig.PixArt with
                    {
                        InputSize = StdiT.InputSize,
                        HiddenSize = 24,
                        Depth = 2,
                        NumHeads = 4,
                        CaptionChannels = 12,
                        ModelMaxLength = 5,
                        ClassDropoutProb = 0,
                        NoTemporalPosEmb = false,
                        SizeConditioning = string.Equals(name, "PixArtMS", StringComparison.Ordinal),
                    }
                ),
            }
        );
        return (IVideoTransformer)model;
    }

    /// <summary>Moves all parameters away from their starting values, where zeros would hide what lies behind them.</summary>
    public static TModel Randomised<TModel>(TModel model, ulong seed = 1)
        where TModel : nn.Module
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var generator = new Generator(seed);
        foreach (var (name, parameter) in model.named_parameters())
        {
            if (name.Contains("norm", StringComparison.Ordinal))
            {
                parameter.add_(randn(parameter.shape, generator: generator) * 0.1f);
            }
            else
            {
                parameter.copy_(randn(parameter.shape, generator: generator) * 0.2f);
            }
        }
        foreach (var (name, buffer) in model.named_buffers())
        {
            if (name.EndsWith("y_embedding", StringComparison.Ordinal))
            {
                buffer.copy_(randn(buffer.shape, generator: generator));
            }
        }
        model.eval();
        return model;
    }

    /// <summary>Two samples: latents, times and what they show.</summary>
    public static (Tensor X, Tensor T, DenoiserConditions Conditions) Inputs(IVideoTransformer model, int frames = 3, int height = 4, int width = 6)
    {
        using var generator = new Generator(7);
        var (x, t) = (randn([2, 4, frames, height, width], generator: generator), tensor(new[] { 100f, 900f }));
        if (model.TextWidth == 1)
        {
            return (x, t, new DenoiserConditions(tensor(new float[] { 2, 6 }, [2, 1, 1])));
        }

        var text = randn([2, model.TextTokens, model.TextWidth], generator: generator);
        var mask = model.TextTokens == 1 ? null : tensor(new long[] { 1, 1, 1, 0, 0, 1, 1, 0, 1, 0 }, [2, 5]);
        return (
            x,
            t,
            new DenoiserConditions(text, mask)
            {
                Frames = frames,
                Height = 8 * height,
                Width = 8 * width,
            }
        );
    }

    public static double Difference(Tensor a, Tensor b) => (a - b).abs().max().item<float>();
}
