using OpenSora.Runtime;
using TorchSharp;
using TorchSharp.Modules;
using static OpenSora.Runtime.Scopes;
using static OpenSora.Runtime.TensorArithmetic;
using static TorchSharp.torch;

namespace OpenSora.Models.Layers;

/// <summary>Splits a video into patches and projects each patch to a token. Parameter:
/// <c>proj [channels, inputs, frames, height, width]</c>.</summary>
public sealed class PatchEmbedder : nn.Module<Tensor, Tensor>
{
    internal readonly Linear proj;
    private readonly (long T, long H, long W) _patch;

    /// <summary>Creates a projection with uninitialized weights.</summary>
    /// <param name="inputs">The number of channels of the video.</param>
    /// <param name="channels">The number of channels of a token.</param>
    /// <param name="patch">The frames, height and width of a patch.</param>
    public PatchEmbedder(long inputs, long channels, (long T, long H, long W) patch)
        : base(nameof(PatchEmbedder))
    {
        _patch = patch;
        proj = new Linear(inputs, channels, true, patch.T, patch.H, patch.W);
        RegisterComponents();
    }

    /// <summary>Computes tokens in the order frames, rows, columns. Incomplete patches are padded with zeros at the end of each axis.</summary>
    /// <param name="x">The video, <c>[batch, inputs, frames, height, width]</c>.</param>
    /// <returns>Tokens, <c>[batch, tokens, channels]</c>.</returns>
    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        var (t, h, w) = _patch;
        if (x.shape[2] % t != 0 || x.shape[3] % h != 0 || x.shape[4] % w != 0)
        {
            x = nn.functional.pad(x, [0, Missing(x.shape[4], w), 0, Missing(x.shape[3], h), 0, Missing(x.shape[2], t)], PaddingModes.Constant);
        }

        var (b, c) = (x.shape[0], x.shape[1]);
        var (frames, rows, columns) = (x.shape[2] / t, x.shape[3] / h, x.shape[4] / w);
        var patches = x.view(b, c, frames, t, rows, h, columns, w).permute(0, 2, 4, 6, 1, 3, 5, 7);
        return proj.call(patches.reshape(b, frames * rows * columns, c * t * h * w)).MoveToOuterDisposeScope();
    }

    /// <summary>Assembles predicted patches into a video.</summary>
    /// <param name="x">Predicted patches, <c>[batch, frames * rows * columns, patch frames * patch height * patch width * channels]</c>.</param>
    /// <param name="frames">The number of patches along time.</param>
    /// <param name="rows">The number of patches along the height.</param>
    /// <param name="columns">The number of patches along the width.</param>
    /// <param name="channels">The number of channels of the video.</param>
    /// <returns>The video, <c>[batch, channels, frames, height, width]</c>, float32.</returns>
    public Tensor Unpatchify(Tensor x, long frames, long rows, long columns, long channels)
    {
        using var scope = NewDisposeScope();
        var ((t, h, w), b) = (_patch, x.shape[0]);
        return x.view(b, frames, rows, columns, t, h, w, channels)
            .permute(0, 7, 1, 4, 2, 5, 3, 6)
            .reshape(b, channels, frames * t, rows * h, columns * w)
            .In(ScalarType.Float32)
            .MoveToOuterDisposeScope();
    }

    private static long Missing(long size, long patch) => (patch - size % patch) % patch;
}

/// <summary>Embeds scalars such as timesteps with cosines and sines followed by a small MLP. Parameters: <c>mlp.0</c>, <c>mlp.2</c>.</summary>
public sealed class TimestepEmbedder : nn.Module<Tensor, Tensor>
{
    private const int Frequencies = 256;
    internal readonly Sequential mlp;

    /// <summary>Creates an embedder with uninitialized weights.</summary>
    /// <param name="channels">The number of channels of the embedding.</param>
    public TimestepEmbedder(long channels)
        : base(nameof(TimestepEmbedder))
    {
        mlp = nn.Sequential(new Linear(Frequencies, channels) { Exact = true }, nn.SiLU(), new Linear(channels, channels) { Exact = true });
        RegisterComponents();
    }

    /// <summary>Embeds <c>[n]</c> scalars as <c>[n, channels]</c>.</summary>
    public override Tensor forward(Tensor t) => Scoped(() => mlp.call(Waves(t, Frequencies)));

    /// <summary>Computes cosines followed by sines of <c>t exp(-ln 10000 i / half)</c> in float32. If the number of channels is odd, the last channel
    /// is zero.</summary>
    /// <param name="t">Scalars, <c>[n]</c>.</param>
    /// <param name="channels">The number of channels of the result <c>[n, channels]</c>.</param>
    public static Tensor Waves(Tensor t, int channels)
    {
        using var scope = NewDisposeScope();
        var half = channels / 2;
        var frequencies = exp(Range(0, half, ScalarType.Float32, t.device).Times(-Math.Log(10000)).Over(half));
        var angles = t.In(ScalarType.Float32).unsqueeze(1) * frequencies.unsqueeze(0);
        var waves = cat([angles.cos(), angles.sin()], -1);
        return (channels % 2 == 0 ? waves : nn.functional.pad(waves, [0, 1], PaddingModes.Constant)).MoveToOuterDisposeScope();
    }
}

/// <summary>Embeds several scalars per sample, each in the same way as a timestep, and concatenates the embeddings. Parameters: <c>mlp.0</c>,
/// <c>mlp.2</c>.</summary>
internal sealed class SizeEmbedder : nn.Module<Tensor, Tensor>
{
    private const int Frequencies = 256;
    public readonly Sequential mlp;

    public SizeEmbedder(long channels)
        : base(nameof(SizeEmbedder))
    {
        mlp = nn.Sequential(new Linear(Frequencies, channels) { Exact = true }, nn.SiLU(), new Linear(channels, channels) { Exact = true });
        RegisterComponents();
    }

    /// <summary>Embeds <c>[n, k]</c> scalars as <c>[n, k * channels]</c>.</summary>
    public override Tensor forward(Tensor sizes) =>
        Scoped(() => mlp.call(TimestepEmbedder.Waves(sizes.flatten(), Frequencies)).view(sizes.shape[0], -1));
}

/// <summary>Projects the states of the text encoder. Dropped captions are replaced by the null caption, which guidance also uses.</summary>
/// <remarks>Parameters: <c>y_proj.fc1</c>, <c>y_proj.fc2</c>. Buffer: <c>y_embedding [tokens, inputs]</c>, the null caption.</remarks>
internal sealed class CaptionEmbedder : nn.Module<Tensor, Tensor?, Tensor>
{
    public readonly Tensor y_embedding;
    public readonly Mlp y_proj;

    public CaptionEmbedder(long inputs, long channels, long tokens)
        : base(nameof(CaptionEmbedder))
    {
        y_embedding = Parameters.Buffer(tokens, inputs);
        y_proj = new Mlp(inputs, channels, channels);
        RegisterComponents();
    }

    /// <summary>Projects captions.</summary>
    /// <param name="captions">Text states, <c>[batch, 1, tokens, inputs]</c>.</param>
    /// <param name="drop">A mask, <c>[batch]</c>, true for captions to replace by the null caption; null replaces none.</param>
    /// <returns>Projected captions, <c>[batch, 1, tokens, channels]</c>.</returns>
    public override Tensor forward(Tensor captions, Tensor? drop)
    {
        using var scope = NewDisposeScope();
        if (drop is not null)
        {
            captions = where(drop.view(-1, 1, 1, 1), y_embedding.narrow(0, 0, captions.shape[2]).In(captions.dtype), captions);
        }

        return y_proj.call(captions).MoveToOuterDisposeScope();
    }
}

/// <summary>Embeds class labels. The table has one additional row, which stands for no class. Parameter: <c>embedding_table.weight</c>.</summary>
internal sealed class LabelEmbedder : nn.Module<Tensor, Tensor?, Tensor>
{
    public readonly Embedding embedding_table;
    private readonly long _classes;

    public LabelEmbedder(long classes, long channels)
        : base(nameof(LabelEmbedder))
    {
        _classes = classes;
        embedding_table = new Embedding(classes + 1, channels);
        RegisterComponents();
    }

    /// <summary>Embeds <c>[batch]</c> labels as <c>[batch, channels]</c>. Labels for which <paramref name="drop"/> is true are embedded as no
    /// class.</summary>
    public override Tensor forward(Tensor labels, Tensor? drop) =>
        Scoped(() => embedding_table.call(drop is null ? labels : labels.MaskedFill(drop, _classes)));
}

/// <summary>A table of vectors that are looked up by row. Parameter: <c>weight [rows, channels]</c>.</summary>
internal sealed class Embedding : nn.Module<Tensor, Tensor>
{
    public readonly Parameter weight;

    public Embedding(long rows, long channels)
        : base(nameof(Embedding))
    {
        weight = Parameters.Create(rows, channels);
        RegisterComponents();
    }

    /// <summary>The table in another data type, which is used instead of <see cref="weight"/>; null for none. See
    /// <see cref="TransientWeights"/>.</summary>
    public Tensor? Table { get; set; }

    /// <summary>The rows, <c>[rows, channels]</c>, in the data type of the table.</summary>
    public Tensor Rows => Table ?? weight;

    /// <summary>Looks up the rows of <c>[...]</c> ids as <c>[..., channels]</c>, float32.</summary>
    public override Tensor forward(Tensor ids) =>
        Scoped(() => Rows.index_select(0, ids.flatten()).view([.. ids.shape, weight.shape[1]]).In(ScalarType.Float32));
}
